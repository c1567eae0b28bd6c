// Package jsonwire decodes JSON objects, one a line: each is an event. A line ends
// with \n or \r\n, blank lines are nothing, and an object does not reach over a line.
//
// The reader checks all of RFC 8259's grammar, also of what it skips, in one pass that
// allocates nothing and nests at most [DepthMax] deep. Of the grammar it takes one thing more,
// the words NaN, Infinity and -Infinity that some encoders write: as a value of a
// column they are dropped as not finite.
//
// A column is found by its path: "telemetry.speed" is the member speed of the member
// telemetry. What stands there becomes the column's value:
//
//	nothing, null           null
//	number                  int64 if it is a whole number, also 1.0 or 1e3; decimal, rounded
//	                        half-even to its scale; float64
//	string                  text, at most 64 bytes; for the other types a number as value reads it
//	anything else           a bad value
//
// Of equal keys in one object the last counts. A value that cannot be read drops its
// event, for the first such reason in the order of the columns, after time.
//
// fastjson is not used here, though it is quick: it allocates for each syntax error and
// grows with each new shape of input, and the process that decodes collects no garbage.
//
// Source: RFC 8259.
package jsonwire
