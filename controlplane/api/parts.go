package api

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/headrace/headrace/controlplane/change"
	"github.com/headrace/headrace/controlplane/status"
	"github.com/headrace/headrace/dataplane/plan"
)

// Parts are what the run offers. The routes of a part that is nil do not exist, and are
// not in the document. Every method may be called from any goroutine; calls of
// Changer, Operator, Mover and Upgrader come one at a time.
type Parts struct {
	Reader   Reader // required
	Prober   Prober
	Changer  Changer
	Operator Operator
	Mover    Mover
	Upgrader Upgrader
	Capturer Capturer
	// Level is the least that the run logs.
	Level *slog.LevelVar
}

// A Reader says what the run is and does.
type Reader interface {
	// Status returns the figures of now.
	Status() *status.Report
	// Running returns the config that is in force.
	Running() Running
	// Plan returns the plan that is in force. Nobody changes it.
	Plan() *plan.Plan
	// Explain writes in words what the config that is in force amounts to.
	Explain(w io.Writer) error
}

// A Running is the config that is in force.
type Running struct {
	// Name is the run's name.
	Name string `json:"name"`
	// Revision identifies the text: see [Revision]. It is the ETag, without its quotes.
	Revision string `json:"revision"`
	// Source says where the text came from, such as a file's name.
	Source  string    `json:"source"`
	Applied time.Time `json:"applied"`
	// Text is the config as it was given.
	Text string `json:"text"`
}

// A Prober says how the run is. An error says what is wrong; it is told to whoever asks.
type Prober interface {
	// Healthy returns an error if the run will not mend by itself.
	Healthy() error
	// Ready returns an error if packets are not received now.
	Ready() error
}

// A Changer puts another config in force.
type Changer interface {
	// Apply reads, checks and compares the config and, unless it is a dry run, puts it in
	// force whole, or not at all. ctx ends only if that takes too long: who asked may be
	// gone. The report is also returned with an error that wraps [ErrRefused], which
	// says that at least one item is refused. The error is a config.Findings if the config has mistakes, and
	// wraps [ErrStale] if the one in force is not the expected one.
	Apply(ctx context.Context, a Application) (*change.Report, error)
}

// An Application is a config to be put in force.
type Application struct {
	Text []byte
	// Source says where the text came from, such as a file's name.
	Source string
	// DryRun asks what would happen.
	DryRun bool
	// Match lists revisions of which one must be in force; empty: any.
	Match []string
}

// An Operator starts and stops the flow of packets.
type Operator interface {
	// Drain begins the stop: packets go elsewhere, what is open is finished, and the run
	// ends. It returns when that has begun.
	Drain(ctx context.Context) error
	// Pause lets the packets of a feed pass to the network stack; an empty name is every
	// feed. State is kept. Pausing what is paused changes nothing. The error wraps
	// [ErrUnknown] if there is no such feed.
	Pause(ctx context.Context, feed string) error
	// Resume takes them again.
	Resume(ctx context.Context, feed string) error
	// Paused returns the names of the feeds that are paused, sorted.
	Paused() []string
}

// A Mover moves key groups between workers.
type Mover interface {
	// Rebalance moves key groups so that workers have about as much to do.
	Rebalance(ctx context.Context, mode RebalanceMode) (Moved, error)
	// Move gives key groups to a worker. The error wraps [ErrRefused] if there is none of
	// that number.
	Move(ctx context.Context, groups []int, to int) (Moved, error)
	// SetWorkers adds or removes workers. The error wraps [ErrRefused] beyond workers_max.
	SetWorkers(ctx context.Context, n int) (Moved, error)
}

// A RebalanceMode says how often groups are moved.
type RebalanceMode string

// The modes.
const (
	Once RebalanceMode = "once" // now
	Auto RebalanceMode = "auto" // now, and whenever it is worth it
	Off  RebalanceMode = "off"  // no more, after Auto
)

// Moved says what a Mover did.
type Moved struct {
	// Groups is how many key groups have another worker now.
	Groups  int `json:"groups"`
	Workers int `json:"workers"`
	// Auto says that groups go on being moved when it is worth it.
	Auto bool `json:"auto"`
}

// An Upgrader replaces the data plane.
type Upgrader interface {
	// Upgrade replaces the data plane by one of another binary, which goes on with its
	// state. The error wraps [ErrRefused] if it could not, because the two lay out their
	// memory differently, or if frames would be lost and u.Anyway is not set.
	Upgrade(ctx context.Context, u Upgrade) (Upgraded, error)
	// Detach gives the interfaces back: the XDP program is taken off, groups are left,
	// descriptors that somebody keeps are forgotten, and the run ends. Windows in hand
	// are finished as the config's on_stop says.
	Detach(ctx context.Context) error
}

// An Upgrade asks for another data plane.
type Upgrade struct {
	// Binary is the path of the binary on the run's host; empty: the one that the run was
	// started from, as it is now.
	Binary string `json:"binary,omitempty"`
	// Anyway upgrades also if frames are lost by it.
	Anyway bool `json:"anyway,omitempty"`
}

// Upgraded says what an upgrade did.
type Upgraded struct {
	// Warm says that state went on: an upgrade without it is refused.
	Warm bool `json:"warm"`
	// From and To are the binaries' versions.
	From string `json:"from"`
	To   string `json:"to"`
	// PauseNanos is how long no worker took frames, BudgetNanos how long the rings could
	// hold what came.
	PauseNanos  int64 `json:"pause_nanos"`
	BudgetNanos int64 `json:"budget_nanos"`
}

// A Capturer copies frames.
type Capturer interface {
	// Capture writes frames to w as pcapng until it has as many as asked for or ctx ends.
	// What is wrong before the first byte is an answer of its own; after it, it cuts the
	// file off.
	Capture(ctx context.Context, c Capture, w io.Writer) error
}

// A Capture says which frames to copy.
type Capture struct {
	// Feed is the feed's name; empty: every feed.
	Feed string
	// Count is how many frames, at least 1.
	Count int
	// BeforeGap asks for the Count frames before the latest gap of the feed, out of the
	// recorder, instead of those that come next. The error wraps [ErrUnknown] if there
	// is no recorder or was no gap.
	BeforeGap bool
}

// What parts answer. Errors that wrap none of them are failures of headrace's own.
var (
	// ErrRefused reports something that is possible, but not as things are.
	ErrRefused = errors.New("refused")
	// ErrUnknown reports a name that nothing has.
	ErrUnknown = errors.New("not known")
	// ErrStale reports that another config is in force than was expected.
	ErrStale = errors.New("the config has been changed by somebody else")
)
