package store

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
)

// KeySize is the length of a seal key in bytes: AES-256.
const KeySize = 32

// sealVersion is the first byte of everything sealed, so that another way of
// sealing can be told from this one.
const sealVersion = 1

// ErrSeal is a sealed value that cannot be opened: made with another key, for
// another row, or damaged.
var ErrSeal = errors.New("sealed value cannot be opened")

// Sealer seals values with AES-256-GCM. It is safe for concurrent use. The key
// itself cannot be had back from it, and it prints as its id.
type Sealer struct {
	id   string
	aead cipher.AEAD
}

// NewSealer makes a sealer of a key of KeySize bytes.
func NewSealer(key []byte) (*Sealer, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("seal key has %d bytes, want %d", len(key), KeySize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("seal key: %w", err)
	}
	// The standard nonce is 96 random bits: good for 2^32 values under one key,
	// and a machine costs one.
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("seal key: %w", err)
	}
	sum := sha256.Sum256(append([]byte("drone-runner-aws seal key id\x00"), key...))
	return &Sealer{id: hex.EncodeToString(sum[:8]), aead: aead}, nil
}

// ID names the key without telling it: 16 hexadecimal digits, kept in the
// store so that a wrong key is found before it does harm.
func (s *Sealer) ID() string { return s.id }

// Seal encrypts plain for one place: what names that place must be given to
// Open again, so that a value copied to another row does not open there.
func (s *Sealer) Seal(plain []byte, place string) []byte {
	out := make([]byte, 1+s.aead.NonceSize(), 1+s.aead.NonceSize()+len(plain)+s.aead.Overhead())
	out[0] = sealVersion
	// Read never fails; the runtime ends the program if there is no entropy.
	_, _ = rand.Read(out[1:])
	return s.aead.Seal(out, out[1:], plain, []byte(place))
}

// Open decrypts what Seal made for the same place. Its error is ErrSeal.
func (s *Sealer) Open(sealed []byte, place string) ([]byte, error) {
	n := 1 + s.aead.NonceSize()
	if len(sealed) < n+s.aead.Overhead() {
		return nil, fmt.Errorf("%w: %d bytes are too few", ErrSeal, len(sealed))
	}
	if sealed[0] != sealVersion {
		return nil, fmt.Errorf("%w: unknown version %d", ErrSeal, sealed[0])
	}
	plain, err := s.aead.Open(nil, sealed[1:n], sealed[n:], []byte(place))
	if err != nil {
		return nil, fmt.Errorf("%w with key %s", ErrSeal, s.id)
	}
	return plain, nil
}

// String keeps the key out of %v and %s.
func (s *Sealer) String() string { return "seal key " + s.id }

// GoString keeps the key out of %#v.
func (s *Sealer) GoString() string { return s.String() }

// LogValue keeps the key out of logs.
func (s *Sealer) LogValue() slog.Value { return slog.StringValue(s.id) }
