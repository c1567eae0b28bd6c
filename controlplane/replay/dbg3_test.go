package replay_test
import ("testing";"fmt";"os";"strconv")
type soft struct{ *testing.T; failed string }
func (s *soft) Fatalf(f string, a ...any) { s.failed = fmt.Sprintf(f, a...); panic(s) }
func TestMany(t *testing.T) {
	from, _ := strconv.Atoi(os.Getenv("FROM")); to, _ := strconv.Atoi(os.Getenv("TO"))
	bad := 0
	for seed := from; seed < to; seed++ {
		s := &soft{T: t}
		func() {
			defer func() { if r := recover(); r != nil { if r != any(s) { fmt.Println("PANIC", seed); panic(r) } } }()
			c := newScene(uint64(seed))
			checkScene(s, c, func(i int) (int, int) { return []int{2,3,8,8}[(seed+i)%4], []int{1,7,256}[(seed/4+i)%3] })
		}()
		if s.failed != "" { bad++; fmt.Println("BAD", seed, s.failed[:min(900, len(s.failed))]); if bad > 3 { break } }
	}
}
