// Package generate makes streams of packets that look like a feed: NASDAQ ITCH 5.0
// in MoldUDP64 over two multicast lines, or JSON, CSV or binary records over UDP.
//
// A [Source] is pure: the same [Config] gives the same frames and the same times,
// on every machine. Nothing in it knows a network or a clock; [Run] brings its
// frames to an interface, through [send.Sender], or into a capture file.
//
// Messages come from one stream of random numbers, and what happens to their
// packets on the way (loss, swaps, copies) from others, one a line. So the messages
// do not depend on the loss, and a [Truth] knows the bars of the stream before any
// of it was lost.
//
// # Addresses
//
//	itch, line A     239.10.1.1:26400   from 10.10.1.1:26400
//	itch, line B     239.10.2.1:26400   from 10.10.2.1:26400
//	json, csv, raw   239.1.1.1:9000     from 10.10.3.1, source port 20000 + key % 16384
//
// # itch
//
// One MoldUDP64 session a channel; symbol number i belongs to channel i modulo
// the number of channels. A session begins with a heartbeat, the system event O,
// an R for each of its symbols and the system event Q; then come A, F, E, C, X, D,
// U, P and now and then Q, with order references that hold together. It is ended
// by an end of session, three times. A channel that is silent for a second sends a
// heartbeat. The first heartbeat and the end of session are never lost, swapped or
// copied: they say what there should have been.
//
// Times are nanoseconds since midnight in New York, of the day of Config.Start. The
// stream ends at the end of that day at the latest.
//
// # json
//
// One object a packet, "fare" only if event_type is dropoff, telemetry.speed
// missing now and then:
//
//	{"event_type":"dropoff","driver_id":117,"fare":23.50,"timestamp":"2026-03-02T14:30:00.0001Z","telemetry":{"speed":48.3}}
//
// # csv
//
// One line a packet, ended by a line feed; an absent value is empty:
//
//	event_type,driver_id,fare,timestamp,speed
//	dropoff,117,23.50,2026-03-02T14:30:00.0001Z,48.3
//
// # raw
//
// One record of 40 bytes a packet, little-endian:
//
//	offset  width  type      content
//	     0      8  uint64    key: the driver
//	     8      8  int64     value: the fare in cents, 0 where there is none
//	    16      8  int64     time: nanoseconds since 1970, UTC
//	    24      8  float64   speed
//	    32      8  text      event type, padded with zero bytes
package generate
