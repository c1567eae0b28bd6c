// Package replay runs both halves of headrace in one process over a capture: the
// workers with a capture as their receiver, and the pump that turns their partials
// into sorted rows. Rows are a function of the capture and the config alone.
package replay
