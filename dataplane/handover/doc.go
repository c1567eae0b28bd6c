// Package handover is what the two processes say to each other over their unix
// socket: a few messages, with descriptors, at the start, when one of them dies and
// at the end. Everything else flows through the segment.
//
//	Start    control → data  the plan, the sockets' layout; segment, lock, what is kept
//	Owners   data → control  owners' descriptors, unless they are kept
//	Members  control → data  members' descriptors, likewise
//	Ready    data → control  stripped of privileges, workers run
//	Keep     control → data  what to hold for the next control, with descriptors; where the
//	                         data plane before still runs it comes after Start, and ends that
//	Lost     data → control  an interface went away
//	Move     control → data  give key groups to another worker; Moved is the answer
//	Poison   data → control  a worker fails, and what it has in hand
//	End      control → data  end at once: who comes after goes on, and takes back what was under way
//	Ended    data → control  every worker has ended
//	Refused  data → control  why the start failed
//
// A data plane whose control died opens a socket ([Listen]) and gives the next one
// Running, with everything that it holds; Adopt is the answer.
//
// A data plane that a service manager started has its socket from there ([Admit], [Reach])
// and speaks first: Running, or Fresh if it waits for Start.
//
// handover knows plan, xsk's layout and nothing of what the descriptors are.
package handover
