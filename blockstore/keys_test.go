package blockstore

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
)

// update writes files of testdata anew. What is written already must not change
// without a new format version.
var update = flag.Bool("update", false, "write testdata/records.json and testdata/vault-v1 if they are missing")

// recordVector is one key and value, with what it says.
type recordVector struct {
	Name  string        `json:"name"`
	DB    string        `json:"db"`
	Key   string        `json:"key"`   // hex
	Value string        `json:"value"` // hex
	Block *blockVector  `json:"block,omitempty"`
	State *[4]uint64    `json:"state,omitempty"` // next id, entries, stored bytes, plain bytes
	Point *pointVector  `json:"point,omitempty"`
	Recd  *recordFields `json:"record,omitempty"`
}

type blockVector struct {
	Digest string `json:"digest,omitempty"` // hex; not in blocks/
	ID     uint64 `json:"id"`
	Stored uint32 `json:"stored_bytes"`
	Page   bool   `json:"page"`
}

type pointVector struct {
	ID    string       `json:"id"`
	Disks []diskVector `json:"disks"`
	Meta  string       `json:"meta"` // hex
}

type diskVector struct {
	Name      string `json:"name"`
	Size      int64  `json:"size"`
	BlockSize int    `json:"block_size"`
	Root      string `json:"root"` // hex
}

type recordFields struct {
	Key   string `json:"key"`
	Value string `json:"value"` // hex
}

func hexOf(b []byte) string { return hex.EncodeToString(b) }

func recordVectors() []recordVector {
	d := block.Sum([]byte("cairn"))
	vs := []recordVector{}
	for _, id := range []uint64{1, 0x0102030405060708} {
		vs = append(vs, recordVector{
			Name: "block in blocks/; its value is a stored block, see there", DB: blocksName,
			Key: hexOf(blockKey(id)), Block: &blockVector{ID: id},
		})
	}
	for _, e := range []entry{{1, 65540, false}, {300, 8196, true}, {1<<40 + 5, 4<<20 + 4, false}} {
		vs = append(vs, recordVector{
			Name: "index entry", DB: indexName,
			Key: hexOf(digestKey(nil, d)), Value: hexOf(e.append(nil)),
			Block: &blockVector{Digest: d.String(), ID: e.id, Stored: e.stored, Page: e.page},
		})
	}
	st := state{next: 1025, blocks: 1000, stored: 40_000_000, plain: 65_536_000}
	vs = append(vs, recordVector{
		Name: "state", DB: indexName, Key: hexOf([]byte(stateKey)), Value: hexOf(st.append(nil)),
		State: &[4]uint64{st.next, st.blocks, st.stored, st.plain},
	})
	for name, p := range map[string]Point{
		"point without disks": {ID: "p"},
		"point of two disks": {ID: "items/web1/2026-11-20t22-00-00z", Meta: []byte{0, 1, 0xff}, Disks: []Disk{
			{"vda", diskmap.Map{Size: 10 << 30, BlockSize: 64 << 10, Root: d}},
			{"사진", diskmap.Map{Size: 512, BlockSize: 16 << 10, Root: block.Zero}},
		}},
	} {
		pv := &pointVector{ID: p.ID, Meta: hexOf(p.Meta), Disks: []diskVector{}}
		for _, d := range p.Disks {
			pv.Disks = append(pv.Disks, diskVector{d.Name, d.Map.Size, d.Map.BlockSize, d.Map.Root.String()})
		}
		vs = append(vs, recordVector{
			Name: name, DB: indexName, Key: hexOf(spaceKey(pointSpace, p.ID)), Value: hexOf(appendPoint(nil, p)), Point: pv,
		})
	}
	vs = append(vs, recordVector{
		Name: "record", DB: indexName, Key: hexOf(spaceKey(recordSpace, "policies/daily")), Value: "c0ffee",
		Recd: &recordFields{"policies/daily", "c0ffee"},
	})
	slices.SortStableFunc(vs, func(a, b recordVector) int { return strings.Compare(a.Name, b.Name) })
	return vs
}

// TestRecordVectors holds keys and values against the published ones.
func TestRecordVectors(t *testing.T) {
	path := filepath.Join("testdata", "records.json")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && *update {
		if text, err = json.MarshalIndent(recordVectors(), "", "  "); err == nil {
			err = os.WriteFile(path, append(text, '\n'), 0o644)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	var want []recordVector
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	got := recordVectors()
	if len(got) != len(want) {
		t.Fatalf("%d vectors, want %d", len(got), len(want))
	}
	for i := range want {
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("%s:\n got %+v\nwant %+v", want[i].Name, got[i], want[i])
		}
		v, _ := hex.DecodeString(want[i].Value)
		switch w := want[i]; {
		case w.Point != nil:
			p, err := parsePoint(w.Point.ID, v)
			if err != nil || hexOf(appendPoint(nil, p)) != w.Value || len(p.Disks) != len(w.Point.Disks) || hexOf(p.Meta) != w.Point.Meta {
				t.Errorf("%s: read as %+v, %v", w.Name, p, err)
			}
			for i, d := range p.Disks {
				if wd := w.Point.Disks[i]; wd != (diskVector{d.Name, d.Map.Size, d.Map.BlockSize, d.Map.Root.String()}) {
					t.Errorf("%s: disk read as %+v, want %+v", w.Name, d, wd)
				}
			}
		case w.State != nil:
			if st, err := parseState(v); err != nil || [4]uint64{st.next, st.blocks, st.stored, st.plain} != *w.State {
				t.Errorf("%s: read as %+v, %v", w.Name, st, err)
			}
		case w.Block != nil && w.DB == indexName:
			if e, err := parseEntry(v); err != nil || e != (entry{w.Block.ID, w.Block.Stored, w.Block.Page}) {
				t.Errorf("%s: read as %+v, %v", w.Name, e, err)
			}
		}
	}
}

// TestMalformedRecords cuts, extends and flips records: they are refused or read
// as something else, nothing worse.
func TestMalformedRecords(t *testing.T) {
	for _, w := range recordVectors() {
		good, _ := hex.DecodeString(w.Value)
		var parse func(b []byte) error
		switch {
		case w.Point != nil:
			parse = func(b []byte) error { _, err := parsePoint("x", b); return err }
		case w.State != nil:
			parse = func(b []byte) error { _, err := parseState(b); return err }
		case w.Block != nil && w.DB == indexName:
			parse = func(b []byte) error { _, err := parseEntry(b); return err }
		default:
			continue
		}
		if err := parse(good); err != nil {
			t.Errorf("%s: %v", w.Name, err)
		}
		for n := range len(good) {
			wantErr(t, w.Name+", cut", parse(good[:n]), ErrCorrupt)
			for bit := range 8 {
				b := bytes.Clone(good)
				b[n] ^= 1 << bit
				if err := parse(b); err != nil {
					wantErr(t, w.Name+", flipped", err, ErrCorrupt)
				}
			}
		}
		wantErr(t, w.Name+", extended", parse(append(good, 0)), ErrCorrupt)
	}
}

func TestFormatFile(t *testing.T) {
	const text = "cairn vault\nversion: 1\nuuid: 0193f4c2-7a1e-4b6f-9d3c-5e8f7a6b5c4d\nblock-size: 65536\n"
	f := formatFile{1, "0193f4c2-7a1e-4b6f-9d3c-5e8f7a6b5c4d", 65536}
	if f.String() != text {
		t.Errorf("written as %q", f.String())
	}
	if got, err := parseFormat(text); err != nil || got != f {
		t.Errorf("read as %+v, %v", got, err)
	}
	if pebbleFormat != 21 {
		t.Errorf("Pebble's format major version is %d; that is another vault format", pebbleFormat)
	}
}
