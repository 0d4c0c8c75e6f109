//go:build e2e

package server

import "testing"

// TestKilledOften leads the life of TestKilled over weeks, so that what was deleted
// goes for good, and kills the server 200 times.
func TestKilledOften(t *testing.T) { testKilled(t, 200, *seedFlag) }
