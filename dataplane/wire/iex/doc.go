// Package iex decodes the market data of the Investors Exchange: DEEP 1.0 (price
// levels) and TOPS 1.5 and 1.6 (best quotes) over IEX-TP.
//
// Both share most message types and all of their layouts; each is one [wire.Format].
// A message begins with its type, one byte of flags or status, its time stamp
// (nanoseconds since the epoch, little-endian like everything) and, but for the
// system event, a symbol of eight bytes padded with spaces:
//
//	0 type   1 flags   2 time stamp   10 symbol   18 …
//
// A message longer than its type's layout is read by its beginning, so that fields
// added at the end do no harm. The package knows no sequence numbers and no packet
// header.
//
// Source: IEX DEEP Specification 1.0, IEX TOPS Specification 1.5 and 1.6.
package iex
