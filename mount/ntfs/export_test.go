package ntfs

// MFTPieces is in how many pieces the MFT is.
func (f *FS) MFTPieces() int { return len(f.mft.runs) }

// SecurityID is the number of an inode's descriptor in $Secure.
func (f *FS) SecurityID(ino uint64) uint32 {
	in, err := f.inode(ino)
	if err != nil || len(in.std) < 56 {
		return 0
	}
	return le.Uint32(in.std[52:])
}
