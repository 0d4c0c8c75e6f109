// Pattern writes blocks of 4096 bytes that say which they are, inside the machine
// that makes the fixtures:
//
//	pattern DEVICE TAG [FIRST COUNT]    blocks FIRST to FIRST+COUNT, or all
//	pattern fill DEVICE                 the same bytes all over, none of them zero
package main

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"os"
	"strconv"
)

const block = 4096

func main() {
	log.SetFlags(0)
	a := os.Args[1:]
	name, tag := a[0], a[1]
	if name == "fill" {
		name, tag = a[1], ""
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		log.Fatal(err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		log.Fatal(err)
	}
	first, last := int64(0), (size+block-1)/block
	if len(a) == 4 {
		first, _ = strconv.ParseInt(a[2], 10, 64)
		n, _ := strconv.ParseInt(a[3], 10, 64)
		last = first + n
	}
	for b := first; b < last; b++ {
		row := fmt.Appendf(nil, "%-8.8s%07x\n", tag, b)
		if tag == "" {
			row = []byte("stale bytes ... ")
		}
		n := min(block, size-b*block)
		if _, err := f.WriteAt(bytes.Repeat(row, block/len(row))[:n], b*block); err != nil {
			log.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		log.Fatal(err)
	}
}
