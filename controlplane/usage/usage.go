// Package usage marks an error as the caller's: a wrong flag, argument or value
// on the command line. The binary ends with exit code 64 for such an error, with
// an [ExitError]'s own for that, and with 1 for every other.
package usage

import "fmt"

// An Error says what is wrong with a command line and, in its text, what would
// be right. Find it with errors.As; Unwrap gives the cause.
type Error struct {
	// Command is the command that was called, for "run 'Command --help'"; may be empty.
	Command string
	Err     error
}

// Error returns the cause's text, and where to read on.
func (e *Error) Error() string {
	if e.Command == "" {
		return e.Err.Error()
	}
	return fmt.Sprintf("%v (see '%s --help')", e.Err, e.Command)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Wrap marks err as an error of usage of the named command. It returns nil for nil.
func Wrap(command string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Command: command, Err: err}
}

// Errorf makes an error of usage of the named command.
func Errorf(command, format string, args ...any) error {
	return &Error{Command: command, Err: fmt.Errorf(format, args...)}
}

// An ExitError ends the binary with a code and without a word: the output has said it all.
type ExitError struct{ Code int }

// Error is empty: there is nothing to print.
func (e *ExitError) Error() string { return "" }
