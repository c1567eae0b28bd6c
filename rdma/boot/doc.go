// Package boot connects the configured peers of a group with each other: a full mesh
// of TLS 1.3 connections, each end known by its key. It says who hears whom, carries
// short messages, and gives both ends of a connection the same secret. It is what
// peers agree on beside the data: an [rdma.Control].
//
//	Mesh      the connections of this box; New, and the methods of rdma.Control
//	door      the listener: handshakes of strangers, bounded            door.go
//	session   one connection after its handshake: a reader and a writer session.go
//	wire      frames, hello, beat; all decoding is here, fuzzed         wire.go
//	clock     round trip and clock offset from the beats' stamps        clock.go
//	Join      a newcomer's exchange of keys, authenticated by a token   join.go
//
// # Trust
//
// A peer is its key. The SHA-256 of a public key (its SubjectPublicKeyInfo) is its
// pin; who presents a key that is not pinned for the peer that it says it is gets no
// further. There is no authority, and names and dates in certificates mean nothing: a
// box whose clock is wrong can still join. Certificate and pins are asked for at every
// handshake and nothing is resumed, so keys change without a restart: the new pin is
// added everywhere, the key changes, the old pin is retired. A connection whose pin is
// retired is closed.
//
// # A connection
//
// Of two peers the one with the higher number dials, so a pair has one connection. If
// the dialer comes again while its old connection is still there, the newer one stays:
// the dialer knows what it has, the listener may not have noticed yet.
//
//	dialer                     listener
//	TLS 1.3, both with keys
//	Hello          ->                       versions, hash of the config, id, proof
//	               <-          Hello        or Refuse(reason): both ends log and count
//	Start          ->                       or Refuse(reason)
//	Beat, Message  <->         Beat, Message
//
// The proof in a Hello is exported from its TLS session (RFC 8446 §7.5), so a Hello is
// worth nothing elsewhere.
//
// # Hearing
//
// Both ends send a beat every Config.Beat, whatever they receive. A beat says whom its
// sender hears. A peer counts as heard after two beats on its connection, until
// nothing has come for Config.Silence or the connection ends: the kernel tells the
// death of a process at once. After silence the connection is reset, not closed: a
// loss in one direction keeps acknowledgments from us, so a FIN would wait behind data
// that nobody acknowledges, while a reset still reaches the other end, which stops to
// hear us too. TCP cannot carry on in one direction alone; therefore what a group sees
// of a one-way loss is a pair that does not hear each other, in the rows of both.
package boot
