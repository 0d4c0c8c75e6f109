package ntfs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"

	"cairn/mount/filesys"
)

var le = binary.LittleEndian

// boot is what the boot sector ($Boot) tells of a volume's layout.
type boot struct {
	sectorSize  int64
	clusterBits uint   // log2 of the bytes in a cluster
	clusters    uint64 // on the volume; the backup boot sector lies behind them
	mft, mirror uint64 // first clusters of $MFT and of $MFTMirr
	recordBits  uint   // log2 of the bytes in an MFT record
	serial      uint64
}

func (b *boot) clusterSize() int64 { return 1 << b.clusterBits }

const (
	minSector, maxSector     = 256, 4096
	maxClusterBits           = 21 // 2 MiB, as large as Windows makes them
	minRecordBits            = 9
	maxRecordBits            = 12
	bootSize                 = 512
	maxVolumeBits            = 62 // offsets must stay far from overflow
	oemOffset, oemIdentifier = 3, "NTFS    "
)

// readBoot reads the boot sector or, if fields of it are damaged, its backup in
// the last sector of the volume. A volume without NTFS's name in the first
// sector is never searched for a backup: that outlives the file system when the
// volume is formatted anew.
func readBoot(r io.ReaderAt, size int64) (*boot, []string, error) {
	p := make([]byte, bootSize)
	if size < bootSize {
		return nil, nil, fmt.Errorf("a volume of %d bytes: %w", size, filesys.ErrWrongType)
	}
	if err := readFull(r, p, 0); err != nil {
		return nil, nil, err
	}
	if string(p[oemOffset:oemOffset+8]) != oemIdentifier {
		return nil, nil, fmt.Errorf("no NTFS boot sector: %w", filesys.ErrWrongType)
	}
	b, err := parseBoot(p, size)
	if err == nil {
		return b, nil, nil
	}
	backup := backupBoot(r, size)
	if backup == nil {
		return nil, nil, err
	}
	return backup, []string{fmt.Sprintf("The boot sector is damaged (%v); its backup at the end of the volume is used.", err)}, nil
}

// backupBoot looks for a sound copy in the last sector, for every size that a
// sector may have; nil without one.
func backupBoot(r io.ReaderAt, size int64) *boot {
	p := make([]byte, bootSize)
	for sector := int64(minSector * 2); sector <= maxSector; sector *= 2 {
		at := size/sector*sector - sector
		if at <= 0 || readFull(r, p, at) != nil || string(p[oemOffset:oemOffset+8]) != oemIdentifier {
			continue
		}
		if b, err := parseBoot(p, size); err == nil && b.sectorSize == sector {
			return b
		}
	}
	return nil
}

// parseBoot checks a boot sector. Counts of sectors and clusters per thing are
// powers of two; large ones stand as negative logarithms.
func parseBoot(p []byte, size int64) (*boot, error) {
	if !bytes.Equal(p[0x1FE:0x200], []byte{0x55, 0xAA}) {
		return nil, corrupt("boot sector: no signature at its end")
	}
	b := &boot{sectorSize: int64(le.Uint16(p[0x0B:])), mft: le.Uint64(p[0x30:]), mirror: le.Uint64(p[0x38:]), serial: le.Uint64(p[0x48:])}
	if b.sectorSize < minSector || b.sectorSize > maxSector || b.sectorSize&(b.sectorSize-1) != 0 {
		return nil, corrupt("boot sector: sectors of %d bytes", b.sectorSize)
	}
	sectorBits := uint(bits.TrailingZeros64(uint64(b.sectorSize)))
	perCluster := uint(p[0x0D])
	switch {
	case perCluster > 0x80: // 2^-n sectors
		b.clusterBits = sectorBits + 256 - perCluster
	case perCluster != 0 && perCluster&(perCluster-1) == 0:
		b.clusterBits = sectorBits + uint(bits.TrailingZeros(perCluster))
	}
	if b.clusterBits < sectorBits || b.clusterBits > maxClusterBits {
		return nil, corrupt("boot sector: %#x sectors in a cluster", perCluster)
	}
	n := int8(p[0x40])
	switch {
	case n < 0 && n > -32:
		b.recordBits = uint(-n)
	case n > 0 && n&(n-1) == 0:
		b.recordBits = b.clusterBits + uint(bits.TrailingZeros8(uint8(n)))
	}
	if b.recordBits < minRecordBits || b.recordBits > maxRecordBits {
		return nil, corrupt("boot sector: %d clusters in an MFT record", n)
	}
	sectors := le.Uint64(p[0x28:])
	if sectors>>(maxVolumeBits-sectorBits) != 0 || int64(sectors<<sectorBits) > size {
		return nil, corrupt("boot sector: %d sectors of %d bytes on a volume of %d bytes", sectors, b.sectorSize, size)
	}
	b.clusters = sectors << sectorBits >> b.clusterBits
	if b.mft >= b.clusters {
		return nil, corrupt("boot sector: MFT in cluster %d of %d", b.mft, b.clusters)
	}
	return b, nil
}
