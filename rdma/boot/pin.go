package boot

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// pinPrefix names the hash of a pin.
const pinPrefix = "sha256:"

// Pin returns the pin of a certificate's key: "sha256:" and the base64 of the SHA-256
// of its SubjectPublicKeyInfo.
func Pin(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return pinPrefix + base64.StdEncoding.EncodeToString(sum[:])
}

// PinOf returns the pin of c's key.
func PinOf(c *tls.Certificate) (string, error) {
	if c == nil || len(c.Certificate) == 0 {
		return "", errors.New("there is no certificate")
	}
	leaf := c.Leaf
	if leaf == nil {
		var err error
		if leaf, err = x509.ParseCertificate(c.Certificate[0]); err != nil {
			return "", err
		}
	}
	return Pin(leaf), nil
}

// CheckPin reports what is wrong with the form of a pin.
func CheckPin(pin string) error {
	b, ok := strings.CutPrefix(pin, pinPrefix)
	if sum, err := base64.StdEncoding.Strict().DecodeString(b); !ok || err != nil || len(sum) != sha256.Size {
		return fmt.Errorf("pin %q is not sha256: and 44 digits of base64", pin)
	}
	return nil
}

// idMax bounds the bytes of a peer's id.
const idMax = 64

// CheckID reports what is wrong with a peer's id.
func CheckID(id string) error {
	if id == "" || len(id) > idMax {
		return fmt.Errorf("peer id %q has not 1 to %d characters", id, idMax)
	}
	for _, c := range []byte(id) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && !strings.ContainsRune("._-", rune(c)) {
			return fmt.Errorf("peer id %q has other characters than letters, digits and ._-", id)
		}
	}
	return nil
}

// PinnedTLS is the configuration of either end of a connection whose ends know each
// other by their keys: TLS 1.3 with a key of our own, which is asked for at every
// handshake. know is given the pin of the other end's key and the protocol that was
// chosen, one of protocols; it alone decides, there being no authority. There are no
// tickets: every handshake shows a key.
func PinnedTLS(certificate func() (*tls.Certificate, error), know func(pin, protocol string) error, protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, NextProtos: protocols,
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return certificate() },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate() },
		ClientAuth:           tls.RequireAnyClientCert, // VerifyConnection looks at it
		InsecureSkipVerify:   true,                     // as it does at the other end
		VerifyConnection: func(s tls.ConnectionState) error {
			return know(Pin(s.PeerCertificates[0]), s.NegotiatedProtocol)
		},
	}
}
