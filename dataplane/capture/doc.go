// Package capture reads packet captures: pcap and pcapng, in either byte order
// and any resolution of time, plain or compressed by gzip or zstd (told by
// content, never by name).
//
// [Open] merges several files by time stamp; [Reader.Next] hands out one [Record]
// after the other and allocates nothing. [Preload] reads everything into memory
// first, for measurements and loops. [Writer] writes pcap with nanoseconds.
//
// Within one file records come in file order, also where their stamps go
// backwards: the merge compares the next record of each file and nothing else.
//
// A file that ends inside a record gives what there is of it, with Record.Cut
// set. Every other kind of damage is an error, a [FormatError], that names file,
// byte and packet.
//
// capture knows Ethernet and no further header: what is in a frame is for the
// readers of frames to say.
package capture
