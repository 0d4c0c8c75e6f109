package luks

import (
	"bytes"
	"crypto/aes"
	"math/rand/v2"
	"testing"

	"golang.org/x/crypto/xts"
)

// TestXTS holds XTS against another's.
func TestXTS(t *testing.T) {
	random := rand.NewChaCha8([32]byte{9})
	numbers := rand.New(random)
	for _, keySize := range []int{32, 64} {
		for _, size := range []int{512, 1024, 2048, 4096} {
			for range 20 {
				key, want := make([]byte, keySize), make([]byte, size)
				random.Read(key)
				random.Read(want)
				number := numbers.Uint64()
				c, err := xts.NewCipher(aes.NewCipher, key)
				if err != nil {
					t.Fatal(err)
				}
				got := make([]byte, size)
				c.Encrypt(got, want, number)
				spec, err := parseCipher("aes-xts-plain64")
				if err != nil {
					t.Fatal(err)
				}
				s, err := spec.with(key)
				if err != nil {
					t.Fatal(err)
				}
				s.decrypt(got, number, size)
				if !bytes.Equal(got, want) {
					t.Fatalf("sector %d of %d bytes: wrong", number, size)
				}
			}
		}
	}
}
