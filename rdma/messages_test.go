package rdma

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"github.com/headrace/headrace/rdma/collective"
)

var someMessages = []collective.Message{
	{Kind: collective.Prepare, Ballot: 17, Members: collective.Of(0, 2)},
	{Kind: collective.Promise, Ballot: 17, Epoch: 9, Round: 4, RoundKind: collective.Sparse, Steps: []collective.Step{
		{Epoch: 17, Members: 7, Prev: 9, Trim: 4, Holders: 3, Carried: 5},
		{Epoch: 18, Members: 3, Prev: 17},
	}},
	{Kind: collective.Result, Epoch: 9, Round: 4, Body: []byte("sum"), Contributors: 7},
	{Kind: collective.Go, Ballot: 17, Offers: [][]byte{nil, []byte("tcp"), []byte("verbs")}},
	{Kind: collective.Leave},
}

func TestMessagesComeBack(t *testing.T) {
	for _, m := range someMessages {
		b := encodeMessage(&m)
		got, err := decodeMessage(b, 3)
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%+v came back as %+v, %v", m, got, err)
		}
		for n := range b {
			if _, err := decodeMessage(b[:n], 3); !errors.Is(err, errMessage) && len(m.Body) == 0 {
				t.Errorf("%+v cut off after %d bytes: %v", m, n, err)
			}
		}
	}
}

func TestMessagesOfPeersThatAreNotThereAreRefused(t *testing.T) {
	b := encodeMessage(&collective.Message{Kind: collective.Prepare, Members: collective.Of(0, 3)})
	if _, err := decodeMessage(b, 3); !errors.Is(err, errMessage) {
		t.Errorf("a message that names peer 3 of 3: %v", err)
	}
	if _, err := decodeMessage(b, 4); err != nil {
		t.Errorf("a message that names peer 3 of 4: %v", err)
	}
}

// FuzzMessage checks that whatever is taken as a message is written back as the very
// bytes that it was read from.
func FuzzMessage(f *testing.F) {
	for _, m := range someMessages {
		f.Add(encodeMessage(&m), 3)
	}
	f.Fuzz(func(t *testing.T, b []byte, peers int) {
		m, err := decodeMessage(b, max(1, min(peers, collective.PeersMax)))
		if err == nil && !bytes.Equal(encodeMessage(&m), b) {
			t.Fatalf("%x was read as %+v, which is written as %x", b, m, encodeMessage(&m))
		}
	})
}

// FuzzOffers does the same for offers.
func FuzzOffers(f *testing.F) {
	f.Add(appendOffers(nil, []offer{{"tcp", []byte("10.0.0.1:7")}, {"verbs", nil}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := decodeOffers(b)
		if err == nil && !bytes.Equal(appendOffers(nil, o), b) {
			t.Fatalf("%x was read as %+v", b, o)
		}
	})
}
