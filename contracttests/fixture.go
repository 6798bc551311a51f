package contracttests

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
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

	// workPatience is how long a program may take that has work to do.
	workPatience = 2 * time.Minute

	// moment is how long a call is watched that should go on. Too short a moment
	// hides a defect, it never fails a correct runtime.
	moment = 200 * time.Millisecond

	pollInterval = 10 * time.Millisecond
)

// runPrefix begins the run ID of each case, and so what it creates.
const runPrefix = "contract-"

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

	networked bool // the case has used the network manager
}

func newFixture(t testing.TB, h Harness) *fixture {
	ctx, cancel := context.WithTimeout(t.Context(), caseTimeout)
	f := &fixture{TB: t, h: h, rt: h.New(t), ctx: ctx, runID: runPrefix + uniqueText()}
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
		f.Errorf("a call has left the container %s behind: name %q, state %s, image %s", info.ID, info.Name, info.Status, info.Image)
		remove(info.ID)
	}
	for _, image := range f.images {
		if err := rt.RemoveImage(ctx, image); err != nil {
			f.Errorf("clean up: %v", err)
		}
	}
	if f.networked {
		f.removeLeftNetworks(ctx, rt)
	}
	if len(f.images) > 0 {
		f.removeLeftImages(ctx, rt)
	}
	if err := rt.Close(); err != nil {
		f.Errorf("close: %v", err)
	}
}

// removeLeftNetworks fails the case for networks that it does not know of: a call that
// failed has left them behind.
func (f *fixture) removeLeftNetworks(ctx context.Context, rt core.Runtime) {
	networks, err := f.networksOf(ctx, rt)
	if err != nil {
		f.Errorf("clean up: %v", err)
	}
	for _, info := range networks {
		f.Errorf("a call has left the network %s behind: ID %s", info.Name, info.ID)
		if err := rt.NetworkManager().ForceRemoveNetwork(ctx, info.ID); err != nil {
			f.Errorf("clean up: %v", err)
		}
	}
}

// removeLeftImages does the same for images.
func (f *fixture) removeLeftImages(ctx context.Context, rt core.Runtime) {
	images, err := rt.ListImages(ctx)
	if err != nil {
		f.Errorf("clean up: %v", err)
	}
	for _, info := range images {
		if !strings.Contains(info.Tag, f.runID) {
			continue
		}
		f.Errorf("a call has left the image %s behind", info.Tag)
		if err := rt.RemoveImage(ctx, info.Tag); err != nil {
			f.Errorf("clean up: %v", err)
		}
	}
}

// networksOf returns the case's networks, whose names begin with its run ID.
func (f *fixture) networksOf(ctx context.Context, rt core.Runtime) ([]core.NetworkInfo, error) {
	manager, err := core.NetworkManagerOf(rt)
	if err != nil {
		return nil, nil // there are none
	}
	all, err := manager.ListNetworks(ctx)
	return slices.DeleteFunc(all, func(info core.NetworkInfo) bool { return !strings.HasPrefix(info.Name, f.runID) }), err
}

func ofRun(runID string, all []core.Info) []core.Info {
	return slices.DeleteFunc(slices.Clone(all), func(info core.Info) bool {
		return info.Labels[core.LabelRunID] != runID
	})
}

// untested notes that a part of the case cannot be tested here, and why.
func (f *fixture) untested(reason string) {
	f.Helper()
	f.Log("not tested: " + reason)
	if noting, ok := f.TB.(interface{ Untested(reason string) }); ok {
		noting.Untested(reason)
	}
}

// lacks ends the case, which is about something that the harness does not have.
func (f *fixture) lacks(what string) {
	f.Helper()
	if noting, ok := f.TB.(interface{ Untested(reason string) }); ok {
		noting.Untested(what)
		f.SkipNow()
	}
	f.Fatal("not tested: " + what)
}

// unprivileged tells whether the engine's machine cannot start privileged containers.
func (f *fixture) unprivileged() bool {
	if f.h.Unprivileged == nil {
		return false
	}
	reason := f.h.Unprivileged()
	if reason != "" {
		f.untested("privileged containers: " + reason)
	}
	return reason != ""
}

// The images of the registry that the engine reaches. The case ends where there is none.
func (f *fixture) pullImage() string    { f.Helper(); return f.ofRegistry(f.h.PullImage) }
func (f *fixture) missingImage() string { f.Helper(); return f.ofRegistry(f.h.MissingImage) }

func (f *fixture) ofRegistry(image string) string {
	f.Helper()
	if image == "" {
		f.untested("there is no registry for the test")
		f.SkipNow()
	}
	return image
}

// command is a configuration that runs a program.
func (f *fixture) command(argv ...string) core.Config {
	return core.Config{Image: f.h.Image, Cmd: argv, RunID: f.runID}
}

// agent is a configuration that runs the agent, which takes these steps.
func (f *fixture) agent(steps ...string) core.Config { return f.command(agentCommand(steps...)...) }

func agentCommand(steps ...string) []string { return append([]string{"agent"}, steps...) }

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

// ready starts a program and returns when it has said that it is ready.
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
		f.Fatalf("a container was to exit with code 0 and exited with %d; it wrote %s and ran %q", code, excerpt(out), cfg.Cmd)
	}
	return out
}

func (f *fixture) wait(id string) int64 {
	f.Helper()
	code, err := f.waiting(f.ctx, id).within(f, workPatience)
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
	_, err := begin("Close", func() (struct{}, error) { return struct{}{}, f.rt.Close() }).until("Close waits for nothing").result(f)
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

// awaitOutput returns when a container has written text.
func (f *fixture) awaitOutput(id, text string) {
	f.Helper()
	f.awaitOutputFor(id, text, patience)
}

func (f *fixture) awaitOutputFor(id, text string, patience time.Duration) {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.ctx, patience)
	defer cancel()
	stream, err := f.rt.ContainerLogs(ctx, id)
	f.must(err)
	defer stream.Close()
	reading := begin("reading ContainerLogs", func() ([]byte, error) { return readUntil(stream, text) }).on(id)
	if seen, err := reading.until(fmt.Sprintf("the container was to write %q, or because its context has ended", text)).within(f, 2*patience); err != nil {
		f.Fatalf("the container was to write %q; it wrote %s, and then reading ended with %v", text, excerpt(string(seen)), err)
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
		f.Fatalf("a call that was to succeed returned: %v", err)
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

// portOf returns an optional interface that the case's ability has found.
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
	of    string // the container that it is about; "": none
	ends  string // what should end it, for the message when it does not
	begun chan struct{}
	done  chan struct{}
	value T
	err   error
}

func begin[T any](what string, do func() (T, error)) *call[T] {
	c := &call[T]{what: what, ends: "it was to return by itself", begun: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(c.done)
		close(c.begun)
		c.value, c.err = do()
	}()
	return c
}

// on notes which container the call is about.
func (c *call[T]) on(id string) *call[T] {
	c.of = id
	return c
}

// until notes what has happened, or is going to, that must end the call.
func (c *call[T]) until(ends string) *call[T] {
	c.ends = "it was to return because " + ends
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
		f.Fatalf("%s has returned %v, %v, but was to go on%s", c.what, c.value, c.err, f.lately(c.of))
	case <-time.After(watched):
	}
}

// result waits for the call to return, and fails the case when it does not.
func (c *call[T]) result(f *fixture) (T, error) {
	f.Helper()
	return c.within(f, patience)
}

// within is result with a patience of its own.
func (c *call[T]) within(f *fixture, patience time.Duration) (T, error) {
	f.Helper()
	select {
	case <-c.done:
		return c.value, c.err
	case <-f.ctx.Done():
		f.Fatalf("%s has not returned although the case's own context has ended", c.what)
	case <-time.After(patience):
		f.Fatalf("%s has not returned after %s: %s%s", c.what, patience, c.ends, f.lately(c.of))
	}
	panic("unreachable")
}

// lately describes a container for the message of a failure, "" where there is none.
func (f *fixture) lately(id string) string {
	if id == "" {
		return ""
	}
	state, err := f.rt.ContainerState(f.ctx, id)
	if err != nil {
		return fmt.Sprintf("; the container's state cannot be read: %v", err)
	}
	out, err := f.rt.ContainerLogsAll(f.ctx, id)
	if err != nil {
		return fmt.Sprintf("; the container is %s, its output cannot be read: %v", state, err)
	}
	return fmt.Sprintf("; the container is %s and has written %s", state, excerpt(string(out)))
}

// excerpt quotes the end of a text, as much as a message has room for.
func excerpt(text string) string {
	const most = 400
	if len(text) > most {
		return "… " + strconv.Quote(text[len(text)-most:])
	}
	return strconv.Quote(text)
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
