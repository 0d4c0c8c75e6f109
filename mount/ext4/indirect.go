package ext4

// directBlocks is how many blocks an inode of the old kind names by itself;
// three more pointers name an indirect, a double and a triple indirect block.
const directBlocks = 12

// mapIndirect maps blocks as ext2 and ext3 do: i_block is a row of 32-bit block
// numbers, of which the last three are the roots of trees of depth 1, 2 and 3.
// A zero at any level is a hole as large as what it would have mapped.
func (f *FS) mapIndirect(in *inode, lblk uint64) (run, error) {
	perBits := f.sb.blockBits - 2 // log2 of pointers per block
	if lblk < directBlocks {
		return f.pointerRun(in.iblock()[4*lblk:4*directBlocks], 0)
	}
	rel := lblk - directBlocks
	for level := uint(1); level <= 3; level++ {
		span := uint64(1) << (level * perBits) // blocks mapped by this tree
		if rel >= span {
			rel -= span
			continue
		}
		ptr := uint64(le.Uint32(in.iblock()[4*(directBlocks+level-1):]))
		for ; level > 0; level-- {
			if ptr == 0 {
				return run{n: span - rel}, nil
			}
			if !f.sb.validBlock(ptr) {
				return run{}, corrupt("indirect block %d", ptr)
			}
			b, err := f.block(ptr)
			if err != nil {
				return run{}, err
			}
			span = 1 << ((level - 1) * perBits) // blocks mapped by one pointer
			rest := b[4*(rel/span):]
			rel %= span
			if level == 1 {
				return f.pointerRun(rest, 0)
			}
			if ptr = uint64(le.Uint32(rest)); ptr == 0 {
				hole, err := f.pointerRun(rest, (level-1)*perBits)
				return run{n: hole.n - rel}, err
			}
		}
	}
	return run{n: forever}, nil // beyond what three levels can map
}

// pointerRun is the run that a row of block numbers begins with, each of which
// maps 2^shift blocks; with a shift only holes may be asked for.
func (f *FS) pointerRun(p []byte, shift uint) (run, error) {
	first := uint64(le.Uint32(p))
	n := uint64(1)
	for p = p[4:]; len(p) > 0; p = p[4:] {
		next := uint64(le.Uint32(p))
		if first == 0 && next != 0 || first != 0 && next != first+n {
			break
		}
		n++
	}
	if first != 0 && !f.sb.validBlock(first) {
		return run{}, corrupt("data block %d", first)
	}
	if first != 0 {
		n = min(n, f.sb.blocks-first)
	}
	return run{first, n << shift}, nil
}
