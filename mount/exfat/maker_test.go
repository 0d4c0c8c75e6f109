package exfat_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/bits"
	"math/rand/v2"
	"os"
	"testing"
	"unicode/utf16"

	"cairn/mount/exfat"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var le = binary.LittleEndian

var noise = func() []byte {
	b := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{7}).Read(b)
	return b
}()

// mkfs makes a file system on an image of random bytes.
func mkfs(t testing.TB, size int64, args ...string) string {
	t.Helper()
	image := fstest.Image(t, size, uint64(size))
	fstest.Run(t, "mkfs.exfat", append(args, image)...)
	return image
}

// maker writes files into a fresh file system, in ways that no system would.
type maker struct {
	testing.TB
	b      []byte
	shift  uint
	fat    int64
	heap   int64
	size   int64 // of a cluster
	count  uint32
	next   uint32
	bitmap int64
	rand   *rand.Rand
	root   *folder
}

// folder is a directory: where its slots are.
type folder struct {
	m     *maker
	slots []int64
	used  int
	first uint32
	last  uint32
}

func newMaker(t testing.TB, size int64, args ...string) *maker {
	t.Helper()
	return makerOn(t, mkfs(t, size, args...))
}

// makerOn makes a maker for an image.
func makerOn(t testing.TB, image string) *maker {
	t.Helper()
	b, err := os.ReadFile(image)
	must(t, err)
	m := &maker{TB: t, b: b, shift: uint(b[108]), count: le.Uint32(b[92:]), rand: rand.New(rand.NewPCG(1, 2))}
	m.size = 1 << (m.shift + uint(b[109]))
	m.fat = int64(le.Uint32(b[80:])) << m.shift
	m.heap = int64(le.Uint32(b[88:])) << m.shift
	first := le.Uint32(b[96:])
	m.next = first + 1
	m.root = &folder{m: m, first: first, last: first}
	m.root.grow(first)
	for m.b[m.root.slots[m.root.used]] != 0 {
		if p := m.b[m.root.slots[m.root.used]:]; p[0] == 0x81 {
			m.bitmap = m.place(le.Uint32(p[20:]))
		}
		m.root.used++
	}
	return m
}

func (m *maker) place(c uint32) int64 { return m.heap + int64(c-2)*m.size }

func (m *maker) set(c, v uint32) { le.PutUint32(m.b[m.fat+4*int64(c):], v) }

const end = 1<<32 - 1

// alloc makes a chain of n clusters: in random order if scattered, without the
// table if contiguous.
func (m *maker) alloc(n int, scattered, contiguous bool) []uint32 {
	list := make([]uint32, n)
	for i := range list {
		list[i] = m.next
		m.b[m.bitmap+int64((m.next-2)/8)] |= 1 << ((m.next - 2) % 8)
		m.next++
	}
	if m.next > m.count+2 {
		m.Fatal("the image is too small")
	}
	if scattered {
		m.rand.Shuffle(n, func(i, j int) { list[i], list[j] = list[j], list[i] })
	}
	for i, c := range list {
		switch {
		case contiguous:
			m.set(c, m.rand.Uint32()) // means nothing
		case i+1 < n:
			m.set(c, list[i+1])
		default:
			m.set(c, end)
		}
	}
	return list
}

func (d *folder) grow(c uint32) {
	for i := int64(0); i < d.m.size; i += 32 {
		d.slots = append(d.slots, d.m.place(c)+i)
	}
}

// put writes raw entries behind the others, and gives the place of the first.
func (d *folder) put(entries ...[]byte) (first int64) {
	for i, e := range entries {
		if d.used == len(d.slots) && d == d.m.root {
			c := d.m.alloc(1, false, false)[0]
			clear(d.m.b[d.m.place(c) : d.m.place(c)+d.m.size])
			d.m.set(d.last, c)
			d.last = c
			d.grow(c)
		}
		if d.used == len(d.slots) {
			d.m.Fatal("directory is full")
		}
		at := d.slots[d.used]
		copy(d.m.b[at:at+32], e)
		d.used++
		if i == 0 {
			first = at
		}
	}
	return first
}

// spec is what a set of entries tells.
type spec struct {
	units      []uint16
	attr       uint16
	first      uint32
	size       int64
	valid      int64
	contiguous bool
	extra      [][]byte // secondary entries behind the name
}

// set makes the entries of a file.
func set(s spec) [][]byte {
	file, stream := make([]byte, 32), make([]byte, 32)
	file[0] = 0x85
	le.PutUint16(file[4:], s.attr)
	day := uint32((2021-1980)<<9|2<<5|28) << 16
	le.PutUint32(file[8:], day|13<<11|37<<5|29)
	le.PutUint32(file[12:], day|1<<11|2<<5|3)
	le.PutUint32(file[16:], day|23<<11|59<<5|29)
	file[20], file[21] = 150, 7
	file[22], file[23], file[24] = 0x80|8, 0x80|(0x7F&-22), 5 // +2:00, -5:30, not valid
	stream[0], stream[1], stream[3] = 0xC0, 1, byte(len(s.units))
	if s.contiguous {
		stream[1] |= 2
	}
	le.PutUint16(stream[4:], nameHash(s.units))
	le.PutUint64(stream[8:], uint64(s.valid))
	le.PutUint32(stream[20:], s.first)
	le.PutUint64(stream[24:], uint64(s.size))
	list := [][]byte{file, stream}
	for units := s.units; len(units) > 0; {
		e := make([]byte, 32)
		e[0] = 0xC1
		n := min(15, len(units))
		for i, u := range units[:n] {
			le.PutUint16(e[2+2*i:], u)
		}
		list = append(list, e)
		units = units[n:]
	}
	list = append(list, s.extra...)
	sign(list)
	return list
}

// sign sets count and checksum of a set.
func sign(list [][]byte) {
	list[0][1] = byte(len(list) - 1)
	var sum uint16
	for i, e := range list {
		for k, c := range e {
			if i > 0 || k != 2 && k != 3 {
				sum = bits.RotateLeft16(sum, -1) + uint16(c)
			}
		}
	}
	le.PutUint16(list[0][2:], sum)
}

// nameHash is right for names whose upper case is that of ASCII.
func nameHash(units []uint16) (h uint16) {
	for _, u := range units {
		if 'a' <= u && u <= 'z' {
			u -= 32
		}
		h = bits.RotateLeft16(h, -1) + u&0xFF
		h = bits.RotateLeft16(h, -1) + u>>8
	}
	return h
}

// file makes a file.
func (d *folder) file(name string, content []byte, scattered, contiguous bool) int64 {
	s := spec{units: utf16.Encode([]rune(name)), attr: 0x20, size: int64(len(content)), valid: int64(len(content)), contiguous: contiguous}
	if len(content) > 0 {
		list := d.m.alloc(int((s.size+d.m.size-1)/d.m.size), scattered, contiguous)
		s.first = list[0]
		for i, c := range list {
			copy(d.m.b[d.m.place(c):d.m.place(c)+d.m.size], content[int64(i)*d.m.size:])
		}
	}
	return d.put(set(s)...)
}

// folder makes a directory of n clusters.
func (d *folder) folder(name string, n int, scattered, contiguous bool) *folder {
	list := d.m.alloc(n, scattered, contiguous)
	sub := &folder{m: d.m, first: list[0]}
	for _, c := range list {
		clear(d.m.b[d.m.place(c) : d.m.place(c)+d.m.size])
		sub.grow(c)
	}
	size := int64(n) * d.m.size
	d.put(set(spec{units: utf16.Encode([]rune(name)), attr: 0x10, first: list[0], size: size, valid: size, contiguous: contiguous})...)
	return sub
}

// seal renews the checksums of both boot regions.
func (m *maker) seal() {
	for _, off := range []int{0, 12 << m.shift} {
		var sum uint32
		for i, c := range m.b[off : off+(11<<m.shift)] {
			if i != 106 && i != 107 && i != 112 {
				sum = bits.RotateLeft32(sum, -1) + uint32(c)
			}
		}
		for i := range 1 << m.shift / 4 {
			le.PutUint32(m.b[off+(11<<m.shift)+4*i:], sum)
		}
	}
}

func (m *maker) open() *exfat.FS {
	m.Helper()
	fs, err := exfat.Open(bytes.NewReader(m.b), int64(len(m.b)), filesys.Options{})
	must(m, err)
	return fs
}

// fsck asks exfatprogs whether the image is sound.
func (m *maker) fsck() {
	m.Helper()
	path := fstest.TempDir(m) + "/image"
	must(m, os.WriteFile(path, m.b, 0o600))
	fstest.Run(m, "fsck.exfat", "-n", path)
}

func content(t testing.TB, fs filesys.FS, ino uint64) []byte {
	t.Helper()
	f, err := fs.Open(ino)
	must(t, err)
	b, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
	must(t, err)
	return b
}

// names lists a directory.
func names(fs filesys.FS, ino uint64) (list []string, err error) {
	err = fs.ReadDir(ino, 0, func(e filesys.DirEntry) bool {
		list = append(list, e.Name)
		return true
	})
	return list, err
}

func lookup(t testing.TB, fs filesys.FS, dir uint64, name string) uint64 {
	t.Helper()
	ino, err := fs.Lookup(dir, name)
	must(t, err)
	return ino
}
