package mdraid_test

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"cairn/mount/blockdev"
	"cairn/mount/filesys"
	"cairn/mount/mdraid"
	"cairn/mount/raid/raidtest"
)

var fixtures = []string{"md-levels", "md-older", "md-states"}

// exercise assembles what there is and reads all of it a little.
func exercise(t testing.TB, f *raidtest.Fixture) (devices int) {
	t.Helper()
	var members []*mdraid.Member
	for _, d := range f.Disks {
		m, err := mdraid.Read(d.Device())
		if err == nil {
			members = append(members, m)
		} else if !errors.Is(err, filesys.ErrCorrupt) && !errors.Is(err, filesys.ErrWrongType) && !errors.Is(err, filesys.ErrUnsupported) {
			t.Fatalf("an error of no known kind: %v", err)
		}
	}
	for _, a := range mdraid.Assemble(members) {
		if (a.Device == nil) != (a.Reason != "") {
			t.Fatalf("%s: device %v, reason %q", a.UUID, a.Device, a.Reason)
		}
		if a.Device != nil {
			devices++
			raidtest.Exercise(t, f, a.Device)
		}
	}
	return devices
}

// repair makes the checksums of superblocks right.
func repair(f *raidtest.Fixture) {
	for _, d := range f.Disks {
		end := int64(len(d.Data))
		for _, off := range []int64{0, 4096, end - 8192} {
			sumV1(d.Data[off:])
		}
		v0 := d.Data[end-65536:]
		if le := binary.LittleEndian; le.Uint32(v0) == 0xa92b4efc && le.Uint32(v0[4:]) == 0 {
			le.PutUint32(v0[38*4:], 0)
			le.PutUint32(v0[38*4:], sum(v0[:4096]))
		}
	}
}

// sumV1 sets the checksum of a superblock of version 1.
func sumV1(b []byte) {
	le := binary.LittleEndian
	if le.Uint32(b) != 0xa92b4efc || le.Uint32(b[4:]) != 1 || le.Uint32(b[220:]) > 1920 {
		return
	}
	le.PutUint32(b[216:], 0)
	le.PutUint32(b[216:], sum(b[:256+2*le.Uint32(b[220:])]))
}

func sum(b []byte) uint32 {
	var sum uint64
	for ; len(b) >= 4; b = b[4:] {
		sum += uint64(binary.LittleEndian.Uint32(b))
	}
	if len(b) == 2 {
		sum += uint64(binary.LittleEndian.Uint16(b))
	}
	return uint32(sum>>32) + uint32(sum)
}

// TestDamage is the fuzzer's quick and blind sister.
func TestDamage(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for _, name := range fixtures {
		f := raidtest.Load(t, name)
		blocks := f.Metadata()
		if n := exercise(t, f); n < 6 {
			t.Errorf("%s: %d arrays", name, n)
		}
		for range 300 {
			// Superblocks are at the start of their blocks.
			patches := make([]byte, 5*(1+random.IntN(8)))
			for i := range patches {
				patches[i] = byte(random.Uint32() >> random.IntN(8))
				if i%5 == 3 {
					patches[i] &= 1
				}
			}
			undo := f.Damage(blocks, patches)
			if random.IntN(4) > 0 {
				repair(f)
			}
			exercise(t, f)
			undo()
		}
	}
}

// FuzzRead damages the metadata of the fixtures, with checksums made right again.
func FuzzRead(f *testing.F) {
	var loaded []*raidtest.Fixture
	var blocks [][]blockdev.Place
	for i, name := range fixtures {
		loaded = append(loaded, raidtest.Load(f, name))
		blocks = append(blocks, loaded[i].Metadata())
		f.Add(uint8(i), true, []byte{0, 0, 0, 0, 0})
		f.Add(uint8(i), false, []byte("0123456789abcde"))
	}
	f.Fuzz(func(t *testing.T, which uint8, sums bool, patches []byte) {
		i := int(which) % len(loaded)
		defer loaded[i].Damage(blocks[i], patches)()
		if sums {
			repair(loaded[i])
		}
		exercise(t, loaded[i])
	})
}
