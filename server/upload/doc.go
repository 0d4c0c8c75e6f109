// Package upload keeps the uploads that are open on a server: their tokens and
// leases, the blocks in flight, the disk maps under construction, and what
// became of those that ended.
//
// A Manager holds the uploads of all vaults. Each is a Session over one
// blockstore.Upload, which does the storing. The package adds what a network
// needs:
//
//   - A Session is named by an unguessable token, whoever has it may go on with
//     the upload, on any connection.
//   - It has a lease. Every call extends it; when it runs out the session ends,
//     and what the upload had pinned in the store is released. While a call, or
//     a batch of blocks, is under way the lease does not run out: a slow disk
//     costs nobody the upload. A stream on which nothing moves does not count.
//   - A session ends once, by commit, by abort or by its lease, and remembers
//     for a while as which, so that a late caller learns what happened, and who
//     commits twice gets the first answer.
//   - A Stream takes batches of blocks, has several of them decoded and hashed
//     at a time, and acknowledges them in order once they are durable. The
//     bytes in flight are bounded over all streams of the Manager.
//   - A MapWriter takes the map of a disk run by run and sees to it that every
//     block it names is in the vault, and stays there.
//
// Nothing survives a restart of the server but what was acknowledged: uploads
// are found to be unknown then, and a new one finds the blocks of the old.
//
// The server's BlockService translates between this package and the API.
// Package upload knows blockstore, and neither proto nor gRPC. Time and
// randomness come from outside, see Options.
package upload
