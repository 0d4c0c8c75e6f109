package volume

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cairn/mount/filesys/fstest"
	"cairn/mount/luks"
)

// TestEncryptedPoints: what the header of an encrypted volume has to be warned of
// is said, and a volume that several points have is opened with the keys that the
// first one has left.
func TestEncryptedPoints(t *testing.T) {
	dir := fstest.TempDir(t)
	crypt, key := filepath.Join(dir, "crypt"), filepath.Join(dir, "key")
	for file, content := range map[string][]byte{crypt: make([]byte, 4<<20), key: []byte("secret")} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fstest.Run(t, "cryptsetup", "luksFormat", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
		"--luks2-metadata-size", "16k", "--luks2-keyslots-size", "2064384", "--batch-mode", "--key-file", key, crypt)
	disk, err := os.ReadFile(crypt)
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Clone(disk)
	damaged[5000] ^= 1 // in the text of the first header
	opts := Options{Secrets: []Secret{{Bytes: []byte("secret"), From: "key file"}}, Keys: new(luks.Keyring)}
	for range 2 {
		for _, b := range [][]byte{disk, damaged} {
			l := Assemble([]Disk{{"vda", bytes.NewReader(b), int64(len(b))}}, opts)
			e := l.entry(t, "vda")
			l.entry(t, "vda_crypt")
			warned := slices.ContainsFunc(e.Warnings, func(w string) bool { return strings.Contains(w, "its copy is used") })
			if warned != (&b[0] == &damaged[0]) {
				t.Errorf("warnings %q", e.Warnings)
			}
		}
	}
	opts.Secrets = []Secret{{Bytes: []byte("secret\n"), From: "key file k"}, {Bytes: []byte("x"), From: "passphrase"}}
	l := Assemble([]Disk{{"vda", bytes.NewReader(disk), int64(len(disk))}}, opts)
	if e := l.entry(t, "vda"); e.Reason != "it is encrypted (LUKS), and no key slot opens with the key file k (which ends in a line break) or the passphrase" {
		t.Errorf("wrong secrets: %q", e.Reason)
	}
}
