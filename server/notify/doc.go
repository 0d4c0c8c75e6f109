// Package notify tells others when a job starts or ends: it posts an event to
// webhooks and hands it to commands.
//
// # Events
//
// An event is one JSON object. Its fields are a promise: there can be more of them
// in later versions, and none changes its meaning while version is 1.
//
//	{
//	  "version": 1,
//	  "id":      "0b6f…-1042",            the same whenever the event comes again
//	  "type":    "job.ended",             or "job.started", "test"
//	  "time":    "2026-11-22T10:15:00Z",  RFC 3339, when it happened
//	  "server":  "5c1e…",                 the uuid of the data directory
//	  "job":     {"name": "subscriptions/…/jobs/…", "operation": "JOB_OPERATION_BACKUP",
//	              "state": "JOB_STATE_FAILED", "error": {…}, …}
//	}
//
// job is a cairn.v1.Job in protobuf's JSON mapping, as it was then; a test event
// has none. "job.ended" comes with state COMPLETED, COMPLETED_WITH_WARNINGS,
// FAILED, CANCELLED or SKIPPED. "job.started" comes when an agent got the job, or
// the server began it; it comes again if an agent was lost before it said
// anything, and another one got the job. A job that is over as it is made, such as
// one that is skipped, only ends.
//
// # Delivery
//
// Every event reaches every hook at least once; id tells repetitions apart.
// Events of one job come in order, each after the one before was taken; those of
// different jobs in any order. A hook has taken an event when the webhook
// answered 2xx, or the command exited with 0.
//
// An event is written to the catalog in the transaction that changes the job, and
// removed when all hooks have taken it: so neither a crash nor a hook that is away
// loses one. What is not taken is tried again after 1 s, 2 s, 4 s and so on up to
// an hour, from 1 s again after a restart. A webhook that does not answer at all,
// or a command that cannot be started, is left alone for that long; otherwise only
// the event and its job wait, so that one event which a hook cannot digest does
// not keep the others away. After 24 h an event is given up, with a line in the
// log. So is the oldest when more than 10 000 wait for a hook.
//
// Each hook has a goroutine of its own. Jobs wait for none, and no hook waits for
// another.
//
// # Webhooks
//
// The event is the body of a POST with these headers:
//
//	Content-Type:    application/json
//	Cairn-Event:     job.ended
//	Cairn-Event-Id:  0b6f…-1042
//	Cairn-Signature: t=1795342500,v1=5257a869e7…
//
// The signature is there if the webhook has a secret: v1 is the HMAC-SHA256, in
// hexadecimal, with the secret as key, of t, a dot and the body's bytes. t is the
// time of the attempt in seconds since 1970: a receiver refuses old ones, so that
// nobody who overheard an event can send it again later. Redirects are not
// followed. An answer has to come within 10 s.
//
// # Commands
//
// The event is the command's standard input. Its environment is the server's and
//
//	CAIRN_EVENT, CAIRN_EVENT_ID             type and id of the event
//	CAIRN_JOB, CAIRN_OPERATION, CAIRN_STATE "subscriptions/…", "BACKUP", "FAILED"
//	CAIRN_ITEM                              the protected item, if it is about one
//
// There is no shell. The command has a minute; then, or when the server stops, it
// is killed with its process group.
//
// cairn/server opens a Notifier and calls Job for every change of a job's state.
// The package imports the catalog and cairn.v1's messages, and no gRPC.
package notify
