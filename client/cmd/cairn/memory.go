package main

import (
	"os"
	"runtime/debug"
)

// limitMemory is for commands through which blocks flow. They share their host
// with machines, so the garbage collector works hard near a limit; below it, it
// works less than by default, as blocks are garbage soon.
func limitMemory() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(192 << 20)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
}
