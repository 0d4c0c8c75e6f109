package btrfs

import "cairn/mount/filesys"

// openLog refuses a file system with a log tree, unless told to ignore it.
func (v *volume) openLog(o filesys.Options) error {
	if v.super.logRoot.bytenr == 0 {
		return nil
	}
	if !o.IgnoreLog {
		return unsupported("the log is dirty: files that were synced after the last commit would be missing or old; --ignore-log opens the last commit")
	}
	v.warnings = append(v.warnings, "The log was not replayed: what was synced after the last commit is missing or old.")
	return nil
}
