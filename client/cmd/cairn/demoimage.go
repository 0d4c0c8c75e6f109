package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"cairn/mount/blockdev"
	"cairn/mount/filesys"
	"cairn/mount/volume"
)

// demoImage is the machine of the demo.
type demoImage struct {
	path    string
	offset  int64  // of the volume that holds the victim
	victim  string // path in its file system
	inTree  string // path in a mounted point
	content []byte
}

// Bounds of what makes a good file to delete.
const (
	victimMin = 64 << 10
	victimMax = 32 << 20
)

// makeImage makes the machine web1: from the user's image, or from files of
// this machine.
func (d *demo) makeImage(ctx context.Context) (*demoImage, error) {
	path := filepath.Join(d.box.Images, "web1.raw")
	if err := needTools("e2fsprogs", "debugfs", "mkfs.ext4"); err != nil {
		return nil, err
	}
	if d.image != "" {
		d.step("Copy %s, so that the original stays as it is", d.image)
		if err := d.copyImage(ctx, path); err != nil {
			return nil, err
		}
	} else {
		d.step("Make a disk image of a machine, from files of this one")
		if err := d.buildImage(ctx, path); err != nil {
			return nil, err
		}
	}
	return findVictim(path)
}

// needTools checks for programs of one Debian package.
func needTools(pkg string, tools ...string) error {
	// Debian keeps them out of an ordinary user's PATH.
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin"); err != nil {
		return err
	}
	for _, t := range tools {
		if _, err := exec.LookPath(t); err != nil {
			return hintf(fmt.Errorf("%s is not installed", t), "apt-get install %s", pkg)
		}
	}
	return nil
}

// copyImage makes a raw copy of the user's image.
func (d *demo) copyImage(ctx context.Context, to string) error {
	st, err := os.Stat(d.image)
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("--image %s is not a file", d.image)
	}
	switch strings.ToLower(filepath.Ext(d.image)) {
	case ".raw", ".img", "":
		return d.tool(ctx, "cp", "--sparse=always", "--reflink=auto", d.image, to)
	}
	if err := needTools("qemu-utils", "qemu-img"); err != nil {
		return err
	}
	return d.tool(ctx, "qemu-img", "convert", "-O", "raw", d.image, to)
}

// buildImage makes a disk with one partition, and on it an ext4 file system
// with files of this machine.
func (d *demo) buildImage(ctx context.Context, path string) error {
	const partStart = 1 << 20
	stage := filepath.Join(d.box.Dir, "stage")
	want := d.megabytes * 1_000_000
	got, files, err := gather(ctx, stage, want)
	if err != nil {
		return err
	}
	// Room for the files, what the file system needs itself, and some to spare.
	partSize := (got*5/4 + int64(files)*4096 + 64<<20) &^ (1<<20 - 1)
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	err = errors.Join(f.Truncate(partStart+partSize), writeMBR(f, partStart/512, partSize/512), f.Close())
	if err != nil {
		return fmt.Errorf("make %s: %w", path, err)
	}
	if err := d.tool(ctx, "mkfs.ext4", "-q", "-d", stage, "-E", fmt.Sprintf("offset=%d", int64(partStart)), path, fmt.Sprint(partSize/1024)+"k"); err != nil {
		return err
	}
	fmt.Fprintf(d.out, "  %s: %d files, %s, on one partition of a %s disk\n", filepath.Base(path), files, size(got), size(partStart+partSize))
	return os.RemoveAll(stage)
}

// writeMBR writes a partition table with one Linux partition; start and length
// are in sectors of 512 bytes. (The layout: UEFI specification 2.10, 5.2.1.)
func writeMBR(w io.WriterAt, start, length int64) error {
	sector := make([]byte, 512)
	entry := sector[446:]
	copy(entry[1:], []byte{0xfe, 0xff, 0xff}) // cylinder, head, sector: out of range, use the LBA
	entry[4] = 0x83
	copy(entry[5:], []byte{0xfe, 0xff, 0xff})
	binary.LittleEndian.PutUint32(entry[8:], uint32(start))
	binary.LittleEndian.PutUint32(entry[12:], uint32(length))
	sector[510], sector[511] = 0x55, 0xaa
	_, err := w.WriteAt(sector, 0)
	return err
}

// gather copies files of this machine to stage until there are want bytes.
func gather(ctx context.Context, stage string, want int64) (got int64, files int, err error) {
	full := errors.New("enough")
	for _, root := range []string{"/usr/bin", "/usr/lib", "/usr/share", "/usr/local", "/etc"} {
		err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
			if err != nil || ctx.Err() != nil {
				return ctx.Err() // what we may not read is left out
			}
			to := filepath.Join(stage, p)
			switch {
			case e.IsDir():
				return os.MkdirAll(to, 0o755)
			case e.Type() == fs.ModeSymlink:
				if target, err := os.Readlink(p); err == nil {
					return os.Symlink(target, to)
				}
			case e.Type().IsRegular():
				n, err := copyIfReadable(p, to)
				if err != nil {
					return err
				}
				if n >= 0 {
					files++
				}
				if got += max(n, 0); got >= want {
					return full
				}
			}
			return nil
		})
		if errors.Is(err, full) {
			return got, files, nil
		}
		if err != nil {
			return 0, 0, fmt.Errorf("gather files of this machine: %w", err)
		}
	}
	return got, files, nil
}

// copyIfReadable copies a file, and returns -1 for one that cannot be read.
func copyIfReadable(from, to string) (int64, error) {
	in, err := os.Open(from)
	if err != nil {
		return -1, nil
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil || st.Size() > victimMax {
		return -1, nil // one huge file would be all there is
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, st.Mode().Perm()|0o200)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(out, in)
	return n, errors.Join(err, out.Close())
}

// findVictim looks for a file to delete: the largest of the first thousands of
// a fitting size, on the first volume that has one.
func findVictim(path string) (*demoImage, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	tab, err := volume.Scan(f, st.Size())
	if err != nil {
		return nil, fmt.Errorf("partitions of the image: %w", err)
	}
	for _, v := range tab.Volumes {
		part := blockdev.Section(blockdev.Disk(0, f, st.Size()), v.Start, v.Length)
		fsys, err := volume.OpenFS([]blockdev.Device{part}, v.Content.Kind, filesys.Options{})
		if err != nil || !strings.HasPrefix(fsys.Info().Type, "ext") {
			continue
		}
		img := &demoImage{path: path, offset: v.Start}
		ino, err := img.search(fsys)
		if err != nil {
			return nil, err
		}
		if img.victim == "" {
			continue
		}
		file, err := fsys.Open(ino)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", img.victim, err)
		}
		img.content = make([]byte, file.Size())
		if _, err := file.ReadAt(img.content, 0); err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%s: %w", img.victim, err)
		}
		number := ""
		if v.Number > 0 {
			number = fmt.Sprint(v.Number)
		}
		img.inTree = "/volumes/vda" + number + img.victim
		return img, nil
	}
	return nil, fmt.Errorf("the image has no ext2/3/4 file system with a file of %s to %s to delete", size(victimMin), size(victimMax))
}

// search walks the tree for a file that is not too small and not too large.
func (img *demoImage) search(fsys filesys.FS) (best uint64, err error) {
	type dir struct {
		ino  uint64
		path string
	}
	var bestSize int64
	seen := 0
	for queue := []dir{{fsys.Root(), ""}}; len(queue) > 0 && seen < 20_000; {
		at := queue[0]
		queue = queue[1:]
		err := fsys.ReadDir(at.ino, 0, func(e filesys.DirEntry) bool {
			seen++
			p := at.path + "/" + e.Name
			switch e.Type {
			case filesys.TypeDir:
				queue = append(queue, dir{e.Ino, p})
			case filesys.TypeRegular:
				attr, err := fsys.Attr(e.Ino)
				plain := !strings.ContainsAny(p, "\"\\\n ") // debugfs takes the name as one word
				if err == nil && plain && attr.Nlink == 1 && attr.Size >= victimMin && attr.Size <= victimMax && attr.Size > bestSize {
					best, bestSize, img.victim = e.Ino, attr.Size, p
				}
			}
			return true
		})
		if err != nil {
			return 0, fmt.Errorf("list %s: %w", at.path, err)
		}
	}
	return best, nil
}

// deleteVictim removes the file with debugfs, as the guest might have.
func (img *demoImage) deleteVictim(ctx context.Context, d *demo) error {
	return d.tool(ctx, "debugfs", "-w", "-R", "rm "+img.victim, fmt.Sprintf("%s?offset=%d", img.path, img.offset))
}

// tool runs another program and shows it.
func (d *demo) tool(ctx context.Context, name string, args ...string) error {
	shown := name
	for _, a := range args {
		if strings.ContainsAny(a, " ?*") {
			a = "'" + a + "'"
		}
		shown += " " + a
	}
	fmt.Fprintf(d.out, "  $ %s\n", shown)
	cmd := exec.CommandContext(ctx, name, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}
