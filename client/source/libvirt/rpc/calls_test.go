package rpc

import (
	"bytes"
	"context"
	"reflect"
	"testing"
)

// Calls of which there is no recording: what goes out by the protocol's own
// description, and what is made of the answer.
func TestCalls(t *testing.T) {
	cp := Checkpoint{"cp1", golden}
	dom := func() *encoder { return args().domain(golden) }
	none := func(err error) (any, error) { return nil, err }
	type ctxt = context.Context
	for name, test := range map[string]struct {
		call   func(ctxt, *Conn) (any, error)
		proc   proc
		args   *encoder
		answer *encoder
		want   any
	}{
		"lib version": {func(ctx ctxt, c *Conn) (any, error) { return c.LibVersion(ctx) }, procConnectLibVersion, args(), args().u64(9000012), Version(9000012)},
		"version":     {func(ctx ctxt, c *Conn) (any, error) { return c.HypervisorVersion(ctx) }, procConnectVersion, args(), args().u64(7), Version(7)},
		"caps":        {func(ctx ctxt, c *Conn) (any, error) { return c.Capabilities(ctx) }, procConnectCapabilities, args(), args().str("<c/>"), "<c/>"},
		"by uuid":     {func(ctx ctxt, c *Conn) (any, error) { return c.LookupByUUID(ctx, golden.UUID) }, procDomainLookupByUUID, args().uuid(golden.UUID), dom(), golden},
		"xml":         {func(ctx ctxt, c *Conn) (any, error) { return c.XMLDesc(ctx, golden, XMLInactive) }, procDomainXMLDesc, dom().u32(2), args().str("<domain/>"), "<domain/>"},
		"define":      {func(ctx ctxt, c *Conn) (any, error) { return c.DefineXML(ctx, "<d/>", DefineValidate) }, procDomainDefineXML, args().str("<d/>").u32(1), dom(), golden},
		"undefine":    {func(ctx ctxt, c *Conn) (any, error) { return none(c.Undefine(ctx, golden, UndefineKeepNVRAM)) }, procDomainUndefine, dom().u32(8), args(), nil},
		"start":       {func(ctx ctxt, c *Conn) (any, error) { return c.Start(ctx, golden, StartPaused) }, procDomainCreate, dom().u32(1), dom(), golden},
		"shutdown":    {func(ctx ctxt, c *Conn) (any, error) { return none(c.Shutdown(ctx, golden, ShutdownAgent)) }, procDomainShutdown, dom().u32(2), args(), nil},
		"destroy":     {func(ctx ctxt, c *Conn) (any, error) { return none(c.Destroy(ctx, golden, DestroyGraceful)) }, procDomainDestroy, dom().u32(1), args(), nil},
		"suspend":     {func(ctx ctxt, c *Conn) (any, error) { return none(c.Suspend(ctx, golden)) }, procDomainSuspend, dom(), args(), nil},
		"resume":      {func(ctx ctxt, c *Conn) (any, error) { return none(c.Resume(ctx, golden)) }, procDomainResume, dom(), args(), nil},
		"saved":       {func(ctx ctxt, c *Conn) (any, error) { return c.HasManagedSave(ctx, golden) }, procDomainHasManagedSave, dom().u32(0), args().u32(1), true},
		"agent": {func(ctx ctxt, c *Conn) (any, error) { return c.AgentCommand(ctx, golden, "{}", AgentBlock) },
			procAgentCommand, dom().str("{}").i32(-2).u32(0), args().opt(`{"return":{}}`), `{"return":{}}`},
		"agent, no wait": {func(ctx ctxt, c *Conn) (any, error) { return c.AgentCommand(ctx, golden, "{}", AgentNoWait) },
			procAgentCommand, dom().str("{}").i32(0).u32(0), args().opt(""), ""},
		"monitor": {func(ctx ctxt, c *Conn) (any, error) { return c.MonitorCommand(ctx, golden, "info name", MonitorHMP) },
			procMonitorCommand, dom().str("info name").u32(1), args().str("web1\r\n"), "web1\r\n"},
		"backup without checkpoint": {func(ctx ctxt, c *Conn) (any, error) {
			return none(c.BackupBegin(ctx, golden, "<b/>", "", BackupReuseExternal))
		},
			procBackupBegin, dom().str("<b/>").u32(0).u32(1), args(), nil},
		"backup xml": {func(ctx ctxt, c *Conn) (any, error) { return c.BackupXMLDesc(ctx, golden) }, procBackupXMLDesc, dom().u32(0), args().str("<b/>"), "<b/>"},
		"checkpoint xml": {func(ctx ctxt, c *Conn) (any, error) {
			return c.CheckpointXMLDesc(ctx, cp, CheckpointXMLNoDomain|CheckpointXMLSize)
		}, procCheckpointXMLDesc, args().str("cp1").domain(golden).u32(6), args().str("<c/>"), "<c/>"},
		"create checkpoint": {func(ctx ctxt, c *Conn) (any, error) {
			return c.CreateCheckpoint(ctx, golden, "<c/>", CheckpointRedefine)
		},
			procCheckpointCreateXML, dom().str("<c/>").u32(1), args().checkpoint(cp), cp},
		"completed job": {func(ctx ctxt, c *Conn) (any, error) { return c.JobStats(ctx, golden, true) },
			procDomainJobStats, dom().u32(1), args().u32(3).u32(0), JobStats{JobCompleted, Params{}}},
		"pull": {func(ctx ctxt, c *Conn) (any, error) { return none(c.BlockPull(ctx, golden, "vda", 5)) },
			procBlockPull, dom().str("vda").u64(5).u32(64), args(), nil},
		"rebase": {func(ctx ctxt, c *Conn) (any, error) {
			return none(c.BlockRebase(ctx, golden, "vda", "/base", 0, RebaseRelative))
		}, procBlockRebase, dom().str("vda").u32(1).str("/base").u64(0).u32(64 | 16), args(), nil},
		"pivot": {func(ctx ctxt, c *Conn) (any, error) { return none(c.BlockJobAbort(ctx, golden, "vda", BlockJobPivot)) },
			procBlockJobAbort, dom().str("vda").u32(2), args(), nil},
		"block job": {func(ctx ctxt, c *Conn) (any, error) {
			job, found, err := c.BlockJob(ctx, golden, "vda")
			return []any{job, found}, err
		}, procBlockJobInfo, dom().str("vda").u32(1), args().u32(1).u32(2).u64(3).u64(4).u64(5), []any{BlockJob{BlockJobCopy, 3, 4, 5}, true}},
	} {
		t.Run(name, func(t *testing.T) {
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
			if h.program != test.proc.program || h.procedure != test.proc.number || !bytes.Equal(payload, test.args.b[headerSize:]) {
				t.Errorf("sent %+v %x\nwant %+v %x", h, payload, test.proc, test.args.b[headerSize:])
			}
			d.reply(h, test.answer)
			if r := <-got; r.err != nil || !reflect.DeepEqual(r.v, test.want) {
				t.Errorf("got %#v, %v\nwant %#v", r.v, r.err, test.want)
			}
		})
	}
}

// A volume is found in three steps.
func TestVolumePath(t *testing.T) {
	c, d := connect(t)
	type result struct {
		path string
		err  error
	}
	got := later(func() result {
		path, err := c.VolumePath(t.Context(), "pool", "vol")
		return result{path, err}
	})
	for _, step := range []struct {
		proc         proc
		args, answer *encoder
	}{
		{procPoolLookupByName, args().str("pool"), args().str("pool").uuid(idle.UUID)},
		{procVolLookupByName, args().str("pool").uuid(idle.UUID).str("vol"), args().str("pool").str("vol").str("/k")},
		{procVolPath, args().str("pool").str("vol").str("/k"), args().str("/pool/vol")},
	} {
		h, payload := d.take()
		if h.procedure != step.proc.number || !bytes.Equal(payload, step.args.b[headerSize:]) {
			t.Errorf("sent %+v %x, want %s", h, payload, step.proc.name)
		}
		d.reply(h, step.answer)
	}
	if r := <-got; r.err != nil || r.path != "/pool/vol" {
		t.Errorf("got %q, %v", r.path, r.err)
	}
}

func TestStrings(t *testing.T) {
	if s := Version(9_001_012).String(); s != "9.1.12" {
		t.Error(s)
	}
	if s := StateRunning.String() + "," + State(-1).String() + "," + State(8).String(); s != "running,state -1,state 8" {
		t.Error(s)
	}
}
