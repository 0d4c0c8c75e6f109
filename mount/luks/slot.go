package luks

import (
	"crypto/pbkdf2"
	"crypto/subtle"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"

	"golang.org/x/crypto/argon2"

	"cairn/mount/blockdev"
)

// keySlot is where the volume key is kept for one secret.
type keySlot struct {
	id       int
	priority int // 2: first, 1, 0: last
	kdf      kdf
	keySize  int // of the volume key, in bytes
	stripes  int64
	afHash   string
	// area is where the key material is on the device, in bytes, encrypted with
	// a key of areaKey bytes.
	area, areaSize int64
	areaCipher     string
	areaKey        int
	digest         *digest // nil: nothing tells whether the key is right
	problem        error   // found when the header was read
}

// kdf makes a key of a secret.
type kdf struct {
	kind       string // pbkdf2, argon2i, argon2id
	hash       string // pbkdf2
	iterations int64  // pbkdf2
	salt       []byte
	time       int64 // argon2: passes
	memory     int64 // argon2: in KiB
	cpus       int64 // argon2: lanes
}

// digest tells whether a volume key is the right one.
type digest struct {
	hash       string
	iterations int64
	salt       []byte
	sum        []byte
}

const (
	// maxIterations of PBKDF2: some minutes. cryptsetup measures two seconds.
	maxIterations = 1 << 29
	// maxMemory of Argon2 in KiB; cryptsetup has the same limit.
	maxMemory = 4 << 20
	// returned is from where on Argon2's memory, in KiB, is given back at once.
	returned = 64 << 10
	// maxWork is Argon2's memory in KiB times its passes: some minutes.
	maxWork = 64 * maxMemory
)

func (k kdf) String() string {
	if k.kind == "pbkdf2" {
		return fmt.Sprintf("pbkdf2 with %s, %d iterations", k.hash, k.iterations)
	}
	memory := fmt.Sprintf("%d MiB", k.memory>>10)
	if k.memory < 1<<10 {
		memory = fmt.Sprintf("%d KiB", k.memory)
	}
	return fmt.Sprintf("%s, %d passes over %s", k.kind, k.time, memory)
}

func (k kdf) check() error {
	switch k.kind {
	case "pbkdf2":
		return checkPBKDF2(k.hash, k.iterations)
	case "argon2i", "argon2id":
		switch {
		case k.time < 1 || k.memory < 8 || k.cpus < 1 || k.memory < 8*k.cpus:
			return corrupt("%s with %d passes over %d KiB in %d lanes", k.kind, k.time, k.memory, k.cpus)
		case k.memory > maxMemory:
			return unsupported("%s over %d MiB of memory, more than the %d that cryptsetup allows", k.kind, k.memory>>10, maxMemory>>10)
		case k.cpus > 255 || k.time > maxWork/k.memory:
			return unsupported("%s with %d passes over %d MiB in %d lanes", k.kind, k.time, k.memory>>10, k.cpus)
		}
		return nil
	}
	return unsupported("key derivation %q", k.kind)
}

func checkPBKDF2(hash string, iterations int64) error {
	if _, err := hashes(hash); err != nil {
		return err
	}
	if iterations < 1 {
		return corrupt("pbkdf2 with %d iterations", iterations)
	}
	if iterations > maxIterations {
		return unsupported("pbkdf2 with %d iterations", iterations)
	}
	return nil
}

// key makes size bytes of a secret.
func (k kdf) key(secret []byte, size int) ([]byte, error) {
	switch k.kind {
	case "argon2i":
		return argon2.Key(secret, k.salt, uint32(k.time), uint32(k.memory), uint8(k.cpus), uint32(size)), nil
	case "argon2id":
		return argon2.IDKey(secret, k.salt, uint32(k.time), uint32(k.memory), uint8(k.cpus), uint32(size)), nil
	}
	h, err := hashes(k.hash)
	if err != nil {
		return nil, err
	}
	return pbkdf2.Key(h, string(secret), k.salt, int(k.iterations), size)
}

// right says whether key is the volume key.
func (d *digest) right(key []byte) (bool, error) {
	h, err := hashes(d.hash)
	if err != nil {
		return false, err
	}
	sum, err := pbkdf2.Key(h, string(key), d.salt, int(d.iterations), len(d.sum))
	return err == nil && subtle.ConstantTimeCompare(sum, d.sum) == 1, err
}

// check says why no secret can be tried in a slot.
func (k *keySlot) check() error {
	if k.problem != nil {
		return k.problem
	}
	if err := k.kdf.check(); err != nil {
		return err
	}
	if _, err := hashes(k.afHash); err != nil {
		return err
	}
	if k.digest == nil {
		return corrupt("no digest for its key")
	}
	if err := checkPBKDF2(k.digest.hash, k.digest.iterations); err != nil {
		return fmt.Errorf("digest: %w", err)
	}
	if len(k.digest.sum) < 16 || len(k.digest.sum) > 512 {
		return corrupt("a digest of %d bytes", len(k.digest.sum))
	}
	if k.stripes < 1 || k.stripes > maxSplit || k.keySize < 1 || k.keySize > maxKey ||
		int64(k.keySize)*k.stripes > maxSplit || int64(k.keySize)*k.stripes > k.areaSize {
		return corrupt("%d stripes of %d bytes in %d", k.stripes, k.keySize, k.areaSize)
	}
	spec, err := parseCipher(k.areaCipher)
	if err != nil {
		return err
	}
	return spec.keySize(k.areaKey)
}

// unlock tries a secret in all slots, and gives the volume key.
func (v *volume) unlock(d blockdev.Device, secret []byte) ([]byte, error) {
	slots := slices.Clone(v.slots)
	slices.SortStableFunc(slots, func(a, b keySlot) int { return b.priority - a.priority })
	var failed, unread []error
	tried := 0
	for _, k := range slots {
		key, err := k.unlock(d, secret)
		switch {
		case err != nil && !damaged(err):
			unread = append(unread, fmt.Errorf("key slot %d: %w", k.id, err))
		case err != nil:
			failed = append(failed, fmt.Errorf("key slot %d: %w", k.id, err))
		case key == nil:
			tried++
		case len(key) != v.KeyBits/8:
			failed = append(failed, fmt.Errorf("key slot %d: %w", k.id, corrupt("a key of %d bits for %d", 8*len(key), v.KeyBits)))
		default:
			return key, nil
		}
	}
	switch {
	case len(slots) == 0:
		return nil, fmt.Errorf("no key slot is in use, the volume was erased: %w", ErrSecret)
	case len(unread) > 0: // the secret may be right for what could not be read
		return nil, errors.Join(unread...)
	case tried == 0:
		return nil, errors.Join(failed...)
	case len(failed) > 0:
		// The words of their sentinels would tell another story than ErrSecret.
		var texts []string
		for _, err := range failed {
			texts = append(texts, err.Error())
		}
		return nil, fmt.Errorf("%w for the %d key slots that could be tried (%s)", ErrSecret, tried, strings.Join(texts, "; "))
	}
	return nil, ErrSecret
}

// material reads a slot's key material. It is whole sectors long, the last of
// which is used in part.
func (k *keySlot) material(d blockdev.Device) ([]byte, error) {
	p := make([]byte, (int64(k.keySize)*k.stripes+511)&^511)
	if err := readFull(d, p, k.area); err != nil {
		return nil, fmt.Errorf("key material: %w", err)
	}
	return p, nil
}

// unlock gives the volume key, or nil if the secret is not this slot's.
func (k *keySlot) unlock(d blockdev.Device, secret []byte) ([]byte, error) {
	if err := k.check(); err != nil {
		return nil, err
	}
	// The material is read first: what cannot be read is not worth the wait.
	material, err := k.material(d)
	if err != nil {
		return nil, err
	}
	areaKey, err := k.kdf.key(secret, k.areaKey)
	if k.kdf.memory > returned {
		debug.FreeOSMemory() // or the next slot's comes on top of it
	}
	if err != nil {
		return nil, err
	}
	spec, err := parseCipher(k.areaCipher)
	if err != nil {
		return nil, err
	}
	s, err := spec.with(areaKey)
	if err != nil {
		return nil, err
	}
	s.decrypt(material, 0, 512)
	key, err := merge(material[:int64(k.keySize)*k.stripes], k.keySize, k.afHash)
	if err != nil {
		return nil, err
	}
	ok, err := k.digest.right(key)
	if !ok || err != nil {
		return nil, err
	}
	return key, nil
}
