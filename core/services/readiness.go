package services

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/moatproject/moat/core"
)

// DefaultReadyTimeout is how long [WaitReady] waits where it is told nothing else: long
// enough for a database's first start on a slow disk.
const DefaultReadyTimeout = 2 * time.Minute

// A check costs the engine a process, and what it finds is late by a pause at most. So
// pauses are a part of what has passed, within limits.
const (
	shortestReadyPause = 50 * time.Millisecond
	longestReadyPause  = 200 * time.Millisecond
	readyPausePart     = 10
)

// WaitReady calls CheckReady until the service is ready, with pauses of 50 to 200 ms that
// grow with the time waited. It returns [core.ErrTimeout] after timeout (0:
// [DefaultReadyTimeout]) or at ctx's deadline. A timeout also matches
// [context.DeadlineExceeded]; a cancelled ctx matches [context.Canceled]. Both errors
// contain the last answer of CheckReady. After a timeout the error also contains the end
// of the service's log, if manager is a [Watcher].
//
// These errors of CheckReady end the wait at once: [core.ErrNotRunning] (the service died),
// [core.ErrNotFound], [core.ErrInvalidConfig], [core.ErrUnsupported] and
// [core.ErrUnavailable]. With a [Watcher] WaitReady returns as soon as the service dies,
// otherwise at the next check.
func WaitReady(ctx context.Context, manager core.ServiceManager, info core.ServiceInfo, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(timeout, DefaultReadyTimeout))
	defer cancel()
	ctx, forget := endedByDeath(ctx, manager, info)
	defer forget()
	var last error
	for begin := time.Now(); ; {
		err := manager.CheckReady(ctx, info)
		ended := ctx.Err()
		switch {
		case err == nil:
			return nil
		case ended == nil || last == nil: // afterwards it only says that ctx has ended
			last = err
		}
		if isFinal(err) && !errors.Is(err, ended) {
			return err
		}
		select {
		case <-ctx.Done():
			if death := context.Cause(ctx); errors.Is(death, core.ErrNotRunning) {
				return death
			}
			return gaveUp(ctx, manager, info, last)
		case <-time.After(min(max(time.Since(begin)/readyPausePart, shortestReadyPause), longestReadyPause)):
		}
	}
}

// endedByDeath returns a context that the service's death ends, if that is told, with the
// error that tells of it as its cause. forget waits until nothing watches any more.
func endedByDeath(ctx context.Context, manager core.ServiceManager, info core.ServiceInfo) (alive context.Context, forget func()) {
	watcher, ok := manager.(Watcher)
	if !ok {
		return ctx, func() {}
	}
	alive, end := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := watcher.AwaitDeath(alive, info); errors.Is(err, core.ErrNotRunning) {
			end(err)
		}
	}()
	return alive, func() { end(nil); <-done }
}

// gaveUp is the error of a wait whose context has ended.
func gaveUp(ctx context.Context, manager core.ServiceManager, info core.ServiceInfo, last error) error {
	failure := &core.Error{Op: "wait for service", Object: info.Name, Err: fmt.Errorf("%w: %w", ctx.Err(), last)}
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return failure
	}
	failure.Class = core.ErrTimeout
	if watcher, ok := manager.(Watcher); ok {
		graced, cancel := withGrace(ctx)
		defer cancel()
		if log, err := watcher.LogTail(graced, info); err == nil {
			failure.Err = fmt.Errorf("%w. Its log ends with: %s", failure.Err, cmp.Or(log, "nothing"))
		}
	}
	return failure
}

func isFinal(err error) bool {
	for _, class := range []error{core.ErrNotRunning, core.ErrNotFound, core.ErrInvalidConfig, core.ErrUnsupported, core.ErrUnavailable} {
		if errors.Is(err, class) {
			return true
		}
	}
	return false
}
