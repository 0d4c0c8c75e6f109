package volume

import (
	"encoding/binary"
	"hash/crc32"
	"strings"
	"testing"
)

// mbrDisk builds a disk whose sector 0 holds the given entries.
func mbrDisk(size int, entries ...mbrEntry) []byte {
	disk := make([]byte, size)
	putEntries(disk, 0, entries...)
	return disk
}

func putEntries(disk []byte, sector int, entries ...mbrEntry) {
	b := disk[sector*512:]
	b[510], b[511] = 0x55, 0xaa
	for i, e := range entries {
		p := b[mbrEntryOff+16*i:]
		p[0], p[4] = e.boot, e.kind
		binary.LittleEndian.PutUint32(p[8:], e.start)
		binary.LittleEndian.PutUint32(p[12:], e.sectors)
	}
}

func scanBytes(t testing.TB, disk []byte) Table {
	t.Helper()
	got, err := Scan(strings.NewReader(string(disk)), int64(len(disk)))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func problem(t Table, number int) string {
	if i := indexOf(t.Volumes, number); i >= 0 {
		return t.Volumes[i].Problem
	}
	return "no such partition"
}

func TestHostileMBR(t *testing.T) {
	ext := mbrEntry{kind: 5, start: 10, sectors: 100}
	for _, tc := range []struct {
		name    string
		build   func() []byte
		number  int // of the partition that has the problem
		problem string
		volumes int
	}{
		{"chain that points at itself", func() []byte {
			d := mbrDisk(1<<17, ext)
			putEntries(d, 10, mbrEntry{kind: 0x83, start: 1, sectors: 5}, mbrEntry{kind: 5, start: 0, sectors: 10})
			return d
		}, 1, "loops at sector 10", 2},
		{"chain of two that loops", func() []byte {
			d := mbrDisk(1<<17, ext)
			putEntries(d, 10, mbrEntry{kind: 0x83, start: 1, sectors: 5}, mbrEntry{kind: 5, start: 20, sectors: 10})
			putEntries(d, 30, mbrEntry{kind: 0x83, start: 1, sectors: 5}, mbrEntry{kind: 5, start: 0, sectors: 10})
			return d
		}, 1, "loops at sector 10", 3},
		{"chain that leaves its container", func() []byte {
			d := mbrDisk(1<<17, ext)
			putEntries(d, 10, mbrEntry{kind: 0x83, start: 1, sectors: 5}, mbrEntry{kind: 5, start: 4000000000, sectors: 10})
			return d
		}, 1, "leaves its container", 2},
		{"chain without a table", func() []byte { return mbrDisk(1<<17, ext) }, 1, "no partition table at sector 10", 1},
		{"container beyond the disk", func() []byte {
			return mbrDisk(1<<17, mbrEntry{kind: 5, start: 4000000000, sectors: 100})
		}, 1, "lies outside of the disk", 1},
		{"partition beyond the disk", func() []byte {
			return mbrDisk(1<<17, mbrEntry{kind: 0x83, start: 1, sectors: 0xffffffff})
		}, 1, "beyond the end of the disk", 1},
		{"two that overlap", func() []byte {
			return mbrDisk(1<<17, mbrEntry{kind: 0x83, start: 1, sectors: 50}, mbrEntry{kind: 0x83, start: 40, sectors: 50})
		}, 2, "overlaps partition 1", 2},
		{"logical that leaves its container", func() []byte {
			d := mbrDisk(1<<17, ext)
			putEntries(d, 10, mbrEntry{kind: 0x83, start: 1, sectors: 200})
			return d
		}, 5, "reaches beyond its extended partition 1", 2},
		{"third entry of a link is not believed", func() []byte {
			d := mbrDisk(1<<17, ext)
			putEntries(d, 10, mbrEntry{}, mbrEntry{}, mbrEntry{kind: 0x83, start: 1, sectors: 2000})
			return d
		}, 1, "", 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := scanBytes(t, tc.build())
			if len(got.Volumes) != tc.volumes {
				t.Errorf("%d volumes, want %d: %+v", len(got.Volumes), tc.volumes, got.Volumes)
			}
			if p := problem(got, tc.number); !strings.Contains(p, tc.problem) || (tc.problem == "" && p != "") {
				t.Errorf("problem of partition %d: %q, want %q", tc.number, p, tc.problem)
			}
		})
	}
}

// A chain may be as long as it likes: it ends.
func TestLongChain(t *testing.T) {
	const links = 1000
	disk := mbrDisk((2*links+10)*512, mbrEntry{kind: 5, start: 1, sectors: 2 * links})
	for i := range links {
		putEntries(disk, 1+2*i, mbrEntry{kind: 0x83, start: 1, sectors: 1}, mbrEntry{kind: 5, start: uint32(2 * (i + 1)), sectors: 2})
	}
	got := scanBytes(t, disk)
	if n := len(got.Volumes); n < 200 || n > maxPartitions+5 {
		t.Errorf("%d volumes", n)
	}
	if p := problem(got, 1); !strings.Contains(p, "the rest of the chain was not followed") {
		t.Errorf("problem %q", p)
	}
	for i := range links { // the same chain without a partition in it
		putEntries(disk, 1+2*i, mbrEntry{}, mbrEntry{kind: 5, start: uint32(2 * (i + 1)), sectors: 2})
	}
	if p := problem(scanBytes(t, disk), 1); !strings.Contains(p, "goes on for 100 links") {
		t.Errorf("problem %q", p)
	}
}

// gptDisk builds a disk with a valid primary GPT of raw entries.
func gptDisk(sectors int, entries []byte, count, size uint32) []byte {
	disk := mbrDisk(sectors*512, mbrEntry{kind: typeProtective, start: 1, sectors: uint32(sectors - 1)})
	copy(disk[1024:], entries)
	h := disk[512:1024]
	le := binary.LittleEndian
	copy(h, "EFI PART\x00\x00\x01\x00")
	le.PutUint32(h[12:], 92)
	le.PutUint64(h[24:], 1)
	le.PutUint64(h[32:], uint64(sectors-1))
	le.PutUint64(h[40:], 34)
	le.PutUint64(h[48:], uint64(sectors-34))
	le.PutUint64(h[72:], 2)
	le.PutUint32(h[80:], count)
	le.PutUint32(h[84:], size)
	if n := uint64(count) * uint64(size); n <= uint64(len(disk)-1024) {
		le.PutUint32(h[88:], crc32.ChecksumIEEE(disk[1024:1024+n]))
	}
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
	return disk
}

func gptEntry(first, last uint64) []byte {
	e := make([]byte, 128)
	e[0] = 1
	binary.LittleEndian.PutUint64(e[32:], first)
	binary.LittleEndian.PutUint64(e[40:], last)
	return e
}

func TestHostileGPT(t *testing.T) {
	for _, tc := range []struct {
		name, problem string
		entry         []byte
	}{
		{"last before first", "lies before its first", gptEntry(100, 50)},
		{"beyond the disk", "lies outside of the disk", gptEntry(1<<40, 1<<41)},
		{"overflow", "lies outside of the disk", gptEntry(1<<62, ^uint64(0))},
		{"everything", "beyond the end of the disk", gptEntry(0, ^uint64(0))},
		{"over the table", "outside of the GPT's usable sectors", gptEntry(0, 40)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := scanBytes(t, gptDisk(2048, tc.entry, 4, 128))
			if got.Scheme != GPT || len(got.Volumes) != 1 || !strings.Contains(got.Volumes[0].Problem, tc.problem) {
				t.Errorf("got %+v", got)
			}
		})
	}
	for _, tc := range []struct{ count, size uint32 }{
		{0xffffffff, 0xffffffff}, {0xffffffff, 128}, {4, 0}, {4, 127}, {0, 128}, {1, 0x80000000},
	} {
		if got := scanBytes(t, gptDisk(2048, nil, tc.count, tc.size)); got.Scheme != MBR || len(got.Warnings) != 1 {
			t.Errorf("%d entries of %d bytes: %+v", tc.count, tc.size, got)
		}
	}
}

// Thousands of partitions over each other cost no more than their number.
func TestManyPartitions(t *testing.T) {
	var entries []byte
	for range 8192 {
		entries = append(entries, gptEntry(34, 5000)...)
	}
	got := scanBytes(t, gptDisk(8192, entries, 8192, 128))
	if len(got.Volumes) != 8192 {
		t.Fatalf("%d volumes", len(got.Volumes))
	}
	for i, v := range got.Volumes {
		if !strings.Contains(v.Problem, "overlaps") || len(v.Problem) > 500 {
			t.Fatalf("partition %d: %q", v.Number, v.Problem)
		}
		if (i >= maxPartitions) != strings.Contains(v.Problem, "not looked into") {
			t.Fatalf("partition %d: %q", v.Number, v.Problem)
		}
	}
}
