package fat_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"math/rand/v2"
	"os"
	"testing"
	"unicode/utf16"

	"cairn/mount/fat"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

// TestMain sets what mtools ask for: names in UTF-8, the code page of short
// ones, times in UTC, and no doubts about geometries.
func TestMain(m *testing.M) {
	rc, err := os.CreateTemp("", "mtoolsrc")
	if err == nil {
		_, err = rc.WriteString("default_codepage=437\n")
		rc.Close()
	}
	if err != nil {
		panic(err)
	}
	for k, v := range map[string]string{"LC_ALL": "C.UTF-8", "TZ": "UTC", "MTOOLS_SKIP_CHECK": "1", "MTOOLSRC": rc.Name()} {
		os.Setenv(k, v)
	}
	code := m.Run()
	os.Remove(rc.Name())
	os.Exit(code)
}

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
	fstest.Run(t, "mkfs.fat", append(args, image)...)
	return image
}

// maker writes files into a fresh file system, in ways that no system would.
type maker struct {
	testing.TB
	b      []byte
	width  int
	fats   []int64
	heap   int64
	size   int64 // of a cluster
	count  uint32
	next   uint32 // cluster to allocate
	rand   *rand.Rand
	rooted *folder
	shorts int
}

// folder is a directory: where its slots are.
type folder struct {
	m     *maker
	slots []int64
	used  int
	first uint32
	last  uint32 // of the root
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
	m := &maker{TB: t, b: b, next: 2, rand: rand.New(rand.NewPCG(1, 2))}
	sector := int64(le.Uint16(b[11:]))
	m.size = sector * int64(b[13])
	total, fatSize := int64(le.Uint16(b[19:])), int64(le.Uint16(b[22:]))
	if total == 0 {
		total = int64(le.Uint32(b[32:]))
	}
	m.width = 32
	if fatSize == 0 {
		fatSize = int64(le.Uint32(b[36:]))
	} else {
		m.width = 0
	}
	off := int64(le.Uint16(b[14:])) * sector
	for range b[16] {
		m.fats = append(m.fats, off)
		off += fatSize * sector
	}
	root := off
	slots := int64(le.Uint16(b[17:]))
	m.heap = root + slots*32
	m.count = uint32((total*sector - m.heap) / m.size)
	if m.width == 0 {
		if m.width = 16; m.count < 4085 {
			m.width = 12
		}
	}
	m.rooted = &folder{m: m}
	if m.width == 32 {
		m.rooted.first = le.Uint32(b[44:])
		m.rooted.last = m.rooted.first
		m.rooted.grow(m.rooted.first)
		m.next = m.rooted.first + 1
	}
	for i := range slots {
		m.rooted.slots = append(m.rooted.slots, root+32*i)
	}
	return m
}

// end is what ends a chain.
func (m *maker) end() uint32 { return 1<<min(m.width, 28) - 1 }

func (m *maker) set(c, v uint32) {
	for _, fat := range m.fats {
		switch m.width {
		case 32:
			le.PutUint32(m.b[fat+4*int64(c):], v)
		case 16:
			le.PutUint16(m.b[fat+2*int64(c):], uint16(v))
		case 12:
			p := m.b[fat+int64(c)*3/2:]
			old := le.Uint16(p)
			if c&1 != 0 {
				le.PutUint16(p, old&0xF|uint16(v)<<4)
			} else {
				le.PutUint16(p, old&0xF000|uint16(v))
			}
		}
	}
}

func (m *maker) place(c uint32) int64 { return m.heap + int64(c-2)*m.size }

// alloc makes a chain of n clusters, in random order if scattered.
func (m *maker) alloc(n int, scattered bool) []uint32 {
	list := make([]uint32, n)
	for i := range list {
		list[i] = m.next
		m.next++
	}
	if int(m.next) > int(m.count)+2 {
		m.Fatal("the image is too small")
	}
	if scattered {
		m.rand.Shuffle(n, func(i, j int) { list[i], list[j] = list[j], list[i] })
	}
	m.link(list)
	return list
}

func (m *maker) link(list []uint32) {
	for i, c := range list {
		v := m.end()
		if i+1 < len(list) {
			v = list[i+1]
		}
		m.set(c, v)
	}
}

func (d *folder) grow(c uint32) {
	for i := int64(0); i < d.m.size; i += 32 {
		d.slots = append(d.slots, d.m.place(c)+i)
	}
}

// put writes raw entries behind the others.
func (d *folder) put(entries ...[]byte) (last int64) {
	for _, e := range entries {
		if d.used == len(d.slots) && d == d.m.rooted && d.first != 0 {
			c := d.m.alloc(1, false)[0]
			clear(d.m.b[d.m.place(c) : d.m.place(c)+d.m.size])
			d.m.set(d.last, c)
			d.last = c
			d.grow(c)
		}
		if d.used == len(d.slots) {
			d.m.Fatal("directory is full")
		}
		last = d.slots[d.used]
		copy(d.m.b[last:last+32], e)
		d.used++
	}
	return last
}

// short makes an entry of 32 bytes.
func (m *maker) short(name string, attr byte, first uint32, size int) []byte {
	if len(name) != 11 {
		m.Fatalf("short name %q", name)
	}
	e := make([]byte, 32)
	copy(e, name)
	e[11] = attr
	e[13] = 150
	le.PutUint16(e[14:], 13<<11|37<<5|29)
	le.PutUint16(e[16:], (2021-1980)<<9|2<<5|28)
	le.PutUint16(e[18:], (2023-1980)<<9|12<<5|31)
	le.PutUint16(e[20:], uint16(first>>16))
	le.PutUint16(e[22:], 23<<11|59<<5|29)
	le.PutUint16(e[24:], (2022-1980)<<9|6<<5|1)
	le.PutUint16(e[26:], uint16(first))
	le.PutUint32(e[28:], uint32(size))
	return e
}

func sum(short []byte) (s byte) {
	for _, c := range short[:11] {
		s = bits.RotateLeft8(s, -1) + c
	}
	return s
}

// long makes the entries of a long name.
func long(units []uint16, sum byte) (list [][]byte) {
	n := (len(units) + 12) / 13
	padded := append([]uint16{}, units...)
	if len(padded) < 13*n {
		padded = append(padded, 0)
	}
	for len(padded) < 13*n {
		padded = append(padded, 0xFFFF)
	}
	for i := n; i >= 1; i-- {
		e := make([]byte, 32)
		e[0], e[11], e[13] = byte(i), 15, sum
		if i == n {
			e[0] |= 0x40
		}
		at := []int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30}
		for k, u := range padded[13*(i-1) : 13*i] {
			le.PutUint16(e[at[k]:], u)
		}
		list = append(list, e)
	}
	return list
}

// uniqueShort gives a short name that was not used before.
func (m *maker) uniqueShort() string {
	m.shorts++
	return fmt.Sprintf("S%07XTXT", m.shorts)
}

// file makes a file with a long name, and gives the place of its entry.
func (d *folder) file(name string, content []byte, scattered bool) int64 {
	var first uint32
	if len(content) > 0 {
		list := d.m.alloc(int((int64(len(content))+d.m.size-1)/d.m.size), scattered)
		first = list[0]
		for i, c := range list {
			copy(d.m.b[d.m.place(c):d.m.place(c)+d.m.size], content[int64(i)*d.m.size:])
		}
	}
	return d.entry(name, 0x20, first, len(content))
}

// entry makes one with a long name.
func (d *folder) entry(name string, attr byte, first uint32, size int) int64 {
	s := d.m.short(d.m.uniqueShort(), attr, first, size)
	d.put(long(utf16.Encode([]rune(name)), sum(s))...)
	return d.put(s)
}

// folder makes a directory of n clusters.
func (d *folder) folder(name string, n int, scattered bool) *folder {
	list := d.m.alloc(n, scattered)
	sub := &folder{m: d.m, first: list[0]}
	for _, c := range list {
		clear(d.m.b[d.m.place(c) : d.m.place(c)+d.m.size])
		sub.grow(c)
	}
	d.entry(name, 0x10, list[0], 0)
	above := d.first
	if d == d.m.rooted {
		above = 0
	}
	sub.put(d.m.short(".          ", 0x10, list[0], 0), d.m.short("..         ", 0x10, above, 0))
	return sub
}

func (m *maker) open() *fat.FS {
	m.Helper()
	fs, err := fat.Open(bytes.NewReader(m.b), int64(len(m.b)), filesys.Options{})
	must(m, err)
	return fs
}

// fsck asks dosfstools whether the image is sound.
func (m *maker) fsck() {
	m.Helper()
	if m.width == 32 {
		le.PutUint32(m.b[int(le.Uint16(m.b[11:]))*int(le.Uint16(m.b[48:]))+488:], 1<<32-1) // free clusters: not known
	}
	fstest.Run(m, "fsck.fat", "-n", m.write())
}

func (m *maker) write() string {
	m.Helper()
	path := fstest.TempDir(m) + "/image"
	must(m, os.WriteFile(path, m.b, 0o600))
	return path
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
