package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moatproject/moat/core"
)

// Limit is a bound that a run can reach.
type Limit string

// The limits of which a run tells when they are reached.
const (
	LimitTime   Limit = "time"   // Timeout: the workload is stopped
	LimitIdle   Limit = "idle"   // IdleTimeout: the workload is stopped
	LimitMemory Limit = "memory" // MemoryMB: the kernel has killed the workload or a process of it
)

// LimitError tells which limit has ended a run. It matches [core.ErrTimeout].
type LimitError struct {
	Limit Limit
	After time.Duration // what was allowed
	Err   error         // why the workload could not be stopped; nil where it was
}

func (e *LimitError) Error() string {
	reason := fmt.Sprintf("it has run for %s", e.After)
	if e.Limit == LimitIdle {
		reason = fmt.Sprintf("it has had no output and no input for %s", e.After)
	}
	if e.Err != nil {
		return fmt.Sprintf("cannot stop the workload (%s): %v", reason, e.Err)
	}
	return "stopped the workload: " + reason
}

// Is tells that the error is a [core.ErrTimeout].
func (e *LimitError) Is(target error) bool { return target == core.ErrTimeout }

func (e *LimitError) Unwrap() error { return e.Err }

// limits stops the workload when its time is over.
type limits struct {
	run    *Run
	ctx    context.Context // of what is asked of the runtime
	cancel context.CancelFunc
	failed context.Context // ends with a [*LimitError] when the workload could not be stopped
	fail   context.CancelCauseFunc
	calls  sync.WaitGroup

	mu      sync.Mutex            // of what follows
	stops   map[Limit]func() bool // of the timers
	over    bool
	reached *LimitError

	used    atomic.Int64 // when the streams last carried something, in nanoseconds
	writing atomic.Int32 // how many writes are in progress
}

func newLimits(r *Run) *limits {
	l := &limits{run: r, stops: map[Limit]func() bool{}}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.failed, l.fail = context.WithCancelCause(context.Background())
	return l
}

// begin is called when the program begins.
func (l *limits) begin() {
	l.use()
	l.arm(LimitTime, l.run.spec.Timeout)
	l.arm(LimitIdle, l.run.spec.IdleTimeout)
}

func (l *limits) arm(limit Limit, after time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if after > 0 && !l.over {
		l.stops[limit] = l.run.options.Clock.AfterFunc(after, func() { l.expire(limit) })
	}
}

// expire stops the workload, unless it was not idle after all.
func (l *limits) expire(limit Limit) {
	allowed := l.run.spec.Timeout
	if limit == LimitIdle {
		allowed = l.run.spec.IdleTimeout
		if rest := allowed - l.idle(); rest > 0 {
			l.arm(limit, rest)
			return
		}
	}
	if !l.reach(&LimitError{Limit: limit, After: allowed}) {
		return
	}
	defer l.calls.Done()
	l.run.report(Event{Type: EventLimit, Limit: limit})
	err := l.run.runtime.StopContainer(l.ctx, l.run.workload.id)
	if err != nil && l.ctx.Err() == nil && !errors.Is(err, core.ErrNotFound) {
		l.fail(&LimitError{Limit: limit, After: allowed, Err: err})
	}
}

// reach notes the first limit that is reached, which must be followed by calls.Done.
func (l *limits) reach(limit *LimitError) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over || l.reached != nil {
		return false
	}
	l.reached = limit
	l.calls.Add(1)
	return true
}

// idle returns how long the streams have carried nothing.
func (l *limits) idle() time.Duration {
	if l.writing.Load() > 0 {
		return 0
	}
	return time.Duration(l.run.options.Clock.Now().UnixNano() - l.used.Load())
}

func (l *limits) use() { l.used.Store(l.run.options.Clock.Now().UnixNano()) }

// bound returns a context that also ends when a workload whose time is over could not be
// stopped. The cause is then a [*LimitError].
func (l *limits) bound(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	bounded, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(l.failed, func() { cancel(context.Cause(l.failed)) })
	return bounded, func(cause error) { stop(); cancel(cause) }
}

// hit returns the limit that has ended the run, or nil.
func (l *limits) hit() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reached == nil {
		return nil
	}
	return l.reached
}

// end ends all limits and returns when nothing is asked of the runtime for them any more.
func (l *limits) end() {
	l.mu.Lock()
	l.over = true
	for _, stop := range l.stops {
		stop()
	}
	l.mu.Unlock()
	l.cancel()
	l.calls.Wait()
}

// watch returns streams of which the idle limit sees what they carry.
func (l *limits) watch(streams core.AttachOptions) core.AttachOptions {
	if l.run.spec.IdleTimeout == 0 {
		return streams
	}
	if streams.Stdin != nil {
		streams.Stdin = watchedReader{streams.Stdin, l}
	}
	streams.Stdout, streams.Stderr = l.writer(streams.Stdout), l.writer(streams.Stderr)
	return streams
}

func (l *limits) writer(w io.Writer) io.Writer {
	if w == nil {
		w = io.Discard
	}
	return watchedWriter{w, l}
}

type watchedReader struct {
	io.Reader
	limits *limits
}

func (r watchedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if n > 0 {
		r.limits.use()
	}
	return n, err
}

type watchedWriter struct {
	io.Writer
	limits *limits
}

func (w watchedWriter) Write(p []byte) (int, error) {
	w.limits.writing.Add(1)
	n, err := w.Writer.Write(p)
	w.limits.use()
	w.limits.writing.Add(-1)
	return n, err
}
