package blockstore

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/klauspost/compress/zstd"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
)

func TestAckSaysWhatWasNew(t *testing.T) {
	ctx := context.Background()
	s := testCreate(t, "v", Options{FS: vfs.NewMem()})
	u, other := startUpload(t, s, "u"), startUpload(t, s, "other")
	const stored = testBlock + 4
	check := func(u *Upload, want int, ns ...int) {
		t.Helper()
		a, err := u.Put(ctx, testBlocks(ns...))
		if err != nil {
			t.Fatal(err)
		}
		if a.Blocks != want || a.PlainBytes != int64(want)*testBlock || a.StoredBytes != int64(want)*stored {
			t.Errorf("put %v: %+v, want %d new", ns, a, want)
		}
		if want == 0 {
			return
		}
		if err := u.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		<-a.Done()
		if a.Err() != nil {
			t.Error(a.Err())
		}
	}
	check(u, 2, 1, 2, 1)
	check(other, 1, 2, 3)
	check(u, 0, 1, 2, 3)
	check(u, 0)
	st, err := s.Stats()
	if err != nil || st.Blocks != 3 || st.StoredBytes != 3*stored || st.PlainBytes != 3*testBlock || st.BytesAdded != 3*stored || st.Uploads != 2 {
		t.Errorf("stats %+v, %v", st, err)
	}
}

// TestAckByAge: who waits for an acknowledgement and sends nothing gets it.
func TestAckByAge(t *testing.T) {
	s := testCreate(t, "v", Options{FS: vfs.NewMem()})
	a, err := startUpload(t, s, "u").Put(context.Background(), testBlocks(1))
	if err != nil {
		t.Fatal(err)
	}
	<-a.Done()
	if a.Err() != nil {
		t.Error(a.Err())
	}
}

// TestBackPressure: a disk that does not answer stops Put, not for ever.
func TestBackPressure(t *testing.T) {
	gate := make(chan struct{})
	var shut sync.Once
	disk := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileSyncData && strings.Contains(op.Path, incomingName) {
			<-gate
		}
		return nil
	}))
	s := testCreate(t, "v", Options{FS: disk, TableSize: testBlock})
	defer shut.Do(func() { close(gate) })
	u := startUpload(t, s, "u")
	ctx, cancel := context.WithCancel(context.Background())
	var n int
	done := make(chan error)
	go func() {
		var err error
		for err == nil {
			_, err = u.Put(ctx, testBlocks(n))
			n++
		}
		done <- err
	}()
	for len(s.pipe.slots) < queuedPuts { // then one more Put waits
		select {
		case err := <-done:
			t.Fatal(err)
		default:
		}
	}
	cancel()
	wantErr(t, "put", <-done, context.Canceled)
	if n > queuedPuts+6 {
		t.Errorf("%d Puts got through to a disk that stands still", n)
	}
	wantErr(t, "flush", u.Flush(ctx), context.Canceled)
	shut.Do(func() { close(gate) })
	if err := u.Flush(context.Background()); err != nil {
		t.Error(err)
	}
}

// TestPageNeedsItsBlocks: no page gets in before what it names, wherever the
// page and the blocks come from.
func TestPageNeedsItsBlocks(t *testing.T) {
	ctx := context.Background()
	s := testCreate(t, "v", Options{FS: vfs.NewMem()})
	pageOf := func(bs ...Block) Block {
		p := make([]byte, diskmap.PageSize)
		for i, b := range bs {
			copy(p[(i*3)*32:], b.Digest[:]) // with zeros in between
		}
		return Block{block.Sum(p), block.Encode(nil, p, block.Fastest)}
	}
	b := testBlocks(1, 2, 3, 4)
	u, other := startUpload(t, s, "u"), startUpload(t, s, "other")
	refuse := func(what string, u *Upload, bs ...Block) {
		t.Helper()
		_, err := u.Put(ctx, bs)
		wantErr(t, what, err, ErrBlockMissing)
	}
	accept := func(what string, u *Upload, bs ...Block) {
		t.Helper()
		if _, err := u.Put(ctx, bs); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	refuse("page over nothing", u, pageOf(b[0]))
	refuse("page before its block", u, pageOf(b[0]), b[0])
	if m, err := u.FindMissing(ctx, digestsOf(b[:1])); err != nil || len(m) != 1 {
		t.Errorf("a block of a refused Put was kept: %v, %v", m, err)
	}
	accept("page after its block", u, b[0], pageOf(b[0]))
	accept("page over what is under way", other, pageOf(b[0]))
	refuse("page over a page that is not there", u, pageOf(pageOf(b[1])))
	accept("page over a page", u, pageOf(pageOf(b[0])))
	if err := u.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	accept("page over what is stored", other, pageOf(b[0], b[0]))
	refuse("page of which a part is missing", other, pageOf(b[0], b[3]))
	// The root of a disk must be a page that is there.
	m := diskmap.Map{Size: testBlock, BlockSize: testBlock}
	for _, root := range []block.Digest{b[0].Digest, b[3].Digest, pageOf(b[3]).Digest} {
		m.Root = root
		wantErr(t, "commit", u.Commit(ctx, Point{ID: "p", Disks: []Disk{{"vda", m}}}), ErrBlockMissing)
	}
	m.Root = pageOf(b[0]).Digest
	if err := u.Commit(ctx, Point{ID: "p", Disks: []Disk{{"vda", m}}}); err != nil {
		t.Error(err)
	}
	r, err := s.VerifyPoint(ctx, "p", nil)
	if err != nil || r.BadCount != 0 || r.Blocks != 2 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestReadThroughUpload: a builder over a base that reads through the upload
// need not look up what it takes over, and pins what it read.
func TestReadThroughUpload(t *testing.T) {
	ctx := context.Background()
	s := testCreate(t, "v", Options{FS: vfs.NewMem()})
	p := testBackup(t, s, "p", 0, 300) // two leaves and a root
	u := startUpload(t, s, "u")
	if err := u.PinPoint(ctx, "p"); err != nil {
		t.Fatal(err)
	}
	b, err := diskmap.NewBuilder(p.Disks[0].Map.Size, testBlock, &p.Disks[0].Map, u, u)
	if err != nil {
		t.Fatal(err)
	}
	ds, err := u.putTest(500, 501)
	if err == nil {
		err = b.Set(ctx, 7, ds[0])
	}
	if err != nil {
		t.Fatal(err)
	}
	m, err := b.Finish(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 8, 255} {
		if !u.known.has(block.Sum(testPlain(n))) {
			t.Errorf("block %d had to be looked up", n)
		}
	}
	if u.known.has(block.Sum(testPlain(256))) {
		t.Error("a leaf was read for nothing")
	}
	if n := u.data.GetCardinality(); n != 0 { // the new one is on its way
		t.Errorf("%d blocks pinned", n)
	}
	if n := u.pages.GetCardinality(); n != 2+0 && n != 3 { // root and leaf read; the other leaf named
		t.Errorf("%d pages pinned", n)
	}
	if err := u.Commit(ctx, Point{ID: "q", Disks: []Disk{{"vda", m}}}); err != nil {
		t.Fatal(err)
	}
	if r, err := s.VerifyPoint(ctx, "q", nil); err != nil || r.BadCount > 0 || r.Blocks != 300+3 {
		t.Errorf("%v, %+v", err, r)
	}
	// Errors name the base.
	u = startUpload(t, s, "u")
	if err := u.PinPoint(ctx, "p"); err != nil {
		t.Fatal(err)
	}
	_, err = u.ReadBlocks(ctx, []block.Digest{block.Sum([]byte("absent"))})
	wantErr(t, "read", err, ErrBlockMissing)
	if err == nil || !strings.Contains(err.Error(), "point p") {
		t.Errorf("%v does not name the base", err)
	}
}

func TestUploadIDs(t *testing.T) {
	ctx := context.Background()
	s := testCreate(t, "v", Options{FS: vfs.NewMem()})
	u := startUpload(t, s, "a")
	if u.ID() != "a" {
		t.Error(u.ID())
	}
	_, err := s.StartUpload("a")
	wantErr(t, "same id", err, ErrExists)
	_, err = s.StartUpload("")
	wantErr(t, "no id", err, ErrInvalid)
	u.Abort()
	u.Abort()
	u = startUpload(t, s, "a")
	wantErr(t, "pin no point", u.PinPoint(ctx, "p"), ErrNotFound)
	if err := u.Commit(ctx, Point{ID: "p"}); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "commit again", u.Commit(ctx, Point{ID: "q"}), ErrUploadClosed)
	wantErr(t, "pin when closed", u.PinPoint(ctx, "p"), ErrUploadClosed)
	u = startUpload(t, s, "a")
	wantErr(t, "point id taken", u.Commit(ctx, Point{ID: "p"}), ErrExists)
	if err := u.Commit(ctx, Point{ID: "q"}); err != nil { // the upload is still open
		t.Error(err)
	}
}

// TestPins: what an upload counts on is known by id, as long as it is open.
func TestPins(t *testing.T) {
	ctx := context.Background()
	s := testCreate(t, "v", Options{FS: vfs.NewMem()})
	p := testBackup(t, s, "p", 0, 10)
	ids := func(ds ...block.Digest) (ids []uint64) {
		es, err := s.lookup(ds)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range es {
			ids = append(ids, e.id)
		}
		slices.Sort(ids)
		return ids
	}
	u := startUpload(t, s, "u")
	root := p.Disks[0].Map.Root
	ds := digestsOf(testBlocks(3, 4))
	if _, err := u.FindMissing(ctx, append(ds, root)); err != nil {
		t.Fatal(err)
	}
	if _, err := u.putTest(8, 12); err != nil { // two there, two new
		t.Fatal(err)
	}
	if err := u.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if got, want := u.data.ToArray(), ids(digestsOf(testBlocks(3, 4, 8, 9, 10, 11))...); !slices.Equal(got, want) {
		t.Errorf("pinned %v, want %v", got, want)
	}
	if got, want := u.pages.ToArray(), ids(root); !slices.Equal(got, want) {
		t.Errorf("pinned pages %v, want %v", got, want)
	}
	if err := u.PinPoint(ctx, "p"); err != nil {
		t.Fatal(err)
	}
	release, err := s.HoldPoint("p")
	if err != nil || len(s.held) != 2 {
		t.Errorf("%d holds, %v", len(s.held), err)
	}
	if err := s.DeletePoint(ctx, "p"); err != nil {
		t.Fatal(err)
	}
	for h := range s.held {
		if h.point.Disks[0].Map.Root != root {
			t.Errorf("holds %+v", h.point)
		}
	}
	release()
	release()
	u.Abort()
	if len(s.held) != 0 || u.data.GetCardinality()+u.pages.GetCardinality() != 0 || len(s.uploads) != 0 {
		t.Errorf("pins are left: %d holds, %d blocks, %d uploads", len(s.held), u.data.GetCardinality(), len(s.uploads))
	}
}

// TestPaddedFrame: a client cannot fill the disk with frames of nothing.
func TestPaddedFrame(t *testing.T) {
	ctx := context.Background()
	plain := testPlain(1)
	enc, err := zstd.NewWriter(nil, zstd.WithSingleSegment(true), zstd.WithEncoderCRC(false))
	if err != nil {
		t.Fatal(err)
	}
	frame := enc.EncodeAll(plain, nil)
	// Empty raw blocks in front of the last one: legal, and as long as one likes.
	var h zstd.Header
	if err := h.Decode(frame); err != nil {
		t.Fatal(err)
	}
	padded := slices.Concat([]byte{1, 0, 0x40, 0}, frame[:h.HeaderSize], make([]byte, 3*100_000), frame[h.HeaderSize:])
	s := testCreate(t, "v", Options{FS: vfs.NewMem()})
	u := startUpload(t, s, "u")
	a, err := u.Put(ctx, []Block{{block.Sum(plain), padded}})
	if err != nil {
		wantErr(t, "padded frame", err, ErrDigestMismatch) // refusing it is as good
		return
	}
	if a.StoredBytes > testBlock+1000 {
		t.Errorf("stored in %d bytes", a.StoredBytes)
	}
	if err := u.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	got, err := s.ReadBlocks(ctx, []block.Digest{block.Sum(plain)})
	if err != nil || !bytes.Equal(got[0], plain) {
		t.Error(err)
	}
}

func TestRecent(t *testing.T) {
	var r recent
	d := func(n int) block.Digest { return block.Digest{byte(n), byte(n >> 8), byte(n >> 16)} }
	for n := range 3 * recentMax {
		r.add(d(n))
		if !r.has(d(n)) || !r.has(d(max(0, n-recentMax+1))) {
			t.Fatalf("%d forgotten", n)
		}
	}
	if len(r.now)+len(r.old) > 2*recentMax || r.has(d(0)) {
		t.Errorf("%d remembered", len(r.now)+len(r.old))
	}
}

func TestReadCache(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewMem()
	s := testCreate(t, "v", Options{FS: mem})
	testBackup(t, s, "p", 0, 4)
	ds := digestsOf(testBlocks(2))
	if _, err := s.ReadBlocks(ctx, ds); err != nil {
		t.Fatal(err)
	}
	if err := s.index.Delete(digestKey(nil, ds[0]), nil); err != nil {
		t.Fatal(err)
	}
	if got, err := s.ReadBlocks(ctx, ds); err != nil || !bytes.Equal(got[0], testPlain(2)) {
		t.Errorf("not from the cache: %v", err)
	}
	if r, err := s.VerifyPoint(ctx, "p", nil); err != nil || r.BadCount != 1 {
		t.Errorf("verify looked into the cache: %v, %+v", err, r)
	}
	// Another vault does not see it.
	other := testCreate(t, "w", Options{FS: mem, Resources: s.res})
	_, err := other.ReadBlocks(ctx, ds)
	wantErr(t, "read in another vault", err, ErrBlockMissing)
	testClose(t, other)

	c := newVerifiedCache(100)
	for n := range 30 {
		c.put(1, block.Digest{byte(n)}, make([]byte, 10))
		c.get(1, block.Digest{0})
	}
	if len(c.byKey) != 10 || c.order.Len() != 10 || c.room != 0 || c.get(1, block.Digest{0}) == nil || c.get(1, block.Digest{1}) != nil {
		t.Errorf("%d entries, %d bytes left", len(c.byKey), c.room)
	}
	c.put(2, block.Digest{0}, make([]byte, 1000)) // larger than the cache
	c.forget(1)
	if len(c.byKey) != 0 || c.room != 100 {
		t.Errorf("%d entries, %d bytes left", len(c.byKey), c.room)
	}
}
