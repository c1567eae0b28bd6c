package replay_test
import ("testing";"os";"strconv")
func TestDbg2(t *testing.T) {
	seed, _ := strconv.ParseUint(os.Getenv("SEED"), 0, 64)
	n, _ := strconv.Atoi(os.Getenv("N"))
	c := newScene(seed)
	c.run(t, c.plan(t, n, 256))
}
