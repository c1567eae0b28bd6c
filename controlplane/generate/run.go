package generate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/headrace/headrace/controlplane/send"
	"github.com/headrace/headrace/dataplane/capture"
)

// finishMax is how long a stopped stream may take to end in good order.
const finishMax = 2 * time.Second

// An Output is where a stream goes: exactly one of Interface, Path and Writer.
type Output struct {
	// Interface to send on, in real time from the call on: a frame goes out as long
	// after the call as its time is after Config.Start.
	Interface string
	// Path of a capture to write; compressed if it ends in .gz or .zst.
	Path string
	// Writer takes a capture.
	Writer io.Writer
	// Progress is where to show how far it is; nil for nowhere.
	Progress io.Writer
}

// A Report is the account of a whole stream.
type Report struct {
	Summary
	// Sending is nil unless the stream went to an interface.
	Sending *send.Counts `json:"sending,omitempty"`
	Seconds float64      `json:"seconds"`
}

// Run brings the stream of c to its output. If ctx is done before the end, the
// stream ends in good order (see [Source.End]) and Run returns nil.
func Run(ctx context.Context, c Config, out Output) (Report, error) {
	s, err := New(c)
	if err != nil {
		return Report{}, err
	}
	begin := time.Now()
	var r Report
	switch {
	case out.Interface != "":
		r.Sending, err = transmit(ctx, s, out)
	default:
		err = store(ctx, s, out)
	}
	r.Summary, r.Seconds = s.Summary(), time.Since(begin).Seconds()
	return r, err
}

// transmit sends the stream in real time.
func transmit(ctx context.Context, s *Source, out Output) (*send.Counts, error) {
	to, err := send.Open(out.Interface)
	if err != nil {
		return nil, fmt.Errorf("generate: %w", err)
	}
	start := s.Config().Start
	var made atomic.Uint64
	meter := send.NewMeter(out.Progress, func() send.Status {
		st := send.Status{Fraction: -1, Counts: to.Counts()}
		if count := s.c.Count; count > 0 { // read only: New has written it
			st.Fraction = float64(made.Load()) / float64(count)
		}
		return st
	})
	err = to.Stream(ctx, func() ([]byte, time.Duration, error) {
		frame, at, ok := s.Next()
		if !ok {
			return nil, 0, io.EOF
		}
		made.Store(s.m.made())
		return frame, time.Duration(at - start), nil
	})
	if err != nil && errors.Is(err, ctx.Err()) {
		s.End()
		rest, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishMax)
		err = to.Stream(rest, func() ([]byte, time.Duration, error) {
			frame, _, ok := s.Next()
			if !ok {
				return nil, 0, io.EOF
			}
			return frame, 0, nil
		})
		cancel()
	}
	meter.Stop()
	counts := to.Counts()
	if err = errors.Join(err, to.Close()); err != nil {
		err = fmt.Errorf("generate: %w", err)
	}
	return &counts, err
}

// store writes the stream as a capture.
func store(ctx context.Context, s *Source, out Output) (err error) {
	var w *capture.Writer
	if out.Writer != nil {
		w, err = capture.NewWriter(out.Writer)
	} else {
		w, err = capture.Create(out.Path)
	}
	if err != nil {
		return fmt.Errorf("generate: %w", err)
	}
	for n := 0; ; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			s.End()
		}
		frame, at, ok := s.Next()
		if !ok {
			break
		}
		if err = w.Write(&capture.Record{Data: frame, Stamp: at}); err != nil {
			break
		}
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return fmt.Errorf("generate: %w", err)
	}
	return nil
}
