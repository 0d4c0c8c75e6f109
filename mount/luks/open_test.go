package luks_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cairn/mount/blockdev"
	"cairn/mount/filesys/fstest"
	"cairn/mount/luks"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var noise = func() []byte {
	b := make([]byte, 8<<20)
	rand.NewChaCha8([32]byte{7}).Read(b)
	return b
}()

const secret = "correct horse"

// write writes a file into a directory of the test's own.
func write(t testing.TB, b []byte) string {
	t.Helper()
	path := filepath.Join(fstest.TempDir(t), "file")
	must(t, os.WriteFile(path, b, 0o600))
	return path
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return b
}

func disk(b []byte) blockdev.Device { return blockdev.Disk(0, bytes.NewReader(b), int64(len(b))) }

// same compares a device with what it ought to hold, in one piece and in many.
func same(t testing.TB, d blockdev.Device, want []byte) {
	t.Helper()
	if d.Size() != int64(len(want)) {
		t.Fatalf("%d bytes, want %d", d.Size(), len(want))
	}
	got, err := io.ReadAll(io.NewSectionReader(d, 0, d.Size()))
	must(t, err)
	if !bytes.Equal(got, want) {
		i := 0
		for got[i] == want[i] {
			i++
		}
		t.Fatalf("byte %d is %#x, want %#x", i, got[i], want[i])
	}
	whole := make([]byte, len(want))
	if n, err := d.ReadAt(whole, 0); n != len(want) || err != nil || !bytes.Equal(whole, want) {
		t.Fatalf("read whole: %d, %v", n, err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		off := random.Int64N(d.Size())
		p := make([]byte, random.IntN(20000))
		n, err := d.ReadAt(p, off)
		if left := d.Size() - off; int64(n) != min(left, int64(len(p))) || (err == io.EOF) != (left < int64(len(p))) || err != nil && err != io.EOF {
			t.Fatalf("read %d at %d: %d, %v", len(p), off, n, err)
		}
		if !bytes.Equal(p[:n], want[off:off+int64(n)]) {
			t.Fatalf("read %d at %d: wrong bytes", len(p), off)
		}
	}
	if n, err := d.ReadAt(make([]byte, 1), d.Size()); n != 0 || err != io.EOF {
		t.Fatalf("read at the end: %d, %v", n, err)
	}
}

// TestQEMU: LUKS1 as qemu-img encrypts it. Where cryptsetup knows the cipher, it
// makes the header, which takes qemu-img seconds.
func TestQEMU(t *testing.T) {
	plain := write(t, noise[:3<<20])
	for _, c := range []struct{ options, cipher, bits string }{
		{"", "aes-xts-plain64", "512"}, {"", "aes-xts-plain64", "256"}, {"", "aes-xts-plain", "512"},
		{"", "aes-cbc-essiv:sha256", "256"}, {"", "aes-cbc-plain64", "256"}, {"", "aes-cbc-plain", "128"},
		{"cipher-alg=twofish-256,cipher-mode=xts,ivgen-alg=plain64,hash-alg=sha512", "twofish-xts-plain64", "512"},
		{"cipher-alg=serpent-256,cipher-mode=xts,ivgen-alg=plain64,hash-alg=sha256", "serpent-xts-plain64", "512"},
	} {
		t.Run(c.cipher+" "+c.bits, func(t *testing.T) {
			t.Parallel()
			image := filepath.Join(fstest.TempDir(t), "image")
			if c.options != "" {
				qemuConvert(t, plain, image, c.options)
			} else {
				must(t, os.WriteFile(image, nil, 0o600))
				must(t, os.Truncate(image, 2<<20+3<<20))
				cryptsetup(t, append([]string{"luksFormat", "--type", "luks1", "--cipher", c.cipher, "--key-size", c.bits, "--align-payload", "4096", image}, quick...)...)
				fstest.Run(t, "qemu-img", "convert", "-n", "--object", "secret,id=s,data="+secret, "-f", "raw", plain,
					"--target-image-opts", "driver=luks,key-secret=s,file.filename="+image)
			}
			b := read(t, image)
			d, err := luks.Open(disk(b), []byte(secret))
			must(t, err)
			same(t, d, noise[:3<<20])
			h, err := luks.Read(disk(b))
			must(t, err)
			if h.Version != 1 || len(h.Slots) != 1 || h.UUID == "" || h.SectorSize != 512 || h.Cipher != c.cipher || fmt.Sprint(h.KeyBits) != c.bits || h.Size != 3<<20 {
				t.Errorf("%+v", h)
			}
			if _, err := luks.Open(disk(b), []byte(secret+"\n")); !errors.Is(err, luks.ErrSecret) {
				t.Errorf("with a line break: %v", err)
			}
		})
	}
}

// qemuConvert encrypts a file. qemu-img measures how fast it is by its own use
// of the processor, and gives up when that was too short to be measured: it is
// told to try again.
func qemuConvert(t *testing.T, from, to, options string) {
	t.Helper()
	args := []string{"convert", "-O", "luks", "--object", "secret,id=s,data=" + secret, "-o", "key-secret=s,iter-time=10," + options, from, to}
	for range 100 {
		out, err := exec.Command("qemu-img", args...).CombinedOutput()
		if err == nil {
			return
		}
		if !strings.Contains(string(out), "Unable to get accurate CPU usage") {
			break
		}
	}
	fstest.Run(t, "qemu-img", args...)
}

// cheap are options for slots that open at once.
var cheap = strings.Fields("-q --pbkdf argon2id --pbkdf-force-iterations 4 --pbkdf-memory 64 --pbkdf-parallel 2 --luks2-metadata-size 16k --luks2-keyslots-size 2064384")

var quick = strings.Fields("-q --pbkdf pbkdf2 --pbkdf-force-iterations 1000")

// cryptsetup runs it with the secret as its key file.
func cryptsetup(t testing.TB, args ...string) string {
	t.Helper()
	return fstest.Run(t, "cryptsetup", append(args, "--key-file", write(t, []byte(secret)))...)
}

// encrypted is a volume of LUKS2 as cryptsetup encrypts it in place, and its
// plain text.
func encrypted(t testing.TB, args ...string) (cipher, plain []byte) {
	t.Helper()
	const size, shift = 3 << 20, 4 << 20
	path := write(t, append(bytes.Clone(noise[:size]), make([]byte, shift)...))
	cryptsetup(t, append(append(strings.Fields("reencrypt --encrypt --type luks2 --force-offline-reencrypt --reduce-device-size 4M"), args...), path)...)
	return read(t, path), noise[:size]
}

// TestCryptsetup: LUKS2 in every kind.
func TestCryptsetup(t *testing.T) {
	for _, args := range []string{
		"--cipher aes-xts-plain64 --key-size 512",
		"--cipher aes-xts-plain64 --key-size 256 --sector-size 4096",
		"--cipher aes-xts-plain64 --sector-size 1024 --hash sha512",
		"--cipher aes-xts-plain64 --sector-size 2048 --hash sha1",
		"--cipher aes-xts-plain --sector-size 512 --hash ripemd160",
		"--cipher aes-cbc-essiv:sha256 --key-size 256 --sector-size 4096",
		"--cipher aes-cbc-plain64 --key-size 192 --sector-size 512 --hash sha3-256",
		"--cipher aes-cbc-plain --key-size 128 --hash blake2b-512",
		"--cipher aes-xts-plain64 --hash blake2s-256 --keyslot-cipher aes-cbc-essiv:sha256 --keyslot-key-size 256",
		"--cipher aes-xts-plain64 --hash whirlpool",
		"argon2i --cipher aes-xts-plain64",
		"argon2id --cipher aes-xts-plain64 --sector-size 4096",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			options := quick
			kind := "pbkdf2"
			fields := strings.Fields(args)
			if strings.HasPrefix(args, "argon") {
				kind, fields = fields[0], fields[1:]
				options = []string{"-q", "--pbkdf", kind, "--pbkdf-force-iterations", "5", "--pbkdf-memory", "3000", "--pbkdf-parallel", "3"}
			}
			b, want := encrypted(t, append(fields, options...)...)
			d, err := luks.Open(disk(b), []byte(secret))
			must(t, err)
			got := make([]byte, len(want))
			_, err = d.ReadAt(got, 0)
			must(t, err)
			if !bytes.Equal(got, want) {
				i := 0
				for got[i] == want[i] {
					i++
				}
				t.Fatalf("byte %d is wrong", i)
			}
			all, err := io.ReadAll(io.NewSectionReader(d, 0, d.Size()))
			must(t, err)
			same(t, d, all)
			h, err := luks.Read(disk(b))
			must(t, err)
			if h.Version != 2 || len(h.Slots) != 1 || !strings.HasPrefix(h.Slots[0].KDF, kind) || h.Slots[0].Problem != nil || len(h.Warnings) > 0 {
				t.Errorf("%+v", h)
			}
			if _, err := luks.Open(disk(b), []byte("wrong")); !errors.Is(err, luks.ErrSecret) {
				t.Errorf("with a wrong secret: %v", err)
			}
		})
	}
}

// TestHashes: LUKS1 with every hash.
func TestHashes(t *testing.T) {
	for _, hash := range strings.Fields("sha1 sha224 sha256 sha384 sha512 sha3-224 sha3-256 sha3-384 sha3-512 ripemd160 whirlpool blake2b-512 blake2s-256") {
		for _, size := range []string{"256", "512"} {
			path := write(t, noise[:4<<20])
			cryptsetup(t, append([]string{"luksFormat", "--type", "luks1", "--hash", hash, "--key-size", size, path}, quick...)...)
			if _, err := luks.Open(disk(read(t, path)), []byte(secret)); err != nil {
				t.Errorf("%s, %s bits: %v", hash, size, err)
			}
		}
	}
}

// TestSlots: many secrets, killed slots, priorities, key files, an erased volume.
func TestSlots(t *testing.T) {
	for _, version := range []string{"1", "2"} {
		path := write(t, noise[:4<<20])
		options := quick
		if version == "2" {
			options = cheap
		}
		cryptsetup(t, append(append([]string{"luksFormat", "--type", "luks" + version}, options...), path)...)
		keys := [][]byte{[]byte("second"), []byte("with a line break\n"), noise[:4096], {1}, bytes.Repeat([]byte("long"), 500)}
		for _, key := range keys {
			add := quick
			if version == "2" {
				add = strings.Fields("-q --pbkdf argon2i --pbkdf-force-iterations 4 --pbkdf-memory 64 --pbkdf-parallel 1")
			}
			cryptsetup(t, append(append([]string{"luksAddKey"}, add...), path, write(t, key))...)
		}
		if version == "2" {
			fstest.Run(t, "cryptsetup", "config", "--key-slot", "2", "--priority", "ignore", path)
			fstest.Run(t, "cryptsetup", "config", "--key-slot", "3", "--priority", "prefer", path)
		}
		b := read(t, path)
		first, err := luks.Open(disk(b), []byte(secret))
		must(t, err)
		want, err := io.ReadAll(io.NewSectionReader(first, 0, first.Size()))
		must(t, err)
		for i, key := range keys {
			d, err := luks.Open(disk(b), key)
			if err != nil {
				t.Fatalf("LUKS%s: key %d: %v", version, i, err)
			}
			same(t, d, want)
		}
		for _, key := range [][]byte{nil, []byte("with a line break"), {1, 1}, noise[:4095]} {
			if _, err := luks.Open(disk(b), key); !errors.Is(err, luks.ErrSecret) {
				t.Errorf("LUKS%s: wrong key: %v", version, err)
			}
		}
		cryptsetup(t, "luksKillSlot", "-q", path, "1")
		b = read(t, path)
		if _, err := luks.Open(disk(b), keys[0]); !errors.Is(err, luks.ErrSecret) {
			t.Errorf("LUKS%s: killed key: %v", version, err)
		}
		if h, err := luks.Read(disk(b)); err != nil || len(h.Slots) != 5 || h.Slots[1].ID != 2 {
			t.Errorf("LUKS%s: %+v, %v", version, h, err)
		}
		fstest.Run(t, "cryptsetup", "luksErase", "-q", path)
		b = read(t, path)
		if _, err := luks.Open(disk(b), []byte(secret)); !errors.Is(err, luks.ErrSecret) || !strings.Contains(err.Error(), "erased") {
			t.Errorf("LUKS%s: erased: %v", version, err)
		}
	}
}

// TestDump: the header says what cryptsetup says.
func TestDump(t *testing.T) {
	path := write(t, noise[:4<<20])
	cryptsetup(t, append(append([]string{"luksFormat", "--type", "luks2", "--label", "a label", "--subsystem", "sub", "--sector-size", "4096"}, cheap...), path)...)
	h, err := luks.Read(disk(read(t, path)))
	must(t, err)
	if got := strings.TrimSpace(fstest.Run(t, "cryptsetup", "luksUUID", path)); got != h.UUID {
		t.Errorf("UUID %s, want %s", h.UUID, got)
	}
	if h.Label != "a label" || h.Subsystem != "sub" || h.Cipher != "aes-xts-plain64" || h.KeyBits != 512 || h.SectorSize != 4096 ||
		h.Size != 4<<20-h.Offset || h.Slots[0].KDF != "argon2id, 4 passes over 64 KiB" {
		t.Errorf("%+v", h)
	}
	if out := fstest.Run(t, "cryptsetup", "luksDump", path); !strings.Contains(out, fmt.Sprintf("offset: %d [bytes]", h.Offset)) {
		t.Errorf("offset is %d; %s", h.Offset, out)
	}
}

// TestPlace: bytes are where their cipher text is.
func TestPlace(t *testing.T) {
	path := write(t, noise[:4<<20])
	cryptsetup(t, append(append([]string{"luksFormat", "--type", "luks2"}, cheap...), path)...)
	b := read(t, path)
	d, err := luks.Open(blockdev.Section(disk(append(make([]byte, 5000), b...)), 5000, int64(len(b))), []byte(secret))
	must(t, err)
	h, err := luks.Read(disk(b))
	must(t, err)
	if p, n, err := d.Place(777); err != nil || p.Off != 5000+h.Offset+777 || n != d.Size()-777 {
		t.Errorf("%+v, %d, %v", p, n, err)
	}
	if _, _, err := d.Place(d.Size()); !errors.Is(err, blockdev.ErrRange) {
		t.Errorf("place behind the end: %v", err)
	}
	if _, err := d.ReadAt(make([]byte, 1), -1); !errors.Is(err, blockdev.ErrRange) {
		t.Errorf("read at -1: %v", err)
	}
	want := make([]byte, 1<<20)
	_, err = d.ReadAt(want, 512)
	must(t, err)
	done := make(chan bool)
	for range 8 {
		go func() {
			p := make([]byte, 1<<20)
			_, err := d.ReadAt(p, 512)
			done <- err == nil && bytes.Equal(p, want)
		}()
	}
	for range 8 {
		if !<-done {
			t.Error("parallel reads differ")
		}
	}
}

func BenchmarkRead(b *testing.B) {
	path := write(b, append(bytes.Clone(noise), noise...))
	cryptsetup(b, append(append([]string{"luksFormat", "--type", "luks2"}, cheap...), path)...)
	d, err := luks.Open(disk(read(b, path)), []byte(secret))
	must(b, err)
	p := make([]byte, 1<<20)
	for _, n := range []int{4096, 128 << 10, 1 << 20} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.SetBytes(int64(n))
			for range b.N {
				if _, err := d.ReadAt(p[:n], 1<<20); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
