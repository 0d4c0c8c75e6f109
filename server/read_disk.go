package server

import (
	"context"
	"fmt"

	"google.golang.org/grpc"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
	pb "cairn/proto/cairn/v1"
)

// maxDiskMessage bounds the data of one message of ReadDisk.
const maxDiskMessage = 1 << 20

var zeroBytes [maxDiskMessage]byte

// piece is consecutive blocks with data, about a message full of them.
type piece struct {
	first   uint64
	digests []block.Digest
}

// diskBytes is consecutive bytes of a disk, in parts: blocks as they were read,
// clipped. The codec makes a ReadDiskResponse of it without putting the parts
// together first. They must not be changed.
type diskBytes struct {
	offset int64
	parts  [][]byte
}

// ReadDisk streams bytes of a disk.
func (s *recoveryPointService) ReadDisk(r *pb.ReadDiskRequest, stream grpc.ServerStreamingServer[pb.ReadDiskResponse]) error {
	var f fields
	d, err := s.openDisk(&f, r.Name, r.Disk, r.Offset, r.Length)
	if err != nil {
		return err
	}
	defer d.release()
	next := d.from
	send := func(b diskBytes) error {
		next = b.offset
		for _, p := range b.parts {
			next += int64(len(p))
		}
		return stream.SendMsg(&b)
	}
	zerosTo := func(end int64) error {
		for !r.SkipZeros && next < end {
			if err := send(diskBytes{next, [][]byte{zeroBytes[:min(end-next, maxDiskMessage)]}}); err != nil {
				return err
			}
		}
		return nil
	}
	err = ordered(stream.Context(), readAhead, func(yield func(piece) error) error {
		return d.pieces(stream.Context(), yield)
	}, d.read, func(b diskBytes) error {
		if err := zerosTo(b.offset); err != nil {
			return err
		}
		for len(b.parts[0]) > maxDiskMessage { // then it is the only one
			if err := send(diskBytes{b.offset, [][]byte{b.parts[0][:maxDiskMessage]}}); err != nil {
				return err
			}
			b = diskBytes{next, [][]byte{b.parts[0][maxDiskMessage:]}}
		}
		return send(b)
	})
	if err != nil {
		return lostBlock(d.name, err)
	}
	return zerosTo(d.to)
}

// pieces walks the map and yields what has data.
func (d *diskRange) pieces(ctx context.Context, yield func(piece) error) error {
	from, to := d.blocks()
	most := max(1, maxDiskMessage/d.m.BlockSize)
	var p piece
	err := diskmap.Walk(ctx, d.r, d.m, from, to, func(i uint64, digest block.Digest) error {
		if n := len(p.digests); n > 0 && (n == most || p.first+uint64(n) != i) {
			if err := yield(p); err != nil {
				return err
			}
			p = piece{}
		}
		if len(p.digests) == 0 {
			p = piece{first: i, digests: make([]block.Digest, 0, most)}
		}
		p.digests = append(p.digests, digest)
		return nil
	})
	if err != nil || len(p.digests) == 0 {
		return err
	}
	return yield(p)
}

// read fetches a piece.
func (d *diskRange) read(ctx context.Context, p piece) (diskBytes, error) {
	blocks, err := d.r.ReadBlocks(ctx, p.digests)
	if err != nil {
		return diskBytes{}, err
	}
	from, to := d.clip(p.first, uint64(len(blocks)))
	for i, b := range blocks {
		if len(b) != d.m.BlockSize {
			return diskBytes{}, fmt.Errorf("disk block %d (%s): %w: %d bytes, must be %d",
				p.first+uint64(i), p.digests[i], block.ErrFormat, len(b), d.m.BlockSize)
		}
		start := (int64(p.first) + int64(i)) * int64(len(b))
		blocks[i] = b[max(0, from-start):min(int64(len(b)), to-start)]
	}
	return diskBytes{from, blocks}, nil
}
