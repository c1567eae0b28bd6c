// Package arch holds one test: builds for other processors make the same rows, to
// the last bit. It is apart because it builds the binary several times.
package arch
