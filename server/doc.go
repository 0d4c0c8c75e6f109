// Package server is the gRPC edge of cairnd: it turns requests of cairn.v1 into
// calls of the packages that do the work, and their errors into statuses.
//
// One file per service (vault_service.go, job_service.go, …) translates and
// delegates. Beside them:
//
//	names.go     resource names: parse, format, check
//	validate.go  the collector of field violations, and the checks all share
//	errors.go    the one place that knows how errors become gRPC statuses
//	paging.go    page sizes and page tokens
//	vaults.go    the registry of vaults and their open stores
//	vault.go     one vault: its records (policies, items) and its store
//	server.go    the Server: opening, closing, and what hangs together
//	serve.go     the gRPC server with its interceptors and standard services
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
