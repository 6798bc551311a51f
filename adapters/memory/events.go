package memory

import (
	"context"
	"iter"
	"slices"
	"time"

	"github.com/moatproject/moat/core/optional"
)

// tell notes an event. The caller holds the mutex.
func (r *Runtime) tell(c *container, what optional.EventType, at time.Time) {
	event := optional.Event{Type: what, Time: at.UTC(), ID: c.info.ID, Name: c.info.Name, Image: c.info.Image, Labels: c.info.Labels}
	if what == optional.EventDied {
		event.ExitCode = int64(c.exitCode)
	}
	r.events = append(r.events, event)
	close(r.happened)
	r.happened = make(chan struct{})
}

// Events reports the containers' events, all of which are kept.
func (r *Runtime) Events(ctx context.Context, opts optional.EventOptions) (iter.Seq2[optional.Event, error], error) {
	const op = "watch events"
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.check(ctx, op, ""); err != nil {
		return nil, err
	}
	next := len(r.events)
	if !opts.Since.IsZero() {
		next = slices.IndexFunc(r.events, func(event optional.Event) bool { return !event.Time.Before(opts.Since) })
		if next < 0 {
			next = len(r.events)
		}
	}
	return func(yield func(optional.Event, error) bool) {
		for {
			r.mu.Lock()
			events, happened := r.events[next:], r.happened
			r.mu.Unlock()
			next += len(events)
			for _, event := range events {
				selected := opts.Container == "" || opts.Container == event.ID || opts.Container == event.Name
				if selected && (ctx.Err() != nil || !yield(event, nil)) {
					return
				}
			}
			select {
			case <-happened:
			case <-ctx.Done():
				return
			case <-r.closed:
				yield(optional.Event{}, closedError(op, ""))
				return
			}
		}
	}, nil
}
