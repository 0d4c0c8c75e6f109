package ntfs

import (
	"bytes"
	"errors"
	"testing"

	"cairn/mount/filesys"
)

// TestUnpack: the examples of [MS-XCA] section 3.
func TestUnpack(t *testing.T) {
	// "F#F#G#…" of section 3.3, LZNT1.
	packed := []byte{0x38, 0xb0, 0x88, 0x46, 0x23, 0x20, 0x00, 0x20, 0x47, 0x20, 0x41, 0x00, 0x10, 0xa2, 0x47, 0x01, 0xa0, 0x45, 0x20,
		0x44, 0x00, 0x08, 0x45, 0x01, 0x50, 0x79, 0x00, 0xc0, 0x45, 0x20, 0x05, 0x24, 0x13, 0x88, 0x05, 0xb4, 0x02, 0x4a, 0x44, 0xef,
		0x03, 0x58, 0x02, 0x8c, 0x09, 0x16, 0x01, 0x48, 0x45, 0x00, 0xbe, 0x00, 0x9e, 0x00, 0x04, 0x01, 0x18, 0x90, 0x00}
	want := "F# F# G A A G F# E D D E F# F# E E F# F# G A A G F# E D D E F# E D D E E F# D E F# G F# D E F# G F# E D E A F# F# G A A G F# E D D E F# E D D\x00"
	got := make([]byte, 4096)
	if err := lznt1(got, packed); err != nil || string(bytes.TrimRight(got, "\x00")) != want[:len(want)-1] {
		t.Errorf("LZNT1: %q, %v", bytes.TrimRight(got, "\x00"), err)
	}

	// Section 3.2: the alphabet, and "abc" over and over.
	alphabet := make([]byte, 256+20)
	copy(alphabet[0x30:], []byte{0x50, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x45, 0x44, 0x04})
	alphabet[0x80] = 0x04
	copy(alphabet[256:], []byte{0xd8, 0x52, 0x3e, 0xd7, 0x94, 0x11, 0x5b, 0xe9, 0x19, 0x5f, 0xf9, 0xd6, 0x7c, 0xdf, 0x8d, 0x04})
	out := make([]byte, 26)
	if err := xpress(out, alphabet); err != nil || string(out) != "abcdefghijklmnopqrstuvwxyz" {
		t.Errorf("Xpress: %q, %v", out, err)
	}
	again := make([]byte, 256, 272)
	copy(again[0x30:], []byte{0x30, 0x23})
	again[0x80], again[0x8F] = 0x02, 0x20
	again = append(again, 0xa8, 0xdc, 0x00, 0x00, 0xff, 0x26, 0x01)
	out = make([]byte, 300)
	if err := xpress(out, again); err != nil || !bytes.Equal(out, bytes.Repeat([]byte("abc"), 100)) {
		t.Errorf("Xpress: %q, %v", out, err)
	}
}

// TestUncompressedLZX: two uncompressed blocks, of 99 and of 100 bytes. Bits of
// the first header: 011, 0, and 16 of the size; of the second the same.
func TestUncompressedLZX(t *testing.T) {
	want := make([]byte, 199)
	for i := range want {
		want[i] = byte(i * 7)
	}
	block := func(size int, data []byte) []byte {
		bits := uint32(0b0110<<28 | size<<12)
		p := le.AppendUint16(nil, uint16(bits>>16))
		p = le.AppendUint16(p, uint16(bits))
		for i := range 3 {
			p = le.AppendUint32(p, uint32(i+1))
		}
		p = append(p, data...)
		if size%2 != 0 {
			p = append(p, 0)
		}
		return p
	}
	got := make([]byte, 199)
	if err := lzx(got, append(block(99, want[:99]), block(100, want[99:])...)); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%x, %v", got, err)
	}
}

// TestClusterSizes: the encodings of sizes in the boot sector.
func TestClusterSizes(t *testing.T) {
	for _, c := range []struct {
		sector         uint16
		cluster, mft   byte
		wantC, wantMFT int64 // 0: refused
	}{
		{512, 1, 2, 512, 1024}, {512, 8, 0xF6, 4096, 1024}, {512, 128, 0xF6, 65536, 1024}, {512, 0xF8, 0xF6, 131072, 1024},
		{512, 0xF4, 0xF6, 2 << 20, 1024}, {4096, 1, 1, 4096, 4096}, {4096, 0xF7, 0xF4, 2 << 20, 4096}, {1024, 1, 1, 1024, 1024},
		{512, 0xF3, 0xF6, 0, 0}, {512, 0, 0xF6, 0, 0}, {512, 3, 0xF6, 0, 0}, {512, 8, 0, 0, 0}, {512, 8, 3, 0, 0}, {512, 8, 2, 0, 0},
		{500, 8, 0xF6, 0, 0}, {8192, 1, 0xF6, 0, 0}, {512, 8, 0xE0, 0, 0}, {512, 8, 0x80, 0, 0},
	} {
		p := make([]byte, 512)
		copy(p[3:], oemIdentifier)
		le.PutUint16(p[0x0B:], c.sector)
		p[0x0D], p[0x40], p[0x1FE], p[0x1FF] = c.cluster, c.mft, 0x55, 0xAA
		le.PutUint64(p[0x28:], 1<<20)
		le.PutUint64(p[0x30:], 4)
		b, err := parseBoot(p, 1<<40)
		if c.wantC == 0 {
			if !errors.Is(err, filesys.ErrCorrupt) {
				t.Errorf("%+v: %v", c, err)
			}
		} else if err != nil || b.clusterSize() != c.wantC || int64(1)<<b.recordBits != c.wantMFT {
			t.Errorf("%+v: %+v, %v", c, b, err)
		}
	}
}

// TestSigned and the like: numbers in mapping pairs.
func TestRuns(t *testing.T) {
	runs, err := decodeRuns([]byte{0x31, 0x10, 0x00, 0x01, 0x00, 0x01, 0x05, 0x11, 0x03, 0xF0, 0x21, 0x02, 0x00, 0x80, 0}, 7, 33, 1<<20)
	if err == nil {
		t.Errorf("a run at a negative cluster: %v", runs)
	}
	runs, err = decodeRuns([]byte{0x31, 0x10, 0x00, 0x01, 0x00, 0x01, 0x05, 0x11, 0x03, 0xF0, 0x22, 0x02, 0x00, 0x00, 0x7F, 0}, 7, 7+16+5+3+2, 1<<20)
	want := []run{{7, 16, 256}, {23, 5, hole}, {28, 3, 240}, {31, 2, 240 + 0x7F00}}
	if err != nil || len(runs) != 4 {
		t.Fatalf("%v, %v", runs, err)
	}
	for i := range want {
		if runs[i] != want[i] {
			t.Errorf("run %d is %v, want %v", i, runs[i], want[i])
		}
	}
	for name, pairs := range map[string][]byte{
		"short":          {0x31, 0x10, 0x00},
		"no length":      {0x10, 0x10, 0},
		"negative":       {0x11, 0x80, 1, 0},
		"beyond the end": {0x31, 0x10, 0xFF, 0xFF, 0x0F, 0},
		"too few":        {0x11, 0x0F, 1, 0},
		"too many":       {0x11, 0x11, 1, 0},
	} {
		if _, err := decodeRuns(pairs, 0, 16, 1<<20); !errors.Is(err, filesys.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// NTFS before 3.0 writes holes as cluster -1.
	if runs, err := decodeRuns([]byte{0x11, 0x10, 0xFF, 0}, 0, 16, 1<<20); err != nil || runs[0].lcn != hole {
		t.Errorf("%v, %v", runs, err)
	}
}

func TestUnicode(t *testing.T) {
	for _, name := range []string{"", "a", "한국어", "😀", "\xed\xa0\x80", "\xed\xb0\x80x", "\xed\xb0\x80\xed\xa0\x80", "\uffff"} {
		if raw, ok := encodeName(name); !ok || decodeName(raw) != name {
			t.Errorf("%q becomes %q, %v", name, raw, ok)
		}
	}
	for _, name := range []string{"\xff", "\xed\xa0", "\xed\xa0\xbd\xed\xb8\x80", "\xc0\x80", "\xf4\x90\x80\x80"} {
		if raw, ok := encodeName(name); ok {
			t.Errorf("%q becomes %q", name, raw)
		}
	}
}

func TestTime(t *testing.T) {
	for v, want := range map[int64]string{
		116444736000000000: "1970-01-01T00:00:00Z", 0: "1601-01-01T00:00:00Z", 116444735999999999: "1969-12-31T23:59:59.9999999Z",
		-1: "1600-12-31T23:59:59.9999999Z", 1<<63 - 1: "30828-09-14T02:48:05.4775807Z",
	} {
		if got := ntTime(le.AppendUint64(nil, uint64(v))).UTC().Format("2006-01-02T15:04:05.9999999Z"); got != want {
			t.Errorf("%d is %s, want %s", v, got, want)
		}
	}
}

// FuzzUnpack gives anything to the decompressors.
func FuzzUnpack(f *testing.F) {
	f.Add(uint8(0), uint16(4096), []byte{0x38, 0xb0, 0x88, 0x46, 0x23, 0x20, 0x00, 0x20, 0x47, 0x20, 0x41})
	f.Add(uint8(1), uint16(300), append(bytes.Repeat([]byte{0x99}, 256), 1, 2, 3, 4))
	f.Add(uint8(2), uint16(32768), []byte{0x00, 0x30, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14})
	f.Fuzz(func(t *testing.T, kind uint8, size uint16, src []byte) {
		dst := make([]byte, min(int(size), 32768))
		if err := [...]func(dst, src []byte) error{lznt1, xpress, lzx}[kind%3](dst, src); err != nil && !errors.Is(err, filesys.ErrCorrupt) {
			t.Fatal(err)
		}
	})
}
