package block

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"runtime"
	"testing"
)

// vectors is testdata/vectors.json, which explains itself in "how". It is part
// of the format's promise: cases are added, never changed.
type vectors struct {
	Title  string
	How    []string
	Accept []struct {
		Name            string
		Plain           plainVector
		Digest          string
		Stored          hexBytes
		StoredThenPlain bool `json:"stored_then_plain"`
	}
	Reject []struct {
		Name   string
		Stored hexBytes
		Digest string
		Error  string
		Reason string
	}
}

type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

type plainVector struct {
	Hex     hexBytes
	Repeat  hexBytes
	Counter bool
	Length  int
}

func (v plainVector) bytes() []byte {
	if v.Length == 0 {
		return v.Hex
	}
	var p []byte
	for i := uint32(0); len(p) < v.Length; i++ {
		if v.Counter {
			p = binary.LittleEndian.AppendUint32(p, i)
		} else {
			p = append(p, v.Repeat...)
		}
	}
	return p[:v.Length]
}

func loadVectors(t interface{ Fatal(...any) }) (v vectors) {
	f, err := os.Open("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dec := json.NewDecoder(f)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestVectorsAccept(t *testing.T) {
	for _, v := range loadVectors(t).Accept {
		plain := v.Plain.bytes()
		stored := v.Stored
		if v.StoredThenPlain {
			stored = append(stored, plain...)
		}
		d, err := ParseDigest(v.Digest)
		if err != nil || Sum(plain) != d {
			t.Errorf("%s: digest %s, must be %s (%v)", v.Name, Sum(plain), v.Digest, err)
		}
		if got, err := Open(nil, stored, d); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%s: Open: %d bytes, %v", v.Name, len(got), err)
		}
		for _, c := range []Compression{None, Fastest, Default} {
			if got, err := Open(nil, Encode(nil, plain, c), d); err != nil || !bytes.Equal(got, plain) {
				t.Errorf("%s: encoded with %s and opened: %d bytes, %v", v.Name, c, len(got), err)
			}
		}
	}
}

func TestVectorsReject(t *testing.T) {
	sentinels := map[string]error{"format": ErrFormat, "codec": ErrUnknownCodec, "digest": ErrDigest}
	if _, err := Decode(nil, Encode(nil, make([]byte, 100), Fastest)); err != nil { // the decoder's own memory is not the vectors' fault
		t.Fatal(err)
	}
	for _, v := range loadVectors(t).Reject {
		var want Digest
		if v.Digest != "" {
			var err error
			if want, err = ParseDigest(v.Digest); err != nil {
				t.Errorf("%s: %v", v.Name, err)
			}
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got, err := Open(nil, v.Stored, want)
		runtime.ReadMemStats(&after)
		if sentinels[v.Error] == nil || !errors.Is(err, sentinels[v.Error]) || !errors.Is(err, ErrCorrupt) || got != nil {
			t.Errorf("%s (%s): %d bytes, error %v; must be of kind %s", v.Name, v.Reason, len(got), err, v.Error)
		}
		for kind, other := range sentinels {
			if kind != v.Error && errors.Is(err, other) {
				t.Errorf("%s: error %v is also of kind %s", v.Name, err, kind)
			}
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 4*MaxSize {
			t.Errorf("%s: allocated %d bytes", v.Name, n)
		}
	}
}

// FuzzDecode: whatever the bytes are, an answer comes, of the stated length or
// an error of a known kind, and in bounded memory.
func FuzzDecode(f *testing.F) {
	v := loadVectors(f)
	for _, a := range v.Accept {
		if !a.StoredThenPlain && len(a.Stored) < 1000 {
			f.Add([]byte(a.Stored))
		}
	}
	for _, r := range v.Reject {
		if len(r.Stored) < 1000 {
			f.Add([]byte(r.Stored))
		}
	}
	f.Fuzz(func(t *testing.T, stored []byte) {
		dst := []byte("dst")
		plain, err := Decode(dst, stored)
		if err != nil {
			if !errors.Is(err, ErrFormat) && !errors.Is(err, ErrUnknownCodec) || plain != nil {
				t.Fatalf("%d bytes and error %v", len(plain), err)
			}
			return
		}
		n, err := PlainLen(stored)
		if err != nil || len(plain) != 3+n || string(plain[:3]) != "dst" || cap(plain) > 2*MaxSize {
			t.Fatalf("%d bytes, capacity %d; PlainLen says %d, %v", len(plain), cap(plain), n, err)
		}
		again, err := Open(nil, Encode(nil, plain[3:], Fastest), Sum(plain[3:]))
		if err != nil || !bytes.Equal(again, plain[3:]) {
			t.Fatalf("does not survive another Encode: %v", err)
		}
	})
}
