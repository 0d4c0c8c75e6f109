package block

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// plain draws bytes of any length that a stored block may have, mostly short,
// of every kind that takes another way through the coders.
func plain() *rapid.Generator[[]byte] {
	return rapid.Custom(func(t *rapid.T) []byte {
		n := rapid.OneOf(
			rapid.IntRange(1, 300),
			rapid.SampledFrom([]int{8192, 65535, 65536, 65537, 128<<10 + 1}),
		).Draw(t, "length")
		seed := rapid.Byte().Draw(t, "seed")
		p := random(n)
		switch rapid.SampledFrom([]string{"random", "run", "text", "half"}).Draw(t, "kind") {
		case "run":
			p = bytes.Repeat([]byte{seed}, n)
		case "text":
			for i := range p {
				p[i] = "etaoin shrdlu\n"[int(p[i])%14]
			}
		case "half":
			clear(p[n/2:])
		}
		p[0] ^= seed
		return p
	})
}

func TestEncodeOpens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := plain().Draw(t, "plain")
		c := rapid.SampledFrom([]Compression{None, Fastest, Default}).Draw(t, "compression")
		before := bytes.Clone(p)
		s := Encode([]byte("prefix"), p, c)
		if !bytes.Equal(p, before) || string(s[:6]) != "prefix" {
			t.Fatal("Encode changed its input or what dst held")
		}
		s = s[6:]
		if len(s) > len(p)+headerLen {
			t.Fatalf("%d bytes stored as %d", len(p), len(s))
		}
		if n, err := PlainLen(s); err != nil || n != len(p) {
			t.Fatalf("PlainLen: %d, %v; want %d", n, err, len(p))
		}
		got, err := Open([]byte("ab"), s, Sum(p))
		if err != nil || !bytes.Equal(got, append([]byte("ab"), p...)) {
			t.Fatalf("Open: %d bytes, %v", len(got), err)
		}
		if _, err := Open(nil, s, Zero); !errors.Is(err, ErrDigest) || !errors.Is(err, ErrCorrupt) {
			t.Fatalf("Open with a wrong digest: %v", err)
		}
		if _, err := Decode(nil, append(s, 0)); !errors.Is(err, ErrFormat) {
			t.Fatalf("a byte too many: %v", err)
		}
		if _, err := Decode(nil, s[:rapid.IntRange(0, len(s)-1).Draw(t, "cut")]); !errors.Is(err, ErrFormat) {
			t.Fatalf("cut short: %v", err)
		}
	})
}

// TestFlippedBits: a stored block with a wrong bit is never opened as another.
func TestFlippedBits(t *testing.T) {
	p := bytes.Repeat([]byte("a block that shrinks, but not to nothing. "), 20)
	copy(p[300:], random(200))
	for _, c := range []Compression{None, Fastest} {
		s := Encode(nil, p, c)
		for bit := range 8 * len(s) {
			s[bit/8] ^= 1 << (bit % 8)
			if got, err := Open(nil, s, Sum(p)); err == nil && !bytes.Equal(got, p) {
				t.Fatalf("%s: bit %d flipped, other bytes opened", c, bit)
			} else if err != nil && !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%s: bit %d flipped: %v does not match ErrCorrupt", c, bit, err)
			}
			s[bit/8] ^= 1 << (bit % 8)
		}
	}
}

func TestEncodePanics(t *testing.T) {
	for name, f := range map[string]func(){
		"empty":       func() { Encode(nil, nil, Fastest) },
		"too long":    func() { Encode(nil, make([]byte, MaxSize+1), Fastest) },
		"compression": func() { Encode(nil, []byte("x"), 99) },
	} {
		func() {
			defer func() {
				if r := recover(); r == nil || !strings.HasPrefix(r.(string), "block.Encode: ") {
					t.Errorf("%s: recovered %v", name, r)
				}
			}()
			f()
		}()
	}
}

func TestIsZero(t *testing.T) {
	if !IsZero(nil) || !IsZero([]byte{}) {
		t.Error("nothing is not zero")
	}
	for _, n := range []int{1, 2, 7, 4096, len(zeros) - 1, len(zeros), len(zeros) + 1, DefaultSize, 100_000} {
		p := make([]byte, n)
		if !IsZero(p) {
			t.Errorf("%d zeros are not zero", n)
		}
		for _, i := range []int{0, 1, n / 3, n / 2, len(zeros) - 1, len(zeros), n - 2, n - 1} {
			if i < 0 || i >= n {
				continue
			}
			p[i] = 0x80
			if IsZero(p) {
				t.Errorf("%d bytes with byte %d set are zero", n, i)
			}
			p[i] = 0
		}
	}
}

func TestDigest(t *testing.T) {
	// The digest of nothing, from the BLAKE3 paper's test vectors.
	const empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
	if got := Sum(nil).String(); got != empty {
		t.Errorf("Sum(nil) = %s", got)
	}
	for _, s := range []string{empty, strings.ToUpper(empty)} {
		if d, err := ParseDigest(s); err != nil || d != Sum(nil) {
			t.Errorf("ParseDigest(%q) = %s, %v", s, d, err)
		}
	}
	for _, s := range []string{"", "af", empty + "00", empty[:63] + "x", strings.Repeat("z", 1000)} {
		if _, err := ParseDigest(s); err == nil || len(err.Error()) > 200 {
			t.Errorf("ParseDigest(%q): %v", s, err)
		}
	}
	raw, _ := hex.DecodeString(empty)
	if d, err := DigestFromBytes(raw); err != nil || d != Sum(nil) {
		t.Errorf("DigestFromBytes: %s, %v", d, err)
	}
	for _, b := range [][]byte{nil, raw[:31], append(raw, 0)} {
		if _, err := DigestFromBytes(b); err == nil {
			t.Errorf("DigestFromBytes took %d bytes", len(b))
		}
	}
}

func TestValidSize(t *testing.T) {
	for n := MinSize; n <= MaxSize; n *= 2 {
		if err := ValidSize(n); err != nil {
			t.Error(err)
		}
	}
	for _, n := range []int{-MinSize, 0, 1, 8192, MinSize - 1, MinSize + 1, 3 * MinSize, MaxSize + 1, 2 * MaxSize} {
		if err := ValidSize(n); err == nil || !strings.Contains(err.Error(), "power of two from 16384 to 4194304") {
			t.Errorf("ValidSize(%d): %v", n, err)
		}
	}
}
