package source

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Named is a Source with the name of its kind, "libvirt".
type Named struct {
	Kind   string
	Source Source
}

// Join makes one Source of several, which have different kinds. It is a Restorer
// and a Cleaner, by those of its sources that are. A machine that two sources
// have by the same ID is listed once, with a Problem: nobody could tell which of
// them a recovery point is of. One Source is given back as it is.
func Join(sources ...Named) Source {
	if len(sources) == 1 {
		return sources[0].Source
	}
	return &joined{sources: sources, owners: map[string]Named{}}
}

type joined struct {
	sources []Named

	mu     sync.Mutex
	owners map[string]Named // ID → the only source that had it when last asked
}

var (
	_ Source   = (*joined)(nil)
	_ Restorer = (*joined)(nil)
	_ Cleaner  = (*joined)(nil)
)

// found is a machine with those that have it.
type found struct {
	Machine
	at []Named
}

// ask lists the machines of all sources, and what failed of that.
func (j *joined) ask(ctx context.Context) (map[string]*found, error) {
	lists, errs := make([][]Machine, len(j.sources)), make([]error, len(j.sources))
	var wg sync.WaitGroup
	for i, s := range j.sources {
		wg.Go(func() {
			var err error
			if lists[i], err = s.Source.Machines(ctx); err != nil {
				errs[i] = fmt.Errorf("%s: %w", s.Kind, err)
			}
		})
	}
	wg.Wait()
	all := map[string]*found{}
	for i, list := range lists {
		for _, m := range list {
			f := all[m.ID]
			if f == nil {
				f = &found{Machine: m}
				all[m.ID] = f
			}
			f.at = append(f.at, j.sources[i])
		}
	}
	return all, errors.Join(errs...)
}

// clash says why a machine that several sources have cannot be used.
func (f *found) clash() string {
	var kinds []string
	for _, s := range f.at {
		kinds = append(kinds, s.Kind)
	}
	return fmt.Sprintf("machine %s is there several times, from %s; rename one of them, or serve them by agents of their own",
		f.ID, strings.Join(kinds, " and "))
}

// Machines implements Source. It fails if any of the sources does: a list that
// lacks the machines of one would say that they are gone.
func (j *joined) Machines(ctx context.Context) ([]Machine, error) {
	all, err := j.ask(ctx)
	if err != nil {
		return nil, err
	}
	owners, list := map[string]Named{}, make([]Machine, 0, len(all))
	for id, f := range all {
		if len(f.at) == 1 {
			owners[id] = f.at[0]
		} else {
			f.Problem = f.clash()
		}
		list = append(list, f.Machine)
	}
	slices.SortFunc(list, func(a, b Machine) int { return strings.Compare(a.ID, b.ID) })
	j.mu.Lock()
	j.owners = owners
	j.mu.Unlock()
	return list, nil
}

// owner finds the source of a machine. Errors: ErrMachineNotFound, ErrUnusable,
// and why a source that may have it cannot be asked.
func (j *joined) owner(ctx context.Context, id string) (Named, error) {
	j.mu.Lock()
	s, ok := j.owners[id]
	j.mu.Unlock()
	if ok {
		return s, nil
	}
	all, err := j.ask(ctx)
	switch f := all[id]; {
	case f != nil && len(f.at) > 1:
		return Named{}, fmt.Errorf("%w: %s", ErrUnusable, f.clash())
	case f != nil && err == nil: // else another one may have it too
		return f.at[0], nil
	case err != nil:
		return Named{}, fmt.Errorf("machine %s: %w", id, err)
	}
	return Named{}, fmt.Errorf("machine %s: %w", id, ErrMachineNotFound)
}

// Watch implements Source. It ends when one of the sources does.
func (j *joined) Watch(ctx context.Context, changed func()) error {
	var one sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range j.sources {
		g.Go(func() error {
			if err := s.Source.Watch(ctx, func() { one.Lock(); defer one.Unlock(); changed() }); err != nil {
				return fmt.Errorf("%s: %w", s.Kind, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// Snapshot implements Source.
func (j *joined) Snapshot(ctx context.Context, id string, o SnapshotOptions) (Snapshot, error) {
	s, err := j.owner(ctx, id)
	if err != nil {
		return nil, err
	}
	return s.Source.Snapshot(ctx, id, o)
}

// PrepareRestore implements Restorer. What has no owner goes to the first source
// that can do something with the definition.
func (j *joined) PrepareRestore(ctx context.Context, spec RestoreSpec) (Restore, error) {
	if spec.New == nil {
		r, err := j.restorer(ctx, spec.MachineID)
		if err == nil {
			return r.PrepareRestore(ctx, spec)
		}
		if !errors.Is(err, ErrMachineNotFound) {
			return nil, err
		}
	}
	var refused error
	for _, s := range j.sources {
		r, ok := s.Source.(Restorer)
		if !ok {
			continue
		}
		re, err := r.PrepareRestore(ctx, spec)
		switch {
		case !errors.Is(err, ErrRestoreUnsupported):
			return re, err
		case refused == nil:
			refused = err
		default:
			refused = fmt.Errorf("%w; %w", refused, err)
		}
	}
	if refused == nil {
		refused = fmt.Errorf("%w: none of the host's sources defines machines", ErrRestoreUnsupported)
	}
	return nil, refused
}

// restorer finds the Restorer of a machine.
func (j *joined) restorer(ctx context.Context, id string) (Restorer, error) {
	s, err := j.owner(ctx, id)
	if err != nil {
		return nil, err
	}
	r, ok := s.Source.(Restorer)
	if !ok {
		return nil, fmt.Errorf("%w: machine %s comes from %s, which defines no machines", ErrRestoreUnsupported, id, s.Kind)
	}
	return r, nil
}

// StopMachine implements Restorer.
func (j *joined) StopMachine(ctx context.Context, id string) (was bool, err error) {
	r, err := j.restorer(ctx, id)
	if err != nil {
		return false, err
	}
	return r.StopMachine(ctx, id)
}

// StartMachine implements Restorer.
func (j *joined) StartMachine(ctx context.Context, id string) error {
	r, err := j.restorer(ctx, id)
	if err != nil {
		return err
	}
	return r.StartMachine(ctx, id)
}

// CleanUp implements Cleaner: all clean up, even if one fails.
func (j *joined) CleanUp(ctx context.Context, committed func(ctx context.Context, machineID, checkpoint string) (bool, error)) error {
	var errs []error
	for _, s := range j.sources {
		if c, ok := s.Source.(Cleaner); ok {
			if err := c.CleanUp(ctx, committed); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", s.Kind, err))
			}
		}
	}
	return errors.Join(errs...)
}
