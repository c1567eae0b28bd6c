// Package itch decodes NASDAQ TotalView-ITCH 5.0, carried over MoldUDP64.
//
// A message begins with its type, stock locate, tracking number and time stamp
// (nanoseconds since midnight, 48 bits); everything is big-endian:
//
//	0 type   1 stock locate   3 tracking number   5 time stamp   11 …
//
// Executions, cancels, deletes and replaces name an order by its reference only. So
// each channel's orders are kept in a bounded table in the arena ([book]), and what
// the message lacks comes from there: price and side. Symbols come from the message
// or by stock locate, which directory entries, orders and trades teach.
//
// What is not known:
//
//   - An execution at the order's price (E), a cancel (X) or a delete (D) whose order
//     was never seen has no price. If its kind is wanted it is dropped as
//     [event.DropUnknownOrder] and marks the feed hit, because its value is lost.
//   - An execution with its own price (C) or a replace (U) of such an order only has
//     no side: null. The replacing order is known from then on.
//   - An order for which there is no room is dropped as [event.DropOrderLimit] and
//     marks the feed hit, even if its own kind is not wanted: its executions will miss it.
//
// The day that the time stamps lack is the feed's Day in its Zone, or else the day
// of the channel's first receive stamp.
//
// Source: NASDAQ TotalView-ITCH 5.0 specification.
package itch
