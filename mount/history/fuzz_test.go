package history

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
	"cairn/mount/filesys"
	"cairn/mount/tree"
)

// fuzzImages makes two states of a small volume, without a mount.
func fuzzImages(f *testing.F) (a, b []byte) {
	dir := f.TempDir()
	src := filepath.Join(dir, "src")
	for i := range 30 {
		d := filepath.Join(src, fmt.Sprint(i%5))
		must(f, os.MkdirAll(d, 0o755))
		must(f, os.WriteFile(filepath.Join(d, fmt.Sprint("f", i)), bytes.Repeat([]byte{byte(i)}, 100*i), 0o644))
	}
	must(f, os.Symlink("0/f0", filepath.Join(src, "link")))
	image := mke2fs(f, 1<<20, "-t", "ext4", "-b", "1024", "-N", "64", "-O", "^has_journal,inline_data", "-d", src)
	a, err := os.ReadFile(image)
	must(f, err)
	b = bytes.Clone(a)
	return a, b
}

// memoryPoint is a point of one disk that stays in memory.
func memoryPoint(t testing.TB, v *vault, id string, disk []byte) *Point {
	b, err := diskmap.NewBuilder(int64(len(disk)), block.DefaultSize, nil, nil, v)
	must(t, err)
	for i := 0; i*block.DefaultSize < len(disk); i++ {
		must(t, b.Set(ctx, uint64(i), v.put(disk[i*block.DefaultSize:(i+1)*block.DefaultSize])))
	}
	m, err := b.Finish(ctx)
	must(t, err)
	p := &Point{ID: id, Blocks: v, Disks: []Disk{{"vda", m}}}
	p.Tree = tree.NewPoint(tree.Point{ID: id, Disks: []tree.Disk{{Name: "vda", Size: m.Size, Image: diskmap.NewImage(v, m, diskmap.ImageOptions{})}}}, tree.Options{})
	return p
}

// FuzzDiff damages one of two states of a volume and asks everything there is to
// ask. Nothing may panic or go on for ever, whatever the volume says.
func FuzzDiff(f *testing.F) {
	a, b := fuzzImages(f)
	for off := 1024; off < 64<<10; off += 97 {
		f.Add([]byte{byte(off), byte(off >> 8), byte(off >> 16), 0x01})
	}
	f.Fuzz(func(t *testing.T, patches []byte) {
		x := bytes.Clone(b)
		for ; len(patches) >= 4; patches = patches[4:] {
			x[(int(patches[0])|int(patches[1])<<8|int(patches[2])<<16)%len(x)] ^= patches[3]
		}
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		v := newVault(t)
		good, bad := memoryPoint(t, v, "p0", a), memoryPoint(t, v, "p1", x)
		it := Item{Refs: []Ref{{ID: "p0"}, {ID: "p1"}, {ID: "p2"}}, Open: func(_ context.Context, i int) (*Point, error) {
			return []*Point{good, bad, good}[i], nil
		}}
		for _, walk := range []bool{false, true} {
			o := Options{Walk: walk}
			_ = Diff(ctx, good, bad, "", o, func(Change) error { return nil })
			_ = Diff(ctx, bad, good, "", o, func(Change) error { return nil })
			_ = Find(ctx, it, Query{Type: filesys.TypeRegular}, o, func(h Hit) error {
				if h.Points < 1 || h.Points > 3 {
					t.Errorf("%+v", h)
				}
				return nil
			})
		}
		for _, p := range []string{"/1/f6", "/link", "/2"} {
			_ = Versions(ctx, it, p, VersionOptions{SHA256: true}, func(Version) error { return nil })
		}
		if ctx.Err() != nil {
			t.Error("it takes too long")
		}
	})
}

// FuzzPattern: whatever the pattern, it matches or is refused.
func FuzzPattern(f *testing.F) {
	for _, s := range []string{"a*", "[!a-z]?", `\[x`, "[]-x]", "[z-a]", "é[한]"} {
		f.Add(s, "abc", true)
	}
	f.Fuzz(func(_ *testing.T, pattern, s string, fold bool) {
		if p, err := NewPattern(pattern, fold); err == nil {
			p.Match(s)
		}
	})
}
