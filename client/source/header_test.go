package source

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// forgetBackingFormat makes an image like those of old versions of QEMU, which
// did not insist on the header extension that names the format.
func forgetBackingFormat(tb testing.TB, path string) {
	tb.Helper()
	b := readFile(tb, path)
	i := bytes.Index(b, []byte{0xe2, 0x79, 0x2a, 0xca})
	if i < 0 {
		tb.Fatalf("%s does not name the format of its backing file", path)
	}
	copy(b[i:], "nope")
	put(tb, path, string(b))
}

// TestRawStaysRaw: a guest that writes the header of another format to its
// disk gets that header backed up, and nothing else.
func TestRawStaysRaw(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	secret := filepath.Join(elsewhere, "secret")
	writeFile(t, secret, newRand(t), 1<<20, span{0, 1 << 20})
	path := filepath.Join(dir, "guest.raw")
	qemuImg(t, "create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", path)
	disk := snapshot(t, images(t, dir), "guest").Disks()[0]
	if info := disk.Info(); info.Format != "raw" {
		t.Errorf("disk %+v", info)
	}
	same(t, "guest.raw", content(t, disk), readFile(t, path))
}

// TestOutside: no image makes the host open a file outside the directory.
func TestOutside(t *testing.T) {
	outer := t.TempDir()
	dir := filepath.Join(outer, "images")
	os.Mkdir(dir, 0o700)
	at := func(name string) string { return filepath.Join(dir, name) }
	secret := filepath.Join(outer, "secret.raw")
	writeFile(t, secret, newRand(t), 1<<20, span{0, 1 << 20})
	os.Symlink(secret, at(".inside"))
	create := func(args ...string) { qemuImg(t, append([]string{"create", "-q", "-u", "-f", "qcow2"}, args...)...) }
	create("-b", secret, "-F", "raw", at("absolute.qcow2"), "1M")
	create("-b", "../secret.raw", "-F", "raw", at("relative.qcow2"), "1M")
	create("-b", ".inside", "-F", "raw", at("link.qcow2"), "1M")
	create("-b", "../images-not/x.raw", "-F", "raw", at("sibling.qcow2"), "1M")
	create("-b", "nbd:localhost:1", "-F", "raw", at("protocol.qcow2"), "1M")
	create("-b", `json:{"driver":"raw","file":{"driver":"file","filename":"`+secret+`"}}`, "-F", "raw", at("json.qcow2"), "1M")
	create("-b", "absolute.qcow2", "-F", "qcow2", at("deep.qcow2"), "1M")
	create("-b", ".inside", "-F", "raw", at("noformat.qcow2"), "1M")
	forgetBackingFormat(t, at("noformat.qcow2"))
	qemuImg(t, "create", "-q", "-f", "qcow2", "-o", "data_file="+filepath.Join(outer, "data"), at("datafile.qcow2"), "1M")
	const head = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n"
	put(t, at("flat.vmdk"), head+"RW 2048 FLAT \""+secret+"\" 0\n")
	put(t, at("lines.vmdk"), head+"RW\n2048\nFLAT\n\"../secret.raw\"\n0\n")
	put(t, at("nospace.vmdk"), head+"RW 2048 FLAT\"../secret.raw\" 0\n")
	put(t, at("readonly.vmdk"), head+"RDONLY 2048 VMFS \"../secret.raw\" 0\n")
	put(t, at("net.vmdk"), head+"RW 2048 FLAT \"nbd://localhost/x\" 0\n")
	// A sparse image without capacity, whose descriptor counts.
	embedded := make([]byte, 512)
	copy(embedded, "KDMV\x01\x00\x00\x00")
	embedded[28] = 1
	put(t, at("embedded.vmdk"), string(embedded)+head+"RW 2048 FLAT \"../secret.raw\" 0\n")

	s := images(t, dir)
	machines, err := s.Machines(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(machines) != 15 {
		t.Errorf("%d machines", len(machines))
	}
	for _, m := range machines {
		ok := strings.Contains(m.Problem, "outside the images directory") || strings.Contains(m.Problem, "is not the name of a file")
		switch m.ID {
		case "sibling":
			ok = strings.Contains(m.Problem, "no such file")
		case "nospace":
			ok = m.Problem != "" // nothing that QEMU reads: it ends by an assertion
		case "noformat":
			ok = strings.Contains(m.Problem, "outside") || strings.Contains(m.Problem, "what format")
		}
		if !ok {
			t.Errorf("machine %s: problem %q", m.ID, m.Problem)
		}
		if _, err := s.Snapshot(t.Context(), m.ID, SnapshotOptions{}); !errors.Is(err, ErrUnusable) && !errors.Is(err, ErrCorrupt) {
			t.Errorf("snapshot of %s: %v", m.ID, err)
		}
	}
}

// TestInside: what lies in the directory is followed, and read as the format
// that it is said to have.
func TestInside(t *testing.T) {
	dir, rnd := t.TempDir(), newRand(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	const size = 4 << 20
	base := at("base.raw")
	// The base is a guest's disk that begins like a qcow2 image.
	qemuImg(t, "create", "-q", "-f", "qcow2", at("decoy.qcow2"), "1M")
	writeFile(t, base, rnd, size, span{0, 1 << 20}, span{3 << 20, 1 << 20})
	decoy := readFile(t, at("decoy.qcow2"))
	f, err := os.OpenFile(base, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt(decoy, 0)
	f.Close()
	want := readFile(t, base)

	os.Mkdir(at("sub"), 0o700)
	qemuImg(t, "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", at("one.qcow2"))
	qemuImg(t, "create", "-q", "-f", "qcow2", "-b", "../one.qcow2", "-F", "qcow2", at("sub/two.qcow2"))
	// No format told: the extension says it, not the contents.
	qemuImg(t, "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", at("unsaid.qcow2"))
	forgetBackingFormat(t, at("unsaid.qcow2"))
	qemuImg(t, "create", "-q", "-f", "qed", "-b", "base.raw", "-F", "raw", at("old.qed"))
	patch := bytes.Repeat([]byte{0x5a}, 64<<10)
	tool(t, "qemu-utils", "qemu-io", "-f", "qcow2", "-c", "write -P 0x5a 2M 64k", "-c", "write -z 64k 64k", at("sub/two.qcow2"))

	s := images(t, dir)
	for _, id := range []string{"one", "unsaid", "old"} {
		same(t, id, content(t, snapshot(t, s, id).Disks()[0]), want)
	}
	top := snapshot(t, s, "sub").Disks()[0]
	wantTop := bytes.Clone(want)
	copy(wantTop[2<<20:], patch)
	clear(wantTop[64<<10 : 128<<10])
	same(t, "sub", content(t, top), wantTop)
	if got, sum := top.Info().Allocated, int64(0); true {
		for _, p := range []string{base, at("one.qcow2"), at("sub/two.qcow2")} {
			st, err := os.Stat(p)
			if err != nil {
				t.Fatal(err)
			}
			sum += allocated(st)
		}
		if got != sum {
			t.Errorf("allocated %d, want %d", got, sum)
		}
	}

	// External data files: the raw one is the image's, not a machine.
	qemuImg(t, "create", "-q", "-f", "qcow2", "-o", "data_file="+at("ext.raw")+",data_file_raw=on", at("ext.qcow2"), "4M")
	tool(t, "qemu-utils", "qemu-io", "-f", "qcow2", "-c", "write -P 0x5a 2M 64k", at("ext.qcow2"))
	m, err := s.Machines(t.Context())
	if i := slices.IndexFunc(m, func(m Machine) bool { return m.ID == "ext" }); err != nil || i < 0 || m[i].Problem != "" || m[i].Disks[0].Format != "qcow2" {
		t.Fatalf("machines %+v, %v", m, err)
	}
	wantExt := make([]byte, size)
	copy(wantExt[2<<20:], patch)
	same(t, "ext", content(t, snapshot(t, s, "ext").Disks()[0]), wantExt)
}

// TestCircle: images that back one another.
func TestCircle(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.qcow2"), filepath.Join(dir, "b.qcow2")
	qemuImg(t, "create", "-q", "-u", "-f", "qcow2", "-b", b, "-F", "qcow2", a, "1M")
	qemuImg(t, "create", "-q", "-u", "-f", "qcow2", "-b", a, "-F", "qcow2", b, "1M")
	_, err := images(t, dir).Snapshot(t.Context(), "a", SnapshotOptions{})
	if !errors.Is(err, ErrUnusable) || !strings.Contains(err.Error(), "in a circle") {
		t.Errorf("error %v", err)
	}
}

func TestEncrypted(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.qcow2")
	qemuImg(t, "create", "-q", "-f", "qcow2", path, "1M")
	b := readFile(t, path)
	b[35] = 1 // crypt_method: AES, for which there is no further header
	put(t, path, string(b))
	_, err := images(t, dir).Snapshot(t.Context(), "a", SnapshotOptions{})
	if !errors.Is(err, ErrUnusable) || !strings.Contains(err.Error(), "encrypted") {
		t.Errorf("error %v", err)
	}
}

func TestQcowByAnotherName(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.qcow")
	qemuImg(t, "create", "-q", "-f", "qcow2", path, "1M")
	if d := snapshot(t, images(t, dir), "a").Disks()[0].Info(); d.Format != "qcow2" || d.Size != 1<<20 {
		t.Errorf("disk %+v", d)
	}
}

// FuzzReferences: no header makes the parser fail otherwise than by an error.
func FuzzReferences(f *testing.F) {
	const head = "# Disk DescriptorFile\ncreateType=\"monolithicFlat\"\n"
	f.Add([]byte(head+"RW 2048 FLAT \"x.vmdk\" 99999999999\n"), "vmdk")
	f.Add([]byte(head+"RW 99999999999999999999 FLAT \"x.vmdk\"\n"), "vmdk")
	f.Add(append([]byte("KDMV\x01\x00\x00\x00"), make([]byte, 600)...), "vmdk")
	q := make([]byte, 200)
	copy(q, "QFI\xfb\x00\x00\x00\x03")
	q[79], q[23], q[103] = 4, 9, 104
	copy(q[104:], "DATA\x00\x00\x00\x05a.raw")
	f.Add(bytes.Clone(q), "qcow2")
	q[108] = 0xff
	f.Add(bytes.Clone(q), "qcow2")
	f.Fuzz(func(t *testing.T, data []byte, format string) {
		looksLike(data)
		refs, err := references(bytes.NewReader(data), int64(len(data)), format)
		for _, r := range refs {
			if err != nil || r.need < 0 {
				t.Errorf("%+v, %v", r, err)
			}
			resolve("/d/f", r.name)
		}
	})
}
