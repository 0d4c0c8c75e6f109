package btrfs

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
)

// TestLZO has streams that were written by hand, one instruction each.
func TestLZO(t *testing.T) {
	end := "\x11\x00\x00"
	for _, c := range []struct{ name, src, want string }{
		{"literals", "\x16hello" + end, "hello"},
		{"few literals first", "\x13ab" + "\x03seven6" + end, ""},
		{"long literals", "\x00\x01" + "0123456789abcdefghi" + end, "0123456789abcdefghi"},
		{"near match", "\x15abcd\x6c\x00" + end, "abcdabcd"[:4] + "abcd"[:4]},
		{"run", "\x12a" + "\x20\x01\x00\x00" + end, "a" + string(bytes.Repeat([]byte("a"), 34))},
		{"match of two after one literal", "\x14abc" + "\x08\x00" + end, "abcab"},
	} {
		dst := make([]byte, 4096)
		n, err := lzo1x(dst, []byte(c.src))
		if c.name == "few literals first" { // a literal run cannot follow
			if err == nil {
				t.Errorf("%s: no error", c.name)
			}
			continue
		}
		if err != nil || string(dst[:n]) != c.want {
			t.Errorf("%s: %q, %v, want %q", c.name, dst[:n], err, c.want)
		}
	}
	for _, src := range []string{"", "\x11", "\x16hell", "\x15abcd\x6c\x01" + end, "\x15abcd\x6c\x00", "\x00\x00\x00", "\x15abcd\x20\x00\x00" + end,
		"\x15abcd\x11\x00\x00x", "\x11\x04\x00"} {
		if n, err := lzo1x(make([]byte, 100), []byte(src)); err == nil {
			t.Errorf("%q: %d bytes, no error", src, n)
		}
	}
}

// TestShortStreams: what a stream does not fill is zeros, and what is cut is an
// error.
func TestShortStreams(t *testing.T) {
	want := bytes.Repeat([]byte("some text "), 500)
	var z bytes.Buffer
	w := zlib.NewWriter(&z)
	_, _ = w.Write(want)
	_ = w.Close()
	e, err := zstd.NewWriter(nil, zstd.WithWindowSize(128<<10))
	if err != nil {
		t.Fatal(err)
	}
	for kind, src := range map[int][]byte{1: z.Bytes(), 3: e.EncodeAll(want, nil)} {
		padded := append(bytes.Clone(src), make([]byte, 4096)...)
		dst := bytes.Repeat([]byte{0xA5}, 8192)
		if err := decompressors[kind](dst, padded, 4096); err != nil || !bytes.Equal(dst[:len(want)], want) ||
			!bytes.Equal(dst[len(want):], make([]byte, 8192-len(want))) {
			t.Errorf("kind %d: %v", kind, err)
		}
		for n := range src {
			if err := decompressors[kind](dst, src[:n], 4096); err == nil {
				t.Errorf("kind %d: no error for %d of %d bytes", kind, n, len(src))
			}
		}
		if err := decompressors[kind](dst[:100], src, 4096); kind == 3 && err == nil {
			t.Errorf("kind %d: more than there is room for", kind)
		}
	}
}

// FuzzDecompress gives anything to the decompressors.
func FuzzDecompress(f *testing.F) {
	var z bytes.Buffer
	w := zlib.NewWriter(&z)
	_, _ = w.Write([]byte("some text some text some text"))
	_ = w.Close()
	f.Add(uint8(0), z.Bytes())
	f.Add(uint8(1), []byte("\x20\x00\x00\x00\x0a\x00\x00\x00\x15abcd\x6c\x00\x11\x00\x00\x0a\x00\x00\x00\x15abcd\x6c\x00\x11\x00\x00"))
	e, err := zstd.NewWriter(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint8(2), e.EncodeAll(bytes.Repeat([]byte("some text "), 500), nil))
	noise := make([]byte, 5000)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	f.Add(uint8(2), e.EncodeAll(noise, nil))
	f.Fuzz(func(t *testing.T, kind uint8, src []byte) {
		dst := bytes.Repeat([]byte{0xA5}, 16384)
		guard := dst[:12288:12288]
		_ = decompressors[1+kind%3](guard, src, 4096)
		if !bytes.Equal(dst[12288:], bytes.Repeat([]byte{0xA5}, 4096)) {
			t.Error("written behind the end")
		}
	})
}
