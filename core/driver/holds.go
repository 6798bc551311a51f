package driver

import (
	"context"
	"sync"
)

// Holds tracks the held containers that wait for their release ([optional.Releaser]). IDs
// are full ones. The zero value is empty and ready to use. It is safe for concurrent use.
type Holds struct {
	mu    sync.Mutex
	holds map[string]*Hold
}

// Hold is one start of a held container.
type Hold struct {
	released    chan struct{}
	started     chan struct{}
	start       sync.Once
	begun       chan struct{}
	begin       sync.Once
	hasBegun    bool // read it after begun
	opened      bool
	attachments int
}

// Begin registers a StartAttached. Call it before the container starts, and End when
// StartAttached returns.
func (h *Holds) Begin(id string) *Hold {
	h.mu.Lock()
	defer h.mu.Unlock()
	hold := h.get(id)
	hold.attachments++
	return hold
}

// Started notes that the container has been started.
func (h *Hold) Started() { h.start.Do(func() { close(h.started) }) }

// Decide notes whether the program has been let begin. The caller of Await that got open
// calls it, whatever has happened.
func (h *Hold) Decide(begun bool) {
	h.begin.Do(func() {
		h.hasBegun = begun
		close(h.begun)
	})
}

// AwaitBegun waits until the program of a released hold has been let begin, or cannot any
// more because StartAttached has returned, or ctx ends, and then returns ctx's error.
func (h *Hold) AwaitBegun(ctx context.Context) (begun bool, err error) {
	select {
	case <-h.begun:
	case <-ctx.Done():
		select { // both may be true
		case <-h.begun:
		default:
			return false, ctx.Err()
		}
	}
	return h.hasBegun, nil
}

// AwaitStart waits until a StartAttached has started the container, whose program is then
// held, or until ctx ends, and then returns ctx's error.
func (h *Holds) AwaitStart(ctx context.Context, id string) error {
	h.mu.Lock()
	hold := h.get(id)
	h.mu.Unlock()
	select {
	case <-hold.started:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// End ends what Begin registered.
func (h *Holds) End(id string, hold *Hold) {
	h.mu.Lock()
	defer h.mu.Unlock()
	hold.attachments--
	if hold.attachments > 0 {
		return
	}
	if !hold.opened { // or Decide is still to come: the program may have ended by now
		hold.Decide(false)
	}
	if h.holds[id] == hold {
		delete(h.holds, id)
		if !hold.isReleased() {
			h.get(id) // it is held as before, and nothing of this start is known of the next
		}
	}
}

// Await waits until the container is released, or ctx ends, and then returns ctx's error.
// open is true for exactly one caller of each hold: that one must let the program begin, and
// call Decide.
func (h *Holds) Await(ctx context.Context, hold *Hold) (open bool, err error) {
	select {
	case <-hold.released:
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	open = !hold.opened
	hold.opened = true
	return open, nil
}

// Release releases a container. created tells that it has not been started yet. The
// result is false where nothing waits for the release. hold is what to wait for with
// AwaitBegun, nil where the start is still to come.
func (h *Holds) Release(id string, created bool) (hold *Hold, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.holds[id] == nil && !created {
		return nil, false
	}
	hold = h.get(id)
	if !hold.isReleased() {
		if hold.attachments == 0 && !created {
			return nil, false
		}
		close(hold.released)
	}
	if hold.attachments == 0 {
		return nil, true
	}
	return hold, true
}

// Holding reports whether a container has been started, or is being started, and not
// been released.
func (h *Holds) Holding(id string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	hold := h.holds[id]
	return hold != nil && !hold.isReleased()
}

// Forget drops a container that has been removed.
func (h *Holds) Forget(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.holds, id)
}

func (h *Holds) get(id string) *Hold {
	hold := h.holds[id]
	if hold == nil {
		hold = &Hold{released: make(chan struct{}), started: make(chan struct{}), begun: make(chan struct{})}
		if h.holds == nil {
			h.holds = map[string]*Hold{}
		}
		h.holds[id] = hold
	}
	return hold
}

func (h *Hold) isReleased() bool {
	select {
	case <-h.released:
		return true
	default:
		return false
	}
}
