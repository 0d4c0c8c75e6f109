package agent

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"cairn/blockstore/block"
)

// spoolMemory is how much of a spool stays in memory: changes to 26,000 blocks.
const spoolMemory = 1 << 20

// A spool record is 8 bytes of block index and a digest, or, with the index's
// top bit set, a run of zeros: its length in the first 8 bytes of the digest.
const (
	recordSize = 8 + len(block.Digest{})
	zeroRun    = 1 << 63
)

// spool holds the entries of one disk's map, in ascending order, until the
// blocks they name are durable.
type spool struct {
	mem  bytes.Buffer
	file *os.File // unlinked; nil while everything fits in mem
	w    *bufio.Writer
}

func (s *spool) set(index uint64, d block.Digest) error {
	var rec [recordSize]byte
	binary.LittleEndian.PutUint64(rec[:], index)
	copy(rec[8:], d[:])
	return s.append(rec[:])
}

func (s *spool) setZero(index, count uint64) error {
	var rec [recordSize]byte
	binary.LittleEndian.PutUint64(rec[:], index|zeroRun)
	binary.LittleEndian.PutUint64(rec[8:], count)
	return s.append(rec[:])
}

func (s *spool) append(rec []byte) error {
	if s.file == nil {
		if s.mem.Len()+len(rec) <= spoolMemory {
			s.mem.Write(rec)
			return nil
		}
		f, err := os.CreateTemp("", "cairn-map-*")
		if err != nil {
			return fmt.Errorf("spool disk map: %w", err)
		}
		s.file = f
		if err := os.Remove(f.Name()); err != nil {
			return fmt.Errorf("spool disk map: %w", err)
		}
		s.w = bufio.NewWriterSize(f, 256<<10)
		if _, err := s.w.Write(s.mem.Bytes()); err != nil {
			return fmt.Errorf("spool disk map: %w", err)
		}
		s.mem = bytes.Buffer{}
	}
	if _, err := s.w.Write(rec); err != nil {
		return fmt.Errorf("spool disk map: %w", err)
	}
	return nil
}

// replay gives everything back in order.
func (s *spool) replay(set func(index uint64, d block.Digest) error, setZero func(index, count uint64) error) error {
	var r io.Reader = bytes.NewReader(s.mem.Bytes())
	if s.file != nil {
		if err := s.w.Flush(); err != nil {
			return fmt.Errorf("spool disk map: %w", err)
		}
		if _, err := s.file.Seek(0, io.SeekStart); err != nil {
			return fmt.Errorf("spool disk map: %w", err)
		}
		r = bufio.NewReaderSize(s.file, 256<<10)
	}
	var rec [recordSize]byte
	for {
		if _, err := io.ReadFull(r, rec[:]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read back spooled disk map: %w", err)
		}
		index := binary.LittleEndian.Uint64(rec[:])
		var err error
		if index&zeroRun != 0 {
			err = setZero(index&^zeroRun, binary.LittleEndian.Uint64(rec[8:]))
		} else {
			err = set(index, block.Digest(rec[8:]))
		}
		if err != nil {
			return err
		}
	}
}

func (s *spool) close() {
	if s.file != nil {
		s.file.Close()
	}
}
