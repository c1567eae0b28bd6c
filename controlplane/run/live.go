package run

import (
	"context"
	"log/slog"

	"github.com/headrace/headrace/controlplane/api"
	"github.com/headrace/headrace/controlplane/status"
)

// changeSinks ends the pump with the sinks of one config and goes on with those of r's:
// each begins where it was, by its commits. The data plane does not notice.
func (r *control) changeSinks() error {
	g := r.g
	g.endPump()
	former := r.figures.source.Account()
	if err := r.startPump(g); err != nil {
		return err
	}
	r.show(g, former)
	return nil
}

// reopenSinks tries again where a change has left no sinks, since those of before could not
// be opened either. Rows wait in the outboxes meanwhile.
func (r *control) reopenSinks(g *generation) {
	if g.cancel != nil {
		return
	}
	switch err := r.changeSinks(); {
	case err == nil:
		r.noSinks = false
		r.Log.Warn("rows flow again")
	case !r.noSinks:
		r.noSinks = true
		r.Log.Error("no sink takes rows: they wait, and this is tried every second", "error", err)
	}
}

// changeLive puts in force what the control process does alone.
func (r *control) changeLive(before *Setup) {
	if r.Setup.Config.Log.Level != before.Config.Log.Level {
		r.setLevel(r.Setup.Config.Log.Level)
	}
	if r.api != nil {
		if err := r.api.Configure(r.Setup.Config.API); err != nil {
			r.Log.Error("the API stays as it was", "error", err)
		}
	}
	if a, b := metricsOf(before), metricsOf(&r.Setup); a != b {
		r.figures.endMetrics()
		r.serveMetrics(b)
	}
}

func metricsOf(s *Setup) string {
	if s.Config == nil || s.Config.Metrics == nil {
		return ""
	}
	return s.Config.Metrics.Listen
}

// setLevel sets what is logged at least.
func (r *control) setLevel(text string) {
	var l slog.Level
	if r.Level != nil && l.UnmarshalText([]byte(text)) == nil {
		r.Level.Set(l)
	}
}

// serve answers the API, of which `headrace status` is a part, and, if the config says so,
// Prometheus.
func (r *control) serve() error {
	ctx, cancel := context.WithCancel(context.Background())
	r.figures.stop = cancel
	l, err := status.Listen(r.Plan.Name)
	if err != nil {
		return err
	}
	r.enforce()
	r.figures.reporter = status.NewReporter(r.figures.source)
	r.figures.wait.Go(func() { r.figures.reporter.Sample(ctx) })
	c := api.Config{Parts: r.parts(), Log: r.Log, Audit: r.Log.With("audit", true)}
	if r.Setup.Config != nil {
		c.API = r.Setup.Config.API
	}
	if r.api, err = api.New(c); err != nil {
		return err
	}
	r.figures.wait.Go(func() {
		if err := r.api.Serve(ctx, l); err != nil {
			r.Log.Warn("the API is not answered any more", "error", err)
		}
	})
	r.serveMetrics(metricsOf(&r.Setup))
	return nil
}

// serveMetrics answers Prometheus at an address, "" for nowhere.
func (r *control) serveMetrics(address string) {
	if address == "" {
		return
	}
	l, err := status.ListenMetrics(address)
	if err != nil {
		r.Log.Warn("no metrics: give another address in metrics.listen", "error", err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &r.figures
	f.stopMetrics = cancel
	metrics := status.NewMetrics(f.source)
	f.metrics.Go(func() {
		if err := metrics.Serve(ctx, l); err != nil {
			r.Log.Warn("metrics are not served any more", "error", err)
		}
	})
}

// endMetrics returns when nobody is answered any more.
func (f *figures) endMetrics() {
	if f.stopMetrics != nil {
		f.stopMetrics()
		f.metrics.Wait()
		f.stopMetrics = nil
	}
}
