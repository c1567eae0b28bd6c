package verbs

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestConfigRefuses(t *testing.T) {
	for _, tt := range []struct {
		name string
		c    Config
		want string
	}{
		{"seven retries are for ever on some devices", Config{RetryCount: 7}, "RetryCount is 7, not in 1 to 6"},
		{"a negative number of retries", Config{RetryCount: -1}, "RetryCount is -1"},
		{"a timeout of hours", Config{Timeout: 31}, "Timeout is 31"},
		{"one slot", Config{Slots: 1}, "Slots is 1, not in 2 to 256"},
		{"too many slots for an immediate", Config{Slots: 257}, "Slots is 257"},
		{"a peer beyond the limit", Config{Me: 16}, "Me is 16"},
		{"a port beyond the limit", Config{Port: 256}, "Port is 256"},
		{"a GID before the table", Config{GIDIndex: -2}, "GIDIndex is -2"},
	} {
		_, err := New(tt.c)
		if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: New(%+v) = %v, want ErrConfig with %q", tt.name, tt.c, err, tt.want)
		}
		if errors.Is(err, ErrNoVerbs) {
			t.Errorf("%s: a bad configuration is no reason to fall back: %v", tt.name, err)
		}
	}
}

func TestConfigDefaults(t *testing.T) {
	c, err := Config{}.checked()
	if err != nil || c.RetryCount != 3 || c.Timeout != 14 || c.Slots != 16 {
		t.Errorf("the zero Config is %+v, %v", c, err)
	}
	if got, want := (Config{}).Silence(), 4*67108864*time.Nanosecond; got != want {
		t.Errorf("Silence() = %v, want %v", got, want)
	}
	if got, want := (Config{RetryCount: 6, Timeout: 10}).Silence(), 7*4194304*time.Nanosecond; got != want {
		t.Errorf("Silence() = %v, want %v", got, want)
	}
}

func TestStatusNames(t *testing.T) {
	seen := map[string]bool{}
	for s := range Status(StatusCount) {
		if n := s.String(); n == "" || seen[n] {
			t.Errorf("status %d is called %q", s, n)
		} else {
			seen[n] = true
		}
	}
	if got := Status(200).String(); got != "other" {
		t.Errorf("an unknown status is %q", got)
	}
	if got := (&CompletionError{Status: 12}).Error(); got != "completion: retries_exceeded" {
		t.Errorf("status 12 says %q", got)
	}
}
