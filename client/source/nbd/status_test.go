package nbd

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestWalkViolations(t *testing.T) {
	const n = 4096
	for name, answer := range map[string]func(*peer, *fakeRequest){
		"nothing":      func(p *peer, r *fakeRequest) { p.chunk(chunkDone, chunkNone, r) },
		"simple reply": func(p *peer, r *fakeRequest) { p.put(uint32(magicSimple), uint32(0), r.cookie) },
		"other context": func(p *peer, r *fakeRequest) {
			p.chunk(chunkDone, chunkBlockStatus, r, uint32(8), uint32(n), uint32(0))
		},
		"unknown context": func(p *peer, r *fakeRequest) {
			p.chunk(chunkDone, chunkBlockStatus, r, uint32(9), uint32(n), uint32(0))
		},
		"no extent": func(p *peer, r *fakeRequest) { p.chunk(chunkDone, chunkBlockStatus, r, uint32(7)) },
		"half an extent": func(p *peer, r *fakeRequest) {
			p.chunk(chunkDone, chunkBlockStatus, r, uint32(7), uint32(n), uint32(0), uint32(1))
		},
		"empty extent": func(p *peer, r *fakeRequest) {
			p.chunk(chunkDone, chunkBlockStatus, r, uint32(7), uint32(0), uint32(0))
		},
		"too many": func(p *peer, r *fakeRequest) {
			p.put(uint32(magicStructured), uint16(1), uint16(chunkBlockStatus), r.cookie, uint32(maxStatusChunk+4), uint32(7))
		},
		"twice": func(p *peer, r *fakeRequest) {
			p.chunk(0, chunkBlockStatus, r, uint32(7), uint32(n), uint32(0))
			p.chunk(chunkDone, chunkBlockStatus, r, uint32(7), uint32(n), uint32(0))
		},
		"data": func(p *peer, r *fakeRequest) { p.chunk(chunkDone, chunkOffsetData, r, r.offset, make([]byte, n)) },
		"then simple": func(p *peer, r *fakeRequest) {
			p.chunk(0, chunkBlockStatus, r, uint32(7), uint32(n), uint32(0))
			p.put(uint32(magicSimple), uint32(5), r.cookie)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := connect(t, server(t, fakeExport{}, answer), bothContexts)
			wantProtocol(t, c.Walk(t.Context(), BaseAllocation, 0, n, func(s Status) error {
				t.Errorf("extent %+v", s)
				return nil
			}))
		})
	}
}

// TestWalk: whatever pieces the server talks in, the extents are the same.
func TestWalk(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd, srv := rand.New(rand.NewPCG(seed, 0)), rand.New(rand.NewPCG(seed, 1))
	const unit = 1 << 20
	flags := make([]uint32, 4096) // of each unit: 4 GiB, more than one request
	for i := range flags {
		if flags[i] = uint32(rnd.IntN(3)); i > 0 && rnd.IntN(8) > 0 {
			flags[i] = flags[i-1]
		}
	}
	blocks := be.AppendUint32(be.AppendUint32(be.AppendUint32(nil, 512), 4096), 32<<20)
	c := connect(t, server(t, fakeExport{size: unit * uint64(len(flags)), blocks: blocks}, func(p *peer, r *fakeRequest) {
		if r.offset%512 != 0 || r.length%512 != 0 || r.length == 0 {
			t.Errorf("unaligned request: %d bytes at %d", r.length, r.offset)
		}
		args := []any{uint32(7)}
		for at, end := r.offset, r.offset+uint64(r.length); at < end; {
			n := unit - at%unit
			if srv.IntN(3) == 0 {
				n = min(512*(1+srv.Uint64N(n/512)), n)
			}
			if at+n > end && srv.IntN(2) == 0 {
				n = end - at // or beyond what was asked for
			}
			args = append(args, uint32(n), flags[at/unit])
			if at += n; srv.IntN(100) == 0 {
				break // less than was asked for
			}
		}
		p.chunk(0, chunkBlockStatus, r, uint32(8), r.length, uint32(0))
		p.chunk(chunkDone, chunkBlockStatus, r, args...)
	}), bothContexts)
	for i := range 20 {
		off, length := int64(0), c.Info().Size
		if i > 0 {
			off = rnd.Int64N(length)
			length = 1 + rnd.Int64N(length-off)
		}
		var want []Status
		for at := off; at < off+length; {
			n := min(unit-at%unit, off+length-at)
			if k := len(want) - 1; k >= 0 && want[k].Flags == flags[at/unit] {
				want[k].Length += n
			} else {
				want = append(want, Status{at, n, flags[at/unit]})
			}
			at += n
		}
		var got []Status
		err := c.Walk(t.Context(), BaseAllocation, off, length, func(s Status) error {
			got = append(got, s)
			return nil
		})
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("walk of %d at %d: %v\n got %v\nwant %v", length, off, err, got, want)
		}
	}
	stop := errors.New("stop")
	if err := c.Walk(t.Context(), BaseAllocation, 0, unit, func(Status) error { return stop }); err != stop {
		t.Errorf("error of the callback: %v", err)
	}
	for _, r := range [][2]int64{{-1, 1}, {0, -1}, {0, c.Info().Size + 1}, {math.MaxInt64, math.MaxInt64}} {
		if err := c.Walk(t.Context(), BaseAllocation, r[0], r[1], nil); err == nil {
			t.Errorf("walk of %d at %d was accepted", r[1], r[0])
		}
	}
}
