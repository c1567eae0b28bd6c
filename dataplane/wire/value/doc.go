// Package value reads single values out of bytes: integers, decimals, floats and
// instants, written as text. The text formats share it, so that a number means the
// same in each.
//
// Numbers are written [+-]digits[.digits][e[+-]digits]; digits may be missing on one
// side of the point. Nothing here allocates, whatever the input: a value that cannot
// be read is a reason ([event.Drop]), never an error. Text longer than
// [NumberMax] is not a number.
//
// value knows no format; it never keeps its input.
package value
