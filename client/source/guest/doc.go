// Package guest talks to the agent inside a guest (qemu-ga and what is
// compatible with it): it asks which system runs there, freezes and thaws its
// file systems, and decides from the answers how consistent a snapshot is.
//
// How the agent is reached is a Transport's business: a hypervisor's own API,
// or Socket for the unix socket of a plain QEMU.
//
// # One backup
//
//	c := guest.NewClient(transport)
//	facts := c.Survey(ctx)                    // who is there, before the freeze
//	frozen, err := c.Freeze(ctx, options)     // unless facts.Agent != nil
//	facts.Froze(frozen, err)
//	…take the snapshot, whether or not the freeze succeeded…
//	stood, err := frozen.Thaw(ctx)            // on every path
//	facts.Thawed(err)
//	c.Aftermath(ctx, &facts)                  // VSS writers, freeze scripts
//	class, warnings := guest.Decide(facts)
//
// # No guest stays frozen
//
// This is the package's first duty, and three parties share it:
//
//   - Frozen owns a goroutine that thaws the guest when the limit passes, with
//     whatever its caller is doing at the time.
//   - Freeze thaws after any failure that may have left a freeze on its way.
//   - A guard (StartGuard) is a process of its own that was ready before the
//     freeze was asked for. It holds a pipe from us and thaws the guest when
//     that pipe closes without a word, as it does when we are killed. It reaches
//     the guest by itself, so programs must dispatch to GuardMain when their
//     first argument is GuardCommand.
//
// What a guard cannot help against: being killed together with us (a whole
// control group by SIGKILL, the host's power), and, where the agent's channel
// takes one connection at a time, a process of ours that is stopped but not
// dead.
//
// A guest that somebody else has frozen is theirs: it is neither frozen nor
// thawed by us.
//
// # Sources
//
// Commands, replies and error classes follow QEMU's guest agent protocol
// reference (qga/qapi-schema.json, as of 7.2). VSS writer states are numbered
// as VSS_WRITER_STATE of the Windows SDK.
//
// The package imports nothing of ours; client/source's implementations call it.
package guest
