package run

import (
	"testing"
	"time"

	"github.com/headrace/headrace/controlplane/cluster"
)

func TestThePeerThatHasGoneDoesNotHoldTheWatermarkShown(t *testing.T) {
	at := func(n int64) *int64 { return &n }
	q := &cluster.QueryStats{Watermarks: []cluster.Mark{{Peer: "a", Nanos: at(1e9)}, {Peer: "b", Nanos: at(9e9)}, {Peer: "c", Nanos: at(2e9), Idle: true}, {Peer: "d"}}}
	for _, c := range []struct {
		members []string
		want    time.Time
	}{
		{[]string{"a", "b", "c", "d"}, time.Unix(1, 0)},
		{[]string{"b", "c", "d"}, time.Unix(9, 0)},
		{[]string{"c", "d"}, time.Time{}},
		{nil, time.Time{}},
	} {
		if got := globalQuery(q, c.members).Watermark; !got.Equal(c.want) {
			t.Errorf("of %v: %v, want %v", c.members, got, c.want)
		}
	}
}
