package proc

import (
	"fmt"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/handover"
	"github.com/headrace/headrace/dataplane/xsk"
)

// fail tells everybody that worker w cannot go on, why, and what it has in hand. It runs
// on the worker's thread, in the panic that ends the process.
func (p *process) fail(w int, why any) {
	text := fmt.Sprint(why)
	p.segment.Worker(w).Fail(text)
	worker, conn := p.workers[w], p.conn
	if worker == nil || conn == nil {
		return
	}
	// Looking at memory that is not as it should be may fail again.
	defer func() { _ = recover() }()
	mark, frame := worker.InHand()
	body := handover.PoisonBody{Worker: w, Feed: mark.Feed, Stage: mark.Stage.String(), Failure: text, Left: mark.Sure()}
	if frame != nil {
		p.showFrame(&body, w, frame)
	}
	_ = conn.Send(handover.Poison, &body, nil)
}

// showFrame adds a frame of worker w's to a report.
func (p *process) showFrame(b *handover.PoisonBody, w int, frame *xsk.Frame) {
	ring, _ := frame.Place()
	b.Frame, b.Received = frame.Data, event.Nanos(frame.Meta.ReceiveNanos)
	b.Interface = p.ports[w].Sockets()[ring].Name
}
