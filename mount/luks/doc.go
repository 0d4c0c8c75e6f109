// Package luks opens volumes that are encrypted by LUKS, version 1 and 2, with a
// passphrase or a key file. It never writes.
//
//	header, err := luks.Read(device)            // what it is, without a secret
//	plain, err := luks.Open(device, secret)     // a blockdev.Device
//
//	keys := new(luks.Keyring)                   // for a volume that is opened again and again,
//	plain, err := keys.Open(device, secret)     // as in all recovery points of a machine
//
// # How a volume is laid out
//
//	header │ (LUKS2: its copy) │ key slots: key material … │ cipher text …
//
// The cipher text is encrypted, sector by sector, with the volume key. Each key
// slot holds that key for one secret: a slow function (PBKDF2, or Argon2 with
// LUKS2) makes a key of the secret and the slot's salt; with it the slot's key
// material is decrypted, which is the volume key split into some thousand stripes
// of which all are needed (so that a slot can be erased for good). A digest of
// the volume key tells whether the result is the right one.
//
// LUKS1 has a header of 592 bytes, big-endian, with eight slots. LUKS2 has two
// copies of a binary header of 4 KiB, with a checksum and a number that grows
// with each change, followed by a text in JSON that describes key slots, digests
// and segments (where the cipher text is). The newest copy whose checksum is
// right counts.
//
// # The secret
//
// It is a passphrase, or the whole content of a key file. As in cryptsetup, a
// line break at the end of a key file is part of the key, while a passphrase
// that was typed has none: whoever reads one from a terminal or a file of
// passphrases takes it off. Slots are tried in the order of their numbers, those
// of high priority first, those of priority "ignore" last.
//
// # What is read
//
//   - ciphers aes, serpent and twofish in modes xts-plain64, xts-plain, cbc-plain64,
//     cbc-plain and cbc-essiv with any of the hashes
//   - hashes sha1, sha2, sha3, ripemd160, whirlpool, blake2b-512, blake2s-256
//   - PBKDF2, Argon2i, Argon2id
//   - sectors of 512 to 4096 bytes, and an offset of the initial vectors
//
// Everything else is refused by its name, with filesys.ErrUnsupported: camellia
// and other ciphers, for which there is no Go library; other hashes; integrity
// (dm-integrity under the volume); a re-encryption that has not ended; detached
// headers; encryption by the disk itself (OPAL).
//
// # What holds
//
//   - A header is hostile. Numbers are checked before they are used; anything
//     malformed wraps filesys.ErrCorrupt.
//   - Memory: the key material of a slot takes 4 MiB at most, and the JSON text
//     is 1 MiB at most. The exception is Argon2, whose purpose is to take memory:
//     as much as the slot says, usually 1 GiB, while a secret is being tried. A
//     slot that asks for more than 4 GiB, which cryptsetup does not allow either,
//     is refused, as is one that asks for work that takes many minutes.
//   - Nothing checks the cipher text: bytes that were changed decrypt to others.
//   - The device is safe for concurrent use, and decrypts large reads on several
//     processors. Place names the place of the cipher text. A byte depends on
//     all 16 of its block there (and in CBC on the 16 before them): who compares
//     places to find what has changed does so in units of a sector or more.
//   - Keys are kept in memory as long as the device and the Keyring are, and
//     neither they nor secrets are logged or part of an error.
//
// XTS is written here and not taken from golang.org/x/crypto: that one moves the
// tweak on byte by byte and is five times slower than the AES in it.
//
// # Sources
//
// "LUKS On-Disk Format Specification" 1.2.3 (2018) and "LUKS2 On-Disk Format
// Specification" 1.1.0 (2022), both by the authors of cryptsetup; IEEE 1619 for
// XTS; the kernel's documentation of dm-crypt for the initial vectors; RFC 8018
// and RFC 9106.
//
// The package imports blockdev and filesys, and nothing else of Cairn.
package luks
