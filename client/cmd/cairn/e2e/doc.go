// Package e2e proves the whole product from outside: it builds cairn and cairnd,
// runs server, agent and commands as the processes that a user would run, on
// real disk images, and compares what comes back with what Linux itself shows of
// the same images.
//
// Its tests have the build tag e2e and are run by .ci/e2e, as root: the kernel's
// own loop mounts are what mounts of recovery points are compared with.
//
//	world      a server, an agent and a place for them (world_test.go)
//	live       a world whose machines run, and what disturbs them (live_*test.go)
//	scenes     one test each, in the order of a machine's life (scene_*_test.go)
//	testdata   a client in another language that drives the same API
//
// Nothing here looks into the server or the store: all is done and seen through
// commands, the published API, and files. A scene waits for events, never for
// time to pass, and everything that it starts ends with it.
package e2e
