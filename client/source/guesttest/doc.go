// Package guesttest boots real virtual machines for tests: seconds after its
// start a guest runs a guest agent on real ext4 disks and obeys commands. It
// works without hardware virtualization, under libvirt and under plain QEMU.
//
// Tests of the packages that back up and restore machines call it, behind the
// build tag e2e; .ci/e2e runs them as root, one package after the other, because
// two guests at once are all that a small machine should emulate. No product
// code imports it. Nothing in it skips a test: a missing tool fails the test and
// names the package to install.
//
//	drive := guesttest.Disk(t, dir+"/vda.qcow2", "qcow2", 1<<30, guesttest.DiskOptions{})
//	vm := guesttest.Domain(t, guesttest.Spec{Drives: []guesttest.Drive{drive}, Write: "vda"})
//	vm.Start()                       // or guesttest.QEMU(t, spec), which starts at once
//	vm.WaitAgent(ctx)
//	before := vm.Synced("vda")       // … then back up, restore to image …
//	guesttest.Fsck(t, image)
//	guesttest.CheckFiles(t, os.DirFS(guesttest.Extract(t, image)), before)
//
// # The guest
//
// Script .ci/guest makes kernel and initramfs; file init here is the guest's
// whole user land. A disk with an ext4 file system on it is mounted at
// /mnt/NAME, where NAME is its serial number and that, by default, its target in
// the definition (vda, sdb, …). Every line that the guest says on its serial
// console begins with "cairn-guest: ":
//
//	disk NAME is KERNELNAME         it was found, and mounted if "without a file system" does not follow
//	ready BOOT_ID                   all is up, but for the agent, which takes a moment more
//	NAME synced N                   file number N and all before it are whole and durable
//	NAME stopped before N           the writer met an error, such as a full disk
//	hook freeze, hook thaw          the freeze hook was called
//	shutdown …                      by the agent or the power button
//
// The writer (Spec.Write) writes file after file on a disk. File N is called
// files/f00000N; what is in it follows from N ([Body]). It is synced, then its
// name is appended to the list named synced, that is synced too, then it is
// told. So of a disk at any moment: the list names the files 0 to N, every one
// is whole, there may be one more that is not listed yet, and N is not less than
// what had been told. [CheckFiles] checks exactly that.
//
// The guest agent runs unless Spec.Agent says otherwise; a test may kill it
// (kill -9 $(pidof qemu-ga)) and start it again (start-agent >/dev/null 2>&1 &).
// With Spec.Hook it has a freeze hook, which appends "freeze" and "thaw" to
// /run/hook.log and fails if the word in /run/hook is not "ok". That is the way
// to a freeze that fails: a file system that somebody else has frozen, by
// fsfreeze --freeze, is passed over by the agent without an error.
//
// Shell runs any command as the guest's root, through a channel of its own, by
// the applets of BusyBox (fsfreeze, sync, dd, losetup, …). It works while file
// systems are frozen: it only uses memory. "body N" prints what belongs in file N.
package guesttest
