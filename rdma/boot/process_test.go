package boot

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// childEnv has a child's config.
const childEnv = "BOOT_TEST_BOX"

// beChild is a box as a process of its own; it ends with its standard input.
func beChild(config string) {
	var c childConfig
	err := json.Unmarshal([]byte(config), &c)
	var key tls.Certificate
	if err == nil {
		key, err = tls.X509KeyPair([]byte(c.Key), []byte(c.Key))
	}
	var m *Mesh
	if err == nil {
		m, err = New(Config{
			Me: c.Me, Peers: c.Peers, Identity: c.Identity, Beat: c.Beat, Silence: c.Silence,
			Certificate: func() (*tls.Certificate, error) { return &key, nil },
		})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Stdin.Read(make([]byte, 1))
	m.Close()
	os.Exit(0)
}

type childConfig struct {
	Me            string
	Peers         []Peer
	Identity      Identity
	Beat, Silence time.Duration
	Key           string
}

// child starts b as a process.
func child(t *testing.T, b *box) *exec.Cmd {
	t.Helper()
	private, err := x509.MarshalPKCS8PrivateKey(b.key.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	key := append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.key.Certificate[0]})...)
	config, err := json.Marshal(childConfig{b.Me, b.Peers, b.Identity, b.Beat, b.Silence, string(key)})
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(os.Args[0])
	c.Stderr = os.Stderr
	c.Env = append(os.Environ(), childEnv+"="+string(config))
	stdin, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		c.Process.Kill()
		c.Wait()
	})
	return c
}

// b hears us and we hear it, as we know.
func joined(m *Mesh) func() bool {
	return func() bool { r := rows(m); return r[0] == 3 && r[1] == 3 }
}

func TestAKilledProcessIsNoticedAtOnceAndItsSuccessorIsHeard(t *testing.T) {
	for me, who := range []string{"listener", "dialer"} { // that stays
		t.Run(who, func(t *testing.T) {
			bs := boxes(t, 2)
			for _, b := range bs {
				b.Beat, b.Silence = 100*time.Millisecond, 30*time.Second
			}
			m := bs[me].start(t)
			c := child(t, bs[1-me])
			within(t, 10*time.Second, "both hear", joined(m))
			c.Process.Kill()
			t.Logf("kill -9 is noticed after %v", within(t, 2*time.Second, "the other is not heard", func() bool { return rows(m)[me].Len() == 1 }))
			c.Wait()
			child(t, bs[1-me])
			t.Logf("its successor is heard after %v", within(t, 10*time.Second, "both hear again", joined(m)))
		})
	}
}

func TestAStoppedProcessIsNotHeardUntilItGoesOn(t *testing.T) {
	for me, who := range []string{"listener", "dialer"} {
		t.Run(who, func(t *testing.T) {
			bs := boxes(t, 2)
			for _, b := range bs {
				b.Beat, b.Silence = 60*time.Millisecond, 300*time.Millisecond
			}
			m := bs[me].start(t)
			c := child(t, bs[1-me])
			within(t, 10*time.Second, "both hear", joined(m))
			c.Process.Signal(syscall.SIGSTOP)
			noticed(t, bs[me], within(t, 2*time.Second, "the other is not heard", func() bool { return rows(m)[me].Len() == 1 }))
			for range 100 {
				time.Sleep(10 * time.Millisecond)
				if rows(m)[me].Len() != 1 {
					t.Fatal("a stopped process is heard")
				}
			}
			c.Process.Signal(syscall.SIGCONT)
			t.Logf("it is heard again after %v", within(t, 10*time.Second, "both hear again", joined(m)))
		})
	}
}
