// Package server is the gRPC edge of cairnd: it turns requests of cairn.v1 into
// calls of the packages that do the work, and their errors into statuses.
//
// One file per service (vault_service.go, job_service.go, …) translates and
// delegates. Beside them:
//
//	names.go      resource names: parse, format, check
//	validate.go   the collector of field violations, and the checks all share
//	errors.go     the one place that knows how errors become gRPC statuses
//	requests.go   request ids: calls that happen once
//	paging.go     page sizes and page tokens
//	datadir.go    the data directory and its FORMAT file
//	vaults.go     the registry of vaults; sweep.go removes what crashes leave
//	vault.go      one vault: its records (policies, items) and its store
//	protection.go the life of a protected item: stop, resume, undelete
//	soft_delete.go what is deleted, and goes for good later
//	done.go       jobs that tell of what was done in a vault's store
//	vault_usage.go the bill; usage_history.go day by day
//	job_hooks.go  what package job asks of vaults, and how backups change items
//	data_plane.go what the services share that move data
//	data_errors.go the words for what goes wrong there
//	points.go     recovery points as the vault's store keeps them
//	retention.go  until when they are kept, and why; pruning
//	point_lease.go leases of those who read them
//	ordered.go    reading ahead, in order
//	block_codec.go messages with blocks in them, without copying these
//	server.go     the Server: opening, draining, closing
//	reclaim.go    space that comes back; item_bytes.go tells who takes it
//	schedule.go   scheduled backups; retry.go tries again what failed
//	tend.go       what the server does of itself, when it is due
//	serve.go      the gRPC server: interceptors and standard services
//	audit.go      who changed what: records of calls; peer.go tells who calls
//	observe.go    what logs and metrics are told of jobs
//	wire.go       messages that cannot be decoded
//
// # Locks
//
// In this order: the call's request id (requests.enter), vaults.protect,
// dataPlane.points, Vault.write, Vault.reclaim, then job.Manager and catalog, which
// lock for themselves, and last vaults.mu and Vault.mu, which are held for moments
// and never while something is written. A job's hooks run without the Manager's lock.
//
// # Invariants
//
//   - A call either did all of what it was asked, durably, or changed nothing
//     and answered an error with exactly one ErrorInfo of domain "cairn".
//   - Wrong input never gives INTERNAL or UNKNOWN.
//   - Inside a vault's directory lies everything that belongs to the vault. The
//     catalog (cairn/server/catalog) has the rest.
//
// The package is used by server/cmd/cairnd and by tests. It never imports
// cairn/client or cairn/mount.
package server
