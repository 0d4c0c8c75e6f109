package ext4

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
)

// dirNames knows how the names of one directory are shown and hashed.
type dirNames struct {
	index     *indexRoot // nil without a usable hash tree
	hasher    hasher
	encrypted bool
	hashes    bool // encrypted names are shown with their hash
	folded    bool // names that differ in case may be equal
}

// wanted is a name to look for: in full, or for long encrypted names its
// beginning and the digest of the rest.
type wanted struct {
	name   []byte
	rest   *[sha256.Size]byte
	hash   uint32
	hashed bool
}

// nokeyHead is how many bytes of an encrypted name are shown at most; of the
// rest stands the digest.
const nokeyHead = 149

func (f *FS) dirNames(in *inode) (*dirNames, error) {
	root, err := f.indexRoot(in)
	if err != nil {
		return nil, err
	}
	n := &dirNames{index: root, encrypted: in.flags&flagEncrypt != 0, folded: in.flags&flagCasefold != 0}
	version := f.sb.raw[0xFC]
	if root != nil {
		version = root.version
	}
	n.hasher = f.sb.hasher(version)
	// Linux reads directories of one block as if they had an index.
	n.hashes = root != nil || f.sb.hasDirIndex() && (in.isInline() || uint64(in.size)>>f.sb.blockBits == 1)
	return n, nil
}

// show is the name under which an entry is reported, if it is.
func (n *dirNames) show(d dirent) (string, bool) {
	name := d.name
	if string(name) == "." || string(name) == ".." {
		return "", false
	}
	if n.encrypted {
		return n.nokey(d), true
	}
	if bytes.IndexByte(name, '/') >= 0 || bytes.IndexByte(name, 0) >= 0 {
		return "", false
	}
	return string(name), true
}

// nokey is how Linux shows an encrypted name to those without the key: the
// base64 of its hash (64 bits) and its bytes, with the end of long names
// replaced by a digest. It is unique, and at most 252 bytes long.
func (n *dirNames) nokey(d dirent) string {
	out := make([]byte, 8, 8+nokeyHead+sha256.Size)
	switch {
	case d.hash != nil:
		copy(out, d.hash)
	case n.hashes && !n.folded:
		major, minor := n.hasher.hash(d.name)
		le.PutUint32(out, major)
		le.PutUint32(out[4:], minor)
	}
	head := min(len(d.name), nokeyHead)
	out = append(out, d.name[:head]...)
	if head < len(d.name) {
		rest := sha256.Sum256(d.name[head:])
		out = append(out, rest[:]...)
	}
	return base64.RawURLEncoding.EncodeToString(out)
}

// parse turns a shown name into what an entry must match.
func (n *dirNames) parse(shown string) (wanted, bool) {
	if !n.encrypted {
		w := wanted{name: []byte(shown), hashed: !n.folded}
		if w.hashed {
			w.hash, _ = n.hasher.hash(w.name)
		}
		return w, true
	}
	raw, err := base64.RawURLEncoding.DecodeString(shown)
	if err != nil || len(raw) <= 8 || len(raw) > 8+nokeyHead && len(raw) != 8+nokeyHead+sha256.Size {
		return wanted{}, false
	}
	w := wanted{hash: le.Uint32(raw), hashed: true}
	w.name = raw[8:min(len(raw), 8+nokeyHead)]
	if len(raw) > 8+nokeyHead {
		w.rest = (*[sha256.Size]byte)(raw[8+nokeyHead:])
	}
	return w, true
}

func (w wanted) equal(name []byte) bool {
	if w.rest == nil {
		return bytes.Equal(name, w.name)
	}
	return len(name) > nokeyHead && bytes.Equal(name[:nokeyHead], w.name) && sha256.Sum256(name[nokeyHead:]) == *w.rest
}
