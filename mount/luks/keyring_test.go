package luks_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"cairn/mount/blockdev"
	"cairn/mount/luks"
)

// slow are options for a slot whose opening can be told from its not being
// opened: about a second.
var slow = strings.Fields("-q --pbkdf argon2id --pbkdf-force-iterations 8 --pbkdf-memory 131072 --pbkdf-parallel 1 --luks2-metadata-size 16k --luks2-keyslots-size 2064384")

// TestKeyring: a volume that was opened is opened again at once, by the same
// secret and while its header is the same, and so is one that was not.
func TestKeyring(t *testing.T) {
	path := write(t, noise[:4<<20])
	cryptsetup(t, append(append([]string{"luksFormat", "--type", "luks2"}, slow...), path)...)
	b := read(t, path)
	took := func(fn func()) time.Duration {
		from := time.Now()
		fn()
		return time.Since(from)
	}
	plain, err := luks.Open(disk(b), []byte(secret))
	must(t, err)
	want := make([]byte, plain.Size())
	_, err = plain.ReadAt(want, 0)
	must(t, err)

	keys := new(luks.Keyring)
	open := func() {
		d, err := keys.Open(disk(b), []byte(secret))
		must(t, err)
		same(t, d, want)
	}
	wrong := func() {
		if _, err := keys.Open(disk(b), []byte(secret+"\n")); !errors.Is(err, luks.ErrSecret) {
			t.Fatalf("wrong secret: %v", err)
		}
	}
	once := took(open)
	again := took(func() {
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if _, err := keys.Open(disk(b), []byte(secret)); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	})
	if again > once/2 {
		t.Errorf("opened in %v, and eight times again in %v", once, again)
	}
	if first, second := took(wrong), took(wrong); second > first/2 {
		t.Errorf("not opened in %v, and again in %v", first, second)
	}

	// A change of what decides the key is another header, with the same UUID.
	killed := bytes.Clone(b)
	clear(killed[32<<10 : 2<<20])
	if _, err := keys.Open(disk(killed), []byte(secret)); !errors.Is(err, luks.ErrSecret) {
		t.Errorf("erased key material: %v", err)
	}
	if took := took(func() {
		if _, err := keys.Open(disk(compact(t, b)), []byte(secret)); err != nil {
			t.Errorf("the same header in other words: %v", err)
		}
	}); took > once/2 {
		t.Errorf("the same header in other words: opened in %v", took)
	}
	must(t, changeDigest(t, compact(t, b), keys))
	open()
}

// changeDigest opens a volume whose digest of the key was changed.
func changeDigest(t *testing.T, b []byte, keys *luks.Keyring) error {
	t.Helper()
	js, _, _ := strings.Cut(string(b[4096:16384]), "\x00")
	_, rest, _ := strings.Cut(js, `"digest":"`)
	sum, _, _ := strings.Cut(rest, `"`)
	other := "A" + sum[1:]
	if other == sum {
		other = "B" + sum[1:]
	}
	if _, err := keys.Open(disk(edit(t, b, sum, other)), []byte(secret)); !errors.Is(err, luks.ErrSecret) {
		return errors.New("opened with another digest")
	}
	return nil
}

// TestKeyringFull: many secrets and many readers; every answer is the right one.
func TestKeyringFull(t *testing.T) {
	var volumes [][]byte
	for range 3 {
		volumes = append(volumes, volume(t, "2"))
	}
	keys := new(luks.Keyring)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range 150 {
				b := volumes[i%3]
				if i%2 == 0 {
					if _, err := keys.Open(disk(b), []byte(secret)); err != nil {
						t.Error(err)
					}
				} else if _, err := keys.Open(disk(b), []byte(rand.Text())); !errors.Is(err, luks.ErrSecret) {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

// TestUnreadSlot: where the material of one slot cannot be read, the secret is
// not called wrong for the others, and a Keyring asks again.
func TestUnreadSlot(t *testing.T) {
	path := write(t, noise[:4<<20])
	cryptsetup(t, append(append([]string{"luksFormat", "--type", "luks1"}, quick...), path)...)
	cryptsetup(t, append(append([]string{"luksAddKey"}, quick...), path, write(t, []byte("second")))...)
	b := read(t, path)
	keys := new(luks.Keyring)
	for n := range 16 {
		r := &failing{bytes.NewReader(b), n}
		d := blockdev.Disk(0, r, int64(len(b)))
		_, err := keys.Open(d, []byte("second"))
		if r.n >= 0 {
			must(t, err)
			return
		}
		if err != nil && (!errors.Is(err, errDevice) || errors.Is(err, luks.ErrSecret)) {
			t.Errorf("read %d fails: %v", n, err)
		}
		for n := range 16 { // without a Keyring as well
			r := &failing{bytes.NewReader(b), n}
			_, err := luks.Open(blockdev.Disk(0, r, int64(len(b))), []byte("second"))
			if errors.Is(err, luks.ErrSecret) {
				t.Errorf("read %d fails: %v", n, err)
			}
		}
		if _, err := keys.Open(disk(b), []byte("second")); err != nil {
			t.Errorf("after read %d failed: %v", n, err)
		}
		keys = new(luks.Keyring)
	}
	t.Error("reads without end")
}
