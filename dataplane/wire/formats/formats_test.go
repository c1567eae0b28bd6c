package formats

import (
	"encoding/binary"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/wire"
	"github.com/headrace/headrace/dataplane/wire/wiretest"
	"github.com/headrace/headrace/internal/testdata"
)

func TestNamesAreThoseThatTheConfigUses(t *testing.T) {
	want := []string{"iex-deep", "iex-tops", "itch50", "json", "csv", "raw", "flow"}
	if got := Names(); !reflect.DeepEqual(got, want) {
		t.Errorf("Names() = %q, want %q", got, want)
	}
	for _, name := range want {
		if f, ok := Lookup(name); !ok || f.Name != name {
			t.Errorf("Lookup(%q) = %q, %v", name, f.Name, ok)
		}
	}
	if _, ok := Lookup("sbe"); ok {
		t.Error(`Lookup("sbe") found a format`)
	}
}

// What the config and the docs are made from must be there and fit its types.
func TestFormatsDescribeThemselves(t *testing.T) {
	for _, name := range Names() {
		f, _ := Lookup(name)
		if f.Doc == "" || f.New == nil || f.Place.Kind == 0 {
			t.Errorf("%s: no Doc, New or Place: %+v", name, f)
		}
		seen, bits := map[string]bool{}, map[int]bool{}
		for _, x := range f.Fields {
			if seen[x.Name] || x.Doc == "" || (x.Type == event.Text) != (x.Width > 0) || x.Width > event.TextMax || x.Scale > event.ScaleMax || x.Scale > 0 && x.Type != event.Decimal {
				t.Errorf("%s: field %+v", name, x)
			}
			seen[x.Name] = true
		}
		for _, k := range f.Kinds {
			if seen["kind "+k.Name] || bits[k.Bit] || k.Bit < 0 || k.Bit > 63 || k.Doc == "" {
				t.Errorf("%s: kind %+v", name, k)
			}
			seen["kind "+k.Name], bits[k.Bit] = true, true
		}
		if len(f.Kinds) > 0 && f.Fields[0].Name != "message" {
			t.Errorf("%s has kinds but no field message", name)
		}
		if (f.Sequence != plan.Unsequenced) != (f.Place.Kind == plan.PlaceChannel) {
			t.Errorf("%s: a sequenced format is placed by channel, any other is not: %+v", name, f.Place)
		}
	}
}

// Every capture, those of unknown venues too, goes through every format: events or drops
// with a reason.
func TestEveryCaptureGoesThroughEveryFormat(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(testdata.Path(t, "venues"), "*", "*", "*.pcap"))
	if err != nil || len(files) < 30 {
		t.Fatalf("%d captures (%v)", len(files), err)
	}
	for _, name := range Names() {
		f, _ := Lookup(name)
		feed := &plan.Feed{Name: name, Kinds: ^uint64(0), Channels: 1, Orders: 100, Identity: true, Time: plan.EventTime{Unit: plan.UnitReceive}}
		if f.Fields != nil {
			feed.Columns = wiretest.Columns(t, &f)
		} else {
			feed.Columns = []plan.Column{{Name: "a", Type: event.Text, Path: []string{"a"}, Width: 8}}
		}
		d, err := f.New(feed, wiretest.Region(t, 4<<20), nil)
		if err != nil {
			t.Fatal(err)
		}
		b := wiretest.Batch(feed)
		for _, file := range files {
			for _, c := range wiretest.Capture(t, file) {
				payload := wiretest.UDP(c.Frame)
				p := &wire.Packet{Payload: payload, Frame: c.Frame, Progress: wire.Progress{Max: event.MinNanos}, Receive: c.Stamp}
				switch header := map[plan.Sequence]int{plan.IEXTP: 40, plan.MoldUDP64: 20}[f.Sequence]; {
				case header > len(payload):
					continue // sequence drops it as short
				case f.Sequence == plan.IEXTP:
					p.Count = int(binary.LittleEndian.Uint16(payload[14:]))
					p.Payload = payload[header:]
				case f.Sequence == plan.MoldUDP64:
					p.Count = int(binary.BigEndian.Uint16(payload[18:]))
					p.Payload = payload[header:]
				}
				if _, err := wiretest.Decode(d, feed, p, b, 5); err != nil {
					t.Errorf("%s through %s: %v", file, name, err)
				}
			}
		}
	}
}
