package contracttests

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

func waitCases() []Case {
	return []Case{
		{Number: "RT-40", Title: "wait returns the program's code", check: exitCode},
		{Number: "RT-41", Title: "wait returns 128+n for signal n", check: signalCode},
		{Number: "RT-42", Title: "any number of waiters", check: manyWaiters},
		{Number: "RT-43", Title: "the context ends the wait only", check: waitCancelled},
		{Number: "RT-44", Title: "waiting for what is missing or removed", check: waitRemoved},
		{Number: "RT-45", Title: "an unknown code is an error", check: unknownCode},
		{Number: "RT-46", Title: "codes and words of engines may be a program's own", check: programsOwn},
	}
}

// waiting begins a wait.
func (f *fixture) waiting(ctx context.Context, id string) *call[int64] {
	return begin("WaitContainer", func() (int64, error) { return f.rt.WaitContainer(ctx, id) }).on(id).until("the container exits")
}

func exitCode(f *fixture) {
	for _, code := range []int64{42, 255} {
		want(f, "the exit code", f.wait(f.started(f.agent(fmt.Sprint("exit ", code)))), code)
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
	id := f.create(f.agent("say ready", "sleep 1s", "exit 42"))
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
	_, err := f.waiting(ctx, id).until("its context has ended").result(f)
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
	code, err := waiter.until("the container was removed").result(f)
	switch {
	case errors.Is(err, core.ErrNotFound):
	case err != nil || (code != 128+sigKILL && code != 128+sigTERM):
		f.Errorf("a waiter got %d, %v when the container was removed", code, err)
	}
}

// unknownCode lets a runtime wait that has not started the container: it knows the
// code, or says that it does not.
func unknownCode(f *fixture) {
	id := f.started(f.agent("sleep 1s", "exit 42"))
	other := f.another()
	code, err := begin("WaitContainer", func() (int64, error) { return other.WaitContainer(f.ctx, id) }).on(id).until("the container exits").result(f)
	if err == nil {
		want(f, "the code that another runtime waited for", code, 42)
	} else if optional.CapabilitiesOf(f.rt).ExitCodes && !errors.Is(err, core.ErrNotFound) {
		f.Errorf("another runtime's wait failed although Capabilities.ExitCodes is true: %v", err)
	}
}

// ownCodes are codes that engines use themselves, and words as they say them, which a
// program may use too.
var ownCodes = []struct {
	code  int64
	words string
}{
	{125, "docker: Error response from daemon: mine"},
	{126, "Error: mine: permission denied"},
	{127, "OCI runtime exec failed: exec failed: unable to start container process: exec: \"mine\": executable file not found in $PATH: unknown"},
}

// saying is a command that says words on both streams, and exits with a code.
func saying(words string, code int64) []string {
	return agentCommand("say "+words, "stderr say "+words, fmt.Sprint("exit ", code))
}

func programsOwn(f *fixture) {
	for _, own := range ownCodes {
		cfg := f.command(saying(own.words, own.code)...)
		id := f.started(cfg)
		want(f, "the code of "+cfg.Cmd[1], f.wait(id), own.code)
		want(f, "the output of "+cfg.Cmd[1], f.logs(id), strings.Repeat(own.words+"\n", 2))
		if !optional.CapabilitiesOf(f.rt).Attach {
			continue
		}
		for _, tty := range []bool{false, true} {
			if cfg.TTY = tty; tty && !optional.CapabilitiesOf(f.rt).TTY {
				continue
			}
			var output screen
			id := f.create(cfg)
			_, err := f.startingAttached(id, core.AttachOptions{Stdout: &output, Stderr: &output, TTY: tty}).result(f)
			how := fmt.Sprintf("%s, attached with TTY %t,", cfg.Cmd[1], tty)
			if err != nil {
				f.Errorf("%s was to be no failure of the runtime's and returned %v", how, err)
			}
			want(f, "the code of "+how, f.wait(id), own.code)
			want(f, "the output of "+how, output.String(), strings.Repeat(own.words+"\n", 2))
		}
	}
}
