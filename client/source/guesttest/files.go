package guesttest

import (
	"bytes"
	"fmt"
	"io/fs"
	"strings"
	"testing"
)

// Body returns what the guest's writer puts into file n.
func Body(n int) []byte {
	const modulus = 1<<31 - 1 // a prime: the minimal standard generator, exact in a double
	var b bytes.Buffer
	name := fileName(n)
	x := (int64(n)*7919 + 1) % modulus
	lines := 1 + n*37%200
	for range lines {
		b.WriteString(name)
		for range 6 {
			x = x * 16807 % modulus
			fmt.Fprintf(&b, " %010d", x)
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "end %s %d\n", name, lines)
	return b.Bytes()
}

func fileName(n int) string { return fmt.Sprintf("f%06d", n) }

// CheckFiles checks the tree of a disk on which the guest's writer was at work,
// and returns the number of the last file that the guest had synced, by its own
// list. The list must reach to atLeast (-1: may be empty): what the guest had
// told before the moment of the copy, see Synced. Every file in the list must be
// there and whole; besides, only the one that was being written may be there.
func CheckFiles(tb testing.TB, tree fs.FS, atLeast int) int {
	tb.Helper()
	last, err := checkFiles(tree)
	if err != nil {
		tb.Fatal(err)
	}
	if last < atLeast {
		tb.Fatalf("files up to %d were synced, the disk knows them up to %d", atLeast, last)
	}
	return last
}

func checkFiles(tree fs.FS) (int, error) {
	list, err := fs.ReadFile(tree, "synced")
	if err != nil {
		return 0, err
	}
	names := strings.SplitAfter(string(list), "\n")
	names = names[:len(names)-1] // behind the last newline: nothing, or a name half written
	for n, name := range names {
		if name != fileName(n)+"\n" {
			return 0, fmt.Errorf("line %d of the list of synced files is %q", n, name)
		}
		got, err := fs.ReadFile(tree, "files/"+fileName(n))
		if err != nil {
			return 0, fmt.Errorf("a synced file: %w", err)
		}
		if want := Body(n); !bytes.Equal(got, want) {
			return 0, fmt.Errorf("synced file %s is not as it was written: %d bytes, must be %d, first difference at %d",
				fileName(n), len(got), len(want), difference(got, want))
		}
	}
	there, err := fs.ReadDir(tree, "files")
	if err != nil {
		return 0, err
	}
	for _, e := range there {
		var n int
		if _, err := fmt.Sscanf(e.Name(), "f%d", &n); err != nil || e.Name() != fileName(n) || n > len(names) {
			return 0, fmt.Errorf("file %s is there, the last synced one is %d", e.Name(), len(names)-1)
		}
	}
	return len(names) - 1, nil
}

func difference(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}
