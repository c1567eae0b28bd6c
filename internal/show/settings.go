package show

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// ErrSetting reports a value in the environment that is no setting.
var ErrSetting = errors.New("not a setting")

// On reports that a setting is switched on.
func On(text string) bool { return text != "" && text != "0" && text != "no" }

// Duration reads the setting DURATION, which is at least least; 0 if it is empty.
func Duration(text string, least time.Duration) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < least {
		return 0, fmt.Errorf("DURATION=%s: %w: a time of at least %s, such as 20s or 2m", text, ErrSetting, least)
	}
	return d, nil
}

// Resolved returns the path of a file that exists, as processes are known by it:
// absolute and without links.
func Resolved(path string) (string, error) {
	if _, err := os.Stat(path); err != nil {
		return "", err
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(path)
}

// Repository returns the folder of go.mod, at or above this one.
func Repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no go.mod here or above: start it in the repository, with make")
		}
		dir = up
	}
}
