package config

// A Config says what to receive, what to compute of it and where the rows go. What
// the file leaves out has its default.
type Config struct {
	// Workers is the number of worker threads, each on a core of its own. Without it
	// there is one for each CPU that the host allows, but one; `--workers` wins.
	Workers int `yaml:"workers" jsonschema:"minimum=1,maximum=64"`

	// CPUs are the CPUs that the workers are bound to, one each: a list such as `2-5,8`;
	// `none` leaves that to the kernel; `auto` binds them, to cores of the interfaces' memory
	// node, if some CPUs are isolated or every interface has `idle: spin`, and there is a CPU
	// for each worker and one more. Runs that share a host each need a list.
	CPUs CPUs `yaml:"cpus" jsonschema:"default=auto"`

	// WorkersMax sizes memory, lanes and sockets for as many workers as there may
	// ever be in this run. Without it: the host's CPUs.
	WorkersMax int `yaml:"workers_max" jsonschema:"minimum=1,maximum=64"`

	// Interfaces are the NICs to receive from: a list of names, or a map from name to
	// settings. Only `run` needs them; `--interface` wins.
	Interfaces Interfaces `yaml:"interfaces"`

	// Feeds are the packets to take and how to read them, by name. At most 256.
	Feeds Feeds `yaml:"feeds" jsonschema:"required"`

	// Queries are the windowed aggregations to compute, by name. At most 256.
	Queries Queries `yaml:"queries" jsonschema:"required"`

	// Sinks are the places where rows go, by name.
	Sinks Sinks `yaml:"sinks"`

	// OnStop says what a stop does with windows that are still open: `flush` fires
	// them with `"firing":"flush"`, `discard` throws them away.
	OnStop string `yaml:"on_stop" jsonschema:"enum=flush,enum=discard,default=flush"`

	// OrphanTimeout is how long the data plane goes on after the control plane died,
	// before it drains and ends.
	OrphanTimeout Duration `yaml:"orphan_timeout" jsonschema:"default=30s"`

	// Crash says what a data plane that dies does with the batch in hand: `rollback` keeps
	// an undo log and goes on without losing anything, `cold` starts anew and windows that
	// were open say that they are incomplete.
	Crash string `yaml:"crash" jsonschema:"enum=rollback,enum=cold,default=rollback"`

	// Recorder keeps each worker's latest frames, for `headrace capture --before-gap` and
	// for the report of a frame that stopped a worker. Without it none are kept.
	Recorder *Recorder `yaml:"recorder"`

	// Metrics serves Prometheus metrics. Without it nothing listens.
	Metrics *Metrics `yaml:"metrics"`

	// API says who may ask and change the running headrace. Without it: root, its own
	// user and the group headrace, through a unix socket, and nobody over a network.
	API API `yaml:"api"`

	// Log says what is logged.
	Log Log `yaml:"log"`

	// Group makes several boxes one system: queries with `scope: global` get one result
	// out of what all of them see. `replay` leaves it out: it is one box that saw
	// everything, and its rows are those of a box that is in no group.
	Group *Group `yaml:"group"`

	// Tables is reserved for lookup tables.
	Tables Reserved `yaml:"tables" jsonschema:"-" later:"tables come later; take tables out"`

	src      *source
	findings Findings
}

// Interfaces are the NICs, in the file's order.
type Interfaces []Interface

// An Interface is a NIC to receive from. Settings left out have their defaults.
type Interface struct {
	// Name is the interface's name in the kernel.
	Name string `yaml:"-" name:"interface"`

	// Mode is how the XDP program is attached: `native` in the driver, `generic` in
	// the kernel's stack (slow), `auto` tries native and falls back with a warning.
	Mode string `yaml:"mode" jsonschema:"enum=auto,enum=native,enum=generic,default=auto"`

	// Queues is how many of the RX queues are used, from queue 0 on.
	Queues Queues `yaml:"queues" jsonschema:"default=all"`

	// Idle is what a worker does without work: `adaptive` spins, yields, then sleeps
	// until a packet comes; `spin` never gives up its core and belongs on isolated ones.
	Idle string `yaml:"idle" jsonschema:"enum=adaptive,enum=spin,default=adaptive"`

	// RxRing is the RX ring of each worker's socket, in descriptors; a power of two.
	// Without it: 16384 over workers_max, but 2048 to 8192; the longer it is, the longer
	// a worker may be kept from its core without loss.
	RxRing Ring `yaml:"rx_ring"`

	// TxRing is the TX ring of each queue, in descriptors; a power of two.
	TxRing Ring `yaml:"tx_ring" jsonschema:"default=512"`

	// FillRing is the fill ring of each queue, in descriptors; a power of two, at
	// least rx_ring, which is the default.
	FillRing Ring `yaml:"fill_ring"`

	// Frames is the number of 2 KiB frames of each queue. Without it:
	// workers_max × rx_ring + fill_ring + tx_ring, so that a worker that stands still
	// takes nothing from the others. Rounded up to a power of two.
	Frames Ring `yaml:"frames"`
}

// Feeds are the feeds, in the file's order.
type Feeds []Feed

// A Feed is packets that match a rule, and how to read them.
type Feed struct {
	// Name is the feed's name in queries and counters.
	Name string `yaml:"-" name:"feed"`

	// Match says which packets belong to the feed: one rule, or a list of them. Of
	// several feeds the one with the most specific rule gets the packet: longer
	// destination prefix, then port, VLAN, protocol given.
	Match Rules `yaml:"match" jsonschema:"required"`

	// Format says how payloads are read: a name, or a map from the name to its options.
	Format Format `yaml:"format" jsonschema:"required"`

	// Columns declares the columns of `json`, `csv` and `raw`, by name; the other
	// formats bring theirs. Queries may use up to 16 of a feed's columns.
	Columns Columns `yaml:"columns"`

	// Time says where an event's time comes from. `json`, `csv` and `raw` need it,
	// `flow` goes by receipt, the exchange formats bring their own.
	Time *Time `yaml:"time"`

	// Place says from which bytes of a packet its worker is chosen. The default is the
	// format's. It never changes a result, only how many events change workers.
	Place *Place `yaml:"place"`

	// Channels is how many sequence-number spaces one worker can follow. Sequenced
	// formats only.
	Channels int `yaml:"channels" jsonschema:"minimum=1,maximum=65535,default=64"`

	// Hold bounds what waits for missing packets. Sequenced formats only.
	Hold Hold `yaml:"hold"`

	// Orders is how many open orders one worker can know. `itch50` only.
	Orders int `yaml:"orders" jsonschema:"minimum=1,maximum=1000000000,default=1000000"`

	// Day is the date, YYYY-MM-DD, that the times of `itch50` lack. Without it: the
	// day of the channel's first packet.
	Day string `yaml:"day" jsonschema:"pattern=^[0-9]{4}-[0-9]{2}-[0-9]{2}$"`

	// Zone is the time zone, an IANA name, in which `itch50` counts from midnight.
	Zone string `yaml:"zone" jsonschema:"default=America/New_York"`
}

// Rules are the rules of one feed.
type Rules []Rule

// A Rule says which packets belong to a feed. What is left out matches anything; at
// least one field besides `line` is needed.
type Rule struct {
	// Protocol is the transport protocol. Without it: both.
	Protocol string `yaml:"protocol" jsonschema:"enum=udp,enum=tcp"`

	// Destination is the packet's destination, an IPv4 or IPv6 address or prefix. A
	// multicast group is joined. Without it nothing is joined.
	Destination Prefix `yaml:"destination"`

	// Port is the destination port.
	Port int `yaml:"port" jsonschema:"minimum=1,maximum=65535"`

	// VLAN is the id of the innermost VLAN tag. Without it: tagged or not.
	VLAN int `yaml:"vlan" jsonschema:"minimum=1,maximum=4094"`

	// Line names the redundant copy of the feed that the rule matches. The first copy
	// of a message wins, from any line.
	Line string `yaml:"line" jsonschema:"enum=A,enum=B,enum=C,enum=D,default=A"`
}

// A Format is the name of a payload format, with its options.
type Format struct {
	// Name is the format's name: which of the fields below is given.
	Name string `yaml:"-"`

	// JSON reads JSON objects, one or more a packet, one a line.
	JSON *NoOptions `yaml:"json"`

	// CSV reads comma-separated records, one or more a packet, one a line.
	CSV *CSV `yaml:"csv"`

	// Raw reads fixed layouts, such as a C struct.
	Raw *Raw `yaml:"raw"`

	// IEXDeep reads IEX DEEP 1.0 over IEX-TP.
	IEXDeep *NoOptions `yaml:"iex-deep"`

	// IEXTops reads IEX TOPS 1.6 over IEX-TP.
	IEXTops *NoOptions `yaml:"iex-tops"`

	// ITCH50 reads NASDAQ TotalView-ITCH 5.0 over MoldUDP64.
	ITCH50 *NoOptions `yaml:"itch50"`

	// Flow makes one event of each packet, from its headers.
	Flow *NoOptions `yaml:"flow"`
}

// NoOptions is an empty map, `{}`.
type NoOptions struct{}

// CSV holds the options of the format `csv`.
type CSV struct {
	// Delimiter is the one byte between fields.
	Delimiter Delimiter `yaml:"delimiter" jsonschema:"default=\\,"`
}

// Raw holds the options of the format `raw`.
type Raw struct {
	// Order is the byte order of numbers.
	Order string `yaml:"order" jsonschema:"enum=little,enum=big,default=little"`

	// Stride is the length of one record in bytes. Without it a packet is one record.
	Stride int `yaml:"stride" jsonschema:"minimum=1,maximum=65507"`
}

// Columns are the columns of a feed, in the file's order.
type Columns []Column

// A Column is one field of an event.
type Column struct {
	// Name is the column's name in keys, expressions and rows.
	Name string `yaml:"-" name:"column"`

	// Type is the column's type. A decimal's number is how many digits follow the
	// point, at most 18; decimals are exact.
	Type ColumnType `yaml:"type" jsonschema:"required"`

	// Path is where a `json` object holds the value: steps joined by points, or a list
	// of steps. Without it: the column's name.
	Path FieldPath `yaml:"path"`

	// Index is the field of a `csv` record, counted from 0. Without it: the column's
	// place in `columns`.
	Index *int `yaml:"index" jsonschema:"minimum=0,maximum=1023"`

	// Offset is the first byte of the value in a `raw` record, counted from 0. Needed there.
	Offset *int `yaml:"offset" jsonschema:"minimum=0,maximum=65506"`

	// Width is the length of the value in a `raw` record in bytes: 1, 2, 4 or 8 for
	// int64 and decimal, 4 or 8 for float64, 1 to 64 for text. Without it: 8; text needs it.
	Width *int `yaml:"width" jsonschema:"minimum=1,maximum=64"`
}

// Time says where an event's time comes from: a column, or the time of receipt.
type Time struct {
	// Column is the column that holds the time; with `json`, the path of a field that
	// need not be among the columns.
	Column string `yaml:"column"`

	// Unit is how that column writes the time: RFC 3339, or a number since 1970 in
	// seconds, milli-, micro- or nanoseconds.
	Unit string `yaml:"unit" jsonschema:"enum=rfc3339,enum=s,enum=ms,enum=us,enum=ns"`

	// Receive takes the time of receipt.
	Receive bool `yaml:"receive"`
}

// A Place says from which bytes of a packet its worker is chosen: `channel` (the
// channel of a sequenced format), or one of `tuple`, `bytes` and `until`.
type Place struct {
	// Channel is the short form `channel`.
	Channel bool `yaml:"-"`

	// Tuple lists header fields.
	Tuple []string `yaml:"tuple" jsonschema:"enum=source,enum=destination,enum=source_port,enum=destination_port,enum=protocol,minItems=1"`

	// Symmetric makes both directions of a conversation meet in one worker. With
	// `tuple`, which then names both addresses, and both ports or none.
	Symmetric bool `yaml:"symmetric"`

	// Bytes is [offset, length] in the payload, at most 64 bytes.
	Bytes *Span `yaml:"bytes"`

	// Trim leaves out trailing 0x20 and 0x00. With `bytes`.
	Trim bool `yaml:"trim"`

	// Until is [offset, delimiter]: the payload from offset up to the first delimiter,
	// at most 64 bytes, such as the first field of a CSV record.
	Until *Until `yaml:"until"`
}

// A Hold bounds what waits, in one channel, for packets that are missing.
type Hold struct {
	// Packets is the most packets that wait.
	Packets int `yaml:"packets" jsonschema:"minimum=1,maximum=65536,default=64"`

	// Bytes is the most bytes of payload that wait.
	Bytes Size `yaml:"bytes" jsonschema:"default=128KiB"`

	// For is how long a gap may stay open before it is declared.
	For Duration `yaml:"for" jsonschema:"default=50ms"`
}

// Queries are the queries, in the file's order.
type Queries []Query

// A Query is one keyed, windowed aggregation over a feed.
type Query struct {
	// Name is the query's name in rows.
	Name string `yaml:"-" name:"query"`

	// From is the feed.
	From string `yaml:"from" jsonschema:"required"`

	// Where keeps the events for which it is true. Null is not true.
	Where *Expression `yaml:"where"`

	// Key lists the columns whose values together are the key. An event with a null
	// among them is dropped and counted.
	Key []string `yaml:"key" jsonschema:"required,minItems=1"`

	// Window cuts event time into windows.
	Window Window `yaml:"window" jsonschema:"required"`

	// Watermark says how long a window waits for late events.
	Watermark Watermark `yaml:"watermark"`

	// Keys bounds the distinct keys of one window, on the whole box. Memory for them is
	// taken at start; events of further keys are dropped, counted, and the window says so.
	Keys int `yaml:"keys" jsonschema:"minimum=1,maximum=134217728,default=65536"`

	// Panes bounds the windows that are open at a time. Without it: what width and
	// delay need, and 8 more.
	Panes int `yaml:"panes" jsonschema:"minimum=1,maximum=65536"`

	// Select names the values of a row, in the row's order: a name and an aggregate.
	Select Select `yaml:"select" jsonschema:"required"`

	// Sinks lists where the rows go.
	Sinks []string `yaml:"sinks" jsonschema:"required,minItems=1"`

	// Scope says whose events are in a row: `local` those of this box, `global` those of
	// every box of the group, which needs `group`. Each global row is written by one
	// box, the owner of its key; another has it too, and writes it if the owner is gone.
	Scope string `yaml:"scope" jsonschema:"enum=local,enum=global,default=local"`

	// LocalSinks lists where the rows of this box alone go beside the group's, under ids
	// of their own. With `scope: global`. Without it there are no such rows.
	LocalSinks []string `yaml:"local_sinks" jsonschema:"minItems=1"`
}

// A Window is how event time is cut: `{tumbling: 1m}`. Windows are half-open and
// aligned to 1970-01-01T00:00:00Z plus the offset.
type Window struct {
	// Tumbling is the width of windows that follow each other without overlap.
	Tumbling Duration `yaml:"tumbling"`

	// Offset shifts all windows. Less than the width.
	Offset Duration `yaml:"offset" jsonschema:"default=0s"`

	// Hop is reserved for hopping windows.
	Hop Reserved `yaml:"hop" jsonschema:"-" later:"hopping windows come later; use tumbling: a width"`

	// Session is reserved for session windows.
	Session Reserved `yaml:"session" jsonschema:"-" later:"session windows come later; use tumbling: a width"`

	// Count is reserved for count windows.
	Count Reserved `yaml:"count" jsonschema:"-" later:"count windows come later; use tumbling: a width"`
}

// A Watermark says when a window is complete: when every active source has shown an
// event time of at least the window's end plus delay.
type Watermark struct {
	// Delay is how far behind the newest event of its source an event may be.
	Delay Duration `yaml:"delay" jsonschema:"default=0s"`

	// Idle is how long a source may be silent before it no longer holds the others
	// back; `replay` leaves it out. Without it: a silent source holds them for ever.
	Idle Duration `yaml:"idle"`
}

// Select is the values of a row, in the row's order.
type Select []Value

// A Value is one value of a row.
type Value struct {
	// Name is the value's name in the row.
	Name string `yaml:"-" name:"value"`

	// Expr is an aggregate: count(), count(x), sum(x), min(x), max(x), first(x),
	// last(x), mean(x), variance(x), vwap(price, size). Arguments are columns or
	// arithmetic on them, as in sum(price * size).
	Expr Expression `yaml:"-"`
}

// Sinks are the sinks, in the file's order.
type Sinks []Sink

// A Sink is a place where rows go.
type Sink struct {
	// Name is the sink's name in queries.
	Name string `yaml:"-" name:"sink"`

	// JSONL writes one JSON object a line to a file.
	JSONL *JSONL `yaml:"jsonl"`

	// RDMAWrite puts rows in the memory of another box, where a program reads them.
	RDMAWrite *RDMAWrite `yaml:"rdma-write"`

	// Prometheus is what a reader may look for here.
	Prometheus Reserved `yaml:"prometheus" jsonschema:"-" later:"metrics are no sink; write metrics: {listen: 127.0.0.1:9464} at the top level"`
}

// JSONL is a file of JSON Lines.
type JSONL struct {
	// Path is the file; "-" is standard output. `replay` begins it anew, `run` goes on
	// after its last whole line.
	Path string `yaml:"path" jsonschema:"required"`
}

// RDMAWrite is a ring of rows in shared memory on another box, filled by
// `headrace receive` there. A row that is acknowledged is in the ring, which outlives
// that process. While the consumer is away or its ring is full, rows wait here. After a
// start of this box a batch may come twice: `row_id` and `revision` tell.
type RDMAWrite struct {
	// Address is the host and port where the consumer listens.
	Address string `yaml:"address" jsonschema:"required"`

	// Pin tells the consumer from everybody else: what `headrace group init` prints of
	// its key. A list while keys are changed.
	Pin Pins `yaml:"pin" jsonschema:"required"`

	// Dir is the folder with this box's key, made by `headrace group init`. Without it:
	// the group's, or /etc/headrace/group.
	Dir string `yaml:"dir"`

	// Transport is how rows travel: `verbs` is RDMA, `tcp` works anywhere, `auto` is
	// verbs where both ends have it, else tcp, and says so.
	Transport string `yaml:"transport" jsonschema:"enum=auto,enum=tcp,enum=verbs,default=auto"`

	// Device is the RDMA device for `verbs`, such as mlx5_0. Without it: the first with
	// an active RoCEv2 port.
	Device string `yaml:"device"`

	// Seal encrypts and authenticates the rows too. The connection over which both ends
	// find each other is always TLS 1.3.
	Seal bool `yaml:"seal"`
}

// Metrics serves Prometheus metrics at /metrics.
type Metrics struct {
	// Listen is the address and port to listen on.
	Listen string `yaml:"listen" jsonschema:"default=127.0.0.1:9464"`
}

// Recorder bounds the latest frames that each worker keeps: frames × snap bytes of
// memory a worker.
type Recorder struct {
	// Frames is how many of the latest frames a worker keeps.
	Frames int `yaml:"frames" jsonschema:"minimum=1,maximum=1048576,default=10000"`

	// Snap is how many bytes of each frame are kept, from its beginning. 64 to 2048.
	Snap Size `yaml:"snap" jsonschema:"default=2048"`
}

// Log says what is logged.
type Log struct {
	// Level is the least that is logged. `headrace log-level` changes it while headrace
	// runs.
	Level string `yaml:"level" jsonschema:"enum=debug,enum=info,enum=warn,enum=error,default=info"`
}

// API says who may ask and change the running headrace. Every command speaks to it
// through a unix socket, NAME.sock, on which the kernel says who asks: root, the user
// as whom headrace runs and the members of `group` may do everything.
type API struct {
	// Group is the Unix group whose members may change things. If the host has no such
	// group, only root and headrace's own user may.
	Group string `yaml:"group" jsonschema:"default=headrace"`

	// Others is what everybody else on this host may do through the socket: `read`
	// answers their questions, `nothing` refuses them.
	Others string `yaml:"others" jsonschema:"enum=read,enum=nothing,default=read"`

	// Remote lets clients ask over the network. Without it nothing listens there.
	Remote *Remote `yaml:"remote"`
}

// Remote is the API over a network: TLS 1.3, and only for clients whose certificate
// is known here. Everybody else gets no further than the handshake.
type Remote struct {
	// Listen is the address and port to listen on.
	Listen string `yaml:"listen" jsonschema:"required"`

	// Certificate is a PEM file with the server's certificate and what leads from it to
	// a root. A relative path here, in `key` and in `ca` is looked for in systemd's
	// credentials first. Without it: the key and certificate of `headrace group init`
	// in /etc/headrace/group.
	Certificate string `yaml:"certificate"`

	// Key is the PEM file with the certificate's key; nobody but headrace's user may be
	// able to read it. With `certificate`, and not without it.
	Key string `yaml:"key"`

	// CA is a PEM file with the roots of clients that are known by a name. Clients that
	// are known by a pin need none.
	CA string `yaml:"ca"`

	// Clients are those that may ask, by a name of your choice that the audit log has.
	Clients Clients `yaml:"clients" jsonschema:"required"`
}

// Clients are the clients of the remote API, in the file's order.
type Clients []Client

// A Client is somebody who may use the API over the network, told by `pin` or `san`.
type Client struct {
	// Name is the client's name in the audit log.
	Name string `yaml:"-" name:"client"`

	// Role is what the client may do: a `viewer` asks, an `operator` also pauses, drains,
	// moves, captures and sets the log level, an `admin` also changes the config, the
	// workers and the binary, and detaches.
	Role string `yaml:"role" jsonschema:"required,enum=viewer,enum=operator,enum=admin"`

	// Pin is "sha256:" and the base64 of the SHA-256 over the public key of the client's
	// certificate, as `headrace group init` prints it. A list while keys are changed.
	Pin Pins `yaml:"pin"`

	// SAN is a subject alternative name of the client's certificate, which a root of `ca`
	// must have signed: a DNS name, an e-mail address or a URI, exactly as it stands there.
	SAN string `yaml:"san"`
}

// A Group is the boxes that are one system. All of them have the same `group` but for
// `me`, `dir` and `device`, and the same global queries over feeds that are read
// alike; which packets a box takes, where its rows go, and its other queries are its
// own. A box is refused that differs in who the peers are, in how many go on, in
// `seal` or in a global query.
//
// More than half of the peers must hear each other for global rows: a box that is cut
// off makes only rows of its own. Of two boxes that is both, unless one is the
// `tie_breaker` or `allow_solo` is given: without either there are no global rows
// while one of them is gone.
//
// Rows of a box in a group say whose they are: `"scope":"global"`, or
// `"scope":"local:a"` for what box a saw alone. A global row's `completeness` names the
// peers that are merged in it, those that are known, and the epoch of the group. Rows
// with equal `row_id` and `revision` are the same bytes, whoever wrote them, and each
// may come more than once: after a failure.
type Group struct {
	// Me is the id of this box, one of the peers.
	Me string `yaml:"me" jsonschema:"required"`

	// Dir is the folder with this box's key and certificate, made by
	// `headrace group init`.
	Dir string `yaml:"dir" jsonschema:"default=/etc/headrace/group"`

	// Peers lists the boxes of the group, this one included: 2 to 16.
	Peers Peers `yaml:"peers" jsonschema:"required,minItems=2"`

	// Period is the silence after which the others go on without a peer. Each says five
	// times as often that it lives. 10ms to 1m.
	Period Duration `yaml:"period" jsonschema:"default=1s"`

	// MaxWait is how long a row may wait for a peer that lives and is behind. Then it is
	// written and says who is missing.
	MaxWait Duration `yaml:"max_wait" jsonschema:"default=2s"`

	// CorrectFor is how long after its first row a window takes what comes later: the
	// row is then written again, with the next revision. 0 is never.
	CorrectFor Duration `yaml:"correct_for" jsonschema:"default=5m"`

	// Keep bounds the partial results that this box keeps until the rows made of them
	// are written, for the case that a peer is gone first. At least 1MiB. Beyond it
	// the oldest are dropped, counted, and the row says so if they were needed again.
	Keep Size `yaml:"keep" jsonschema:"default=256MiB"`

	// Transport is how peers exchange results: `verbs` is RDMA, `tcp` works anywhere,
	// `auto` is verbs where all peers have it, else tcp, and says so.
	Transport string `yaml:"transport" jsonschema:"enum=auto,enum=tcp,enum=verbs,default=auto"`

	// Device is the RDMA device for `verbs`, such as mlx5_0. Without it: the one whose
	// address the peers reach.
	Device string `yaml:"device"`

	// Busy polls for the others' results without sleeping: a core for some microseconds
	// a round.
	Busy bool `yaml:"busy"`

	// Seal encrypts and authenticates the exchanged results too. The peers' control
	// connections are always TLS 1.3.
	Seal bool `yaml:"seal"`

	// AllowSolo lets a box that hears nobody go on alone. Take care: two boxes that are
	// cut off from each other then both go on, and both write rows under the same ids
	// that differ.
	AllowSolo bool `yaml:"allow_solo"`

	// TieBreaker is the peer whose half goes on when a group of an even number is cut in
	// two halves. Of two boxes: the one that may go on alone. Without it neither half
	// does.
	TieBreaker string `yaml:"tie_breaker"`
}

// Peers are the boxes of a group, in the file's order.
type Peers []Peer

// A Peer is one box of a group.
type Peer struct {
	// ID names the box in rows and counters: 1 to 32 of a to z, 0 to 9 and -.
	ID string `yaml:"id" jsonschema:"required"`

	// Address is the host and port where the others reach the box.
	Address string `yaml:"address" jsonschema:"required"`

	// Pin tells the box from everybody else: what `headrace group init` prints of its
	// key. A list while keys are changed.
	Pin Pins `yaml:"pin" jsonschema:"required"`
}
