package luks_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
	"cairn/mount/luks"
)

// volume makes a small volume.
func volume(t testing.TB, version string) []byte {
	path := write(t, noise[:4<<20])
	options := quick
	if version == "2" {
		options = append([]string{"--sector-size", "512"}, cheap...)
	}
	cryptsetup(t, append(append([]string{"luksFormat", "--type", "luks" + version}, options...), path)...)
	return read(t, path)
}

// reseal makes the checksums of both copies of a header of LUKS2 right.
func reseal(b []byte) {
	for off := int64(0); off < 32<<10; off += 16 << 10 {
		size := int64(16 << 10)
		if off+size > int64(len(b)) {
			return
		}
		p := b[off : off+size]
		clear(p[448:512])
		sum := sha256.Sum256(p)
		copy(p[448:], sum[:])
	}
}

// edit changes the text of both copies of a header of LUKS2.
func edit(t testing.TB, b []byte, from, to string) []byte {
	t.Helper()
	b = bytes.Clone(b)
	for _, off := range []int{4096, 20480} {
		js, _, _ := strings.Cut(string(b[off:off+12288]), "\x00")
		if !strings.Contains(js, from) {
			t.Fatalf("there is no %s in %s", from, js)
		}
		js = strings.ReplaceAll(js, from, to)
		clear(b[off : off+12288])
		copy(b[off:off+12288], js)
	}
	reseal(b)
	return b
}

// TestRefused: what is not known is refused by its name.
func TestRefused(t *testing.T) {
	v1, v2 := volume(t, "1"), compact(t, volume(t, "2"))
	check := func(b []byte, want error, text string) {
		t.Helper()
		_, err := luks.Open(disk(b), []byte(secret))
		if !errors.Is(err, want) || !strings.Contains(err.Error(), text) || want != luks.ErrSecret && errors.Is(err, luks.ErrSecret) {
			t.Errorf("%s: %v", text, err)
		}
		if h, err := luks.Read(disk(b)); errors.Is(err, filesys.ErrUnsupported) && h == nil && text != "version 3" {
			t.Errorf("%s: no header", text)
		}
	}
	patch := func(off int, v ...byte) []byte {
		b := bytes.Clone(v1)
		copy(b[off:], v)
		return b
	}
	unsupported, corrupt := filesys.ErrUnsupported, filesys.ErrCorrupt
	check(patch(8, []byte("camellia\x00")...), unsupported, `"camellia-xts-plain64"`)
	check(patch(40, []byte("ecb\x00")...), unsupported, `"aes-ecb"`)
	check(patch(40, []byte("xts-essiv:sha256\x00")...), unsupported, "essiv")
	check(patch(40, []byte("cbc-essiv:sha1\x00")...), unsupported, "essiv")
	check(patch(72, []byte("stribog512\x00")...), unsupported, `"stribog512"`)
	check(patch(104, 0, 0, 0, 0), unsupported, "apart")
	check(patch(7, 3), filesys.ErrUnsupported, "version 3")
	check(patch(0, 'X'), filesys.ErrWrongType, "no LUKS header")
	check(patch(104, 255, 255, 255, 255), corrupt, "cipher text at")
	check(patch(108, 0, 0, 0, 0), corrupt, "a key of 0 bytes")
	check(patch(108, 0, 0, 0, 17), corrupt, "bits")
	check(patch(208, 1), corrupt, "state")
	check(patch(208+44, 255), corrupt, "stripes")
	check(patch(208+40, 255), corrupt, "key material")
	check(patch(208+4, 0, 0, 0, 0), corrupt, "0 iterations")
	check(patch(208+4, 255), unsupported, "iterations")
	check(patch(164, 0, 0, 0, 0), corrupt, "digest")
	check(patch(112, 1, 2, 3), luks.ErrSecret, "wrong passphrase")

	for _, c := range []struct {
		from, to string
		want     error
		text     string
	}{
		{`"type":"crypt"`, `"type":"hw-opal-crypt"`, unsupported, "hw-opal-crypt"},
		{`"type":"crypt"`, `"type":"crypt","integrity":{"type":"hmac(sha256)"}`, unsupported, "integrity (dm-integrity, hmac(sha256))"},
		{`"type":"crypt"`, `"type":"crypt","flags":["in-reencryption"]`, unsupported, "in-reencryption"},
		{`"config":{`, `"config":{"requirements":{"mandatory":["online-reencrypt-v2"]},`, unsupported, "re-encryption that has not ended"},
		{`"config":{`, `"config":{"requirements":{"mandatory":["inline-hw-tags"]},`, unsupported, "inline-hw-tags"},
		{`"type":"argon2id"`, `"type":"scrypt"`, unsupported, "scrypt"},
		{`"memory":64`, `"memory":8388608`, unsupported, "8192 MiB"},
		{`"time":4`, `"time":4294967295`, unsupported, "4294967295 passes"},
		{`"memory":64`, `"memory":1`, corrupt, "1 KiB"},
		{`"sector_size":512`, `"sector_size":8192`, corrupt, "8192"},
		{`"sector_size":512`, `"sector_size":520`, corrupt, "520"},
		{`"stripes":4000`, `"stripes":4000000`, corrupt, "stripes"},
		{`"type":"raw"`, `"type":"datashift"`, unsupported, "datashift"},
		{`"type":"luks1"`, `"type":"other"`, unsupported, "split"},
		{`"type":"luks2"`, `"type":"reencrypt"`, unsupported, "reencrypt"},
		{`"offset":"32768"`, `"offset":"-5"`, corrupt, "at -5"},
		{`"offset":"32768"`, `"offset":"9223372036854775807"`, corrupt, "at 9223372036854775807"},
		{`"iv_tweak":"0"`, `"iv_tweak":"x"`, corrupt, "text of the header"},
		{`"size":"dynamic"`, `"size":"77"`, corrupt, "77"},
		{`"size":"dynamic"`, `"size":"0"`, corrupt, "0"},
		{`"encryption":"aes-xts-plain64","sector`, `"encryption":"camellia-xts-plain64","sector`, unsupported, "camellia-xts-plain64"},
		{`"encryption":"aes-xts-plain64","sector`, `"encryption":"capi:authenc(hmac(sha256),xts(aes))-random","sector`, unsupported, "authenc"},
		{`"segments":["0"]`, `"segments":["1"]`, corrupt, "no digest"},
		{`"segments":{`, `"segments":{"1":{"type":"linear","offset":"0","size":"dynamic"},`, unsupported, "2 segments"},
		{`{`, `[`, corrupt, "text of the header"},
	} {
		check(edit(t, v2, c.from, c.to), c.want, c.text)
	}
}

// compact takes the blanks out of the text of both copies, so that it can be
// searched.
func compact(t testing.TB, b []byte) []byte {
	t.Helper()
	js, _, _ := strings.Cut(string(b[4096:16384]), "\x00")
	return edit(t, b, js, strings.Join(strings.Fields(js), ""))
}

// TestSegment: a size that is given, an offset of the initial vectors.
func TestSegment(t *testing.T) {
	v2 := compact(t, volume(t, "2"))
	d, err := luks.Open(disk(v2), []byte(secret))
	must(t, err)
	want, err := io.ReadAll(io.NewSectionReader(d, 0, d.Size()))
	must(t, err)
	d, err = luks.Open(disk(edit(t, v2, `"size":"dynamic"`, `"size":"8192"`)), []byte(secret))
	must(t, err)
	same(t, d, want[:8192])
	b := edit(t, v2, `"size":"dynamic"`, `"size":"81920000"`)
	d, err = luks.Open(disk(b), []byte(secret))
	must(t, err)
	same(t, d, want)
	if h, err := luks.Read(disk(b)); err != nil || len(h.Warnings) != 1 || !strings.Contains(h.Warnings[0], "end is missing") {
		t.Errorf("%+v, %v", h, err)
	}
	// Half a sector at the end is none.
	d, err = luks.Open(disk(v2[:len(v2)-100]), []byte(secret))
	must(t, err)
	same(t, d, want[:len(want)-512])
	// The same cipher text, 8 sectors further on, is what an offset of 8 makes
	// of it there.
	at := bytes.Index([]byte(textOf(v2)), []byte(`"iv_tweak":"0"`))
	if at < 0 {
		t.Fatal("no offset of the initial vectors")
	}
	moved := edit(t, v2, `"iv_tweak":"0"`, `"iv_tweak":"8"`)
	h, err := luks.Read(disk(v2))
	must(t, err)
	copy(moved[h.Offset:], v2[h.Offset+4096:])
	d, err = luks.Open(disk(moved), []byte(secret))
	must(t, err)
	got := make([]byte, len(want)-4096)
	_, err = d.ReadAt(got, 0)
	must(t, err)
	if !bytes.Equal(got, want[4096:]) {
		t.Error("wrong bytes with an offset of the initial vectors")
	}
}

func textOf(b []byte) string {
	js, _, _ := strings.Cut(string(b[4096:16384]), "\x00")
	return js
}

// TestCopies: of two headers the newest good one counts.
func TestCopies(t *testing.T) {
	v2 := volume(t, "2")
	d, err := luks.Open(disk(v2), []byte(secret))
	must(t, err)
	want := make([]byte, 10000)
	_, err = d.ReadAt(want, 0)
	must(t, err)
	check := func(warning string, damage func(b []byte)) {
		t.Helper()
		b := bytes.Clone(v2)
		damage(b)
		h, err := luks.Read(disk(b))
		must(t, err)
		if w := strings.Join(h.Warnings, " "); !strings.Contains(w, warning) || warning == "" && w != "" {
			t.Errorf("warnings %q, want %q", w, warning)
		}
		d, err := luks.Open(disk(b), []byte(secret))
		must(t, err)
		got := make([]byte, 10000)
		if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: wrong bytes, %v", warning, err)
		}
	}
	check("", func([]byte) {})
	check("header is damaged", func(b []byte) { b[5000] ^= 1 })
	check("header is damaged", func(b []byte) { clear(b[8:16]) })
	check("copy of the LUKS header is damaged", func(b []byte) { b[20000] ^= 1 })
	check("copy of the LUKS header is newer", func(b []byte) {
		binary.BigEndian.PutUint64(b[16384+16:], 1000)
		reseal(b)
	})
	b := bytes.Clone(v2)
	b[5000], b[20500] = b[5000]^1, b[20500]^1
	if _, err := luks.Open(disk(b), []byte(secret)); !errors.Is(err, filesys.ErrCorrupt) {
		t.Errorf("both damaged: %v", err)
	}
	for _, n := range []int{0, 5, 8, 600, 4096, 20000} {
		if _, err := luks.Read(disk(v2[:n])); !errors.Is(err, filesys.ErrWrongType) && !errors.Is(err, filesys.ErrCorrupt) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// TestUnderway: a re-encryption that has not ended, as cryptsetup leaves it.
func TestUnderway(t *testing.T) {
	path := write(t, append(bytes.Clone(noise[:4<<20]), make([]byte, 4<<20)...))
	cryptsetup(t, append(append(strings.Fields("reencrypt --encrypt --init-only --type luks2 --reduce-device-size 4M"), quick...), path)...)
	_, err := luks.Open(disk(read(t, path)), []byte(secret))
	if !errors.Is(err, filesys.ErrUnsupported) || !strings.Contains(err.Error(), "re-encryption") {
		t.Errorf("%v", err)
	}
}

// TestFlippedBits: damage of header or key material ends in an error or not at
// all, never in other bytes.
func TestFlippedBits(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for _, version := range []string{"1", "2"} {
		b := volume(t, version)
		d, err := luks.Open(disk(b), []byte(secret))
		must(t, err)
		want := make([]byte, 5000)
		_, err = d.ReadAt(want, 1<<20)
		must(t, err)
		for i := range 300 {
			off := random.IntN(592)
			if version == "2" {
				off = random.IntN(32 << 10)
			}
			if i%3 == 0 {
				off = random.IntN(250 << 10)
			}
			if version == "1" && (off&^1 == 164 || off&^1 == 212) {
				continue // counts of iterations: allowed, and a matter of minutes
			}
			bit := byte(1) << random.IntN(8)
			b[off] ^= bit
			d, err := luks.Open(disk(b), []byte(secret))
			if err == nil {
				got := make([]byte, 5000)
				if _, err := d.ReadAt(got, 1<<20); err != nil || !bytes.Equal(got, want) {
					// LUKS1 has no checksum of these.
					if version != "1" || !(off >= 104 && off < 108 || off >= 8 && off < 72) {
						t.Errorf("LUKS%s: bit %#x of byte %d: other bytes (seed %d)", version, bit, off, seed)
					}
				}
			} else if !errors.Is(err, luks.ErrSecret) && !errors.Is(err, filesys.ErrCorrupt) && !errors.Is(err, filesys.ErrUnsupported) && !errors.Is(err, filesys.ErrWrongType) {
				t.Errorf("LUKS%s: bit %#x of byte %d: %v", version, bit, off, err)
			}
			b[off] ^= bit
		}
	}
}

var makeSeeds = flag.Bool("make-seeds", false, "make the headers in testdata anew")

var seeds = []string{"luks1", "luks2"}

// TestSeeds: with -make-seeds it makes the fuzzer's seeds.
func TestSeeds(t *testing.T) {
	for i, name := range seeds {
		if *makeSeeds {
			b := volume(t, name[4:])
			if i == 0 {
				b = b[:4096]
			} else {
				b = compact(t, b)[:32<<10]
			}
			fstest.WriteSeedImage(t, name, b)
		}
		b := fstest.SeedImage(t, name)
		padded := append(bytes.Clone(b), make([]byte, 4<<20)...)
		if h, err := luks.Read(disk(padded)); err != nil || len(h.Slots) != 1 {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
}

// FuzzRead damages headers, with right checksums.
func FuzzRead(f *testing.F) {
	for _, name := range seeds {
		b := fstest.SeedImage(f, name)
		f.Add(b[:592], name == "luks2", "")
		if name == "luks2" {
			f.Add(b[:512], true, textOf(b))
			f.Add(b[:512], true, strings.ReplaceAll(textOf(b), `"0"`, `"1"`))
		}
	}
	f.Fuzz(func(t *testing.T, head []byte, two bool, js string) {
		b := make([]byte, 64<<10)
		copy(b, head[:min(len(head), 4096)])
		if two {
			copy(b[4096:16384], js)
			copy(b[16384:], b[:16384])
			copy(b[16384:], "SKUL\xba\xbe")
			reseal(b)
		}
		h, err := luks.Read(disk(b))
		if err == nil {
			if h.Size < 0 || h.Offset < 0 || h.Offset+h.Size > int64(len(b)) || h.SectorSize < 512 {
				t.Errorf("%+v", h)
			}
			return
		}
		for _, sentinel := range []error{filesys.ErrWrongType, filesys.ErrUnsupported, filesys.ErrCorrupt} {
			if errors.Is(err, sentinel) {
				return
			}
		}
		t.Errorf("an error of no known kind: %v", err)
	})
}
