package ext4_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

// encryptDir makes an empty directory one whose names and contents are
// encrypted with a fixed key.
func encryptDir(t *testing.T, mount, dir string) {
	t.Helper()
	fd, err := unix.Open(mount, unix.O_RDONLY, 0)
	must(t, err)
	defer unix.Close(fd)
	arg := struct {
		unix.FscryptAddKeyArg
		key [64]byte
	}{}
	arg.Key_spec.Type = unix.FSCRYPT_KEY_SPEC_TYPE_IDENTIFIER
	arg.Raw_size = uint32(copy(arg.key[:], noise))
	ioctl := func(fd int, request uintptr, p unsafe.Pointer) {
		t.Helper()
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(p)); errno != 0 {
			t.Fatalf("this test needs a kernel with CONFIG_FS_ENCRYPTION: %v", errno)
		}
	}
	ioctl(fd, unix.FS_IOC_ADD_ENCRYPTION_KEY, unsafe.Pointer(&arg))

	policy := unix.FscryptPolicyV2{
		Version: 2, Contents_encryption_mode: unix.FSCRYPT_MODE_AES_256_XTS,
		Filenames_encryption_mode: unix.FSCRYPT_MODE_AES_256_CTS, Flags: unix.FSCRYPT_POLICY_FLAGS_PAD_32,
		Master_key_identifier: [16]byte(arg.Key_spec.U[:16]),
	}
	must(t, os.Mkdir(dir, 0o755))
	dd, err := unix.Open(dir, unix.O_RDONLY, 0)
	must(t, err)
	defer unix.Close(dd)
	ioctl(dd, unix.FS_IOC_SET_ENCRYPTION_POLICY, unsafe.Pointer(&policy))
}

// TestEncryption: without the key, names are those that the kernel shows
// without it, and contents are refused by name.
func TestEncryption(t *testing.T) {
	for _, args := range []string{"-t ext4 -b 4096 -O encrypt", "-t ext4 -b 4096 -O encrypt,inline_data"} {
		image := mke2fs(t, 24<<20, strings.Fields(args)...)
		dir, unmount := fstest.Mount(t, image, "ext4", false, "")
		encryptDir(t, dir, filepath.Join(dir, "secret"))
		must(t, os.MkdirAll(filepath.Join(dir, "secret/sub/large"), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, "secret/sub/file"), noise[:5000], 0o644))
		for i := range 800 {
			name := fmt.Sprintf("secret/sub/large/%d%s", i, strings.Repeat("n", i%250))
			must(t, os.Link(filepath.Join(dir, "secret/sub/file"), filepath.Join(dir, name)))
		}
		must(t, os.Symlink("target", filepath.Join(dir, "secret/link")))
		unmount()

		fs := openImage(t, image)
		kernel, _ := fstest.Mount(t, image, "ext4", true, "")
		var check func(path string, ino uint64) int
		check = func(path string, ino uint64) int {
			want := map[string]bool{}
			names, err := os.ReadDir(filepath.Join(kernel, path))
			must(t, err)
			for _, e := range names {
				want[e.Name()] = true
			}
			n := 0
			must(t, fs.ReadDir(ino, 0, func(e filesys.DirEntry) bool {
				if !want[e.Name] {
					t.Errorf("%s: %q is not what the kernel shows", path, e.Name)
					return n < 10
				}
				n++
				if found, err := fs.Lookup(ino, e.Name); err != nil || found != e.Ino {
					t.Errorf("lookup of %q: %d, %v, want %d", e.Name, found, err, e.Ino)
				}
				if e.Type == filesys.TypeDir {
					n += check(path+"/"+e.Name, e.Ino)
				}
				return true
			}))
			return n
		}
		if n := check("secret", walk(t, fs, "secret")); n != 804 {
			t.Errorf("%d names", n)
		}
		for _, name := range []string{"file", "bm8gc3VjaCBuYW1lIGFzIHRoaXM", "%"} {
			if _, err := fs.Lookup(walk(t, fs, "secret"), name); !errors.Is(err, filesys.ErrNotExist) {
				t.Errorf("lookup of %q: %v", name, err)
			}
		}
		var walkAll func(ino uint64)
		walkAll = func(ino uint64) {
			must(t, fs.ReadDir(ino, 0, func(e filesys.DirEntry) bool {
				var err error
				switch e.Type {
				case filesys.TypeRegular:
					_, err = fs.Open(e.Ino)
				case filesys.TypeSymlink:
					_, err = fs.Readlink(e.Ino)
				default:
					walkAll(e.Ino)
					return true
				}
				if !errors.Is(err, filesys.ErrUnsupported) || !strings.Contains(err.Error(), "encryption") {
					t.Errorf("content of %q: %v", e.Name, err)
				}
				return true
			}))
		}
		walkAll(walk(t, fs, "secret"))
	}
}

// TestCasefold: in a directory that ignores case names are still found by their
// exact bytes, though the reader does not know the order of its hashes.
func TestCasefold(t *testing.T) {
	files := t.TempDir()
	must(t, os.Mkdir(filepath.Join(files, "folded"), 0o755))
	for i := range 500 {
		must(t, os.WriteFile(filepath.Join(files, "folded", fmt.Sprintf("File %d", i)), nil, 0o644))
	}
	image := mke2fs(t, 16<<20, "-t", "ext4", "-b", "1024", "-O", "casefold", "-E", "nodiscard,encoding=utf8", "-d", files)
	debugfs(t, image, "set_inode_field folded flags 0x40080000\n")
	fstest.Run(t, "sh", "-c", "e2fsck -fyD "+image+" >/dev/null; test $? -le 1")
	fs := openImage(t, image)
	d := walk(t, fs, "folded")
	n := 0
	must(t, fs.ReadDir(d, 0, func(e filesys.DirEntry) bool { n++; return true }))
	if n != 500 {
		t.Errorf("%d names", n)
	}
	for i := range 500 {
		if _, err := fs.Lookup(d, fmt.Sprintf("File %d", i)); err != nil {
			t.Error(err)
		}
	}
	if _, err := fs.Lookup(d, "file 1"); !errors.Is(err, filesys.ErrNotExist) {
		t.Errorf("another case: %v", err)
	}
}
