package luks

import (
	"errors"
	"fmt"
	"io"

	"cairn/mount/blockdev"
	"cairn/mount/filesys"
)

// ErrSecret: no key slot opens with the secret.
var ErrSecret = errors.New("wrong passphrase or key")

// Header is what a volume tells about itself without a secret.
type Header struct {
	Version    int    // 1 or 2
	UUID       string // as the guest's tools print it
	Label      string // LUKS2, may be empty
	Subsystem  string // LUKS2, may be empty
	Cipher     string // "aes-xts-plain64"
	KeyBits    int    // of the volume key; XTS uses half of it for the tweak
	SectorSize int    // unit of encryption in bytes
	Offset     int64  // where the cipher text begins, in bytes
	Size       int64  // of the cipher text in bytes
	Slots      []Slot // those in use
	// Warnings are sentences for a person, such as that a copy of a damaged
	// header is used.
	Warnings []string
}

// Slot is a key slot in use.
type Slot struct {
	ID int
	// KDF is how a secret becomes a key, in words: "argon2id, 4 passes over 1024 MiB".
	KDF string
	// Problem is why no secret can be tried here, or nil.
	Problem error
}

// volume is a header as far as it takes to open it.
type volume struct {
	Header
	cipher   cipherSpec
	ivOffset uint64 // of the first sector, in units of 512 bytes
	slots    []keySlot
}

// corrupt makes an error that says what contradicts the format.
func corrupt(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, filesys.ErrCorrupt)...)
}

// unsupported makes an error that names what is not known.
func unsupported(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, filesys.ErrUnsupported)...)
}

// damaged says whether an error tells of the volume, and not of the way to it.
func damaged(err error) bool {
	return errors.Is(err, filesys.ErrCorrupt) || errors.Is(err, filesys.ErrUnsupported)
}

// readFull fills p from off of a device.
func readFull(d blockdev.Device, p []byte, off int64) error {
	if off < 0 || off > d.Size() || int64(len(p)) > d.Size()-off {
		return corrupt("%d bytes at %d of a device of %d", len(p), off, d.Size())
	}
	n, err := d.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
}

// Read reads a volume's header. Errors wrap filesys.ErrWrongType if it is not
// LUKS, ErrUnsupported with the name of what would have to be known to open it,
// ErrCorrupt when the header contradicts itself, or are what d returned. If the
// error is ErrUnsupported and the header could be read, it is given as well.
func Read(d blockdev.Device) (*Header, error) {
	v, err := read(d)
	if v == nil {
		return nil, fmt.Errorf("read LUKS header: %w", err)
	}
	if err != nil {
		err = fmt.Errorf("LUKS volume: %w", err)
	}
	return &v.Header, err
}

func read(d blockdev.Device) (*volume, error) {
	head := make([]byte, 8)
	if d.Size() < int64(len(head)) {
		return nil, fmt.Errorf("a device of %d bytes: %w", d.Size(), filesys.ErrWrongType)
	}
	if err := readFull(d, head, 0); err != nil {
		return nil, err
	}
	if string(head[:6]) != magic {
		return nil, fmt.Errorf("there is no LUKS header: %w", filesys.ErrWrongType)
	}
	var v *volume
	var err error
	switch version := be.Uint16(head[6:]); version {
	case 1:
		v, err = readV1(d)
	case 2:
		v, err = readV2(d)
	default:
		err = unsupported("LUKS of version %d", version)
	}
	if err != nil {
		return v, err
	}
	return v, v.check(d.Size())
}

// check looks at what both versions have.
func (v *volume) check(size int64) error {
	if v.Offset > size || v.Offset < 0 || v.Size < 0 {
		return corrupt("cipher text at %d of a device of %d bytes", v.Offset, size)
	}
	if v.Size > size-v.Offset {
		v.Warnings = append(v.Warnings, fmt.Sprintf(
			"The encrypted volume has %d bytes where %d are there; its end is missing.", v.Size, size-v.Offset))
		v.Size = size - v.Offset
	}
	v.Size -= v.Size % int64(v.SectorSize)
	spec, err := parseCipher(v.Cipher)
	if err != nil {
		return err
	}
	v.cipher = spec
	return spec.keySize(v.KeyBits / 8)
}

// Open opens a volume with a secret, which is a passphrase or the whole content
// of a key file. Errors are those of Read, and wrap ErrSecret if no slot opens.
// It takes as long as the slots' functions are slow: usually two seconds for
// each slot in use. A Keyring spares that to who opens a volume again.
//
// d must stay usable for as long as the device that Open gives is used.
func Open(d blockdev.Device, secret []byte) (blockdev.Device, error) {
	return (*Keyring)(nil).Open(d, secret)
}
