// Package card reads and writes the settings of network cards as text.
//
// Every setting of a card (channels, rings, coalescing, a feature, the RSS table and its
// key, rules that steer flows, what a queue's NAPI instance does) has a name and a value
// that is one line, so that it can be compared, recorded and written back like a file:
//
//	Get("eth0", "rings")                     "rx=512 rx-mini=0 rx-jumbo=0 tx=512"
//	Set("eth0", "feature lro", "off")
//	Get("eth0", "napi rx-0 defer-hard-irqs") "0"
//
//	Kernel    kernel.go   which setting is read by what
//	ethtool   ethtool.go  channels, rings, coalescing, features
//	rxfh      rxfh.go     the RSS table and key, of any size
//	flows     flows.go    rules that steer a flow to a queue
//	netlink   netlink.go  the few messages of generic netlink that are needed
//	napi      napi.go     NAPI instances, by the queue that they serve
//
// It decides nothing: what a card should have is said by package stage.
package card
