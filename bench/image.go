package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"cairn/bench/sandbox"
	"cairn/client"
	"cairn/client/agent"
	"cairn/client/source"
	cairnv1 "cairn/proto/cairn/v1"
)

// ImageOptions say what the whole way is measured with.
type ImageOptions struct {
	Image    string // a raw image, or one that qemu-img can make raw; it is copied
	Dir      string // on the disk to measure; "" is the system's temporary directory
	Progress func(what string)
}

const (
	vaultName = "subscriptions/default/vaults/bench"
	itemName  = vaultName + "/protectedItems/disk"
	namesItem = vaultName + "/protectedItems/names"
)

// Image measures backups, restore and a mount of an image, through a server
// and an agent that run as two processes and speak gRPC.
func Image(ctx context.Context, o ImageOptions) (rep *Report, err error) {
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	st, err := os.Stat(o.Image)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", o.Image)
	}
	box, err := sandbox.New(o.Dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, box.Close()) }()
	b := &imageBench{o: o, box: box, path: filepath.Join(box.Images, "disk.raw"), rep: &Report{}}

	o.Progress("copying the image")
	if err := b.copyImage(ctx); err != nil {
		return nil, err
	}
	if err := b.manyNames(ctx); err != nil {
		return nil, err
	}
	if err := box.StartServer(ctx); err != nil {
		return nil, err
	}
	if err := box.StartAgent(ctx, "bench"); err != nil {
		return nil, err
	}
	if b.c, err = client.Dial(box.Server); err != nil {
		return nil, err
	}
	defer b.c.Close()
	for _, step := range []func(context.Context) error{b.yardsticks, b.protect, b.backups, b.restore, b.decoding, b.firstLook, b.randomReads, b.sequentialReads, b.listing, b.memory} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return b.rep, nil
}

type imageBench struct {
	o         ImageOptions
	box       *sandbox.Sandbox
	path      string // of the image that is backed up
	c         *client.Client
	rep       *Report
	allocated int64
	point     *cairnv1.RecoveryPoint // of the image as it is
	decode    float64                // bytes of it that one core decodes and hashes in a second
	mountPeak int64                  // the most memory of any mount, in bytes
}

func (b *imageBench) copyImage(ctx context.Context) error {
	// qemu-img knows every format; an image that is raw by name is raw.
	cmd := exec.CommandContext(ctx, "cp", "--sparse=always", "--reflink=auto", b.o.Image, b.path)
	switch filepath.Ext(b.o.Image) {
	case ".raw", ".img", "":
	default:
		cmd = exec.CommandContext(ctx, "qemu-img", "convert", "-O", "raw", b.o.Image, b.path)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("copy image: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// extents calls f with the parts of an open sparse file that hold data.
func extents(f *os.File, each func(off, length int64) error) error {
	for off := int64(0); ; {
		from, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("seek data: %w", err)
		}
		to, err := unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("seek hole: %w", err)
		}
		if err := each(from, to-from); err != nil {
			return err
		}
		off = to
	}
}

// yardsticks measures what reading and writing the image's data as plain files
// takes, and warms the page cache for what follows.
func (b *imageBench) yardsticks(ctx context.Context) error {
	b.o.Progress("yardsticks: reading and copying the image as a file")
	f, err := os.Open(b.path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	pass := func(w io.WriterAt) (float64, error) {
		b.allocated = 0
		buf := make([]byte, 1<<20)
		start := time.Now()
		err := extents(f, func(off, length int64) error {
			b.allocated += length
			for end := off + length; off < end; {
				n, err := f.ReadAt(buf[:min(int64(len(buf)), end-off)], off)
				if n == 0 {
					return err
				}
				if w != nil {
					if _, err := w.WriteAt(buf[:n], off); err != nil {
						return err
					}
				}
				off += int64(n)
			}
			return ctx.Err()
		})
		return time.Since(start).Seconds(), err
	}
	if _, err := pass(nil); err != nil {
		return err
	}
	sec, err := pass(nil)
	if err != nil {
		return err
	}
	b.rep.Title = fmt.Sprintf("Image %s: %d MiB, %d MiB of it data, %d cores", filepath.Base(b.o.Image), st.Size()>>20, b.allocated>>20, runtime.GOMAXPROCS(0))
	b.rep.add("plain file", "read, page cache warm", float64(b.allocated)/sec/mb, "MB/s")
	w, err := os.Create(filepath.Join(b.box.Dir, "copy"))
	if err != nil {
		return err
	}
	start := time.Now()
	_, err = pass(w)
	err = errors.Join(err, w.Sync(), w.Close(), os.Remove(w.Name()))
	b.rep.add("plain file", "copy, synced", float64(b.allocated)/time.Since(start).Seconds()/mb, "MB/s")
	return err
}

func (b *imageBench) protect(ctx context.Context) error {
	_, err := b.c.Vaults.CreateVault(ctx, &cairnv1.CreateVaultRequest{Parent: "subscriptions/default", VaultId: "bench"})
	if err != nil {
		return err
	}
	_, err = b.c.Policies.CreatePolicy(ctx, &cairnv1.CreatePolicyRequest{Parent: vaultName, PolicyId: "p"})
	if err != nil {
		return err
	}
	for _, machine := range []string{"disk", "names"} {
		_, err := b.c.Items.ProtectMachine(ctx, &cairnv1.ProtectMachineRequest{Parent: vaultName, ProtectedItem: &cairnv1.ProtectedItem{
			Machine: "subscriptions/default/hosts/bench/machines/" + machine, Policy: vaultName + "/policies/p",
		}})
		if err != nil {
			return err
		}
	}
	return nil
}

// backUp makes a point and measures it.
func (b *imageBench) backUp(ctx context.Context, scenario string) (*cairnv1.Job, float64, error) {
	b.o.Progress(scenario)
	before, err := b.stored(ctx)
	if err != nil {
		return nil, 0, err
	}
	start := time.Now()
	resp, err := b.c.Items.BackUp(ctx, &cairnv1.BackUpRequest{Name: itemName})
	if err != nil {
		return nil, 0, err
	}
	j, err := b.wait(ctx, resp.GetJob().GetName())
	if err != nil {
		return nil, 0, err
	}
	sec := time.Since(start).Seconds()
	after, err := b.stored(ctx)
	if err != nil {
		return nil, 0, err
	}
	p, err := b.c.Points.GetRecoveryPoint(ctx, &cairnv1.GetRecoveryPointRequest{Name: j.GetRecoveryPoint()})
	if err != nil {
		return nil, 0, err
	}
	b.point = p.GetRecoveryPoint()
	b.rep.add(scenario, "time", sec, "s")
	b.rep.add(scenario, "data read", float64(j.GetStats().GetReadBytes())/sec/mb, "MB/s")
	b.rep.add(scenario, "sent", float64(j.GetStats().GetSentBytes())/(1<<20), "MiB")
	b.rep.add(scenario, "vault grew by", float64(after-before)/(1<<20), "MiB")
	return j, float64(after - before), nil
}

// wait follows a job to its end.
func (b *imageBench) wait(ctx context.Context, name string) (*cairnv1.Job, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := b.c.Jobs.WatchJobs(ctx, &cairnv1.WatchJobsRequest{Parent: vaultName})
	if err != nil {
		return nil, err
	}
	for {
		r, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		j := r.GetJob()
		if j.GetName() != name {
			continue
		}
		switch j.GetState() {
		case cairnv1.JobState_JOB_STATE_COMPLETED, cairnv1.JobState_JOB_STATE_COMPLETED_WITH_WARNINGS:
			return j, nil
		case cairnv1.JobState_JOB_STATE_FAILED, cairnv1.JobState_JOB_STATE_CANCELLED, cairnv1.JobState_JOB_STATE_SKIPPED:
			return nil, fmt.Errorf("job %s: %s: %s", name, j.GetState(), j.GetError().GetMessage())
		}
	}
}

func (b *imageBench) stored(ctx context.Context) (int64, error) {
	u, err := b.c.Vaults.GetVaultUsage(ctx, &cairnv1.GetVaultUsageRequest{Name: vaultName})
	return u.GetUsage().GetStoredBytes(), err
}

func (b *imageBench) backups(ctx context.Context) error {
	if _, _, err := b.backUp(ctx, "full backup"); err != nil {
		return err
	}
	_, grew, err := b.backUp(ctx, "unchanged backup")
	if err != nil {
		return err
	}
	b.rep.add("unchanged backup", "vault grew, of data", 100*grew/float64(b.allocated), "%").atMost(0.1, "0.1")
	changed, err := b.change(0.01)
	if err != nil {
		return err
	}
	if _, grew, err = b.backUp(ctx, "1% changed backup"); err != nil {
		return err
	}
	b.rep.add("1% changed backup", "vault grew / data changed", grew/float64(changed), "×").atMost(1.1, "1.1")
	return nil
}

// change overwrites a share of the data with noise, in pieces of 64 KiB at
// random places, and tells how many bytes that were.
func (b *imageBench) change(share float64) (int64, error) {
	const piece = 64 << 10
	f, err := os.OpenFile(b.path, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var places []int64
	err = extents(f, func(off, length int64) error {
		for at := (off + piece - 1) / piece * piece; at+piece <= off+length; at += piece {
			places = append(places, at)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	if len(places) == 0 {
		return 0, errors.New("the image has no 64 KiB of data in one piece: too small to measure")
	}
	rng := rand.New(rand.NewPCG(3, 4))
	noise := rand.NewChaCha8([32]byte{5})
	rng.Shuffle(len(places), func(i, j int) { places[i], places[j] = places[j], places[i] })
	n := max(1, int(share*float64(len(places))))
	buf := make([]byte, piece)
	for _, at := range places[:n] {
		noise.Read(buf)
		if _, err := f.WriteAt(buf, at); err != nil {
			return 0, err
		}
	}
	return int64(n) * piece, nil
}

// restore writes the newest point to a raw file and compares it with the image.
func (b *imageBench) restore(ctx context.Context) error {
	b.o.Progress("restore")
	d := b.point.GetDisks()[0]
	m, err := client.Map(d)
	if err != nil {
		return err
	}
	path := filepath.Join(b.box.Dir, "restored.raw")
	start := time.Now()
	w, err := source.CreateRaw(ctx, path, d.GetSize(), d.GetDataBytes())
	if err != nil {
		return err
	}
	defer w.Abort()
	if err := agent.RestoreDisk(ctx, b.c.Reader(b.point.GetName()), m, w, nil); err != nil {
		return err
	}
	if err := w.Commit(ctx); err != nil {
		return err
	}
	sec := time.Since(start).Seconds()
	b.rep.add("restore", "time, verified, synced", sec, "s")
	b.rep.add("restore", "data", float64(d.GetDataBytes())/sec/mb, "MB/s")
	if out, err := exec.CommandContext(ctx, "cmp", path, b.path).CombinedOutput(); err != nil {
		return fmt.Errorf("the restored disk is not the image: %w: %s", err, bytes.TrimSpace(out))
	}
	return os.Remove(path)
}

func (b *imageBench) memory(context.Context) error {
	for _, name := range []string{"cairnd", "agent"} {
		n, err := b.box.PeakMemory(name)
		if err != nil {
			return err
		}
		b.rep.add("memory", "peak of "+name, float64(n)/(1<<20), "MiB").atMost(300, "300")
	}
	b.rep.add("memory", "peak of the mounts", float64(b.mountPeak)/(1<<20), "MiB").atMost(300, "300")
	return nil
}
