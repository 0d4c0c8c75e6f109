// Package open makes Sources out of what is on a command line: directories,
// addresses, limits. It is all that programs need to know of the kinds of
// sources that there are:
//
//	from, err := open.Sources(open.Options{Images: dir, Libvirt: uri})
//	defer from.Close()
//
// and, before anything else in main, since freezing a guest starts this program
// again to look after it:
//
//	open.Guard()
//
// cairn and cairnd call it. It imports the packages of all sources, and like
// them knows nothing of gRPC, the API or the agent.
package open

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"cairn/client/source"
	"cairn/client/source/guest"
)

// Options say where machines are. At least one of Images, Libvirt and QEMU must
// be given.
type Options struct {
	Images  string // directory of disk images
	Libvirt string // URI of a libvirt daemon: "qemu:///system"
	QEMU    string // directory of descriptors of QEMU processes
	// State is a directory for what must be found again after a crash; "" is the
	// sources' own choice.
	State string
	// FreezeLimit is the longest time that a guest is frozen; 0 is the sources'
	// own choice.
	FreezeLimit time.Duration
	// Log gets what nobody else is told; nil discards it.
	Log *slog.Logger
}

// kind is a kind of source.
type kind struct {
	name  string
	given func(Options) string // the option that asks for it
	open  func(Options) (source.Source, error)
	// guest opens a guest for its thaw guard; nil if the source freezes none.
	// Its arguments begin with guard.
	guard string
	guest func(ctx context.Context, args []string) (guest.Transport, func(), error)
}

// kinds are all there are, live machines first.
var kinds = []kind{
	libvirtKind, qemuKind,
	{
		name: "images", given: func(o Options) string { return o.Images },
		open: func(o Options) (source.Source, error) { return source.NewImages(o.Images) },
	},
}

// ErrNothing: the options name no source.
var ErrNothing = errors.New("no source of machines is given")

// Opened is what Sources makes.
type Opened struct {
	source.Source
	// Kinds are the names of what it is made of, separated by commas.
	Kinds   string
	closers []io.Closer
}

// Close ends connections, once nobody uses the source any more.
func (o *Opened) Close() error {
	var errs []error
	for _, c := range o.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// Sources makes the source that the options ask for, of several kinds at once if
// need be. Source of what it answers may be more than a source.Source.
func Sources(o Options) (*Opened, error) {
	var found []source.Named
	var names []string
	out := new(Opened)
	for _, k := range kinds {
		if k.given(o) == "" {
			continue
		}
		s, err := k.open(o)
		if err != nil {
			return nil, errors.Join(err, out.Close())
		}
		if c, ok := s.(io.Closer); ok {
			out.closers = append(out.closers, c)
		}
		found, names = append(found, source.Named{Kind: k.name, Source: s}), append(names, k.name)
	}
	if len(found) == 0 {
		return nil, ErrNothing
	}
	out.Source, out.Kinds = source.Join(found...), strings.Join(names, ",")
	return out, nil
}

// Guard does not return if this process was started to look after a frozen guest.
// main must call it first thing.
func Guard() {
	if len(os.Args) > 1 && os.Args[1] == guest.GuardCommand {
		os.Exit(guest.GuardMain(os.Args[2:], openGuest))
	}
}

// openGuest opens the guest that a guard's arguments describe.
func openGuest(ctx context.Context, args []string) (guest.Transport, func(), error) {
	for _, k := range kinds {
		if k.guest != nil && len(args) > 0 && args[0] == k.guard {
			return k.guest(ctx, args)
		}
	}
	return nil, nil, fmt.Errorf("arguments %q are of no kind of guest", args)
}
