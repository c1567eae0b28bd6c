package replay
import ("testing";"time";"fmt")
func TestProf(t *testing.T){
 c:=settings(t,1,time.Second)
 h,err:=newHeadrace(c.Config,c.Capture,c.Dir); if err!=nil{t.Fatal(err)}
 for range 8 { r,_:=h.run(20); fmt.Printf("wall %.2fM/s cpu %.2fM/s\n", 20*float64(r.messages)/r.wall.Seconds()/1e6, 20*float64(r.messages)/r.cpu.Seconds()/1e6) }
}
