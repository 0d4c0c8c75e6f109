package libvirt

import (
	"context"
	"fmt"
	"time"

	"cairn/client/source"
	"cairn/client/source/libvirt/rpc"
)

const (
	// settleTime is how long events are collected before they are told.
	settleTime = 200 * time.Millisecond
	// pollEvery is how often is looked for what libvirt has no event for: a disk
	// that was resized, a definition's file that vanished.
	pollEvery = time.Minute
	// Between attempts to reach a daemon that is gone.
	retryFirst = 200 * time.Millisecond
	retryLast  = 10 * time.Second
)

// Watch implements source.Source. While the daemon is away it goes on trying to
// reach it; that it went and that it came back are changes.
func (s *Source) Watch(ctx context.Context, changed func()) error {
	woken := make(chan struct{}, 1)
	s.mu.Lock()
	s.watchers[woken] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.watchers, woken)
		s.mu.Unlock()
	}()
	told, logged := false, false
	for pause := retryFirst; ctx.Err() == nil; pause = min(2*pause, retryLast) {
		err := s.watchOnce(ctx, woken, func() {
			pause, told = retryFirst, true
			changed()
		})
		if ctx.Err() != nil {
			break
		}
		if told || !logged { // once for each time that it is away
			s.o.Log.Warn("libvirt is out of reach", "error", err)
			logged = true
		}
		if told {
			told = false
			changed()
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	return nil
}

// watchOnce watches until the connection breaks.
func (s *Source) watchOnce(ctx context.Context, woken <-chan struct{}, changed func()) error {
	conn, err := s.look.get(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, err := conn.Subscribe(ctx)
	if err != nil {
		return err
	}
	changed()
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	last := ""
	var settled <-chan time.Time // nil while there is nothing to tell
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case e, ok := <-events:
			if !ok {
				return failure(rpc.ErrDisconnected)
			}
			if e.Kind == rpc.EventAgent || e.Kind == rpc.EventLifecycle && e.What == rpc.LifecycleResumed {
				s.forgetGuest(e.Domain.UUID)
			}
			if e.Kind != rpc.EventJobCompleted && settled == nil {
				settled = time.After(settleTime)
			}
		case <-woken:
			if settled == nil {
				settled = time.After(settleTime)
			}
		case <-poll.C:
			if now := s.fingerprint(ctx); last != "" && now != last && settled == nil {
				settled = time.After(settleTime)
				last = now
			} else {
				last = now
			}
		case <-settled:
			settled = nil
			changed()
		}
	}
}

// wake tells watchers that something else than an event happened.
func (s *Source) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watchers {
		select {
		case w <- struct{}{}:
		default:
		}
	}
}

// fingerprint is a text that differs when the machines do, but for how much
// they have written.
func (s *Source) fingerprint(ctx context.Context) string {
	all, err := s.Machines(ctx)
	if err != nil {
		return ""
	}
	return fingerprint(all)
}

func fingerprint(all []source.Machine) string {
	text := ""
	for _, m := range all {
		text += m.ID + "\x00" + m.Problem + "\x00" + m.State.String()
		for _, d := range m.Disks {
			d.Allocated = 0
			text += fmt.Sprintf("\x00%+v", d)
		}
		text += "\n"
	}
	return text
}
