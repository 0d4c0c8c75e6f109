package volume

import (
	"bytes"
	"cairn/mount/filesys"
	"testing"
	"unicode/utf8"
)

// FuzzScan feeds whole disks to Scan. What must hold for any of them: no panic,
// an end, at least one volume, printable text, sections within the disk.
func FuzzScan(f *testing.F) {
	ext := mbrDisk(16<<10, mbrEntry{boot: 0x80, kind: 0x83, start: 1, sectors: 4}, mbrEntry{kind: 0x0f, start: 8, sectors: 20})
	putEntries(ext, 8, mbrEntry{kind: 0x83, start: 1, sectors: 2}, mbrEntry{kind: 5, start: 4, sectors: 4})
	putEntries(ext, 12, mbrEntry{kind: 0x82, start: 1, sectors: 2}, mbrEntry{kind: 5, start: 0, sectors: 4})
	f.Add(ext)
	f.Add(gptDisk(80, append(gptEntry(34, 40), gptEntry(38, 60)...), 4, 128))
	f.Add(gptDisk(80, gptEntry(1, ^uint64(0)), 8, 256))
	f.Add(at(4096, 1024+56, "\x53\xef"))
	f.Add(at(8192, 4096, le32(0xa92b4efc)+le32(1)))
	f.Add(at(4096, 3, "NTFS    ", 510, "\x55\xaa"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, disk []byte) {
		size := int64(len(disk))
		got, err := Scan(bytes.NewReader(disk), size)
		if err != nil {
			t.Fatalf("a readable disk gave %v", err)
		}
		if len(got.Volumes) == 0 {
			t.Fatal("no volume")
		}
		seen := map[int]bool{}
		for _, v := range got.Volumes {
			if seen[v.Number] {
				t.Fatalf("two volumes with number %d", v.Number)
			}
			seen[v.Number] = true
			if sec, n := v.Section(bytes.NewReader(disk), size); n < 0 || n > size || sec.Size() != n {
				t.Fatalf("section of %+v has %d bytes", v, n)
			}
			if !utf8.ValidString(v.Label + v.Content.Label + v.Content.UUID + v.Problem) {
				t.Fatalf("text that cannot be printed: %+v", v)
			}
		}
		layout := Assemble([]Disk{{"vda", bytes.NewReader(disk), size}}, Options{Secrets: []Secret{{Bytes: []byte("secret")}}})
		for _, e := range layout.Entries {
			if e.CanRead() {
				_, _ = e.Open(filesys.Options{})
			}
		}
	})
}
