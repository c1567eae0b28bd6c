//go:build !race

package export

const slow = 1
