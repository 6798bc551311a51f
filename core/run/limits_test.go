package run

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moatproject/moat/core"
)

// endless is a runtime whose workload runs until it is stopped or removed.
type endless struct {
	fakeRuntime
	once  sync.Once
	ended chan struct{}
	code  int64
	stop  error                    // of StopContainer
	hangs bool                     // StopContainer returns only when its ctx ends
	work  func(core.AttachOptions) // of the workload; nil: nothing
	oom   bool
}

func (e *endless) end() { e.once.Do(func() { close(e.ended) }) }

func (e *endless) StartAttached(ctx context.Context, id string, streams core.AttachOptions) error {
	if e.work != nil {
		go e.work(streams)
	}
	_, err := e.WaitContainer(ctx, id)
	return err
}
func (e *endless) WaitContainer(ctx context.Context, _ string) (int64, error) {
	select {
	case <-e.ended:
		return e.code, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}
func (e *endless) StopContainer(ctx context.Context, _ string) error {
	_ = e.call("stop")
	if e.hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	if e.stop == nil {
		e.end()
	}
	return e.stop
}
func (e *endless) RemoveContainer(ctx context.Context, id string) error {
	e.end()
	return e.fakeRuntime.RemoveContainer(ctx, id)
}
func (e *endless) SidecarManager() core.SidecarManager { return endlessSidecars{endless: e} }

type endlessSidecars struct {
	core.SidecarManager
	endless *endless
}

func (s endlessSidecars) InspectContainer(context.Context, string) (core.InspectResponse, error) {
	return core.InspectResponse{State: &core.State{OOMKilled: s.endless.oom}}, s.endless.call("inspect")
}

// countingClock counts the timers that may still end.
type countingClock struct {
	SystemClock
	timers *int
}

func (c countingClock) AfterFunc(d time.Duration, f func()) func() bool {
	*c.timers++
	ended := func() { *c.timers-- }
	stop := c.SystemClock.AfterFunc(d, func() { ended(); f() })
	return func() bool {
		stopped := stop()
		if stopped {
			ended()
		}
		return stopped
	}
}

// limited starts a run without services in a bubble, and returns which limits it tells of.
func limited(t *testing.T, e *endless, change func(*Spec)) (r *Run, told *[]Limit) {
	t.Helper()
	return timed(t, e, SystemClock{}, change)
}

func timed(t *testing.T, e *endless, clock Clock, change func(*Spec)) (r *Run, told *[]Limit) {
	t.Helper()
	e.ended, told = make(chan struct{}), new([]Limit)
	spec := Spec{Workload: core.Config{Image: "image"}}
	change(&spec)
	r, err := New(e, spec, Options{Attached: true, Clock: clock, Progress: func(event Event) {
		if event.Type == EventLimit {
			*told = append(*told, event.Limit)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r, told
}

// finish waits for the run's end and returns how long it took, and the limit.
func finish(t *testing.T, r *Run, streams core.AttachOptions) (time.Duration, *LimitError, error) {
	t.Helper()
	begin := time.Now()
	err := r.StartAttached(t.Context(), streams, nil)
	if err == nil {
		_, err = r.Wait(t.Context())
	}
	took := time.Since(begin)
	limit, _ := errors.AsType[*LimitError](err)
	if failure := r.Close(t.Context()); failure != nil {
		t.Error(failure)
	}
	return took, limit, err
}

func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &endless{code: 143}
		r, told := limited(t, e, func(s *Spec) { s.Timeout = time.Minute })
		took, limit, err := finish(t, r, core.AttachOptions{})
		if took != time.Minute || limit == nil || *limit != (LimitError{Limit: LimitTime, After: time.Minute}) || !errors.Is(err, core.ErrTimeout) {
			t.Errorf("after %s: %v", took, err)
		}
		if !slices.Equal(*told, []Limit{LimitTime}) || !slices.Contains(e.sorted(), "stop") {
			t.Errorf("told %q, called %q", *told, e.sorted())
		}
		if code, err := r.Wait(t.Context()); code != 143 || !errors.Is(err, core.ErrTimeout) {
			t.Errorf("afterwards: %d, %v", code, err)
		}
	})
}

// TestTimeoutWithoutStreams is the way of those who embed Moat.
func TestTimeoutWithoutStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &endless{ended: make(chan struct{})}
		r, err := Start(t.Context(), e, Spec{Workload: core.Config{Image: "image"}, Timeout: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Wait(t.Context()); !errors.Is(err, core.ErrTimeout) {
			t.Error(err)
		}
		if err := r.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestEndsWithinItsTime stops nothing, and leaves no timer.
func TestEndsWithinItsTime(t *testing.T) {
	for name, end := range map[string]func(context.Context, *Run, *endless) error{
		"exits": func(ctx context.Context, r *Run, e *endless) error {
			e.end()
			_, err := r.Wait(ctx)
			return err
		},
		"removed": func(ctx context.Context, r *Run, _ *endless) error { return r.Close(ctx) },
		"left":    func(_ context.Context, r *Run, _ *endless) error { r.Leave(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, timers := &endless{}, 0
				r, told := timed(t, e, countingClock{timers: &timers}, func(s *Spec) { s.Timeout, s.IdleTimeout = time.Minute, time.Minute })
				attached := make(chan error, 1)
				go func() { attached <- r.StartAttached(t.Context(), core.AttachOptions{}, nil) }()
				synctest.Wait()
				if timers != 2 {
					t.Errorf("%d timers", timers)
				}
				if err := end(t.Context(), r, e); err != nil {
					t.Error(err)
				}
				r.limits.begin() // one that was just about to
				if timers != 0 {
					t.Errorf("%d timers are left", timers)
				}
				e.end()
				if err := errors.Join(<-attached, r.Close(t.Context())); err != nil || len(*told) > 0 || slices.Contains(e.sorted(), "stop") {
					t.Errorf("%v, told %q, called %q", err, *told, e.sorted())
				}
			})
		})
	}
}

// TestIdle has streams that carry something every 40 seconds, three times.
func TestIdle(t *testing.T) {
	for name, work := range map[string]func(core.AttachOptions){
		"output": func(streams core.AttachOptions) {
			for range 3 {
				time.Sleep(40 * time.Second)
				_, _ = streams.Stdout.Write([]byte("x"))
			}
		},
		"errors": func(streams core.AttachOptions) {
			for range 3 {
				time.Sleep(40 * time.Second)
				_, _ = streams.Stderr.Write([]byte("x"))
			}
		},
		"input": func(streams core.AttachOptions) {
			for range 3 {
				time.Sleep(40 * time.Second)
				_, _ = streams.Stdin.Read(make([]byte, 1))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := &endless{work: work}
				r, told := limited(t, e, func(s *Spec) { s.IdleTimeout = time.Minute })
				took, limit, err := finish(t, r, core.AttachOptions{Stdin: strings.NewReader("abc")})
				if took != 3*time.Minute || limit == nil || limit.Limit != LimitIdle || !slices.Equal(*told, []Limit{LimitIdle}) {
					t.Errorf("after %s: %v, told %q", took, err, *told)
				}
			})
		})
	}
}

// TestReaderThatIsBehind is no idleness of the workload's.
func TestReaderThatIsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		read, write := io.Pipe()
		e := &endless{work: func(streams core.AttachOptions) { _, _ = streams.Stdout.Write([]byte("x")) }}
		r, _ := limited(t, e, func(s *Spec) { s.IdleTimeout = time.Minute })
		time.AfterFunc(10*time.Minute, func() { _, _ = read.Read(make([]byte, 1)) })
		if took, limit, err := finish(t, r, core.AttachOptions{Stdout: write}); took < 11*time.Minute || took > 12*time.Minute || limit == nil {
			t.Errorf("after %s: %v", took, err)
		}
	})
}

// TestWorkloadThatCannotBeStopped ends the wait all the same, with the reason.
func TestWorkloadThatCannotBeStopped(t *testing.T) {
	for name, start := range map[string]func(context.Context, *Run) error{
		"attached": func(ctx context.Context, r *Run) error { return r.StartAttached(ctx, core.AttachOptions{}, nil) },
		"waited for": func(ctx context.Context, r *Run) error {
			if err := r.Start(ctx); err != nil {
				return err
			}
			_, err := r.Wait(ctx)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := &endless{stop: errBroken}
				r, _ := limited(t, e, func(s *Spec) { s.Timeout = time.Minute })
				err := start(t.Context(), r)
				limit, ok := errors.AsType[*LimitError](err)
				if !ok || limit.Limit != LimitTime || !errors.Is(err, errBroken) || !strings.Contains(err.Error(), "cannot stop") {
					t.Error(err)
				}
				if err := r.Close(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestStopThatHangs does not keep the run, and the second limit says nothing more.
func TestStopThatHangs(t *testing.T) {
	for name, end := range map[string]func(context.Context, *Run) error{
		"closed": func(ctx context.Context, r *Run) error { return r.Close(ctx) },
		"left":   func(_ context.Context, r *Run) error { r.Leave(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := &endless{hangs: true}
				r, told := limited(t, e, func(s *Spec) { s.Timeout, s.IdleTimeout = time.Minute, time.Hour })
				if err := r.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * time.Hour)
				begin := time.Now()
				if err := end(t.Context(), r); err != nil || time.Since(begin) > 0 || !slices.Equal(*told, []Limit{LimitTime}) {
					t.Errorf("ended after %s: %v, told %q", time.Since(begin), err, *told)
				}
				if err := context.Cause(r.limits.failed); err != nil {
					t.Errorf("the end of the stop is its failure: %v", err)
				}
				e.end()
				_, err := r.Wait(t.Context())
				if limit, ok := errors.AsType[*LimitError](err); !ok || limit.Err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestMemoryLimit(t *testing.T) {
	for _, test := range []struct {
		code   int64
		oom    bool
		memory int
		told   []Limit
		asked  bool
	}{
		{code: 137, oom: true, memory: 64, told: []Limit{LimitMemory}, asked: true},
		{code: 137, oom: false, memory: 64, asked: true}, // killed by a person
		{code: 137, oom: true}, // no limit of the run's
		{code: 1, oom: true, memory: 64},
	} {
		synctest.Test(t, func(t *testing.T) {
			e := &endless{code: test.code, oom: test.oom}
			r, told := limited(t, e, func(s *Spec) { s.Workload.MemoryMB = test.memory })
			e.end()
			if _, _, err := finish(t, r, core.AttachOptions{}); err != nil {
				t.Error(err)
			}
			if !slices.Equal(*told, test.told) || slices.Contains(e.sorted(), "inspect") != test.asked {
				t.Errorf("%+v: told %q, called %q", test, *told, e.sorted())
			}
		})
	}
}

func TestLimitsThatAreRefused(t *testing.T) {
	image := core.Config{Image: "image"}
	for _, test := range []struct {
		field    string
		spec     Spec
		attached bool
	}{
		{"Timeout", Spec{Workload: image, Timeout: -1}, true},
		{"IdleTimeout", Spec{Workload: image, IdleTimeout: -1}, true},
		{"Timeout", Spec{Workload: image, Timeout: 1, Detached: true}, true},
		{"IdleTimeout", Spec{Workload: image, IdleTimeout: 1, Detached: true}, true},
		{"IdleTimeout", Spec{Workload: image, IdleTimeout: 1}, false}, // Start sees no streams
	} {
		if _, err := New(&fakeRuntime{}, test.spec, Options{Attached: test.attached}); !errors.Is(err, core.ErrInvalidConfig) || core.FieldOf(err) != test.field {
			t.Errorf("%+v: %v", test.spec, err)
		}
	}
}
