package replay_test

import ("testing";"os";"strconv";"bytes")

func TestDbg(t *testing.T) {
	seed, _ := strconv.ParseUint(os.Getenv("SEED"), 0, 64)
	c := newScene(seed)
	rows1, _ := c.run(t, c.plan(t, 1, 256))
	for _, n := range []int{2,3,8} {
		for _, b := range []int{1,7,256} {
			for range 3 {
			r, _ := c.run(t, c.plan(t, n, b))
			t.Log(n, b, bytes.Equal(r, rows1))
			if !bytes.Equal(r, rows1) { t.Log(difference(describe(t, r), describe(t, rows1))) }
			}
		}
	}
}
