package rpc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"reflect"
	"testing"
)

// What this package sends is, byte for byte, what libvirt's own client sends,
// and it reads what the daemon answered.
func TestGoldenCalls(t *testing.T) {
	backup := `<domainbackup mode='pull'><server transport='unix' socket='/tmp/rpc-test-g/n.sock'/><disks><disk name='vda' backup='yes' type='file'><scratch file='/tmp/rpc-test-g/s.qcow2'/></disk></disks></domainbackup>` + "\n"
	none := func(err error) (any, error) { return nil, err }
	for name, test := range map[string]struct {
		call func(context.Context, *Conn) (any, error)
		want any
		code Code
	}{
		"open": {call: func(ctx context.Context, c *Conn) (any, error) {
			return none(c.call(ctx, procConnectOpen, "", args().opt("qemu:///system").u32(0), nil))
		}},
		"lookup_none": {call: func(ctx context.Context, c *Conn) (any, error) {
			return c.LookupByName(ctx, "rpc-test-none")
		}, want: Domain{}, code: ErrNoDomain},
		"list": {call: func(ctx context.Context, c *Conn) (any, error) {
			return c.ListDomains(ctx, ListActive|ListInactive)
		}, want: []Domain{golden, idle}},
		"state": {call: func(ctx context.Context, c *Conn) (any, error) {
			s, reason, err := c.DomainState(ctx, golden)
			return [2]int{int(s), reason}, err
		}, want: [2]int{int(StatePaused), PausedUser}},
		"block_info": {call: func(ctx context.Context, c *Conn) (any, error) {
			return c.BlockInfo(ctx, golden, "vda")
		}, want: BlockInfo{Capacity: 16 << 20, Allocation: 204800, Physical: 196616}},
		"agent_off": {call: func(ctx context.Context, c *Conn) (any, error) {
			return c.AgentCommand(ctx, golden, `{"execute":"guest-ping"}`, 1)
		}, want: "", code: ErrOperationInvalid},
		"backup_begin": {call: func(ctx context.Context, c *Conn) (any, error) {
			return none(c.BackupBegin(ctx, golden, backup, "<domaincheckpoint><name>cp1</name></domaincheckpoint>\n", 0))
		}},
		"checkpoint_list": {call: func(ctx context.Context, c *Conn) (any, error) {
			return c.ListCheckpoints(ctx, golden, 0)
		}, want: []Checkpoint{{"cp1", golden}}},
		"checkpoint_lookup": {call: func(ctx context.Context, c *Conn) (any, error) {
			return c.LookupCheckpoint(ctx, golden, "cp1")
		}, want: Checkpoint{"cp1", golden}},
		"checkpoint_delete": {call: func(ctx context.Context, c *Conn) (any, error) {
			return none(c.DeleteCheckpoint(ctx, Checkpoint{"cp1", golden}, 0))
		}},
		"job_stats": {call: func(ctx context.Context, c *Conn) (any, error) {
			return c.JobStats(ctx, golden, false)
		}, want: JobStats{JobUnbounded, Params{
			JobOperation: int64(JobOperationBackup), "time_elapsed": uint64(129), JobTempUsed: uint64(0), JobTempTotal: uint64(16 << 20)}}},
		"abort_job": {call: func(ctx context.Context, c *Conn) (any, error) {
			return none(c.AbortJob(ctx, golden))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			x, ok := recorded(t)[name]
			if !ok {
				t.Fatal("no recording")
			}
			c, d := connect(t)
			type result struct {
				v   any
				err error
			}
			got := later(func() result {
				v, err := test.call(t.Context(), c)
				return result{v, err}
			})
			h, payload := d.take()
			var recorded header
			recorded.parse(x.call[4:])
			recorded.serial = h.serial
			if h != recorded || !bytes.Equal(payload, x.call[headerSize:]) {
				t.Errorf("sent %+v %x\nwant %+v %x", h, payload, recorded, x.call[headerSize:])
			}
			binary.BigEndian.PutUint32(x.answer[20:], h.serial)
			d.Write(x.answer)
			r := <-got
			if test.code != 0 {
				wantErr(t, r.err, test.code)
			} else if r.err != nil {
				t.Error(r.err)
			}
			if !reflect.DeepEqual(r.v, test.want) {
				t.Errorf("got %#v\nwant %#v", r.v, test.want)
			}
		})
	}
}

func TestGoldenEvents(t *testing.T) {
	for name, want := range map[string]Event{
		"event_lifecycle": {Kind: EventLifecycle, Domain: golden, What: LifecycleShutdown, Detail: 2},
		"event_block_job": {Kind: EventBlockJob, Domain: golden, Device: "vda", What: int(BlockJobBackup), Detail: BlockJobCanceled},
		"event_job_completed": {Kind: EventJobCompleted, Domain: golden, Params: Params{
			JobOperation: int64(JobOperationBackup), "time_elapsed": uint64(185), JobTempUsed: uint64(0), JobTempTotal: uint64(16 << 20),
			JobSuccess: true, JobErrorMessage: "Operation canceled"}},
	} {
		x := recorded(t)[name]
		h, payload, err := readMessage(bytes.NewReader(x.answer))
		if err != nil {
			t.Fatal(name, err)
		}
		got, known, err := decodeEvent(h.procedure, payload)
		if err != nil || !known || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v, %v\nwant %+v", name, got, known, err, want)
		}
	}
}

// An error has all that the daemon said.
func TestGoldenError(t *testing.T) {
	d := &decoder{b: recorded(t)["lookup_none"].answer[headerSize:]}
	e := d.failure()
	if err := d.end(); err != nil {
		t.Fatal(err)
	}
	text := "no domain with matching name 'rpc-test-none'"
	want := Error{Code: ErrNoDomain, Domain: 10, Level: 2, Text: "Domain not found: " + text,
		Str1: "Domain not found: %s", Str2: text, Int1: -1, Int2: -1}
	if *e != want {
		t.Errorf("got %#v\nwant %#v", *e, want)
	}
	if !errors.Is(e, ErrNoDomain) || errors.Is(e, ErrNoCheckpoint) {
		t.Error("errors.Is does not go by code")
	}
	if s := e.Error(); s != "Domain not found: "+text+" (libvirt error 42)" {
		t.Error(s)
	}
}
