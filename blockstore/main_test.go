package blockstore

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// lockHelper makes the test program hold a vault open until its standard input
// is closed: the other process of TestLockedByProcess.
const lockHelper = "CAIRN_TEST_HOLD_VAULT"

func TestMain(m *testing.M) {
	if dir := os.Getenv(lockHelper); dir != "" {
		s, err := Open(dir, Options{})
		fmt.Println("opened:", err)
		if err == nil {
			_, _ = os.Stdin.Read(make([]byte, 1))
			err = s.Close()
		}
		fmt.Println("closed:", err)
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}
