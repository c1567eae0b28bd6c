// Package group keeps a box's key and what it knows of its peers in a directory, and
// has the commands that make and change them: headrace group.
//
//	Dir      the directory; what a running box asks at every handshake  dir.go
//	token    invitations: short-lived, for one use                      token.go
//	rotate   a next key, and the end of the old one                     rotate.go
//	Command  headrace group init|token|join|show|rotate                 command.go
//
// Files of the directory, which is 0700 and whose files are 0600:
//
//	key.pem      private key and certificate, in one file so that they change together
//	next.pem     the next key, during a rotation
//	peers.yaml   who we are; the peers' ids, addresses and pins
//	secret       what our tokens are signed with
//	tokens/      a file for each token that has not been used
//	lock         held while something changes
//
// Every change is a rename: a reader, a running box for one, sees the old or the new.
package group
