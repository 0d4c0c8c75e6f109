package ntfs_test

import (
	"fmt"
	"os"
	"testing"
)

// TestFragmentedMFT: on a volume that is full but for single clusters, the MFT
// grows in many pieces, and needs an attribute list of its own.
func TestFragmentedMFT(t *testing.T) {
	image := mkntfs(t, 10<<20, "-c", "1024", "-z", "1")
	dir, unmount := mount(t, image, "")
	const n = 5000
	must(t, os.Mkdir(dir+"/d", 0o755))
	must(t, os.Mkdir(dir+"/e", 0o755))
	made := 0
	for i := range n {
		if os.WriteFile(fmt.Sprintf("%s/d/%d", dir, i), noise[i:][:1024], 0o644) != nil {
			break
		}
		made++
	}
	rest, err := os.Create(dir + "/rest")
	must(t, err)
	for err == nil {
		_, err = rest.Write(noise[:1024])
	}
	must(t, rest.Close())
	// Now every second cluster of theirs becomes free, and then the MFT's.
	var kept []int
	for i := range made {
		if i%2 == 0 {
			must(t, os.Truncate(fmt.Sprintf("%s/d/%d", dir, i), 0))
		} else {
			kept = append(kept, i)
		}
	}
	files := 0
	for i := range n {
		if os.WriteFile(fmt.Sprintf("%s/e/%d", dir, i), nil, 0o644) != nil {
			break
		}
		files++
	}
	unmount()
	fs := openImage(t, image)
	t.Logf("%d files, %d kept, %d more, MFT in %d pieces", made, len(kept), files, fs.MFTPieces())
	if fs.MFTPieces() < 100 {
		t.Errorf("the MFT is in %d pieces", fs.MFTPieces())
	}
	compare(t, image)
}
