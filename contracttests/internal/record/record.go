// Package record runs a test and keeps what becomes of it, so that tests can be tested.
package record

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
)

// Result is what became of a test.
type Result struct {
	Failed   bool
	Messages []string // of Error, Fatal, Log, …
	Untested []string // reasons for which a part was not tested
}

// String returns the messages, one a line.
func (r Result) String() string { return strings.Join(r.Messages, "\n") }

// Run runs a test to its end, with its clean-up. Only the test's folders are t's.
func Run(t testing.TB, test func(testing.TB)) Result {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r := &recorder{TB: t, ctx: ctx}
	return r.run(cancel, func() { test(r) }, func(cleanup func()) { cleanup() })
}

// RunAlone runs a test as Run does, in a program that is no test. The test's context ends with
// ctx. A panic of the test's own goroutine fails it.
func RunAlone(ctx context.Context, name string, test func(testing.TB)) Result {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a := &alone{recorder: &recorder{ctx: ctx}, name: name}
	return a.run(cancel, func() { a.recovering(func() { test(a) }) }, a.recovering)
}

func (r *recorder) run(cancel context.CancelFunc, test func(), call func(cleanup func())) Result {
	inGoroutine(test)
	cancel()
	for cleanup := r.lastCleanup(); cleanup != nil; cleanup = r.lastCleanup() {
		inGoroutine(func() { call(cleanup) })
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.result
}

// inGoroutine runs what may end its goroutine, as FailNow does.
func inGoroutine(do func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	<-done
}

// recorder is the testing.TB of a recorded test.
type recorder struct {
	testing.TB // for what is not recorded, and because other packages cannot implement it
	ctx        context.Context

	mu       sync.Mutex
	result   Result
	cleanups []func()
}

func (r *recorder) say(failed bool, message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Failed = r.result.Failed || failed
	r.result.Messages = append(r.result.Messages, strings.TrimSuffix(message, "\n"))
}

func (r *recorder) lastCleanup() (last func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.cleanups); n > 0 {
		last, r.cleanups = r.cleanups[n-1], r.cleanups[:n-1]
	}
	return last
}

func (r *recorder) Cleanup(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleanups = append(r.cleanups, f)
}

func (r *recorder) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.result.Failed
}

func (r *recorder) Context() context.Context        { return r.ctx }
func (r *recorder) Helper()                         {}
func (r *recorder) Log(args ...any)                 { r.say(false, fmt.Sprintln(args...)) }
func (r *recorder) Logf(format string, args ...any) { r.say(false, fmt.Sprintf(format, args...)) }
func (r *recorder) Fail()                           { r.say(true, "failed") }
func (r *recorder) Error(args ...any)               { r.say(true, fmt.Sprintln(args...)) }
func (r *recorder) Errorf(format string, args ...any) {
	r.say(true, fmt.Sprintf(format, args...))
}

func (r *recorder) FailNow() {
	r.Fail()
	runtime.Goexit()
}

func (r *recorder) Fatal(args ...any) {
	r.Error(args...)
	runtime.Goexit()
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

// Untested notes that a part of the test cannot be tested here.
func (r *recorder) Untested(reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Untested = append(r.result.Untested, reason)
}

// SkipNow ends the test. Its caller has said why.
func (r *recorder) SkipNow() { runtime.Goexit() }

// alone is the testing.TB of a test in a program. It has all that the suite calls: there is
// none below it.
type alone struct {
	*recorder
	name string
}

func (a *alone) Name() string { return a.name }

// recovering makes a panic a failure.
func (a *alone) recovering(do func()) {
	defer func() {
		if reason := recover(); reason != nil {
			a.Errorf("panic: %v\n%s", reason, debug.Stack())
		}
	}()
	do()
}

// TempDir returns a directory that goes with the test. Everyone may look into it, if they get to
// it: containers do that as users of their own.
func (a *alone) TempDir() string {
	parent, err := os.MkdirTemp("", "conform-")
	if err != nil {
		a.Fatal(err)
	}
	a.Cleanup(func() {
		if err := os.RemoveAll(parent); err != nil {
			a.Error(err)
		}
	})
	directory := filepath.Join(parent, "001")
	if err := os.Mkdir(directory, 0o777); err != nil {
		a.Fatal(err)
	}
	return directory
}
