package client

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"cairn/blockstore/block"
	cairnv1 "cairn/proto/cairn/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeBlocks is a data plane that can lie.
type fakeBlocks struct {
	cairnv1.UnimplementedBlockServiceServer
	mu     sync.Mutex
	stored map[block.Digest][]byte
	reads  int     // ReadBlocks calls
	fail   []error // of the next ReadBlocks calls
	maps   []*cairnv1.DiskMapRun
}

func (f *fakeBlocks) ReadBlocks(req *cairnv1.ReadBlocksRequest, stream cairnv1.BlockService_ReadBlocksServer) error {
	f.mu.Lock()
	f.reads++
	var err error
	if len(f.fail) > 0 {
		err, f.fail = f.fail[0], f.fail[1:]
	}
	f.mu.Unlock()
	if err != nil {
		return err
	}
	for b := req.GetDigests(); len(b) > 0; b = b[digestSize:] {
		f.mu.Lock()
		s := f.stored[block.Digest(b[:digestSize])]
		f.mu.Unlock()
		if err := stream.Send(&cairnv1.ReadBlocksResponse{Blocks: [][]byte{s}}); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeBlocks) WriteDiskMap(stream cairnv1.BlockService_WriteDiskMapServer) error {
	for {
		req, err := stream.Recv()
		if err != nil {
			return stream.SendAndClose(&cairnv1.WriteDiskMapResponse{RootDigest: make([]byte, digestSize), ChangedBlocks: 7})
		}
		f.mu.Lock()
		f.maps = append(f.maps, req.GetRuns()...)
		f.mu.Unlock()
		if strings.HasPrefix(req.GetHeader().GetDisk(), "refused") {
			return failure(codes.InvalidArgument, cairnv1.ErrorReason_ERROR_REASON_DISK_MAP_INVALID, "no such disk")
		}
	}
}

// failure is an error as the server sends it.
func failure(code codes.Code, reason cairnv1.ErrorReason, msg string) error {
	st, err := status.New(code, msg).WithDetails(
		&errdetails.ErrorInfo{Domain: errorDomain, Reason: reason.String(), Metadata: map[string]string{"disk": "vda"}},
		&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "header.disk", Description: "is not one of the upload's"}}})
	if err != nil {
		panic(err)
	}
	return st.Err()
}

func serve(t *testing.T, f *fakeBlocks) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	cairnv1.RegisterBlockServiceServer(s, f)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	c, err := Dial("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Stop(); <-done })
	return c
}

func blocks(n, size int) (map[block.Digest][]byte, []block.Digest, [][]byte) {
	stored, ds, plains := map[block.Digest][]byte{}, []block.Digest{}, [][]byte{}
	for i := range n {
		p := []byte(strings.Repeat(string(rune('a'+i)), size))
		d := block.Sum(p)
		stored[d] = block.Encode(nil, p, block.Fastest)
		ds, plains = append(ds, d), append(plains, p)
	}
	return stored, ds, plains
}

func TestReaderReturnsBlocksInOrder(t *testing.T) {
	stored, ds, plains := blocks(20, 16<<10)
	r := serve(t, &fakeBlocks{stored: stored}).Reader("p")
	for _, n := range []int{0, 1, 20} {
		got, err := r.ReadBlocks(context.Background(), ds[:n])
		if err != nil {
			t.Fatal(err)
		}
		for i := range got {
			if string(got[i]) != string(plains[i]) {
				t.Fatalf("%d blocks: block %d is another", n, i)
			}
		}
	}
}

// Whatever the server sends, no byte comes back that does not have the digest
// asked for.
func TestReaderBelievesNoServer(t *testing.T) {
	stored, ds, _ := blocks(3, 16<<10)
	for name, lie := range map[string][]byte{
		"another block": stored[ds[1]], "nothing": nil, "garbage": []byte("garbage"), "half": stored[ds[0]][:len(stored[ds[0]])/2],
	} {
		for _, ask := range [][]block.Digest{ds[:1], ds} {
			f := &fakeBlocks{stored: map[block.Digest][]byte{ds[0]: lie, ds[1]: stored[ds[1]], ds[2]: stored[ds[2]]}}
			_, err := serve(t, f).Reader("the point").ReadBlocks(context.Background(), ask)
			if !errors.Is(err, block.ErrCorrupt) {
				t.Errorf("%s, %d blocks: %v, want ErrCorrupt", name, len(ask), err)
			} else if !strings.Contains(err.Error(), ds[0].String()) || !strings.Contains(err.Error(), "the point") {
				t.Errorf("%s: the error does not name block and point: %v", name, err)
			}
		}
	}
}

func TestReaderKeepsPages(t *testing.T) {
	stored, ds, _ := blocks(1, 8192)
	f := &fakeBlocks{stored: stored}
	r := serve(t, f).Reader("p")
	for range 3 {
		if _, err := r.ReadBlocks(context.Background(), ds); err != nil {
			t.Fatal(err)
		}
	}
	if f.reads != 1 {
		t.Errorf("a page was fetched %d times", f.reads)
	}
}

func TestReaderWaitsForTheServer(t *testing.T) {
	stored, ds, _ := blocks(2, 16<<10)
	gone := status.Error(codes.Unavailable, "connection refused")
	f := &fakeBlocks{stored: stored, fail: []error{gone, gone}}
	r := serve(t, f).Reader("p")
	if _, err := r.ReadBlocks(context.Background(), ds); !Transient(err) {
		t.Errorf("without patience: %v", err)
	}
	r.RetryFor = time.Minute
	if _, err := r.ReadBlocks(context.Background(), ds); err != nil {
		t.Errorf("with patience: %v", err)
	}
	// What waiting cannot mend is not waited for.
	f.fail = []error{failure(codes.DataLoss, cairnv1.ErrorReason_ERROR_REASON_DATA_CORRUPT, "block is damaged")}
	if _, err := r.ReadBlocks(context.Background(), ds); Reason(err) != cairnv1.ErrorReason_ERROR_REASON_DATA_CORRUPT {
		t.Errorf("damage: %v", err)
	}
}

func TestMapWriterPacksRuns(t *testing.T) {
	f := &fakeBlocks{}
	c := serve(t, f)
	w, err := (&Upload{blocks: c.Blocks, Token: "t"}).WriteMap(context.Background(), "vda", false)
	if err != nil {
		t.Fatal(err)
	}
	const n = 40_000 // more than fits one message
	d := block.Digest{1}
	for i := range uint64(n) {
		if err := w.Set(i, d); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.SetZero(n, 1000), w.Set(n+1000, d), w.Set(n+2000, d), w.Set(n+2001, d)); err != nil {
		t.Fatal(err)
	}
	if _, changed, err := w.Close(); err != nil || changed != 7 {
		t.Fatal(changed, err)
	}
	var next, digests int64
	for _, r := range f.maps {
		if r.FirstBlock < next {
			t.Fatalf("run at block %d after block %d", r.FirstBlock, next)
		}
		count := int64(len(r.Digests) / digestSize)
		digests += count
		next = r.FirstBlock + count + r.ZeroBlocks
	}
	if digests != n+3 || next != n+2002 {
		t.Errorf("%d digests up to block %d", digests, next)
	}
	if len(f.maps) > 8 {
		t.Errorf("%d runs for what takes 5 and a few messages", len(f.maps))
	}
}

func TestErrorsSayWhatTheServerSaid(t *testing.T) {
	c := serve(t, &fakeBlocks{})
	w, err := (&Upload{blocks: c.Blocks}).WriteMap(context.Background(), "refused", false)
	if err == nil {
		_, _, err = w.Close()
	}
	if Reason(err) != cairnv1.ErrorReason_ERROR_REASON_DISK_MAP_INVALID || Code(err) != codes.InvalidArgument || Message(err) != "no such disk" ||
		Metadata(err)["disk"] != "vda" || Transient(err) {
		t.Errorf("reason %v, code %v, message %q, metadata %v", Reason(err), Code(err), Message(err), Metadata(err))
	}
	if v := FieldViolations(err); len(v) != 1 || v[0] != "header.disk: is not one of the upload's" {
		t.Errorf("field violations %q", v)
	}
	plain := errors.New("something local")
	if Reason(plain) != 0 || Message(plain) != "something local" || Code(nil) != codes.OK || Message(nil) != "" {
		t.Error("errors that are not from a call")
	}
}

func TestDialRefusesTheNetwork(t *testing.T) {
	for addr, ok := range map[string]bool{
		"unix:/run/x.sock": true, "unix:///run/x.sock": true, "127.0.0.1:7401": true, "[::1]:7401": true, "localhost:7401": true,
		"": false, "unix:": false, "/run/x.sock": false, "127.0.0.1": false, "192.0.2.1:7401": false, "example.org:7401": false, ":7401": false, "localhost:": false,
	} {
		c, err := Dial(addr)
		if (err == nil) != ok {
			t.Errorf("Dial(%q): %v", addr, err)
		}
		if err == nil {
			c.Close()
		} else if !strings.Contains(err.Error(), addr) {
			t.Errorf("Dial(%q) does not name the address: %v", addr, err)
		}
	}
}
