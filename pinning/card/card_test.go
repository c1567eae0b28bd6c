package card

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/safchain/ethtool"
	"golang.org/x/sys/unix"
)

func TestFieldsComeBackAsTheyWere(t *testing.T) {
	c := ethtool.Coalesce{RxCoalesceUsecs: 50, UseAdaptiveRxCoalesce: 1, RateSampleInterval: 7}
	text := format(coalesceFields(&c))
	var d ethtool.Coalesce
	if err := parse(coalesceFields(&d), text); err != nil || c != d {
		t.Errorf("%q is %+v, %v", text, d, err)
	}
	if err := parse(coalesceFields(&d), "rx-usecs=0"); err != nil || d.RxCoalesceUsecs != 0 || d.RateSampleInterval != 7 {
		t.Errorf("%+v, %v: one field is set, the others stay", d, err)
	}
	for _, bad := range []string{"rx-usecs=x", "rx-usec=1", "rx-usecs", "rx-usecs=-1"} {
		if err := parse(coalesceFields(&d), bad); !errors.Is(err, ErrValue) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestTablesAndKeys(t *testing.T) {
	if got := EqualTable("0,0,0,0,0", 3); got != "0,1,2,0,1" {
		t.Error(got)
	}
	if got := SymmetricKey("00:11:22"); got != "6d:5a:6d" {
		t.Error(got)
	}
	for value, want := range map[string]string{
		"0,1,0,1": "ethtool -X eth0 equal 2", "0,0,0,1": "ethtool -X eth0 weight 3 1", "0,0": "ethtool -X eth0 equal 1",
	} {
		if got := (Kernel{}).Shell("eth0", "rss-table", value); got != want {
			t.Errorf("%s: %s, want %s", value, got, want)
		}
	}
	if err := setTable("eth0", "", "0,x"); !errors.Is(err, ErrValue) {
		t.Error(err)
	}
	if err := setKey("eth0", "", "6d:5"); !errors.Is(err, ErrValue) {
		t.Error(err)
	}
}

// TestTheMessageOfTheTable holds the layout of struct ethtool_rxfh: what is not named
// must say that it stays.
func TestTheMessageOfTheTable(t *testing.T) {
	word := func(b []byte, at int) uint32 { return binary.NativeEndian.Uint32(b[at:]) }
	table := rxfh{table: []uint32{3, 4}}.message()
	if len(table) != 24+8 || word(table, 0) != cmdSetRXFH || word(table, 8) != 2 || word(table, 12) != 0 || word(table, 28) != 4 {
		t.Errorf("% x", table)
	}
	key := rxfh{key: []byte{1, 2, 3}}.message()
	if len(key) != 24+3 || word(key, 8) != tableStays || word(key, 12) != 3 || key[26] != 3 {
		t.Errorf("% x", key)
	}
}

// TestTheRuleOfAFlow holds the layout of struct ethtool_rxnfc by what the kernel's own
// header says of a UDP flow: address at 24, port at 30, masks 72 bytes after.
func TestTheRuleOfAFlow(t *testing.T) {
	f, err := parseFlow("udp 239.1.2.3:5000")
	if err != nil {
		t.Fatal(err)
	}
	rule := command(cmdAddRule, 0)
	f.spec(rule)
	if len(rule) != 192 || binary.NativeEndian.Uint32(rule[16:]) != flowUDP4 || string(rule[24:28]) != "\xef\x01\x02\x03" ||
		binary.BigEndian.Uint16(rule[30:]) != 5000 || string(rule[96:100]) != "\xff\xff\xff\xff" || string(rule[102:104]) != "\xff\xff" {
		t.Errorf("% x", rule)
	}
	if !f.matches(rule) {
		t.Error("a rule is not that of its own flow")
	}
	binary.NativeEndian.PutUint64(rule[atCookie:], 7)
	if !f.matches(rule) {
		t.Error("the queue is no part of what a rule matches")
	}
	other, _ := parseFlow("udp 239.1.2.3:5001")
	tcp, _ := parseFlow("tcp 239.1.2.3:5000")
	if other.matches(rule) || tcp.matches(rule) {
		t.Error("a rule of another flow was taken for it")
	}
	for _, bad := range []string{"", "udp", "udp 1.2.3.4", "sctp 1.2.3.4:5", "udp [::1]:5", "udp 1.2.3.4:99999"} {
		if err := CheckFlow(bad); !errors.Is(err, ErrValue) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestACardThatIsNotThere(t *testing.T) {
	k := Kernel{}
	for _, name := range []string{"channels", "rings", "coalesce", "feature gro", "rss-table", "rss-key", "flow udp 1.2.3.4:5", "napi rx-0 threaded", "napi-thread rx-0"} {
		if v, err := k.Get("nix9", name); err == nil {
			t.Errorf("%s is %q", name, v)
		}
	}
	if _, err := k.Get("lo", "nonsense"); !errors.Is(err, ErrUnsupported) {
		t.Error(err)
	}
	if err := k.Set("lo", "rings-max", "rx=1"); !errors.Is(err, ErrUnsupported) {
		t.Error(err)
	}
	if _, err := k.Get("lo", "channels"); !errors.Is(err, ErrUnsupported) || !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("loopback's channels: %v", err)
	}
	if v, err := k.Get("lo", "feature gro"); err != nil || v != "on" && v != "off" {
		t.Errorf("loopback's gro is %q, %v", v, err)
	}
	if _, err := k.Get(strings.Repeat("x", 16), "rss-key"); !errors.Is(err, ErrUnsupported) {
		t.Error(err)
	}
}

func TestThePortOfNetlinkThatIsNotThere(t *testing.T) {
	if _, err := familyOf("headrace-nix"); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Error(err)
	}
	if n, err := familyOf("nlctrl"); err != nil || n != unix.GENL_ID_CTRL {
		t.Errorf("nlctrl is %d, %v", n, err)
	}
}

// FuzzEachMessage checks that no answer, however broken, is read beyond its end.
func FuzzEachMessage(f *testing.F) {
	body := append([]byte{1, 1, 0, 0}, appendAttributes(nil, []attribute{number32(2, 7)})...)
	whole := binary.NativeEndian.AppendUint32(nil, uint32(16+len(body)))
	whole = append(append(whole, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), body...)
	f.Add(whole)
	f.Add(whole[:20])
	f.Add([]byte{16, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var answers []map[uint16][]byte
		if _, err := eachMessage(b, &answers); err == nil {
			for _, a := range answers {
				for _, v := range a {
					number(v)
				}
			}
		}
	})
}
