package frame

// A Codec encodes and checks the frames of one epoch.
type Codec struct{}
