package luks

import (
	"fmt"
	"io"
	"runtime"
	"sync"

	"cairn/mount/blockdev"
)

// device is the plain text of a volume.
type device struct {
	cipher  blockdev.Device // the cipher text
	sectors *sectors
	sector  int64
	iv      uint64 // of the first sector
	workers int
}

func newDevice(d blockdev.Device, v *volume, s *sectors) *device {
	return &device{
		cipher: blockdev.Section(d, v.Offset, v.Size), sectors: s,
		sector: int64(v.SectorSize), iv: v.ivOffset, workers: runtime.GOMAXPROCS(0),
	}
}

func (d *device) Size() int64 { return d.cipher.Size() }

// Place is the place of the cipher text.
func (d *device) Place(off int64) (blockdev.Place, int64, error) { return d.cipher.Place(off) }

// edges are buffers for reads that begin or end within a sector.
var edges = sync.Pool{New: func() any { return new([4096]byte) }}

// ReadAt reads and decrypts. What is aligned is decrypted where it is wanted.
func (d *device) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d: %w", off, blockdev.ErrRange)
	}
	if off >= d.Size() {
		return 0, io.EOF
	}
	var end error
	if int64(len(p)) > d.Size()-off {
		p, end = p[:d.Size()-off], io.EOF
	}
	done := 0
	for done < len(p) {
		at := off + int64(done)
		in := at % d.sector
		whole := int64(len(p)-done) / d.sector * d.sector
		if in == 0 && whole > 0 {
			if err := d.read(p[done:done+int(whole)], at); err != nil {
				return done, err
			}
			done += int(whole)
			continue
		}
		edge := edges.Get().(*[4096]byte)
		err := d.read(edge[:d.sector], at-in)
		if err == nil {
			done += copy(p[done:], edge[in:d.sector])
		}
		edges.Put(edge)
		if err != nil {
			return done, err
		}
	}
	return done, end
}

// share is the least that a goroutine of its own is worth, in bytes: about a
// tenth of a millisecond of AES.
const share = 64 << 10

// read reads and decrypts whole sectors.
func (d *device) read(p []byte, off int64) error {
	if n, err := d.cipher.ReadAt(p, off); n < len(p) {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read %d bytes of cipher text at %d: %w", len(p), off, err)
	}
	number := d.iv + uint64(off)/512
	workers := min(d.workers, len(p)/share)
	if workers < 2 {
		d.sectors.decrypt(p, number, int(d.sector))
		return nil
	}
	part := (int64(len(p))/int64(workers) + d.sector - 1) / d.sector * d.sector
	var wait sync.WaitGroup
	for int64(len(p)) > part {
		mine, first := p[:part], number
		wait.Go(func() { d.sectors.decrypt(mine, first, int(d.sector)) })
		p, number = p[part:], number+uint64(part)/512
	}
	d.sectors.decrypt(p, number, int(d.sector))
	wait.Wait()
	return nil
}
