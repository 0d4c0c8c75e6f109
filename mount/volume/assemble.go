package volume

func (a *assembly) decrypt(int) {}
func (a *assembly) raid()       {}
func (a *assembly) lvm()        {}
func (a *assembly) btrfs()      {}
