//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"cairn/client/source/guesttest"
)

// A machine with 33 disks is backed up in one moment. Besides files, its guest
// writes a rising number to one disk after the other, past its file systems, so
// that no freeze keeps it from that: in one moment, no disk is ahead of those
// before it, nor more than one behind.
func TestLive33Disks(t *testing.T) {
	l := newLive(t)
	const size, fsSize = 16 << 20, 15 << 20
	dir := guesttest.Dir(t)
	blank := dir + "/blank.raw"
	l.fillRandom(blank, size, 33)
	l.tool("mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", "-J", "size=4", blank, fmt.Sprint(fsSize>>10)+"k")
	var drives []guesttest.Drive
	for n := range 33 {
		d := guesttest.Drive{Path: fmt.Sprintf("%s/%d.qcow2", dir, n), Format: "qcow2", Bus: guesttest.VirtioSCSI}
		if n == 0 {
			d.Bus = guesttest.VirtioBlk
		}
		l.tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", blank, d.Path)
		drives = append(drives, d)
	}
	m := l.domain(guesttest.Spec{Name: "33", Drives: drives, Write: "all", Pause: 3 * time.Second})
	var targets, devices []string
	for _, d := range m.drives {
		found := regexp.MustCompile(`cairn-guest: disk ` + d.Serial + ` is (\w+)\n`).FindStringSubmatch(m.Log())
		if found == nil {
			t.Fatalf("the guest has no disk %s", d.Serial)
		}
		targets, devices = append(targets, d.Target), append(devices, found[1])
	}
	// A sector behind the file system, written to the disk itself.
	m.Must(fmt.Sprintf(`cat >/run/count <<'END'
n=0
while :; do
	n=$((n + 1))
	printf '%%511d\n' $n >/run/number
	for d in %s; do
		dd if=/run/number of=/dev/$d bs=512 seek=%d count=1 conv=notrunc,fsync || exit
	done
done
END
sh /run/count >/dev/null 2>/run/count.log &`, strings.Join(devices, " "), fsSize/512))
	// libvirt makes 33 scratch files while the guest is frozen; on a busy machine
	// that takes about as long as the limit is otherwise.
	l.startAgent("--freeze-limit", "40s")
	l.protect(m.name)
	pulse := l.pulse(m)
	was := 0
	for n := range 2 {
		before := map[string]int{}
		for _, d := range targets {
			before[d] = m.Synced(d)
		}
		j := l.backUp(m.name)
		restored := l.restored(j.RecoveryPoint)
		numbers := make([]int, len(targets))
		for i, d := range targets {
			raw := filepath.Join(restored, d+".raw")
			numbers[i] = l.numberAt(raw, fsSize)
			l.checkImage(raw, before[d], m.Synced(d)+1)
		}
		l.must(os.RemoveAll(restored))
		first, last := numbers[0], numbers[len(numbers)-1]
		for i := 1; i < len(numbers); i++ {
			if numbers[i] > numbers[i-1] {
				t.Errorf("disk %s has number %d, and disk %s, which is written before it, has %d", targets[i], numbers[i], targets[i-1], numbers[i-1])
			}
		}
		if first-last > 1 || last <= was {
			t.Errorf("the first disk has number %d and the last %d; the point before had %d", first, last, was)
		}
		was = last
		l.consistent(j.RecoveryPoint, m.class)
		if len(j.Warnings) > 0 {
			t.Errorf("%v warns: %+v", j, j.Warnings)
		}
		if n > 0 {
			l.incremental(j)
		}
		l.nothingLeft(m, 1)
		proved(t, "backup %d of 33 disks is of one moment (%d on the first, %d on the last), frozen %s, read %d KiB for %d KiB tracked; every file system whole",
			n+1, first, last, j.Stats.Frozen, j.Stats.ReadBytes>>10, j.Stats.TrackedBytes>>10)
	}
	l.unharmed(m, pulse, "vda", targets[len(targets)-1])
	if out := m.Must("cat /run/count.log | grep -v records | grep -v copied | head"); out != "" {
		t.Errorf("the guest cannot write its numbers: %s", out)
	}
}

// numberAt reads the number in a sector of an image.
func (l *live) numberAt(image string, offset int64) int {
	l.Helper()
	f, err := os.Open(image)
	l.must(err)
	defer f.Close()
	b := make([]byte, 512)
	_, err = f.ReadAt(b, offset)
	l.must(err)
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		l.Errorf("%s has no number: %v", image, err)
	}
	return n
}
