package run

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"time"

	"github.com/headrace/headrace/controlplane/status"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/handover"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/segment"
	"github.com/headrace/headrace/dataplane/xsk"
)

// Owners says which worker has each key group.
type owners = [event.GroupCount]uint16

// A warm handover puts another data plane in the place of the running one, with another
// plan or other workers, while packets go on coming:
//
//  1. the workers are held: nothing is in hand, packets wait in the rings;
//  2. the XDP program is told of the new feeds;
//  3. the pump writes every row that is out, and ends with its segment;
//  4. the next process has everything, the last one ends, and what goes on is taken over
//     from memory to memory;
//  5. a new pump goes on with the new segment.
//
// Until the next one runs, everything can be put back: the old memory is only read. Key
// groups have the same workers before and after, so that each frame is where it belongs
// whoever goes on. Groups of workers that go are moved beforehand, and those that come get
// theirs afterwards, within one process: see [control.moveGroups].
type warm struct {
	next    Setup
	feeds   []int // for each feed of the plan the old number of the one that goes on, -1: none does
	queries []int
	account status.Former
}

const (
	holdPatience = 5 * time.Second
	// leastPatience is what workers get in any case.
	leastPatience = 200 * time.Millisecond
	holdPause     = 200 * time.Microsecond
	movePatience  = 30 * time.Second
)

// hand makes the warm handover w and returns how long no worker took frames at most. After
// an error everything is as before, unless it says otherwise.
func (r *control) hand(w *warm) (time.Duration, error) {
	if err := r.mayHand(w.next.Plan); err != nil {
		return 0, err
	}
	old, err := r.network.tables.Owners()
	if err != nil {
		return 0, err
	}
	from, to := r.Plan.Workers, w.next.Plan.Workers
	if from == to {
		return r.handOnce(w, &old)
	}
	want := spread(&old, to)
	if from < to {
		pause, err := r.handOnce(w, &old)
		if err != nil {
			return pause, err
		}
		moved, err := r.moveGroups(&old, &want)
		if err != nil {
			err = fmt.Errorf("there are %d workers now, but not all of them got key groups, rebalance them: %w", to, err)
		}
		return max(pause, moved), err
	}
	moved, err := r.moveGroups(&old, &want)
	if err != nil {
		return moved, err
	}
	pause, err := r.handOnce(w, &want)
	if err != nil {
		_, back := r.moveGroups(&want, &old)
		err = errors.Join(err, back)
	}
	return max(pause, moved), err
}

// move gives key groups the workers in want.
func (r *control) move(want *owners) error {
	if err := r.mayHand(r.Plan); err != nil {
		return err
	}
	old, err := r.network.tables.Owners()
	if err != nil || old == *want {
		return err
	}
	_, err = r.moveGroups(&old, want)
	return err
}

func identity(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return list
}

// handOnce is hand where key groups keep their workers, those in table.
func (r *control) handOnce(w *warm, table *owners) (time.Duration, error) {
	g, next := r.g, newGeneration()
	next.layout = g.layout
	next.layout.Workers = w.next.Plan.Workers
	if err := next.layout.Check(); err != nil {
		return 0, err
	}
	began := time.Now()
	end := began.Add(r.patience())
	if err := r.hold(g); err != nil {
		return 0, err
	}
	if err := r.handHeld(w, g, next, table, end); err != nil {
		return 0, errors.Join(err, r.takeBack(g, next))
	}
	pause := time.Since(began)
	next.lives.pause = pause
	r.Log.Info("the data plane was handed over", "workers", w.next.Plan.Workers, "data_plane", next.pid, "takeovers", next.lives.warm, "pause", pause)
	return pause, nil
}

// mayHand says why p cannot be put in force, warm.
func (r *control) mayHand(p *plan.Plan) error {
	switch {
	case r.g.stock == nil:
		return errors.New("with `crash: cold` nothing outlives the data plane: stop and start instead")
	case r.stopping:
		return errEnding
	case r.Plan.Group != nil:
		return errors.New("a box of a group keeps its plan while it runs: stop it, change its config, and start it; the other boxes go on meanwhile")
	case p.Workers > max(r.Plan.WorkersMax, r.Plan.Workers):
		return fmt.Errorf("%d workers: workers_max is %d, and sockets and memory are made for no more", p.Workers, r.Plan.WorkersMax)
	}
	return r.affordable()
}

// spread gives the groups of workers that go, and a fair share of all to those that come,
// to the workers that there will be; as few as possible change.
func spread(old *owners, to int) owners {
	share := make([]int, to)
	for i := range share {
		share[i] = event.GroupCount / to
		if i < event.GroupCount%to {
			share[i]++
		}
	}
	return dealt(old, share)
}

// hold brings all workers to where nothing is under way.
func (r *control) hold(g *generation) error {
	number := g.segment.SetHold(segment.Hold, 0)
	if number == 0 {
		return errEnding
	}
	if err := r.held(g, number); err != nil {
		g.segment.SetCommand(segment.Go)
		return err
	}
	return nil
}

// held waits for all workers to reach hold number.
func (r *control) held(g *generation, number uint64) error {
	patience := r.patience()
	for end := time.Now().Add(patience); ; time.Sleep(holdPause) {
		if err := r.lives(g); err != nil {
			return err
		}
		behind := -1
		for w := range r.Plan.Workers {
			if x := g.segment.Worker(w); x.State() != segment.Held || x.HeldFor() != number {
				behind = w
			}
		}
		switch {
		case behind < 0:
			return nil
		case time.Now().After(end):
			return fmt.Errorf("worker %d does not come to rest within %v, and more would cost frames: a sink that does not take its rows may be why", behind, patience)
		}
	}
}

// patience is how long workers may be held before they have come to rest: no longer than
// the rings hold what comes, less what the rest takes.
func (r *control) patience() time.Duration {
	holds := r.budget.holds()
	if holds == 0 {
		return holdPatience
	}
	return min(holdPatience, max(leastPatience, holds-max(r.g.lives.pause, takeoverTakes)))
}

// lives returns an error if g's process has gone, and else hears what it has said.
func (r *control) lives(g *generation) error {
	select {
	case m, ok := <-g.heard:
		if !ok {
			return errors.New("the data plane ended meanwhile")
		}
		r.hear(m)
	default:
	}
	return nil
}

// handHeld goes on when the workers are held. Rows that are out should be written by end.
func (r *control) handHeld(w *warm, g, next *generation, table *owners, end time.Time) error {
	if err := r.openMembers(g, next); err != nil {
		return err
	}
	if err := errors.Join(r.network.join(w.next.Plan), r.network.tables.SetFeeds(r.steered(w.next.Plan))); err != nil {
		return err
	}
	if err := finishPump(g, end); err != nil {
		return err
	}
	w.account = r.figures.source.Snapshot().Renumber(w.queries, remaining(w), next.layout.Workers, goneSockets(g, next))
	if err := r.renew(w, g, next); err != nil {
		return err
	}
	if err := r.begetNext(w, g, next, table); err != nil {
		return err
	}
	next.listen()
	r.settle(w, g, next)
	return nil
}

// begetNext puts next's process in the place of g's. What can fail without it comes first:
// once workers of next run, there is no way back.
func (r *control) begetNext(w *warm, g, next *generation, table *owners) (err error) {
	from := &handover.FromBody{Plan: r.Plan, Regions: r.Plan.Workers, Feeds: w.feeds, Queries: w.queries}
	before := r.Setup
	defer func() {
		if err != nil {
			r.Setup = before
		}
	}()
	r.Setup = w.next
	if err := r.startPump(next); err != nil {
		return err
	}
	ready, err := r.launch(next, launch{after: g, from: from, old: g.stock, owners: table, former: &w.account})
	if err == nil && !ready.Warm {
		err = errors.New("the data plane did not take the state over")
	}
	return err
}

// openMembers opens the sockets of workers that come, and puts all sockets of next in a
// stock that has them in common with g's.
func (r *control) openMembers(g, next *generation) error {
	next.zeroCopy = g.zeroCopy
	byWorker := make([][]int, next.layout.Workers)
	rest := g.stock.members
	for _, s := range g.layout.Members() {
		if s.Worker < len(byWorker) {
			byWorker[s.Worker] = append(byWorker[s.Worker], rest[0])
		}
		rest = rest[1:]
	}
	next.stock = &stock{body: g.stock.body, owners: g.stock.owners, memories: g.stock.memories, shared: -1, queues: g.stock.queues}
	for w := g.layout.Workers; w < next.layout.Workers; w++ {
		fds, err := xsk.OpenMembersOf(next.layout, g.stock.owners, w)
		if err != nil {
			return err
		}
		byWorker[w] = fds
		next.opened = append(next.opened, fds...)
	}
	var err error
	if next.stock.members, err = next.layout.Weave(byWorker); err != nil {
		return err
	}
	return r.network.setSockets(next.layout, next.stock.owners, next.stock.members)
}

// moveSlots tells the XDP program of the owners in want. Workers that give groups away
// then take what lies in their rings: it was placed before. Those that get some stay as
// they are, since they have no state yet for what may lie in theirs.
func (r *control) moveSlots(g *generation, old, want *owners) error {
	past := uint64(0)
	for group := range old {
		if old[group] == want[group] {
			continue
		}
		past |= 1 << old[group]
		if err := r.network.tables.SetOwner(group, int(want[group])); err != nil {
			return err
		}
	}
	if past == 0 {
		return nil
	}
	if err := r.network.tables.Barrier(); err != nil {
		return err
	}
	number := g.segment.SetHold(segment.HoldPast, past)
	if number == 0 {
		return errEnding
	}
	return r.held(g, number)
}

// rounds divides the groups that change owner so that in no round a worker both gives
// some and gets some. There is at least one round. Where workers do both, it goes by the
// highest bit in which the numbers of the two differ, and whether it is set or cleared.
func rounds(old, want *owners) (list [][]int) {
	var parts [2 * 16][]int
	var all []int
	gives, gets := uint64(0), uint64(0)
	for g := range old {
		a, b := old[g], want[g]
		if a == b {
			continue
		}
		all, gives, gets = append(all, g), gives|1<<a, gets|1<<b
		bit := bits.Len16(a^b) - 1
		parts[2*bit+int(a>>bit&1)] = append(parts[2*bit+int(a>>bit&1)], g)
	}
	if gives&gets == 0 {
		return [][]int{all}
	}
	for _, p := range parts {
		if p != nil {
			list = append(list, p)
		}
	}
	return list
}

// finishPump has g's pump write everything that is out by then, and end. Workers are held:
// it has a little time in any case.
func finishPump(g *generation, by time.Time) error {
	patience := max(leastPatience, time.Until(by))
	g.pump.Finish()
	select {
	case err, ok := <-g.pumped:
		if ok && err != nil {
			return err
		}
		return nil
	case <-time.After(patience):
		return fmt.Errorf("rows that are out are not written within %v, and more would cost frames: a sink does not take them", patience.Round(time.Millisecond))
	}
}

// endProcess ends g's process and returns when it has gone.
func (g *generation) endProcess() {
	g.kill()
	for range g.heard {
	}
	g.deathOf(0)
	g.process, g.pid = nil, 0
	_ = g.conn.Close()
}

// renew makes next's segment and memory. Sinks go on where they are.
func (r *control) renew(w *warm, g, next *generation) error {
	if err := next.stock.makeMemory(next.layout.Workers); err != nil {
		return err
	}
	next.stock.count()
	if err := next.makeSegment(w.next.Plan); err != nil {
		return err
	}
	for _, name := range segment.Sinks(w.next.Plan) {
		var c segment.Commit
		if from := g.segment.Sink(name); from != nil && from.Load(&c) {
			c.Positions = make([]uint64, next.segment.Layout.Workers)
			c.Rows, c.Bytes, c.Global = 0, 0, 0 // the account has them
			next.segment.Sink(name).Store(&c)
		}
	}
	return nil
}

// takeBack lets g go on after a handover that did not come about.
func (r *control) takeBack(g, next *generation) error {
	var errs []error
	if next.pid > 0 {
		next.kill()
		_ = next.reap()
	}
	next.endPump()
	errs = append(errs, r.network.tables.SetFeeds(r.steered(r.Plan)), r.network.leave(r.Plan))
	errs = append(errs, r.network.clearWorkers(g.layout.Workers, next.layout.Workers), r.network.tables.Barrier())
	if next.segment != nil {
		errs = append(errs, next.segment.Close())
	}
	closeAll(next.opened)
	next.stock.closeMemory()
	g.segment.SetCommand(segment.Go)
	if g.pid != 0 {
		// It lives. Its pump may have been told to end.
		return errors.Join(append(errs, r.changeSinks())...)
	}
	former := r.figures.source.Takeover()
	if err := errors.Join(r.startPump(g), r.takeOver(g, launch{}, time.Now())); err != nil {
		return errors.Join(append(errs, err)...)
	}
	r.show(g, former)
	r.handOver(g, former)
	return errors.Join(errs...)
}

// settle makes next the generation that runs.
func (r *control) settle(w *warm, g, next *generation) {
	if err := r.network.clearWorkers(next.layout.Workers, g.layout.Workers); err != nil {
		r.Log.Error("a socket stays in the program's map", "error", err)
	}
	former := w.account
	if err := r.network.leave(r.Plan); err != nil {
		r.Log.Warn("a group that nothing needs stays joined", "error", err)
	}
	next.lives = lives{warm: g.lives.warm + 1, since: time.Now(), pause: g.lives.pause}
	r.g = next
	r.show(next, former)
	r.handOver(next, r.figures.source.Takeover())
	g.stock.yield(next.stock)
	g.conn = nil
	if err := g.close(); err != nil {
		r.Log.Warn("something of the last data plane stays", "error", err)
	}
}

// remaining are w's feeds, those included that are no more and have kept their number.
func remaining(w *warm) []int {
	list := slices.Clone(w.feeds)
	for id := range list {
		if w.next.Plan.Feeds[id].Removed {
			list[id] = id
		}
	}
	return list
}

// goneSockets sums what the kernel has counted of the sockets that next has not, by
// interface.
func goneSockets(g, next *generation) []status.Sockets {
	list := make([]status.Sockets, len(g.layout.Interfaces))
	for i := range list {
		for q := range g.layout.Interfaces[i].Queues {
			for w := next.layout.Workers; w < g.layout.Workers; w++ {
				c := g.segment.Socket(i, q, w)
				list[i].RxDropped += c.RxDropped.Load()
				list[i].RxRingFull += c.RxRingFull.Load()
				list[i].RxInvalid += c.RxInvalid.Load()
				list[i].TxInvalid += c.TxInvalid.Load()
			}
		}
	}
	return list
}

// moveGroups gives key groups to other workers of the same data plane. Its workers are
// held meanwhile, and frames wait in the rings; the process goes on.
func (r *control) moveGroups(old, want *owners) (time.Duration, error) {
	g := r.g
	began := time.Now()
	if err := r.hold(g); err != nil {
		return 0, err
	}
	defer g.segment.SetCommand(segment.Go)
	table := *old
	for _, part := range rounds(old, want) {
		next := table
		to := map[int][]int{}
		for _, group := range part {
			next[group] = want[group]
			to[int(want[group])] = append(to[int(want[group])], group)
		}
		err := r.moveSlots(g, &table, &next)
		for w := 0; w < r.Plan.Workers && err == nil; w++ {
			var n int
			n, err = r.give(g, to[w], w)
			for _, group := range to[w][:n] {
				table[group] = uint16(w)
			}
		}
		if err != nil {
			return 0, errors.Join(err, r.network.setOwners(&table))
		}
		table = next
	}
	return time.Since(began), nil
}

// give has the data plane give groups to worker to, and returns how many it has given.
func (r *control) give(g *generation, groups []int, to int) (int, error) {
	if len(groups) == 0 {
		return 0, nil
	}
	b, err := r.askMove(g, handover.MoveBody{Groups: groups, To: to})
	switch {
	case err != nil:
		return 0, err
	case b.Error != "":
		return min(b.Moved, len(groups)), errors.New(b.Error)
	}
	return len(groups), nil
}

// askMove has the data plane move groups, perhaps none, and returns what it answers. One
// that does not answer is ended: it may be at it still, and the next one finishes it or
// takes it back.
func (r *control) askMove(g *generation, ask handover.MoveBody) (b handover.MovedBody, err error) {
	if err := g.conn.Send(handover.Move, ask, nil); err != nil {
		return b, err
	}
	end := time.After(movePatience)
	for {
		select {
		case m, ok := <-g.heard:
			if !ok {
				return b, errors.New("the data plane ended while key groups moved")
			}
			if m.Kind != handover.Moved {
				r.hear(m)
				continue
			}
			return b, m.Decode(&b)
		case <-end:
			g.kill()
			return b, fmt.Errorf("key groups were not moved within %v: the data plane is started again", movePatience)
		}
	}
}

// mend puts right what a control has left that ended in a change: workers that are held,
// and programs that know other feeds and owners than the workers do. What was begun to
// move is moved.
func (r *control) mend(g *generation) {
	if g.stock == nil || r.stopping {
		return
	}
	defer g.segment.SetCommand(segment.Go)
	if err := r.mendOwners(g); err != nil {
		r.Log.Error("what the control before this one was changing may be half done", "error", err)
	}
}

func (r *control) mendOwners(g *generation) error {
	if err := r.network.tables.SetFeeds(r.steered(r.Plan)); err != nil {
		return err
	}
	b, err := r.askMove(g, handover.MoveBody{})
	if err != nil || b.Owners == nil {
		return err
	}
	table, err := r.network.tables.Owners()
	if err != nil || table == *b.Owners {
		return err
	}
	want := *b.Owners
	for group, w := range table {
		if int(w) < r.Plan.Workers { // else it was for a worker that never came
			want[group] = w
		}
	}
	r.Log.Warn("the control before this one ended while key groups moved: they are moved now")
	if want == *b.Owners {
		return r.network.setOwners(&want)
	}
	_, err = r.moveGroups(b.Owners, &want)
	return err
}
