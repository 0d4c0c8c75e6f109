package extract

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	"golang.org/x/text/unicode/norm"

	"cairn/mount/filesys"
	"cairn/mount/tree"
)

// Stream writes one source to w: a regular file as its bytes, holes as zeros; a
// directory, if Recursive, as a tar archive.
//
// In a stream an error cannot be undone: whatever fails in the middle of a
// file's content stops it. Errors before that are reported and the file left out.
func Stream(ctx context.Context, s Source, w io.Writer, opts Options) (Progress, error) {
	j := newJob(ctx, opts)
	a, err := s.Node.Attr(ctx)
	switch kind := a.Mode & filesys.TypeMask; {
	case err != nil:
	case kind == filesys.TypeRegular:
		err = j.cat(s, w)
	case kind == filesys.TypeDir && j.opts.Recursive:
		err = j.tar(s, w)
	case kind == filesys.TypeDir:
		err = errors.New("it is a directory; use -r to get it as a tar archive")
	default:
		err = errors.New("only files and directories can be streamed")
	}
	if err != nil {
		j.cancel(fmt.Errorf("%s: %w", s.Path, err))
	}
	return j.finish()
}

func (j *job) cat(s Source, w io.Writer) error {
	f, err := s.Node.Open(j.ctx)
	if err != nil {
		return err
	}
	j.count.total.Add(f.Size())
	if err := j.stream(s.Path, f, w); err != nil {
		return err
	}
	j.count.files.Add(1)
	return nil
}

// archive is a tar archive that is being written.
type archive struct {
	*job
	out   *bufio.Writer // below w; see sparse.go
	w     *tar.Writer
	root  string            // the source's path
	name  string            // and its name in the archive
	links map[uint64]string // first names of inodes with several
}

func (j *job) tar(s Source, w io.Writer) error {
	out := bufio.NewWriterSize(w, chunkSize)
	t := &archive{job: j, out: out, w: tar.NewWriter(out), root: strings.TrimSuffix(s.Path, "/."), name: s.name(), links: make(map[uint64]string)}
	if s.contents() {
		t.name = "."
	}
	if err := tree.Walk(j.ctx, t.root, s.Node, t.entry); err != nil {
		return err
	}
	if err := t.w.Close(); err != nil {
		return written("write", err)
	}
	return written("write", out.Flush())
}

// entry adds one node. It returns an error only when the archive is spoiled.
func (t *archive) entry(p string, n tree.Node, a filesys.Attr, err error) error {
	if err != nil {
		t.fail(p, err)
		return nil
	}
	h, err := t.header(p, n, a)
	if err != nil {
		t.fail(p, err)
		return nil
	}
	if h == nil {
		t.skip(p, "sockets have no place in an archive and are left out")
		return nil
	}
	var f tree.File
	var holes []piece
	if h.Typeflag == tar.TypeReg {
		if f, err = n.Open(t.ctx); err != nil {
			t.fail(p, err)
			return nil
		}
		h.Size = f.Size()
		if holes, err = pieces(t.ctx, f); err != nil {
			t.fail(p, err)
			return nil
		}
		t.count.total.Add(h.Size)
	}
	if holes != nil {
		err = t.sparse(p, h, f, holes)
	} else if err = written("write", t.w.WriteHeader(h)); err == nil && f != nil {
		err = t.stream(p, f, t.w)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	switch h.Typeflag {
	case tar.TypeReg:
		t.count.files.Add(1)
	case tar.TypeDir:
		t.unreadable(n, p)
		t.count.dirs.Add(1)
	case tar.TypeSymlink:
		t.count.symlinks.Add(1)
	case tar.TypeLink:
		t.count.hardLinks.Add(1)
	default:
		t.count.specials.Add(1)
	}
	if a.Nlink > 1 && h.Typeflag != tar.TypeDir && h.Typeflag != tar.TypeLink {
		t.links[a.Ino] = h.Name
	}
	t.progress(p, false)
	return nil
}

// header describes a node in the PAX format, which has room for any name, size
// and time. Sockets have no place in an archive: nil.
func (t *archive) header(p string, n tree.Node, a filesys.Attr) (*tar.Header, error) {
	h := &tar.Header{
		Format: tar.FormatPAX, Name: path.Join(t.name, strings.TrimPrefix(p, t.root)),
		Mode: int64(a.Mode & 0o7777), Uid: int(a.UID), Gid: int(a.GID), ModTime: a.Mtime, AccessTime: a.Atime,
	}
	if !plainName(h.Name) {
		h.PAXRecords = map[string]string{"hdrcharset": "BINARY"}
	}
	if first, ok := t.links[a.Ino]; ok {
		h.Typeflag, h.Linkname = tar.TypeLink, first
		return h, nil
	}
	switch a.Mode & filesys.TypeMask {
	case filesys.TypeRegular:
		h.Typeflag = tar.TypeReg
	case filesys.TypeDir:
		h.Typeflag = tar.TypeDir
		h.Name += "/"
	case filesys.TypeSymlink:
		target, err := n.Readlink(t.ctx)
		if err != nil {
			return nil, err
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, target
	case filesys.TypeFIFO:
		h.Typeflag = tar.TypeFifo
	case filesys.TypeChar, filesys.TypeBlock:
		h.Typeflag = tar.TypeChar
		if a.Mode&filesys.TypeMask == filesys.TypeBlock {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(a.Rdev)), int64(unix.Minor(a.Rdev))
	default:
		return nil, nil
	}
	t.xattrs(p, h, n)
	return h, nil
}

// plainName says whether a name is what programs take names in a PAX archive for
// unless they are told: UTF-8, of which some (bsdtar) compose the accents.
func plainName(name string) bool {
	return utf8.ValidString(name) && norm.NFC.IsNormalString(name)
}

// paxKey writes names as GNU tar does where they hold what ends a record's key.
var paxKey = strings.NewReplacer("%", "%25", "=", "%3D")

// xattrs adds extended attributes. What cannot be read of them is a failure, and
// no reason to leave the file out.
func (t *archive) xattrs(p string, h *tar.Header, n tree.Node) {
	names, err := n.Xattrs(t.ctx)
	if err != nil {
		t.fail(p, fmt.Errorf("list extended attributes: %w", err))
		return
	}
	for _, name := range names {
		v, err := n.Xattr(t.ctx, name)
		if err != nil {
			t.fail(p, fmt.Errorf("read extended attribute %s: %w", name, err))
			continue
		}
		if h.PAXRecords == nil {
			h.PAXRecords = make(map[string]string)
		}
		if key, ok := aclRecords[name]; ok {
			if text, err := aclText(v); err == nil {
				h.PAXRecords[key] = text
				continue
			}
		}
		h.PAXRecords["SCHILY.xattr."+paxKey.Replace(name)] = string(v)
	}
}
