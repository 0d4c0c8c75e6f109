package block

import (
	"bytes"
	"testing"
)

func TestRoundTrip(t *testing.T) {
	p := bytes.Repeat([]byte("hello block "), 9000)
	for _, n := range []int{1, 2, 100, 8192, 65536, len(p)} {
		for _, c := range []Compression{None, Fastest, Default} {
			s := Encode([]byte("xy"), p[:n], c)
			got, err := Open([]byte("ab"), s[2:], Sum(p[:n]))
			if err != nil || !bytes.Equal(got[2:], p[:n]) {
				t.Fatalf("%d bytes, %s: %v", n, c, err)
			}
			if _, err := Decode(nil, append(s[2:], 0)); err == nil {
				t.Fatalf("%d bytes, %s: trailing byte accepted", n, c)
			}
		}
	}
}
