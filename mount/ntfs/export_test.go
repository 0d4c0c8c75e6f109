package ntfs

// MFTPieces is in how many pieces the MFT is.
func (f *FS) MFTPieces() int { return len(f.mft.runs) }
