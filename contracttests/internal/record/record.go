// Package record runs a test and keeps what becomes of it, so that tests can be tested.
package record

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// Result is what became of a test.
type Result struct {
	Failed   bool
	Messages []string // of Error, Fatal, Log, …
}

// String returns the messages, one a line.
func (r Result) String() string { return strings.Join(r.Messages, "\n") }

// Run runs a test to its end, with its clean-up. Only the test's folders are t's.
func Run(t testing.TB, test func(testing.TB)) Result {
	ctx, cancel := context.WithCancel(t.Context())
	r := &recorder{TB: t, ctx: ctx}
	inGoroutine(func() { test(r) })
	cancel()
	for cleanup := r.lastCleanup(); cleanup != nil; cleanup = r.lastCleanup() {
		inGoroutine(cleanup)
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
