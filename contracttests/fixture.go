package contracttests

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moatproject/moat/core"
)

const (
	// caseTimeout bounds all calls of a case: a slow machine needs a part of it.
	caseTimeout = 5 * time.Minute

	// patience is how long an event may take that should come at once.
	patience = 20 * time.Second

	// moment is how long a call is watched that should go on. Too short a moment
	// hides a defect, it never fails a correct runtime.
	moment = 200 * time.Millisecond

	pollInterval = 10 * time.Millisecond
)

// fixture is what one case works with: a runtime of its own, and the containers
// that it makes there.
type fixture struct {
	testing.TB
	h     Harness
	rt    core.Runtime
	ctx   context.Context
	runID string

	closed  bool     // the case has closed rt
	created []string // containers to remove
	images  []string // images to remove, after the containers
	joined  []string // networks to remove, likewise
}

func newFixture(t testing.TB, h Harness) *fixture {
	ctx, cancel := context.WithTimeout(t.Context(), caseTimeout)
	f := &fixture{TB: t, h: h, rt: h.New(t), ctx: ctx, runID: "contract-" + uniqueText()}
	t.Cleanup(func() {
		cancel()
		f.cleanUp()
	})
	return f
}

func uniqueText() string { return strings.ToLower(rand.Text()[:12]) }

// cleanUp removes what the case made. Whatever it does not know of was left behind
// by a call that failed.
func (f *fixture) cleanUp() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(f.ctx), caseTimeout)
	defer cancel()
	rt := f.rt
	if f.closed {
		rt = f.h.New(f)
	}
	remove := func(id string) {
		if err := rt.RemoveContainer(ctx, id); err != nil {
			f.Errorf("clean up: %v", err)
		}
	}
	for _, id := range f.created {
		remove(id)
	}
	f.removeNetworks(ctx, rt)
	all, err := rt.ListContainers(ctx)
	if err != nil {
		f.Errorf("clean up: %v", err)
	}
	for _, info := range ofRun(f.runID, all) {
		f.Errorf("a container is left behind: %+v", info)
		remove(info.ID)
	}
	for _, image := range f.images {
		if err := rt.RemoveImage(ctx, image); err != nil {
			f.Errorf("clean up: %v", err)
		}
	}
	if err := rt.Close(); err != nil {
		f.Errorf("close: %v", err)
	}
}

func ofRun(runID string, all []core.Info) []core.Info {
	return slices.DeleteFunc(slices.Clone(all), func(info core.Info) bool {
		return info.Labels[core.LabelRunID] != runID
	})
}

// command is a configuration that runs a program.
func (f *fixture) command(argv ...string) core.Config {
	return core.Config{Image: f.h.Image, Cmd: argv, RunID: f.runID}
}

// shell is a configuration that runs a script.
func (f *fixture) shell(script string) core.Config { return f.command("sh", "-c", script) }

// tryCreate creates a container that is removed when the case ends.
func (f *fixture) tryCreate(cfg core.Config) (string, error) {
	id, err := f.rt.CreateContainer(f.ctx, cfg)
	if err == nil {
		f.created = append(f.created, id)
	}
	return id, err
}

func (f *fixture) create(cfg core.Config) string {
	f.Helper()
	id, err := f.tryCreate(cfg)
	f.must(err)
	return id
}

func (f *fixture) start(id string) {
	f.Helper()
	f.must(f.rt.StartContainer(f.ctx, id))
}

// started creates and starts a container.
func (f *fixture) started(cfg core.Config) string {
	f.Helper()
	id := f.create(cfg)
	f.start(id)
	return id
}

// ready starts a script and returns when it has said that it is ready.
func (f *fixture) ready(cfg core.Config) string {
	f.Helper()
	id := f.started(cfg)
	f.awaitOutput(id, "ready\n")
	return id
}

// output runs a container to its successful end and returns what it wrote.
func (f *fixture) output(cfg core.Config) string {
	f.Helper()
	id := f.started(cfg)
	code, out := f.wait(id), f.logs(id)
	if code != 0 {
		f.Fatalf("%q exited with code %d: %s", cfg.Cmd, code, out)
	}
	return out
}

func (f *fixture) wait(id string) int64 {
	f.Helper()
	code, err := f.rt.WaitContainer(f.ctx, id)
	f.must(err)
	return code
}

func (f *fixture) logs(id string) string {
	f.Helper()
	out, err := f.rt.ContainerLogsAll(f.ctx, id)
	f.must(err)
	return string(out)
}

func (f *fixture) state(id string) string {
	f.Helper()
	state, err := f.rt.ContainerState(f.ctx, id)
	f.must(err)
	return state
}

func (f *fixture) wantState(id, want string) {
	f.Helper()
	if got := f.state(id); got != want {
		f.Errorf("the container's state is %q, want %q", got, want)
	}
}

// remove removes a container before the case ends.
func (f *fixture) remove(id string) {
	f.Helper()
	f.must(f.rt.RemoveContainer(f.ctx, id))
	f.forget(id)
}

// forget leaves a container that is gone to nobody's clean-up.
func (f *fixture) forget(id string) {
	f.created = slices.DeleteFunc(f.created, func(created string) bool { return created == id })
}

// close closes the runtime before the case ends.
func (f *fixture) close() error {
	f.closed = true
	_, err := begin("close", func() (struct{}, error) { return struct{}{}, f.rt.Close() }).result(f)
	return err
}

// list returns the case's containers, newest first.
func (f *fixture) list() []core.Info {
	f.Helper()
	all, err := f.rt.ListContainers(f.ctx)
	f.must(err)
	return ofRun(f.runID, all)
}

// listed returns what the list tells of a container.
func (f *fixture) listed(id string) core.Info {
	f.Helper()
	all := f.list()
	i := slices.IndexFunc(all, func(info core.Info) bool { return info.ID == id })
	if i < 0 {
		f.Fatalf("container %s is not listed with label %s=%s", id, core.LabelRunID, f.runID)
	}
	return all[i]
}

// runStates returns the states of the case's containers, by ID.
func (f *fixture) runStates() map[string]string {
	f.Helper()
	states := map[string]string{}
	for _, info := range f.list() {
		states[info.ID] = info.Status
	}
	return states
}

// awaitOutput returns when a container has written text.
func (f *fixture) awaitOutput(id, text string) {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.ctx, patience)
	defer cancel()
	stream, err := f.rt.ContainerLogs(ctx, id)
	f.must(err)
	defer stream.Close()
	if seen, err := readUntil(stream, text); err != nil {
		f.Fatalf("the container wrote %q and then %v, not %q", seen, err, text)
	}
}

func readUntil(r io.Reader, text string) (seen []byte, err error) {
	buf := make([]byte, 512)
	for !bytes.Contains(seen, []byte(text)) {
		n, err := r.Read(buf)
		seen = append(seen, buf[:n]...)
		if err != nil {
			return seen, err
		}
	}
	return seen, nil
}

// missing returns the name of a container that does not exist.
func (f *fixture) missing() string { return "missing-" + f.runID }

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// wantClass checks that a call failed with one of core's sentinels.
func (f *fixture) wantClass(what string, err, class error) {
	f.Helper()
	if !errors.Is(err, class) {
		f.Errorf("%s returned %v, want %v", what, err, class)
	}
}

// wantField checks that a call refused a field of the configuration.
func (f *fixture) wantField(what string, err error, field string) {
	f.Helper()
	if !errors.Is(err, core.ErrInvalidConfig) || core.FieldOf(err) != field {
		f.Errorf("%s returned %v, want %v in field %s", what, err, core.ErrInvalidConfig, field)
	}
}

// want checks a value.
func want[T comparable](f *fixture, what string, got, want T) {
	f.Helper()
	if got != want {
		f.Errorf("%s is %#v, want %#v", what, got, want)
	}
}

// portOf returns an optional port that the case's ability has found.
func portOf[P any](f *fixture) P {
	f.Helper()
	found, ok := core.As[P](f.rt)
	if !ok {
		f.Fatalf("the runtime is no %T", found)
	}
	return found
}

// call is a call in progress, in a goroutine of its own.
type call[T any] struct {
	what  string
	begun chan struct{}
	done  chan struct{}
	value T
	err   error
}

func begin[T any](what string, do func() (T, error)) *call[T] {
	c := &call[T]{what: what, begun: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(c.done)
		close(c.begun)
		c.value, c.err = do()
	}()
	return c
}

// goesOn fails the case when the call has returned within a moment.
func (c *call[T]) goesOn(f *fixture) {
	f.Helper()
	c.goesOnFor(f, moment)
}

func (c *call[T]) goesOnFor(f *fixture, watched time.Duration) {
	f.Helper()
	<-c.begun
	select {
	case <-c.done:
		f.Fatalf("%s has returned too early: %v, %v", c.what, c.value, c.err)
	case <-time.After(watched):
	}
}

// result waits for the call to return, and fails the case when it does not.
func (c *call[T]) result(f *fixture) (T, error) {
	f.Helper()
	select {
	case <-c.done:
		return c.value, c.err
	case <-f.ctx.Done():
		f.Fatalf("%s has not returned although its context has ended", c.what)
	case <-time.After(patience):
		f.Fatalf("%s has not returned after %s", c.what, patience)
	}
	panic("unreachable")
}

// eventually polls until holds, or until patience ends.
func eventually(holds func() bool) bool {
	deadline := time.After(patience)
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			return false
		}
	}
	return true
}
