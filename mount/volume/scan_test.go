package volume

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// need fails the test when a tool is missing: a test that skips tests nothing.
func need(t testing.TB, tool, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(tool)
	if err != nil {
		path = "/usr/sbin/" + tool
		if _, err := os.Stat(path); err != nil {
			t.Fatalf("this test needs %s: install the package %s", tool, pkg)
		}
	}
	return path
}

func run(t testing.TB, stdin string, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func sparse(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return path
}

func scanFile(t testing.TB, path string) Table {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	table, err := Scan(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// sfdiskJSON is what sfdisk itself reads back from a disk: the reference.
type sfdiskJSON struct {
	Table struct {
		Label      string
		ID         string
		SectorSize int
		Partitions []struct {
			Node       string
			Start      int64
			Size       int64
			Type       string
			UUID, Name string
		}
	} `json:"partitiontable"`
}

func sfdiskList(t testing.TB, path string) sfdiskJSON {
	t.Helper()
	out := run(t, "", need(t, "sfdisk", "fdisk"), "--json", path)
	var j sfdiskJSON
	if err := json.Unmarshal([]byte(out), &j); err != nil {
		t.Fatalf("sfdisk --json: %v\n%s", err, out)
	}
	return j
}

// checkAgainst compares a scan with what sfdisk lists.
func checkAgainst(t *testing.T, got Table, want sfdiskJSON, path string) {
	t.Helper()
	ss := int64(want.Table.SectorSize)
	if ss == 0 {
		ss = 512
	}
	if got.SectorSize != int(ss) {
		t.Errorf("sector size %d, sfdisk says %d", got.SectorSize, ss)
	}
	id := strings.TrimPrefix(strings.ToLower(want.Table.ID), "0x")
	if got.UUID != id {
		t.Errorf("disk id %q, sfdisk says %q", got.UUID, id)
	}
	if len(got.Volumes) != len(want.Table.Partitions) {
		t.Fatalf("%d volumes, sfdisk lists %d: %+v", len(got.Volumes), len(want.Table.Partitions), got.Volumes)
	}
	for i, w := range want.Table.Partitions {
		v := got.Volumes[i]
		if node := fmt.Sprintf("%s%d", path, v.Number); node != w.Node {
			t.Errorf("volume %d is %s, sfdisk says %s", i, node, w.Node)
		}
		if v.Start != w.Start*ss || v.Length != w.Size*ss {
			t.Errorf("%s: %d+%d, sfdisk says %d+%d", w.Node, v.Start, v.Length, w.Start*ss, w.Size*ss)
		}
		code := strings.ToLower(w.Type)
		if got.Scheme == MBR {
			code = fmt.Sprintf("0x%02s", code)
		}
		if v.TypeCode != code {
			t.Errorf("%s: type %s, sfdisk says %s", w.Node, v.TypeCode, code)
		}
		if got.Scheme == GPT && (v.UUID != strings.ToLower(w.UUID) || v.Label != w.Name) {
			t.Errorf("%s: %q %q, sfdisk says %q %q", w.Node, v.UUID, v.Label, w.UUID, w.Name)
		}
		if v.Problem != "" {
			t.Errorf("%s: unexpected problem: %s", w.Node, v.Problem)
		}
	}
}

func TestMBRWithLogicalPartitions(t *testing.T) {
	sfdisk := need(t, "sfdisk", "fdisk")
	for _, ext := range []string{"5", "f", "85"} {
		t.Run("extended type "+ext, func(t *testing.T) {
			path := sparse(t, 64<<20)
			run(t, fmt.Sprintf(`label: dos
label-id: 0xdeadbeef
size=8M, type=83, bootable
size=4M, type=82
type=%s
size=2M, type=83
size=3M, type=7
size=4M, type=8e
type=c
`, ext), sfdisk, "-q", path)
			got := scanFile(t, path)
			if got.Scheme != MBR {
				t.Fatalf("scheme %s", got.Scheme)
			}
			checkAgainst(t, got, sfdiskList(t, path), path)
			names := map[int]string{1: "Linux", 2: "Linux swap or Solaris", 5: "Linux", 6: "NTFS or exFAT", 7: "Linux LVM", 8: "FAT32 (LBA)"}
			for _, v := range got.Volumes {
				if want := names[v.Number]; want != "" && v.TypeName != want {
					t.Errorf("partition %d: type name %q, want %q", v.Number, v.TypeName, want)
				}
				if (v.LogicalIn == 3) != (v.Number >= 5) {
					t.Errorf("partition %d: logical in %d", v.Number, v.LogicalIn)
				}
				if v.Number == 3 && v.Content.Kind != Extended {
					t.Errorf("partition 3 holds %s", v.Content.Kind)
				}
				if want := fmt.Sprintf("deadbeef-%02x", v.Number); v.UUID != want {
					t.Errorf("partition %d: uuid %s, want %s", v.Number, v.UUID, want)
				}
			}
			if len(got.Warnings) != 0 {
				t.Errorf("warnings: %q", got.Warnings)
			}
		})
	}
}

// makeTable writes a partition table in sectors of ss bytes. Only fdisk can do
// that to a file: sfdisk believes the file to have 512-byte sectors.
func makeTable(t testing.TB, path string, ss int, script string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "I\n"+file+"\nw\n", need(t, "fdisk", "fdisk"), "-w", "never", "-b", fmt.Sprint(ss), path)
}

func TestGPT(t *testing.T) {
	for _, ss := range []int{512, 4096} {
		t.Run(fmt.Sprint(ss), func(t *testing.T) {
			path := sparse(t, 64<<20)
			var want sfdiskJSON
			want.Table.SectorSize = ss
			want.Table.ID = "7A7A7A7A-0001-0002-0003-0123456789AB"
			script := fmt.Sprintf("label: gpt\nlabel-id: %s\n", want.Table.ID)
			for i, p := range []struct{ typ, name string }{
				{"C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "EFI ✓"},
				{"0657FD6D-A4AB-43C4-84E5-0933C84B4F4F", ""},
				{"0FC63DAF-8483-4772-8E79-3D69D8477DE4", "root & more"},
			} {
				start, size := int64(4096+i*2048), int64(1024+i)
				id := fmt.Sprintf("9B9B9B9B-0001-0002-0003-00000000000%d", i)
				script += fmt.Sprintf("%s%d : start=%d, size=%d, type=%s, uuid=%s, name=%q\n", path, i+1, start, size, p.typ, id, p.name)
				want.Table.Partitions = append(want.Table.Partitions, struct {
					Node       string
					Start      int64
					Size       int64
					Type       string
					UUID, Name string
				}{fmt.Sprintf("%s%d", path, i+1), start, size, p.typ, id, p.name})
			}
			makeTable(t, path, ss, script)
			got := scanFile(t, path)
			if got.Scheme != GPT || len(got.Warnings) != 0 {
				t.Fatalf("scheme %s, warnings %q", got.Scheme, got.Warnings)
			}
			checkAgainst(t, got, want, path)
			if n := got.Volumes[0].TypeName; n != "EFI system" {
				t.Errorf("type name %q", n)
			}
			if k := got.Volumes[0].Content.Kind; k != Empty {
				t.Errorf("empty partition holds %s", k)
			}
		})
	}
}

func TestGPTKeepsNumbers(t *testing.T) {
	path := sparse(t, 16<<20)
	run(t, "", need(t, "sgdisk", "gdisk"), "-n", "2:0:+1M", "-n", "7:0:+2M", "-t", "7:8e00", path)
	got := scanFile(t, path)
	if len(got.Volumes) != 2 || got.Volumes[0].Number != 2 || got.Volumes[1].Number != 7 {
		t.Fatalf("volumes %+v", got.Volumes)
	}
	if got.Volumes[1].TypeName != "Linux LVM" {
		t.Errorf("type name %q", got.Volumes[1].TypeName)
	}
}

// patch overwrites bytes of an image; a negative offset counts from the end.
func patch(t testing.TB, path string, off int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if off < 0 {
		st, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		off += st.Size()
	}
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

func TestDamagedGPT(t *testing.T) {
	for _, ss := range []int{512, 4096} {
		for _, tc := range []struct {
			name string
			off  int64
			want string
		}{
			{"primary header", int64(ss), "the primary GPT is damaged, the backup at the end of the disk was used: no header at sector 1"},
			{"primary header field", int64(ss) + 72, "the primary GPT is damaged, the backup at the end of the disk was used: header at sector 1: wrong checksum"},
			{"primary entries", int64(ss)*2 + 100, "the primary GPT is damaged, the backup at the end of the disk was used: entries of the header at sector 1: wrong checksum"},
			{"backup header", -int64(ss), "the backup GPT is damaged"},
		} {
			t.Run(fmt.Sprint(ss, " ", tc.name), func(t *testing.T) {
				path := sparse(t, 32<<20)
				makeTable(t, path, ss, "label: gpt\nsize=4M, name=one\nsize=8M, name=two\n")
				want := scanFile(t, path)
				patch(t, path, tc.off, []byte("XXXXXXXX"))
				got := scanFile(t, path)
				if len(got.Warnings) != 1 || !strings.HasPrefix(got.Warnings[0], tc.want) {
					t.Errorf("warnings %q, want one that begins with %q", got.Warnings, tc.want)
				}
				got.Warnings = nil
				if fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("got  %+v\nwant %+v", got, want)
				}
			})
		}
	}
}

func TestGPTLostTwice(t *testing.T) {
	path := sparse(t, 16<<20)
	run(t, "label: gpt\nsize=4M\n", need(t, "sfdisk", "fdisk"), "-q", path)
	patch(t, path, 512, make([]byte, 8))
	patch(t, path, -512, make([]byte, 8))
	got := scanFile(t, path)
	if got.Scheme != MBR || len(got.Volumes) != 1 || got.Volumes[0].TypeName != "GPT protective" {
		t.Fatalf("got %+v", got)
	}
	if len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], "neither the primary nor the backup GPT is valid") {
		t.Errorf("warnings %q", got.Warnings)
	}
}

func TestGPTWithoutProtectiveMBR(t *testing.T) {
	path := sparse(t, 16<<20)
	run(t, "label: gpt\nsize=4M\n", need(t, "sfdisk", "fdisk"), "-q", path)
	patch(t, path, 0, make([]byte, 512))
	got := scanFile(t, path)
	if got.Scheme != GPT || len(got.Volumes) != 1 || len(got.Warnings) != 1 {
		t.Fatalf("got %+v", got)
	}
}

func TestHybridMBR(t *testing.T) {
	sgdisk := need(t, "sgdisk", "gdisk")
	path := sparse(t, 32<<20)
	run(t, "", sgdisk, "-n", "1:0:+4M", "-n", "2:0:+4M", "-n", "3:0:+4M", path)
	run(t, "", sgdisk, "-h", "1:3", path)
	got := scanFile(t, path)
	if got.Scheme != GPT || len(got.Volumes) != 3 {
		t.Fatalf("got %+v", got)
	}
	if len(got.Warnings) != 1 || !strings.HasPrefix(got.Warnings[0], "hybrid MBR: it repeats 2 of the partitions") {
		t.Errorf("warnings %q", got.Warnings)
	}
}

// A truncated or enlarged image: the table stays readable, what is cut off is
// named.
func TestTruncatedDisk(t *testing.T) {
	path := sparse(t, 64<<20)
	run(t, "label: gpt\nsize=8M\nsize=24M\nsize=16M\n", need(t, "sfdisk", "fdisk"), "-q", path)
	if err := os.Truncate(path, 20<<20); err != nil {
		t.Fatal(err)
	}
	got := scanFile(t, path)
	if len(got.Volumes) != 3 {
		t.Fatalf("got %+v", got)
	}
	v := got.Volumes
	if v[0].Problem != "" || !v[0].Readable() {
		t.Errorf("partition 1: %q", v[0].Problem)
	}
	if !strings.Contains(v[1].Problem, "beyond the end of the disk") || !v[1].Readable() {
		t.Errorf("partition 2: %q", v[1].Problem)
	}
	if !strings.Contains(v[2].Problem, "lies outside of the disk") || v[2].Readable() {
		t.Errorf("partition 3: %q", v[2].Problem)
	}
	f, _ := os.Open(path)
	defer f.Close()
	if _, n := v[1].Section(f, 20<<20); n != 20<<20-v[1].Start {
		t.Errorf("section of the clipped partition has %d bytes", n)
	}
	if err := os.Truncate(path, 100<<20); err != nil {
		t.Fatal(err)
	}
	if got := scanFile(t, path); got.Scheme != GPT || len(got.Warnings) != 1 {
		t.Errorf("enlarged disk: %+v", got)
	}
}

func TestBareDisks(t *testing.T) {
	path := sparse(t, 8<<20)
	got := scanFile(t, path)
	if got.Scheme != Bare || len(got.Volumes) != 1 || got.Volumes[0].Content.Kind != Empty || got.Volumes[0].Length != 8<<20 {
		t.Errorf("empty disk: %+v", got)
	}
	patch(t, path, 5000, []byte("something"))
	if got := scanFile(t, path); got.Volumes[0].Content.Kind != Unknown {
		t.Errorf("disk with something: %+v", got)
	}
	run(t, "", need(t, "mkfs.ext4", "e2fsprogs"), "-q", "-F", "-L", "bare", path)
	got = scanFile(t, path)
	if got.Scheme != Bare || got.Volumes[0].Content.Kind != Ext4 || got.Volumes[0].Content.Label != "bare" {
		t.Errorf("ext4 on the bare disk: %+v", got)
	}
	run(t, "", need(t, "mkfs.vfat", "dosfstools"), "-I", "--mbr=n", "-n", "FLOPPY", path)
	got = scanFile(t, path)
	if got.Scheme != Bare || got.Volumes[0].Content.Kind != FAT12 || got.Volumes[0].Content.Label != "FLOPPY" {
		t.Errorf("FAT on the bare disk: %+v", got)
	}
	for _, size := range []int64{0, 1, 511, 512, 1023} {
		tiny := sparse(t, size)
		if got := scanFile(t, tiny); len(got.Volumes) != 1 || got.Volumes[0].Length != size {
			t.Errorf("disk of %d bytes: %+v", size, got)
		}
	}
}

func TestTablesWithoutPartitions(t *testing.T) {
	sfdisk := need(t, "sfdisk", "fdisk")
	path := sparse(t, 8<<20)
	run(t, "label: gpt\n", sfdisk, "-q", path)
	got := scanFile(t, path)
	if got.Scheme != GPT || len(got.Volumes) != 1 || got.Volumes[0].Content.Kind != Unpartitioned {
		t.Errorf("GPT: %+v", got)
	}
	path = sparse(t, 8<<20)
	run(t, "label: dos\n", sfdisk, "-q", path)
	got = scanFile(t, path)
	if got.Scheme != Bare || len(got.Volumes) != 1 || got.Volumes[0].Content.Kind != Unknown {
		t.Errorf("MBR: %+v", got)
	}
}

// An MBR that counts in 4096-byte sectors looks like any other; the contents
// give it away.
func TestMBRWithLargeSectors(t *testing.T) {
	path := sparse(t, 64<<20)
	makeTable(t, path, 4096, "label: dos\nstart=256, size=4096, type=83\nstart=4352, size=8000, type=5\nstart=4608, size=2048, type=83\n")
	run(t, "", need(t, "mkfs.ext4", "e2fsprogs"), "-q", "-F", "-E", "offset=1048576", path, "16M")
	got := scanFile(t, path)
	if got.SectorSize != 4096 || len(got.Volumes) != 3 || got.Volumes[0].Content.Kind != Ext4 {
		t.Fatalf("got %+v", got)
	}
	for i, want := range [][3]int64{{1, 256, 4096}, {2, 4352, 8000}, {5, 4608, 2048}} {
		v := got.Volumes[i]
		if int64(v.Number) != want[0] || v.Start != want[1]*4096 || v.Length != want[2]*4096 {
			t.Errorf("partition %d: %d+%d, want %v", v.Number, v.Start, v.Length, want)
		}
	}
}
