package volume

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"cairn/mount/blockdev"
	"cairn/mount/filesys"
)

func detectFile(t *testing.T, path string) Content {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, _ := f.Stat()
	c, err := Detect(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const uuid = "01234567-89ab-cdef-0123-456789abcdef"

// What mkfs and mkswap make is recognised, on a disk that held other bytes
// before.
func TestDetectMade(t *testing.T) {
	for _, tc := range []struct {
		want      Content
		tool, pkg string
		size      int64
		args      []string
	}{
		{Content{Ext2, "two", uuid}, "mkfs.ext2", "e2fsprogs", 8 << 20, []string{"-q", "-F", "-L", "two", "-U", uuid}},
		{Content{Ext3, "three", uuid}, "mkfs.ext3", "e2fsprogs", 8 << 20, []string{"-q", "-F", "-L", "three", "-U", uuid}},
		{Content{Ext4, "vier", uuid}, "mkfs.ext4", "e2fsprogs", 8 << 20, []string{"-q", "-F", "-L", "vier", "-U", uuid}},
		{Content{Journal, "", uuid}, "mke2fs", "e2fsprogs", 8 << 20, []string{"-q", "-F", "-O", "journal_dev", "-b", "4096", "-U", uuid}},
		{Content{FAT12, "SMALL", "1234-ABCD"}, "mkfs.vfat", "dosfstools", 1 << 20, []string{"-F12", "-n", "SMALL", "-i", "1234abcd"}},
		{Content{FAT16, "MEDIUM", "1234-ABCD"}, "mkfs.vfat", "dosfstools", 32 << 20, []string{"-F16", "-n", "MEDIUM", "-i", "1234abcd"}},
		{Content{FAT32, "LARGE", "1234-ABCD"}, "mkfs.vfat", "dosfstools", 64 << 20, []string{"-F32", "-n", "LARGE", "-i", "1234abcd"}},
		{Content{FAT32, "", "1234-ABCD"}, "mkfs.vfat", "dosfstools", 64 << 20, []string{"-F32", "-i", "1234abcd"}},
		{Content{Swap, "swappy", uuid}, "mkswap", "util-linux", 8 << 20, []string{"-q", "-L", "swappy", "-U", uuid}},
	} {
		t.Run(fmt.Sprint(tc.want.Kind, tc.want.Label), func(t *testing.T) {
			path := sparse(t, tc.size)
			patch(t, path, 0, bytes.Repeat([]byte{0xa7}, 1<<17))
			run(t, "", need(t, tc.tool, tc.pkg), append(tc.args, path)...)
			if got := detectFile(t, path); got != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}

// at builds a volume with strings at offsets.
func at(size int, parts ...any) []byte {
	b := make([]byte, size)
	for i := 0; i < len(parts); i += 2 {
		copy(b[parts[i].(int):], parts[i+1].(string))
	}
	return b
}

func le32(v uint32) string { return string(binary.LittleEndian.AppendUint32(nil, v)) }

// Formats whose tools are not at hand, by the fields their documents name.
func TestDetectBuilt(t *testing.T) {
	id := "\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23\x45\x67\x89\xab\xcd\xef"
	md := func(version, level uint32, off int64) string {
		sb := make([]byte, 256)
		copy(sb, le32(0xa92b4efc)+le32(version))
		copy(sb[16:], id)
		copy(sb[32:], "host:0")
		copy(sb[72:], le32(level))
		copy(sb[144:], le32(uint32(off/512)))
		if version == 0 {
			copy(sb[28:], le32(level))
		}
		return string(sb)
	}
	const size = 4 << 20
	ext := string(at(1024, 56, "\x53\xef"))
	for _, tc := range []struct {
		name string
		want Content
		b    []byte
	}{
		{"xfs", Content{XFS, "data", uuid}, at(size, 0, "XFSB", 32, id, 108, "data\x00\x00")},
		{"btrfs", Content{Btrfs, "pool", uuid}, at(size, 65536+64, "_BHRfS_M", 65536+32, id, 65536+299, "pool")},
		{"ntfs", Content{NTFS, "", "0123456789ABCDEF"}, at(size, 3, "NTFS    ", 72, "\xef\xcd\xab\x89\x67\x45\x23\x01", 510, "\x55\xaa")},
		{"exfat", Content{ExFAT, "", "1234-ABCD"}, at(size, 3, "EXFAT   ", 100, "\xcd\xab\x34\x12", 510, "\x55\xaa")},
		{"bitlocker", Content{Kind: BitLocker}, at(size, 3, "-FVE-FS-", 510, "\x55\xaa")},
		{"luks1", Content{LUKS, "", uuid}, at(size, 0, "LUKS\xba\xbe\x00\x01", 168, uuid)},
		{"luks2", Content{LUKS, "secret", uuid}, at(size, 0, "LUKS\xba\xbe\x00\x02", 24, "secret", 168, uuid)},
		{"lvm", Content{LVM2, "", "abcdef-ghij-klmn-opqr-stuv-wxyz-123456"},
			at(size, 512, "LABELONE", 512+20, le32(32), 512+24, "LVM2 001", 512+32, "abcdefghijklmnopqrstuvwxyz123456")},
		{"lvm over ext4", Content{LVM2, "", "abcdef-ghij-klmn-opqr-stuv-wxyz-123456"},
			at(size, 1024, ext, 512, "LABELONE", 512+20, le32(32), 512+24, "LVM2 001", 512+32, "abcdefghijklmnopqrstuvwxyz123456")},
		{"squashfs", Content{Kind: SquashFS}, at(size, 0, "hsqs")},
		{"iso9660", Content{ISO9660, "CDROM", ""}, at(size, 32769, "CD001", 32768+40, "CDROM   ")},
		{"zfs", Content{Kind: ZFS}, at(size, 128<<10+5*1024, "\x0c\xb1\xba\x00")},
		{"md 1.1", Content{MDRaid, "host:0", uuid}, at(size, 0, md(1, 5, 0))},
		{"md 1.2", Content{MDRaid, "host:0", uuid}, at(size, 4096, md(1, 1, 4096))},
		{"md 1.0", Content{MDRaid, "host:0", uuid}, at(size, size-8192, md(1, 5, size-8192), 1024, ext)},
		{"md 1.0 mirror of ext", Content{MDRaid, "host:0", uuid}, at(size, size-8192, md(1, 1, size-8192), 1024, ext)},
		{"md 1.0 of a partition that ends here", Content{Kind: Ext2}, at(size, size-8192, md(1, 1, size-16384), 1024, ext)},
		{"md 1.0 mirror of lvm", Content{MDRaid, "host:0", uuid},
			at(size, size-8192, md(1, 1, size-8192), 512, "LABELONE", 512+20, le32(32), 512+24, "LVM2 001", 512+32, "abcdefghijklmnopqrstuvwxyz123456")},
		{"md 0.90", Content{Kind: MDRaid}, at(size, size-65536, md(0, 5, 0))},
		{"md 0.90 mirror of ext", Content{Kind: MDRaid}, at(size, size-65536, md(0, 1, 0), 1024, ext)},
		{"swap with 64K pages", Content{Swap, "", uuid}, at(size, 65526, "SWAPSPACE2", 1036, id)},
		{"hibernated", Content{Kind: Swap}, at(size, 4086, "S1SUSPEND\x00")},
		{"hostile label", Content{XFS, "\uFFFD[31mred", uuid}, at(size, 0, "XFSB", 32, id, 108, "\x1b[31mred")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Detect(bytes.NewReader(tc.b), size)
			if err != nil || got != tc.want {
				t.Errorf("got %+v, %v; want %+v", got, err, tc.want)
			}
			if kinds[got.Kind].title == "" {
				t.Errorf("%s has no title", got.Kind)
			}
		})
	}
}

func TestOpenFSNamesWhatItCannotRead(t *testing.T) {
	for _, tc := range []struct {
		b    []byte
		want error
		text string
	}{
		{at(1<<20, 1024, "\x10\x20\xf5\xf2"), filesys.ErrUnsupported, "f2fs is recognised but cannot be read"},
		{at(1<<20, 3, "-FVE-FS-"), filesys.ErrUnsupported, "a bitlocker encrypted volume is recognised but cannot be read"},
		{at(1<<20, 4086, "SWAPSPACE2"), filesys.ErrWrongType, "the volume holds swap space"},
		{at(1 << 20), filesys.ErrWrongType, "the volume holds only zeros"},
		{at(1<<20, 77, "x"), filesys.ErrWrongType, "the volume holds nothing recognisable"},
	} {
		d := blockdev.Disk(0, bytes.NewReader(tc.b), int64(len(tc.b)))
		c, err := Detect(d, d.Size())
		if err != nil {
			t.Fatal(err)
		}
		_, err = OpenFS([]blockdev.Device{d}, c.Kind, filesys.Options{})
		if !errors.Is(err, tc.want) || err.Error() != tc.text {
			t.Errorf("got %v, want %q", err, tc.text)
		}
	}
}

// badReader fails in one range, as an image with a lost block does.
type badReader struct {
	io.ReaderAt
	from, to int64
}

var errLost = errors.New("block 0123abcd does not match its digest")

func (b badReader) ReadAt(p []byte, off int64) (int, error) {
	if off < b.to && off+int64(len(p)) > b.from {
		return 0, errLost
	}
	return b.ReaderAt.ReadAt(p, off)
}

// A lost block costs the volume it belongs to, not the others.
func TestLostBlocks(t *testing.T) {
	path := sparse(t, 32<<20)
	run(t, "label: gpt\nsize=8M\nsize=8M\n", need(t, "sfdisk", "fdisk"), "-q", path)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := Scan(badReader{f, 9 << 20, 9<<20 + 65536}, 32<<20)
	if err != nil || len(got.Volumes) != 2 {
		t.Fatalf("got %+v, %v", got, err)
	}
	if v := got.Volumes[0]; v.Problem != "" {
		t.Errorf("partition 1: %q", v.Problem)
	}
	if v := got.Volumes[1]; v.Readable() || !strings.Contains(v.Problem, errLost.Error()) {
		t.Errorf("partition 2: %q", v.Problem)
	}
	if _, err := Scan(badReader{f, 0, 512}, 32<<20); !errors.Is(err, errLost) {
		t.Errorf("lost first sector: %v", err)
	}
	// The end of a volume is lost: its file system can be read.
	b := at(1<<20, 1024+56, "\x53\xef")
	got, err = Scan(badReader{bytes.NewReader(b), 1<<20 - 4096, 1 << 20}, 1<<20)
	if err != nil || !got.Volumes[0].Readable() || got.Volumes[0].Content.Kind != Ext2 || !strings.Contains(got.Volumes[0].Problem, errLost.Error()) {
		t.Errorf("lost end: %+v, %v", got, err)
	}
	if got, err = Scan(badReader{bytes.NewReader(make([]byte, 1<<20)), 1<<20 - 4096, 1 << 20}, 1<<20); err != nil || got.Volumes[0].Readable() {
		t.Errorf("lost end of what is not known: %+v, %v", got, err)
	}
	// The tail of the disk is lost: the primary GPT is enough.
	if got, err = Scan(badReader{f, 32<<20 - 65536, 32 << 20}, 32<<20); err != nil || got.Scheme != GPT || len(got.Warnings) != 1 {
		t.Errorf("lost tail: %+v, %v", got, err)
	}
}
