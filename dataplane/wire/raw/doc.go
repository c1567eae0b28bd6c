// Package raw decodes fixed structures: integers, floats and text at offsets that the
// config gives, in either byte order.
//
// A packet is one record, and what follows the last field is not looked at; with a
// stride it is as many records as fit, and a rest shorter than the stride is a bad
// message. Columns:
//
//	int64      width 1, 2, 4 or 8, two's complement
//	decimal    the same: the integer is the value times 10^scale
//	float64    width 4 or 8, IEEE 754; NaN and infinities are dropped as not finite
//	text       width 1 to 64, without the 0x20 and 0x00 at its end
//
// Nothing is ever null. The time is such an integer, or RFC 3339 text.
package raw
