package change

// A rule says how one field of the config changes.
type rule struct {
	object Object
	tag    Tag
	reason string
	// begins says that the state of the feed or query does not carry over.
	begins bool
	// whole compares the value as one; else each field in it has a rule.
	whole bool
	// planned fields are compared in the plan, where defaults are settled and the command
	// line has had its word.
	planned bool
	refused string
}

// Why changes have their tags.
const (
	whyRows     = "rows go elsewhere from the next one on; the control process does it alone"
	whyPlan     = "it is part of the plan that workers and control agree on, and so there is a hand-over; state goes on"
	whyControl  = "the control process does it alone"
	whySteer    = "packets are told apart by the new rules from a mark on; the feed's state goes on"
	whyFeed     = "what is known of the feed's packets was read in the old way"
	whyMemory   = "memory for it is taken at start, in the old size"
	whyQuery    = "windows that are open were made in the old way"
	whyNumber   = "workers take it up in a hand-over; state goes on"
	whySockets  = "sockets and their frames are made anew"
	whyLayout   = "worker memory is laid out anew"
	whyColumns  = "queries that use a changed column begin anew, the others go on"
	loseFeed    = "the feed's place in its channels, and open windows of its queries: they begin anew"
	loseQuery   = "the query's open windows: no rows are made of them, and it begins anew"
	loseWindows = "windows that are open: they begin anew and say that they are incomplete"
)

// Why changes are refused.
const (
	refuseMember = "a box is a member under these terms: stop headrace here, change the config, and start it; the other boxes go on meanwhile"
	refuseGlobal = "all boxes of the group have the same global queries over feeds read alike: stop headrace on each, change all configs, and start them"
	refuseName   = "a run is found by its name: start another run under the new name and stop this one"
	refuseIDs    = "split the change in two: apply the removals first"
)

// rules has every field of the config, by its path; * is a name.
var rules = map[string]rule{
	"workers":        {object: Workers, planned: true},
	"cpus":           {object: Workers, tag: Warm, reason: "workers are bound to other CPUs in a hand-over; state goes on"},
	"workers_max":    {object: Workers, planned: true},
	"interfaces":     {object: Interface, planned: true, whole: true},
	"on_stop":        {object: Run, tag: Warm, reason: "it is asked at the stop; " + whyPlan},
	"orphan_timeout": {object: Run, tag: Warm, reason: whyPlan},
	"crash":          {object: Run, tag: Cold, reason: whyLayout + ": an undo log is part of it"},
	"recorder":       {object: Limits, tag: Warm, whole: true, reason: "each worker's recorder is made anew in a hand-over; frames recorded so far are forgotten"},

	"metrics":        {object: Metrics, tag: Live, reason: whyControl},
	"metrics.listen": {object: Metrics, tag: Live, reason: whyControl},
	"api":            {object: API, tag: Live, reason: whyControl},
	"api.group":      {object: API, tag: Live, reason: whyControl},
	"api.others":     {object: API, tag: Live, reason: whyControl},
	"api.remote":     {object: API, tag: Live, whole: true, reason: whyControl + "; connections of clients that may no longer ask are refused"},
	"log":            {object: Log, tag: Live, reason: whyControl},
	"log.level":      {object: Log, tag: Live, reason: whyControl},
	"tables":         {object: Table, tag: Warm, whole: true, reason: whyNumber},

	"feeds":                {object: Feed, tag: Warm},
	"feeds.*":              {object: Feed, tag: Warm},
	"feeds.*.match":        {object: Feed, tag: Warm, whole: true, reason: whySteer},
	"feeds.*.format":       {object: Feed, tag: Warm, whole: true, begins: true, reason: whyFeed},
	"feeds.*.columns":      {object: Feed, tag: Warm, whole: true, reason: whyColumns},
	"feeds.*.time":         {object: Feed, tag: Warm, whole: true, begins: true, reason: whyFeed},
	"feeds.*.place":        {object: Feed, tag: Warm, whole: true, reason: "packets go to other workers from a mark on"},
	"feeds.*.channels":     {object: Feed, tag: Warm, begins: true, reason: whyMemory},
	"feeds.*.hold":         {object: Feed, tag: Warm},
	"feeds.*.hold.packets": {object: Feed, tag: Warm, begins: true, reason: whyMemory},
	"feeds.*.hold.bytes":   {object: Feed, tag: Warm, begins: true, reason: whyMemory},
	"feeds.*.hold.for":     {object: Feed, tag: Warm, reason: whyNumber},
	"feeds.*.orders":       {object: Feed, tag: Warm, begins: true, reason: whyMemory},
	"feeds.*.day":          {object: Feed, tag: Warm, begins: true, reason: whyFeed},
	"feeds.*.zone":         {object: Feed, tag: Warm, begins: true, reason: whyFeed},

	"queries":             {object: Query, tag: Warm},
	"queries.*":           {object: Query, tag: Warm},
	"queries.*.from":      {object: Query, tag: Warm, begins: true, reason: whyQuery},
	"queries.*.where":     {object: Query, tag: Warm, whole: true, begins: true, reason: whyQuery},
	"queries.*.key":       {object: Query, tag: Warm, whole: true, begins: true, reason: whyQuery},
	"queries.*.window":    {object: Query, tag: Warm, whole: true, begins: true, reason: whyQuery},
	"queries.*.watermark": {object: Query, tag: Warm, whole: true, begins: true, reason: whyQuery},
	"queries.*.keys":      {object: Query, tag: Warm, begins: true, reason: whyMemory},
	"queries.*.panes":     {object: Query, tag: Warm, begins: true, reason: whyMemory},
	"queries.*.select":    {object: Query, tag: Warm, whole: true, begins: true, reason: whyQuery},
	"queries.*.sinks":     {object: Query, tag: Warm, whole: true, reason: "rows go elsewhere from the next one on; " + whyPlan},
	"queries.*.scope":     {object: Query, tag: Warm, begins: true, reason: whyQuery},
	// Without local sinks the rows of this box alone are not made at all.
	"queries.*.local_sinks": {object: Query, tag: Warm, whole: true, reason: "rows go elsewhere from the next one on; " + whyPlan},

	"sinks":              {object: Sink, tag: Live},
	"sinks.*":            {object: Sink, tag: Live},
	"sinks.*.jsonl":      {object: Sink, tag: Live, whole: true, reason: whyRows},
	"sinks.*.rdma-write": {object: Sink, tag: Live, whole: true, reason: whyRows},
	"sinks.*.prometheus": {object: Sink, tag: Live, whole: true, reason: whyRows},

	"group":             {object: Group, tag: Cold, refused: refuseMember},
	"group.me":          {object: Group, tag: Cold, refused: refuseMember},
	"group.dir":         {object: Group, tag: Live, refused: refuseMember},
	"group.peers":       {object: Group, tag: Live, whole: true, refused: refuseMember}, // ids: see the plan
	"group.period":      {object: Group, tag: Live, refused: refuseMember},
	"group.max_wait":    {object: Group, tag: Live, refused: refuseMember},
	"group.correct_for": {object: Group, tag: Live, refused: refuseMember},
	"group.keep":        {object: Group, tag: Live, refused: refuseMember},
	"group.transport":   {object: Group, tag: Live, refused: refuseMember},
	"group.device":      {object: Group, tag: Live, refused: refuseMember},
	"group.busy":        {object: Group, tag: Live, refused: refuseMember},
	"group.seal":        {object: Group, tag: Cold, refused: refuseMember},
	"group.allow_solo":  {object: Group, tag: Cold, refused: refuseMember},
	"group.tie_breaker": {object: Group, tag: Cold, refused: refuseMember},
}
