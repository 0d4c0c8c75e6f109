package lvm2_test

import (
	"testing"

	"cairn/mount/raid/raidtest"
)

// BenchmarkRead reads volumes from disks in memory, 128 KiB at a time.
func BenchmarkRead(b *testing.B) {
	for _, v := range []struct{ fixture, name string }{
		{"lvm-raid", "vg/linear"}, {"lvm-raid", "vg/stripe3"}, {"lvm-raid", "vg/raid1"}, {"lvm-raid", "vg/raid6_nc"},
		{"lvm-deep", "vg/deep"}, {"lvm-snap", "vg/snap"}, {"lvm-cache", "vg/back"},
	} {
		b.Run(v.name[3:], func(b *testing.B) {
			f := raidtest.Load(b, v.fixture)
			d := find(b, assemble(b, f.Disks), v.name).Device
			buf := make([]byte, 128<<10)
			b.SetBytes(int64(len(buf)))
			off := int64(0)
			for b.Loop() {
				if off+int64(len(buf)) > d.Size() {
					off = 0
				}
				if _, err := d.ReadAt(buf, off); err != nil {
					b.Fatal(err)
				}
				off += int64(len(buf))
			}
		})
	}
}

// BenchmarkAssemble finds all volumes of six disks.
func BenchmarkAssemble(b *testing.B) {
	f := raidtest.Load(b, "lvm-raid")
	for b.Loop() {
		assemble(b, f.Disks)
	}
}
