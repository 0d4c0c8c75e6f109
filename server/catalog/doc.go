// Package catalog keeps the control plane's records in one Pebble database:
// which vaults there are, hosts and their machines, jobs and their leases,
// answers to requests that may be repeated, the record of who changed what, and the
// revision counter of jobs.
// What belongs to a vault (policies, protected items, recovery points) is not
// here but in the vault's own store, so that a vault can be moved by itself.
//
// # Key tree
//
// Keys are text. A word in braces is an id, which has neither "/" nor upper-case
// letters; {request} is any text, and always last. This is part of the format,
// whose version is the data directory's (see cairn/server):
//
//	vault/{subscription}/{vault}                 P  cairn.v1.Vault: a copy of the
//	                                                record in the vault's store
//	trash/{uid}                                  -  a vault's directory, to be removed
//	host/{subscription}/{host}                   P  cairn.v1.Host
//	machine/{subscription}/{host}/{machine}      P  cairn.v1.Machine
//	job/{subscription}/{job}/{vault}             P  cairn.v1.Job
//	lease/{subscription}/{job}/{vault}           J  Lease
//	restore/{subscription}/{job}/{vault}         P  cairn.v1.RestoreRequest: what a
//	                                                RESTORE job is to do, its host
//	                                                filled in
//	request/{subscription}/{request}             J  Request
//	schedule/{subscription}/{vault}/{item}       J  Schedule
//	audit/{subscription}/{record}                P  cairn.v1.AuditRecord; without
//	                                                end_time as long as the call is
//	                                                not answered
//	notice/{revision}                            J  Notice: what hooks are to be told
//	                                                of a job's change to that
//	                                                revision, in 16 hexadecimal digits
//	meta/revision                                N  a revision that no job has passed
//
// Subscriptions have no record: they are there by being named. Job ids begin with
// the time, so that job/{subscription}/ is in the order of time over all vaults;
// so do those of audit records.
//
// # Values
//
// The first byte says how the rest is encoded:
//
//	0x01 P  protobuf, of the message named. Fields that are derived (state,
//	        counts, etags, actions) are empty.
//	0x02 J  a JSON object with the fields of the Go type named, times in RFC 3339,
//	        bytes in base64.
//	0x03 N  8 bytes, an unsigned number, big endian.
//	0x04 -  nothing.
//
// A value with another first byte, or that does not decode, is an error that
// matches ErrCorrupt and names the key.
//
// # Transactions
//
// Update runs one function at a time; what it wrote through its Tx is applied in
// one batch that is on disk before Update returns, or not at all. A Tx sees its
// own writes. Readers do not wait: each call of a Reader sees the newest
// committed state, a Snapshot sees one state for as long as it is open.
//
// The package is used by cairn/server and cairn/server/job. It knows the
// messages of cairn.v1 and never imports gRPC.
package catalog
