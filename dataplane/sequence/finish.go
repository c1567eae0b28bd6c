package sequence

// FinishChannel is [Sequencer.Finish] for one channel, 0 <= channel < Feed.Channels:
// nil if nothing is outstanding there.
func (s *Sequencer) FinishChannel(channel int) *Release {
	c := &s.channels[channel]
	if channel >= int(s.st.used) || c.count == 0 && c.next == c.high {
		return nil
	}
	s.open(int32(channel))
	s.flush(int32(channel), c)
	s.settle(int32(channel), c)
	return &s.rel
}
