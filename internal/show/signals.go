package show

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Signaled calls play. The first signal ends stop, so that it comes to its end in good
// order; the second one ends hurry.
func Signaled(play func(stop, hurry context.Context) error) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	// Where nobody reads any more, a write fails, and what was made is removed; the
	// signal would end us before that.
	pipe := make(chan os.Signal, 1)
	signal.Notify(pipe, syscall.SIGPIPE)
	defer signal.Stop(pipe)
	stop, stopNow := context.WithCancel(context.Background())
	defer stopNow()
	hurry, hurryNow := context.WithCancel(context.Background())
	defer hurryNow()
	over := make(chan struct{})
	defer close(over)
	go func() {
		for _, then := range []func(){stopNow, hurryNow} {
			select {
			case <-signals:
				then()
			case <-over:
				return
			}
		}
	}()
	return play(stop, hurry)
}

// Pause sleeps, unless ctx ends before.
func Pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// ExitCode says how the program name has ended, and returns its exit code.
func ExitCode(name string, err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, name+": "+err.Error())
	if errors.Is(err, ErrSetting) {
		return 64 // EX_USAGE of sysexits.h
	}
	return 1
}
