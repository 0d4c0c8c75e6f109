package agent

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"cairn/blockstore/diskmap"
	"cairn/client"
	"cairn/client/source"
	cairnv1 "cairn/proto/cairn/v1"
)

// stateDisk makes a state file something to be scanned like a disk. It is read
// in full every time, and counts as no disk's data.
type stateDisk struct {
	source.StateFile
	*bytes.Reader
}

func newStateDisk(f source.StateFile) stateDisk { return stateDisk{f, bytes.NewReader(f.Data)} }

func (d stateDisk) Info() source.Disk {
	return source.Disk{Target: d.Name, Path: d.Path, Format: "raw", Size: int64(len(d.Data))}
}
func (stateDisk) Incremental() bool { return false }
func (stateDisk) Distrust()         {}
func (stateDisk) Close() error      { return nil }

func (d stateDisk) Extents(_ context.Context, fn func(source.Extent) error) error {
	if len(d.Data) == 0 {
		return nil
	}
	return fn(source.Extent{Length: int64(len(d.Data))})
}

func diskKind(k source.StateKind) cairnv1.DiskKind {
	if k == source.StateTPM {
		return cairnv1.DiskKind_DISK_KIND_TPM_STATE
	}
	return cairnv1.DiskKind_DISK_KIND_NVRAM
}

// maxStateFile bounds what a point can make us hold; the largest known is the
// firmware's flash of 64 MiB.
const maxStateFile = 128 << 20

// readStateFiles reads a point's state files.
func readStateFiles(ctx context.Context, r diskmap.BlockReader, files []*cairnv1.RecoveryPointDisk) ([]source.StateFile, error) {
	var out []source.StateFile
	for _, d := range files {
		m, err := client.Map(d)
		if err != nil {
			return nil, err
		}
		if m.Size > maxStateFile {
			return nil, fmt.Errorf("state file %s has %d bytes: more than %d are not restored", d.GetTarget(), m.Size, maxStateFile)
		}
		f := source.StateFile{Name: d.GetTarget(), Kind: source.StateNVRAM, Path: d.GetPath(), Data: make([]byte, m.Size)}
		if d.GetKind() == cairnv1.DiskKind_DISK_KIND_TPM_STATE {
			f.Kind = source.StateTPM
		}
		im := diskmap.NewImage(r, m, diskmap.ImageOptions{})
		if n, err := im.ReadAtContext(ctx, f.Data, 0); n < len(f.Data) && err != nil && err != io.EOF {
			return nil, fmt.Errorf("read state file %s: %w", d.GetTarget(), err)
		}
		out = append(out, f)
	}
	return out, nil
}
