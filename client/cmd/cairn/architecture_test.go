package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

// rules say which packages of ours a package may import, by the longest prefix
// that fits. Data flows one way: only programs and benchmarks wire the sides
// together. Tests may look further than the code they test, except where a
// rule forbids an import outright (never).
var rules = []struct {
	pkg   string
	may   []string // prefixes
	never []string // of all imports, also of others' packages
}{
	{"cairn/proto", nil, nil},
	{"cairn/blockstore", []string{"cairn/blockstore"}, []string{"google.golang.org/grpc", "google.golang.org/protobuf"}},
	{"cairn/mount", []string{"cairn/mount", "cairn/blockstore/block", "cairn/blockstore/diskmap"}, []string{"google.golang.org/grpc", "google.golang.org/protobuf"}},
	{"cairn/mount/filesys", []string{"cairn/mount/filesys"}, []string{"github.com/hanwen/go-fuse"}},
	{"cairn/client/source", []string{"cairn/client/source"}, []string{"google.golang.org/grpc", "google.golang.org/protobuf"}},
	{"cairn/client/source/libvirt/rpc", nil, []string{"google.golang.org/grpc", "google.golang.org/protobuf"}},
	{"cairn/client/source/libvirt/domxml", nil, []string{"google.golang.org/grpc", "google.golang.org/protobuf"}},
	{"cairn/client/source/qmp", nil, []string{"google.golang.org/grpc", "google.golang.org/protobuf"}},
	{"cairn/client/source/guest", nil, []string{"google.golang.org/grpc", "google.golang.org/protobuf"}},
	{"cairn/client/agent", []string{"cairn/client", "cairn/blockstore/block", "cairn/blockstore/diskmap", "cairn/proto"}, nil},
	{"cairn/client/cmd", []string{"cairn"}, nil},
	{"cairn/client", []string{"cairn/proto", "cairn/blockstore/block", "cairn/blockstore/diskmap"}, nil},
	{"cairn/server/cmd", []string{"cairn"}, nil},
	{"cairn/server", []string{"cairn/server", "cairn/blockstore", "cairn/proto"}, nil},
	{"cairn/bench", []string{"cairn"}, nil},
}

// testKit makes guests; no program has it.
const testKit = "cairn/client/source/guesttest"

type pkg struct {
	ImportPath string
	Doc        string
	GoFiles    []string
	Imports    []string
}

func listPackages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Doc,GoFiles,Imports", "cairn/...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var list []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
}

func within(path, prefix string) bool {
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

// The architecture holds: every package imports only what its place allows.
func TestImportRules(t *testing.T) {
	packages := listPackages(t)
	if len(packages) < 15 {
		t.Fatalf("go list found only %d packages", len(packages))
	}
	for _, p := range packages {
		best := -1
		for i, r := range rules {
			if within(p.ImportPath, r.pkg) && (best < 0 || len(r.pkg) > len(rules[best].pkg)) {
				best = i
			}
		}
		if best < 0 {
			t.Errorf("%s has no place in the architecture: give it a rule", p.ImportPath)
			continue
		}
		for _, imp := range p.Imports {
			if within(imp, testKit) && !within(p.ImportPath, testKit) {
				t.Errorf("%s imports %s, which is for tests only", p.ImportPath, imp)
			}
			for _, n := range rules[best].never {
				if within(imp, n) {
					t.Errorf("%s imports %s, which %s must never do", p.ImportPath, imp, rules[best].pkg)
				}
			}
			if !within(imp, "cairn") {
				continue
			}
			ok := false
			for _, m := range rules[best].may {
				ok = ok || within(imp, m)
			}
			if !ok {
				t.Errorf("%s imports %s; packages under %s may import only %v", p.ImportPath, imp, rules[best].pkg, rules[best].may)
			}
		}
	}
}

// Every package teaches itself to its reader.
func TestEveryPackageHasAComment(t *testing.T) {
	for _, p := range listPackages(t) {
		if len(p.GoFiles) > 0 && len(p.Doc) < 40 {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}
