package usage

import (
	"errors"
	"io"
	"testing"
)

func TestAnErrorOfUsageNamesItsCommandAndItsCause(t *testing.T) {
	err := Wrap("headrace send", io.ErrShortBuffer)
	var u *Error
	if !errors.As(err, &u) || !errors.Is(err, io.ErrShortBuffer) {
		t.Fatalf("%v is no Error with its cause", err)
	}
	if want := "short buffer (see 'headrace send --help')"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	if got := Errorf("", "%d rounds", -1).Error(); got != "-1 rounds" {
		t.Errorf("got %q", got)
	}
	if Wrap("headrace", nil) != nil {
		t.Error("no error became one")
	}
}
