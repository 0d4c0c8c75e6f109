package luks

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"

	"cairn/mount/blockdev"
)

// maxKeys is how many answers a Keyring keeps: more than the volumes and secrets
// of a machine, and one takes less than a kilobyte.
const maxKeys = 64

// Keyring opens volumes and remembers what their secrets opened. Recovery points
// of a machine hold the same volume again and again, and a slot's function is
// slow by design: with a Keyring it is computed once, however many points there
// are. It is safe for concurrent use, and lets only one secret be tried at a
// time, so that the memory that Argon2 takes is taken once.
//
// A key is kept under a digest of the secret and of all in the header that
// decides what the secret opens: the parameters, the salt and the material of
// each key slot, and the digest of the volume key. A header in which any of that
// has changed is another one; nothing of an old one opens it. That a secret opens
// nothing is kept likewise. What the device failed to read is not.
//
// Keys stay in memory as long as the Keyring does. The zero value is ready for
// use. A nil Keyring remembers nothing: its Open is the package's.
type Keyring struct {
	trying sync.Mutex // held while a secret is tried

	mu      sync.Mutex
	answers []answer // at most maxKeys, the last used behind
}

// answer is what a secret opened: a volume key, or nothing for good.
type answer struct {
	id  [sha256.Size]byte
	key []byte
	err error
}

// Open is Open, which does not compute again what it knows.
func (k *Keyring) Open(d blockdev.Device, secret []byte) (blockdev.Device, error) {
	v, err := read(d)
	if err != nil {
		return nil, fmt.Errorf("open LUKS volume: %w", err)
	}
	key, err := k.unlock(v, d, secret)
	if err != nil {
		return nil, fmt.Errorf("open LUKS volume: %w", err)
	}
	s, err := v.cipher.with(key)
	if err != nil {
		return nil, fmt.Errorf("open LUKS volume: %w", err)
	}
	return newDevice(d, v, s), nil
}

// unlock gives the volume key of v, which lies on d.
func (k *Keyring) unlock(v *volume, d blockdev.Device, secret []byte) ([]byte, error) {
	if k == nil {
		return v.unlock(d, secret)
	}
	id, known := v.id(d, secret)
	if a, ok := k.find(id); known && ok {
		return a.key, a.err
	}
	k.trying.Lock()
	defer k.trying.Unlock()
	if a, ok := k.find(id); known && ok { // who held the lock has tried it
		return a.key, a.err
	}
	key, err := v.unlock(d, secret)
	if known && (err == nil || errors.Is(err, ErrSecret) || damaged(err)) {
		k.keep(answer{id, key, err})
	}
	return key, err
}

// id names what a secret opens: a digest of the secret and of all in the header
// that decides it. known is false if some of that cannot be read.
func (v *volume) id(d blockdev.Device, secret []byte) (id [sha256.Size]byte, known bool) {
	h := sha256.New()
	number := func(list ...int64) {
		for _, n := range list {
			h.Write(le.AppendUint64(nil, uint64(n)))
		}
	}
	field := func(b []byte) { // with its length, so that no two rows of fields are equal
		number(int64(len(b)))
		h.Write(b)
	}
	field(secret)
	number(int64(v.Version), int64(v.KeyBits), int64(len(v.slots)))
	for i := range v.slots {
		k := &v.slots[i]
		number(int64(k.id), int64(k.priority), int64(k.keySize), k.stripes, int64(k.areaKey))
		field([]byte(k.areaCipher))
		field([]byte(k.afHash))
		number(k.kdf.iterations, k.kdf.time, k.kdf.memory, k.kdf.cpus)
		field([]byte(k.kdf.kind))
		field([]byte(k.kdf.hash))
		field(k.kdf.salt)
		if k.digest != nil {
			number(k.digest.iterations)
			field([]byte(k.digest.hash))
			field(k.digest.salt)
			field(k.digest.sum)
		}
		if err := k.check(); err != nil { // it is not tried
			field([]byte(err.Error()))
			continue
		}
		material, err := k.material(d)
		switch {
		case err == nil:
			field(material)
		case damaged(err):
			field([]byte(err.Error()))
		default:
			return id, false
		}
	}
	h.Sum(id[:0])
	return id, true
}

func (k *Keyring) find(id [sha256.Size]byte) (answer, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, a := range k.answers {
		if a.id == id {
			k.answers = append(slices.Delete(k.answers, i, i+1), a)
			return a, true
		}
	}
	return answer{}, false
}

func (k *Keyring) keep(a answer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.answers) == maxKeys {
		k.answers = slices.Delete(k.answers, 0, 1)
	}
	k.answers = append(k.answers, a)
}
