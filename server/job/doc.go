// Package job owns the jobs of a server: it queues them, hands them to the
// agents of their hosts or runs them itself, follows their progress, and shows
// every change to whoever watches.
//
// # Life of a job
//
//	           Create                Claim                    Report
//	(nothing) ────────▶ QUEUED ────────────▶ IN_PROGRESS ──────────────▶ COMPLETED, FAILED, …
//	                      │                       │ Cancel
//	                      │                       ▼
//	                      │                   CANCELLING ──────────────▶ CANCELLED, …
//	                      └──────────── Cancel ────────────────────────▶ CANCELLED
//
// A BACKUP runs at its machine's host, a RESTORE at the one that its request
// names, where it goes before the backups that wait. The host's agent holds a
// Claim open, over which it gets assignments with a lease. Report renews the
// lease; an assignment of which the agent has said nothing yet is sent again when
// its stream breaks. When the lease runs out the job fails as INTERRUPTED, unless
// it is a BACKUP that turns out to have made its recovery point, which is what
// counts: then it is COMPLETED whatever else was said of it. Other jobs run in the
// server (Start, Begin).
//
// Of one vault, and of one host, agents do only so many jobs at a time (Options);
// the others stay QUEUED, oldest first. A vault at its limit holds up nobody's jobs
// but its own. A job counts until it has ended, also while its agent is away.
//
// What is not to run, or cannot, is a job all the same, so that everybody sees it:
// Skip and Fail make jobs that have ended from the beginning, Abandon gives up one
// that is still QUEUED.
//
// At most one BACKUP or RESTORE in place of an item is not ended at any time.
// Other restores run beside them. What a RESTORE is to do is stored with it, so
// that it is done after a restart as before, and can be done again.
//
// # What is durable
//
// Every change of state is on disk before anybody sees it, with the revision it
// made. Progress (tasks, stats) is seen at once and written some times a second.
// After a restart queued jobs are queued, and jobs that agents hold keep their
// lease for Options.Grace at least, so that an agent that comes back goes on;
// those that the server itself ran have ended.
//
// # Revisions
//
// Each change of any job has a revision, greater than all before, also over
// restarts: the counter's ceiling is stored ahead of its use. The last changes
// are kept in memory (Options.History); a Watch reads them at its own pace, so
// that a slow one delays nobody, and ends when it falls behind what is kept.
//
// # Locks
//
// Manager.mu guards everything in memory and is held while a change is written.
// Hooks, but for those that say so, are called without it and may take other
// locks; who holds such locks, or is within catalog.Update, must not call the
// Manager.
//
// The package knows cairn.v1's messages and the catalog. It knows no gRPC and
// no store: what it needs of vaults are Hooks. cairn/server uses it.
package job
