package contracttests

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/moatproject/moat/core"
)

func waitCases() []Case {
	return []Case{
		{Number: "RT-40", Title: "wait returns the program's code", check: exitCode},
		{Number: "RT-41", Title: "wait returns 128+n for signal n", check: signalCode},
		{Number: "RT-42", Title: "any number of waiters", check: manyWaiters},
		{Number: "RT-43", Title: "the context ends the wait only", check: waitCancelled},
		{Number: "RT-44", Title: "waiting for what is missing or removed", check: waitRemoved},
		{Number: "RT-45", Title: "an unknown code is an error", check: unknownCode},
	}
}

// waiting begins a wait.
func (f *fixture) waiting(ctx context.Context, id string) *call[int64] {
	return begin("WaitContainer", func() (int64, error) { return f.rt.WaitContainer(ctx, id) })
}

func exitCode(f *fixture) {
	for _, code := range []int64{42, 255} {
		want(f, "the exit code", f.wait(f.started(f.shell(fmt.Sprint("exit ", code)))), code)
	}
}

func signalCode(f *fixture) {
	id := f.ready(f.stubborn(time.Second))
	f.must(f.rt.StopContainer(f.ctx, id))
	code, err := f.waiting(f.ctx, id).result(f)
	f.must(err)
	want(f, "the exit code after SIGKILL", code, 128+sigKILL)
}

func manyWaiters(f *fixture) {
	id := f.create(f.shell(`echo ready; sleep 1; exit 42`))
	var waiters []*call[int64]
	waitMore := func() {
		for range 3 {
			waiters = append(waiters, f.waiting(f.ctx, id))
		}
	}
	check := func() {
		for _, waiter := range waiters {
			code, err := waiter.result(f)
			f.must(err)
			want(f, "a waiter's exit code", code, 42)
		}
	}
	waitMore()
	waiters[0].goesOn(f)
	f.start(id)
	f.awaitOutput(id, "ready\n")
	waitMore()
	check()
	waitMore() // after the exit
	check()
}

func waitCancelled(f *fixture) {
	id := f.started(f.idle())
	ctx, cancel := context.WithTimeout(f.ctx, moment)
	defer cancel()
	_, err := f.waiting(ctx, id).result(f)
	f.wantClass("a wait whose context ended", err, context.DeadlineExceeded)
	f.wantState(id, core.StateRunning)
}

func waitRemoved(f *fixture) {
	_, err := f.rt.WaitContainer(f.ctx, f.missing())
	f.wantClass("waiting for what is missing", err, core.ErrNotFound)

	id := f.started(f.idle())
	waiter := f.waiting(f.ctx, id)
	waiter.goesOn(f)
	f.remove(id)
	code, err := waiter.result(f)
	switch {
	case errors.Is(err, core.ErrNotFound):
	case err != nil || (code != 128+sigKILL && code != 128+sigTERM):
		f.Errorf("a waiter got %d, %v when the container was removed", code, err)
	}
}

// unknownCode lets a runtime wait that has not started the container: it knows the
// code, or says that it does not.
func unknownCode(f *fixture) {
	id := f.started(f.shell(`sleep 1; exit 42`))
	other := f.another()
	code, err := begin("WaitContainer", func() (int64, error) { return other.WaitContainer(f.ctx, id) }).result(f)
	if err == nil {
		want(f, "the code that another runtime waited for", code, 42)
	} else if core.CapabilitiesOf(f.rt).ExitCodes && !errors.Is(err, core.ErrNotFound) {
		f.Errorf("another runtime's wait failed although Capabilities.ExitCodes is true: %v", err)
	}
}
