package value

import (
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"

	"github.com/headrace/headrace/dataplane/event"
)

func TestWordsLoseTheirPadding(t *testing.T) {
	b := event.NewBatch([]event.Column{{Type: event.Text}, {Type: event.Text}})
	for _, c := range []struct{ in, want string }{
		{"MSFT    ", "MSFT"},
		{"        ", ""},
		{"ABCDEFGH", "ABCDEFGH"},
		{" A B    ", " A B"},
		{"A\x00      ", "A\x00"},
	} {
		b.Reset()
		SetWord(b, 0, binary.LittleEndian.Uint64([]byte(c.in)))
		if got := string(b.TextAt(0, 0)); got != c.want || !b.Cols[0].Valid.Has(0) {
			t.Errorf("SetWord(%q) = %q, want %q", c.in, got, c.want)
		}
	}
}

func TestNamesAndWordsFillABatch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := event.NewBatch([]event.Column{{Type: event.Text}, {Type: event.Text}})
		text := rapid.StringMatching(`[a-z_]{0,24}`).Draw(t, "name")
		name := NewName(text)
		for ; !b.Full(); b.N++ {
			SetName(b, 0, &name)
			SetWord(b, 1, binary.LittleEndian.Uint64([]byte("SYMBOL  ")))
		}
		for i := range b.N {
			if string(b.TextAt(0, i)) != text || string(b.TextAt(1, i)) != "SYMBOL" {
				t.Fatalf("event %d: %q, %q, want %q, SYMBOL", i, b.TextAt(0, i), b.TextAt(1, i), text)
			}
		}
	})
}

func TestNewNamePanicsWhenTooLong(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("NewName of 25 bytes did not panic")
		}
	}()
	NewName("abcdefghijklmnopqrstuvwxy")
}
