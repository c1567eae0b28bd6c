package card

import (
	"fmt"
	"slices"
	"strings"

	"github.com/safchain/ethtool"
	"golang.org/x/sys/unix"
)

// with opens the ioctl's socket in the namespace of the calling thread for one call.
func with[T any](f func(*ethtool.Ethtool) (T, error)) (T, error) {
	e, err := ethtool.NewEthtool()
	if err != nil {
		var zero T
		return zero, err
	}
	defer e.Close()
	return f(e)
}

func channels(nic string) (ethtool.Channels, error) {
	return with(func(e *ethtool.Ethtool) (ethtool.Channels, error) { return e.GetChannels(nic) })
}

func channelFields(c *ethtool.Channels) []field {
	return []field{{"rx", &c.RxCount}, {"tx", &c.TxCount}, {"other", &c.OtherCount}, {"combined", &c.CombinedCount}}
}

func getChannels(nic, _ string) (string, error) {
	c, err := channels(nic)
	return format(channelFields(&c)), err
}

func getChannelsMax(nic, _ string) (string, error) {
	c, err := channels(nic)
	return format([]field{{"rx", &c.MaxRx}, {"tx", &c.MaxTx}, {"other", &c.MaxOther}, {"combined", &c.MaxCombined}}), err
}

func setChannels(nic, _, value string) error {
	c, err := channels(nic)
	if err != nil {
		return err
	}
	if err := parse(channelFields(&c), value); err != nil {
		return err
	}
	_, err = with(func(e *ethtool.Ethtool) (ethtool.Channels, error) { return e.SetChannels(nic, c) })
	return err
}

func rings(nic string) (ethtool.Ring, error) {
	return with(func(e *ethtool.Ethtool) (ethtool.Ring, error) { return e.GetRing(nic) })
}

func ringFields(r *ethtool.Ring) []field {
	return []field{{"rx", &r.RxPending}, {"rx-mini", &r.RxMiniPending}, {"rx-jumbo", &r.RxJumboPending}, {"tx", &r.TxPending}}
}

func getRings(nic, _ string) (string, error) {
	r, err := rings(nic)
	return format(ringFields(&r)), err
}

func getRingsMax(nic, _ string) (string, error) {
	r, err := rings(nic)
	return format([]field{{"rx", &r.RxMaxPending}, {"rx-mini", &r.RxMiniMaxPending}, {"rx-jumbo", &r.RxJumboMaxPending}, {"tx", &r.TxMaxPending}}), err
}

func setRings(nic, _, value string) error {
	r, err := rings(nic)
	if err != nil {
		return err
	}
	if err := parse(ringFields(&r), value); err != nil {
		return err
	}
	_, err = with(func(e *ethtool.Ethtool) (ethtool.Ring, error) { return e.SetRing(nic, r) })
	return err
}

func coalescing(nic string) (ethtool.Coalesce, error) {
	return with(func(e *ethtool.Ethtool) (ethtool.Coalesce, error) { return e.GetCoalesce(nic) })
}

// coalesceFields are all of them, under ethtool(8)'s names: drivers refuse a change of
// one that they do not know, so all are written back as they were read.
func coalesceFields(c *ethtool.Coalesce) []field {
	return []field{
		{"adaptive-rx", &c.UseAdaptiveRxCoalesce},
		{"adaptive-tx", &c.UseAdaptiveTxCoalesce},
		{"rx-usecs", &c.RxCoalesceUsecs},
		{"rx-frames", &c.RxMaxCoalescedFrames},
		{"rx-usecs-irq", &c.RxCoalesceUsecsIrq},
		{"rx-frames-irq", &c.RxMaxCoalescedFramesIrq},
		{"tx-usecs", &c.TxCoalesceUsecs},
		{"tx-frames", &c.TxMaxCoalescedFrames},
		{"tx-usecs-irq", &c.TxCoalesceUsecsIrq},
		{"tx-frames-irq", &c.TxMaxCoalescedFramesIrq},
		{"stats-block-usecs", &c.StatsBlockCoalesceUsecs},
		{"pkt-rate-low", &c.PktRateLow},
		{"rx-usecs-low", &c.RxCoalesceUsecsLow},
		{"rx-frames-low", &c.RxMaxCoalescedFramesLow},
		{"tx-usecs-low", &c.TxCoalesceUsecsLow},
		{"tx-frames-low", &c.TxMaxCoalescedFramesLow},
		{"pkt-rate-high", &c.PktRateHigh},
		{"rx-usecs-high", &c.RxCoalesceUsecsHigh},
		{"rx-frames-high", &c.RxMaxCoalescedFramesHigh},
		{"tx-usecs-high", &c.TxCoalesceUsecsHigh},
		{"tx-frames-high", &c.TxMaxCoalescedFramesHigh},
		{"sample-interval", &c.RateSampleInterval},
	}
}

func getCoalesce(nic, _ string) (string, error) {
	c, err := coalescing(nic)
	return format(coalesceFields(&c)), err
}

func setCoalesce(nic, _, value string) error {
	c, err := coalescing(nic)
	if err != nil {
		return err
	}
	if err := parse(coalesceFields(&c), value); err != nil {
		return err
	}
	_, err = with(func(e *ethtool.Ethtool) (ethtool.Coalesce, error) { return e.SetCoalesce(nic, c) })
	return err
}

// featureNames are the kernel's names of those that ethtool(8) abbreviates; one that
// stands for several features is the set of those that the card has.
var featureNames = map[string][]string{
	"gro":        {"rx-gro"},
	"gso":        {"tx-generic-segmentation"},
	"lro":        {"rx-lro"},
	"rx":         {"rx-checksum"},
	"rxvlan":     {"rx-vlan-hw-parse"},
	"rxhash":     {"rx-hashing"},
	"ntuple":     {"rx-ntuple-filter"},
	"hw-gro":     {"rx-gro-hw"},
	"rx-gro-hw":  {"rx-gro-hw"},
	"tso":        {"tx-tcp-segmentation", "tx-tcp-ecn-segmentation", "tx-tcp-mangleid-segmentation", "tx-tcp6-segmentation"},
	"rx-gro-udp": {"rx-udp-gro-forwarding"},
}

// features returns the states of what name stands for.
func features(nic, name string) (map[string]bool, error) {
	all, err := with(func(e *ethtool.Ethtool) (map[string]ethtool.FeatureState, error) { return e.FeaturesWithState(nic) })
	if err != nil {
		return nil, err
	}
	wanted, ok := featureNames[name]
	if !ok {
		wanted = []string{name}
	}
	have := map[string]bool{}
	for _, n := range wanted {
		if f, ok := all[n]; ok && (f.Available || f.Active) {
			have[n] = f.Active
		}
	}
	if len(have) == 0 {
		return nil, fmt.Errorf("feature %s: %w", name, unix.EOPNOTSUPP)
	}
	return have, nil
}

// getFeature is "on" or "off", or for one that stands for several a list where they
// differ.
func getFeature(nic, name string) (string, error) {
	have, err := features(nic, name)
	if err != nil {
		return "", err
	}
	var on, off []string
	for n, is := range have {
		if is {
			on = append(on, n+"=on")
		} else {
			off = append(off, n+"=off")
		}
	}
	switch {
	case len(off) == 0:
		return "on", nil
	case len(on) == 0:
		return "off", nil
	}
	all := slices.Concat(on, off)
	slices.Sort(all)
	return strings.Join(all, " "), nil
}

func setFeature(nic, name, value string) error {
	have, err := features(nic, name)
	if err != nil {
		return err
	}
	change := map[string]bool{}
	for n := range have {
		switch {
		case value == "on" || value == "off":
			change[n] = value == "on"
		case strings.Contains(" "+value+" ", " "+n+"=on "):
			change[n] = true
		case strings.Contains(" "+value+" ", " "+n+"=off "):
			change[n] = false
		default:
			return fmt.Errorf("%w: %q", ErrValue, value)
		}
	}
	_, err = with(func(e *ethtool.Ethtool) (struct{}, error) { return struct{}{}, e.Change(nic, change) })
	return err
}

func shellFeature(nic, name, value string) string {
	if value == "on" || value == "off" {
		return fmt.Sprintf("ethtool -K %s %s %s", nic, name, value)
	}
	return fmt.Sprintf("ethtool -K %s %s", nic, strings.ReplaceAll(value, "=", " "))
}
