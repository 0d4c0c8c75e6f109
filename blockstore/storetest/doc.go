// Package storetest has what tests of block stores share.
//
// Run is one suite for every implementation of the data plane: a
// blockstore.Store in this process, and one behind a client and a server. An
// implementation takes part by giving a Target. Errors are compared with
// errors.Is to those of package blockstore, so a client's adapter translates
// back what came over the wire.
//
// Blocks makes content for tests. The package's own tests cut the power under
// a store a thousand times and compare what is left with a model.
//
// It imports blockstore, block and diskmap, and nothing else of Cairn.
package storetest
