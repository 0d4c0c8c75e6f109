// Package client is how Go programs talk to a Cairn server: a connection with
// a stub for every service, errors with their published reason, and the two
// ends of the data plane that need more than a stub.
//
//	c, err := client.Dial("unix:/var/lib/cairn/cairnd.sock")
//	if err != nil { … }
//	defer c.Close()
//	resp, err := c.Vaults.GetVault(ctx, &cairnv1.GetVaultRequest{Name: "subscriptions/default/vaults/v1"})
//	if client.Reason(err) == cairnv1.ErrorReason_ERROR_REASON_VAULT_NOT_FOUND { … }
//
// Reading: [Client.Reader] fetches blocks in their stored form, decodes and
// re-hashes them here, so that what it returns is right whatever happened to
// them on the server's disk or on the way. It is a diskmap.BlockReader, and
// diskmap.NewImage over it is a recovery point's disk as an io.ReaderAt.
// [Client.HoldPoint] keeps the point from being deleted meanwhile. As an
// IntoReader it decodes straight from the frames that came into memory of the
// image's cache.
//
// Readers that are told to ([Reader].RetryFor, [Client.Patiently]) wait for a
// server that is gone. All of them count from when it was last heard of; when that
// was too long ago they fail, and fail at once until it is back. A connection
// that stands and brings nothing counts as gone too.
//
// Writing: [Client.StartUpload] gives an [Upload], over which the backup
// pipeline in client/agent sends blocks and maps.
//
// Calls that change nothing are retried while the server is unavailable for a
// moment; streams are not: their users know how to go on.
//
// Until the server has TLS, a connection is a unix socket or loopback TCP, and
// Dial refuses anything else rather than send a backup in the clear.
//
// The package imports the API, blockstore/block and blockstore/diskmap, and
// never server or mount.
package client
