// Package csvwire decodes comma-separated records, one a line: each is an event. A
// line ends with \n or \r\n, empty lines are nothing, and a record does not reach over
// a line.
//
// A field that begins with a quote ends with one, and quotes within it are doubled;
// a quote in a field that does not begin with one is a syntax error. Columns go by the
// field's index, from 0. An empty field, quoted or not, and one that the record does
// not have are null. Spaces belong to the field. A line with the columns' names is a
// record like any other: its time cannot be read.
//
// Source: RFC 4180, section 2.
package csvwire
