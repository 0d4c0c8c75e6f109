package qemu

import "os"

const childEnv = "CAIRN_QEMU_TEST_CHILD"

func child() { os.Exit(2) }
