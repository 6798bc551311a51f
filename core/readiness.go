package core

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"
)

// DefaultReadyTimeout is how long [WaitReady] waits where it is told nothing else: long
// enough for a database's first start on a slow disk.
const DefaultReadyTimeout = 2 * time.Minute

const (
	firstReadyPause = 50 * time.Millisecond
	lastReadyPause  = time.Second
)

// WaitReady asks until the service is ready, after pauses that grow from 50 ms to one
// second. It gives up with [ErrTimeout] after timeout (0: [DefaultReadyTimeout]) or at
// ctx's deadline; that error, and the one when ctx is cancelled, match ctx's and contain
// what the service last answered.
//
// What asking again cannot change ends the wait at once: [ErrNotRunning] (the service
// died), [ErrNotFound], [ErrInvalidConfig], [ErrUnsupported] and [ErrUnavailable].
func WaitReady(ctx context.Context, manager ServiceManager, info ServiceInfo, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(timeout, DefaultReadyTimeout))
	defer cancel()
	var last error
	for pause := firstReadyPause; ; pause = min(pause*3/2, lastReadyPause) {
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
			failure := &Error{Op: "wait for service", Object: info.Name, Err: fmt.Errorf("%w: %w", ctx.Err(), last)}
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				failure.Class = ErrTimeout
			}
			return failure
		case <-time.After(pause):
		}
	}
}

func isFinal(err error) bool {
	for _, class := range []error{ErrNotRunning, ErrNotFound, ErrInvalidConfig, ErrUnsupported, ErrUnavailable} {
		if errors.Is(err, class) {
			return true
		}
	}
	return false
}
