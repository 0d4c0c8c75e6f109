// Package domxml reads and rewrites the XML by which libvirt defines a machine
// (https://libvirt.org/formatdomain.html).
//
// A Domain is the document as it was written: elements that this package does
// not know, namespaces such as <qemu:commandline>, comments and order stay as
// they are; only what a rewrite is about is touched. Every change that its owner
// should know of is told as a notice, a sentence for people.
//
// The XML of a recovery point comes over a network from a store, and a guest's
// owner may have written it: Parse refuses what is not plain (a document type,
// entities, more than 4 MiB, deeper than 64 elements) and never opens anything
// that the document names.
//
// The source of libvirt machines is the caller. The package knows nothing of
// connections or files: whether a path exists is asked through a function.
package domxml
