// Package catalog keeps the control plane's records in Pebble.
package catalog

// Catalog is an open catalog.
type Catalog struct{}
