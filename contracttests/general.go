package contracttests

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

func generalCases() []Case {
	return []Case{
		{Number: "RT-01", Title: "every method is safe for concurrent use", Serial: true, check: concurrency},
		{Number: "RT-02", Title: "calls return when their context ends", check: cancellation},
		{Number: "RT-03", Title: "Close ends everything and is idempotent", check: closing},
		{Number: "RT-04", Title: "calls leave no goroutines behind", Serial: true, check: goroutineLeaks},
		{Number: "RT-05", Title: "errors tell operation, runtime and object", check: errorShape},
		{Number: "RT-06", Title: "what is missing returns ErrUnsupported", check: missingMethods},
		{Number: "RT-07", Title: "what cannot be honoured is an error", check: missingSettings},
		{Number: "RT-08", Title: "the type never changes", check: runtimeType},
		{Number: "RT-09", Title: "Ping tells whether the runtime is usable", check: ping},
		{Number: "RT-90", Title: "managers are nil where there is none", check: managers},
	}
}

const (
	lifecycles = 50 // how many go on at once

	// startsAtOnce keeps the engine's machine usable: the boot of a sandbox loads a
	// processor fully, and fifty on two take longer together than one after the other.
	startsAtOnce = 4
)

func concurrency(f *fixture) {
	var wg sync.WaitGroup
	errs := make([]error, lifecycles)
	starting := make(chan struct{}, startsAtOnce)
	var created sync.WaitGroup // all exist at once, however fast the runtime is
	created.Add(lifecycles)
	for i := range lifecycles {
		wg.Go(func() { errs[i] = lifecycle(f, i, &created, starting) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		f.Errorf("of %d lifecycles at once:\n%v", lifecycles, err)
	}

	id := f.create(f.idle())
	for _, call := range []struct {
		name string
		do   func() error
	}{
		{"StartContainer", func() error { return f.rt.StartContainer(f.ctx, id) }},
		{"RemoveContainer", func() error { return f.rt.RemoveContainer(f.ctx, id) }},
	} {
		errs := make([]error, 8)
		for i := range errs {
			wg.Go(func() { errs[i] = call.do() })
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			f.Errorf("%d calls of %s for one container: %v", len(errs), call.name, err)
		}
	}
}

// lifecycle runs one container from its creation to its removal.
func lifecycle(f *fixture, number int, created *sync.WaitGroup, starting chan struct{}) (err error) {
	cfg := f.agent(fmt.Sprint("say this is ", number), fmt.Sprint("exit ", number))
	id, err := f.rt.CreateContainer(f.ctx, cfg)
	created.Done()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.rt.RemoveContainer(f.ctx, id)) }()
	created.Wait()
	starting <- struct{}{}
	err = f.rt.StartContainer(f.ctx, id)
	<-starting
	if err != nil {
		return err
	}
	code, err := f.rt.WaitContainer(f.ctx, id)
	if err != nil {
		return err
	}
	out, err := f.rt.ContainerLogsAll(f.ctx, id)
	if err != nil {
		return err
	}
	if want := fmt.Sprintf("this is %d\n", number); code != int64(number) || string(out) != want {
		return fmt.Errorf("container %d exited with code %d and wrote %q", number, code, out)
	}
	return nil
}

// engineCall is a call that needs the engine, on the container id.
type engineCall struct {
	name string
	do   func(ctx context.Context, id string) error
}

// containerCalls returns the calls that are about one existing container.
func containerCalls(f *fixture) []engineCall {
	rt := f.rt
	calls := []engineCall{
		{"StartContainer", rt.StartContainer},
		{"StopContainer", rt.StopContainer},
		{"WaitContainer", func(ctx context.Context, id string) error { _, err := rt.WaitContainer(ctx, id); return err }},
		{"ContainerState", func(ctx context.Context, id string) error { _, err := rt.ContainerState(ctx, id); return err }},
		{"ContainerLogs", func(ctx context.Context, id string) error { _, err := follow(ctx, rt, id); return err }},
		{"ContainerLogsAll", func(ctx context.Context, id string) error { _, err := rt.ContainerLogsAll(ctx, id); return err }},
		{"GetPortBindings", func(ctx context.Context, id string) error { _, err := rt.GetPortBindings(ctx, id); return err }},
	}
	if p, ok := core.As[optional.TimedStopper](rt); ok {
		calls = append(calls, engineCall{"StopContainerTimeout", func(ctx context.Context, id string) error {
			return p.StopContainerTimeout(ctx, id, core.DefaultStopTimeout)
		}})
	}
	if p, ok := core.As[optional.Signaler](rt); ok {
		calls = append(calls, engineCall{"SignalContainer", func(ctx context.Context, id string) error {
			return p.SignalContainer(ctx, id, sigUSR1)
		}})
	}
	if p, ok := core.As[optional.Inspector](rt); ok {
		calls = append(calls, engineCall{"Inspect", func(ctx context.Context, id string) error { _, err := p.Inspect(ctx, id); return err }})
	}
	if p, ok := core.As[optional.LogStreamer](rt); ok {
		calls = append(calls, engineCall{"StreamLogs", func(ctx context.Context, id string) error {
			return p.StreamLogs(ctx, id, optional.LogOptions{Follow: true})
		}})
	}
	if p, ok := core.As[optional.Execer](rt); ok {
		calls = append(calls, engineCall{"Exec", func(ctx context.Context, id string) error {
			_, err := p.Exec(ctx, id, optional.ExecOptions{Cmd: agentCommand()})
			return err
		}})
	}
	if p, ok := core.As[optional.Copier](rt); ok {
		calls = append(calls,
			engineCall{"CopyTo", func(ctx context.Context, id string) error { return p.CopyTo(ctx, id, "/tmp", bytes.NewReader(nil)) }},
			engineCall{"CopyFrom", func(ctx context.Context, id string) error {
				archive, err := p.CopyFrom(ctx, id, "/etc/passwd")
				if err != nil {
					return err
				}
				return archive.Close()
			}},
			engineCall{"StatPath", func(ctx context.Context, id string) error { _, err := p.StatPath(ctx, id, "/tmp"); return err }})
	}
	if p, ok := core.As[optional.StatsReader](rt); ok {
		calls = append(calls, engineCall{"Stats", func(ctx context.Context, id string) error { _, err := p.Stats(ctx, id); return err }})
	}
	if optional.CapabilitiesOf(rt).TTY {
		calls = append(calls, engineCall{"ResizeTTY", func(ctx context.Context, id string) error { return rt.ResizeTTY(ctx, id, 24, 80) }})
	}
	if optional.CapabilitiesOf(rt).EnforcedEgress {
		calls = append(calls, engineCall{"SetupFirewall", func(ctx context.Context, id string) error {
			return rt.SetupFirewall(ctx, id, "127.0.0.1", 3128)
		}})
	}
	if optional.CapabilitiesOf(rt).Attach {
		calls = append(calls,
			engineCall{"Attach", func(ctx context.Context, id string) error { return rt.Attach(ctx, id, core.AttachOptions{}) }},
			engineCall{"StartAttached", func(ctx context.Context, id string) error { return rt.StartAttached(ctx, id, core.AttachOptions{}) }})
	}
	return calls
}

// engineCalls returns every call that needs the engine.
func engineCalls(f *fixture) []engineCall {
	rt := f.rt
	calls := append(containerCalls(f), []engineCall{
		{"Ping", func(ctx context.Context, _ string) error { return rt.Ping(ctx) }},
		{"CreateContainer", func(ctx context.Context, _ string) error {
			_, err := rt.CreateContainer(ctx, f.agent())
			return err
		}},
		{"RemoveContainer", rt.RemoveContainer},
		{"ListContainers", func(ctx context.Context, _ string) error { _, err := rt.ListContainers(ctx); return err }},
		{"ListImages", func(ctx context.Context, _ string) error { _, err := rt.ListImages(ctx); return err }},
		{"RemoveImage", func(ctx context.Context, _ string) error { return rt.RemoveImage(ctx, f.missingLocalImage()) }},
	}...)
	if p, ok := core.As[optional.EventSource](rt); ok {
		calls = append(calls, engineCall{"Events", func(ctx context.Context, _ string) error {
			_, err := p.Events(ctx, optional.EventOptions{})
			return err
		}})
	}
	if p, ok := core.As[optional.ImagePuller](rt); ok {
		image := cmp.Or(f.h.MissingImage, f.h.UnreachableImage)
		calls = append(calls, engineCall{"PullImage", func(ctx context.Context, _ string) error {
			return p.PullImage(ctx, image, nil)
		}})
	}
	if p := rt.BuildManager(); optional.CapabilitiesOf(rt).BuildManager && p != nil {
		calls = append(calls,
			engineCall{"BuildImage", func(ctx context.Context, _ string) error {
				return p.BuildImage(ctx, f.dockerfile("RUN true"), f.missingLocalImage(), core.BuildOptions{RunID: f.runID})
			}},
			engineCall{"ImageExists", func(ctx context.Context, _ string) error { _, err := p.ImageExists(ctx, f.h.Image); return err }})
	}
	if p, ok := core.As[optional.Verifier](rt); ok {
		calls = append(calls, engineCall{"Verify", func(ctx context.Context, _ string) error { return p.Verify(ctx) }})
	}
	if p, ok := core.As[optional.Describer](rt); ok {
		calls = append(calls, engineCall{"Describe", func(ctx context.Context, _ string) error { _, err := p.Describe(ctx); return err }})
	}
	return append(calls, managerCalls(f)...)
}

// managerCalls returns the calls of the managers of networks, sidecars and services.
func managerCalls(f *fixture) (calls []engineCall) {
	told, nowhere := optional.CapabilitiesOf(f.rt), f.missing()
	if p := f.rt.NetworkManager(); told.NetworkManager && p != nil {
		calls = append(calls,
			engineCall{"CreateNetwork", func(ctx context.Context, _ string) error {
				f.networked = true
				_, err := p.CreateNetwork(ctx, f.runID)
				return err
			}},
			engineCall{"RemoveNetwork", func(ctx context.Context, _ string) error { return p.RemoveNetwork(ctx, nowhere) }},
			engineCall{"ForceRemoveNetwork", func(ctx context.Context, _ string) error { return p.ForceRemoveNetwork(ctx, nowhere) }},
			engineCall{"ListNetworks", func(ctx context.Context, _ string) error { _, err := p.ListNetworks(ctx); return err }})
	}
	if p := f.rt.SidecarManager(); told.SidecarManager && p != nil {
		calls = append(calls,
			engineCall{"StartSidecar", func(ctx context.Context, _ string) error {
				_, err := p.StartSidecar(ctx, f.sidecar(nowhere, "true"))
				return err
			}},
			engineCall{"InspectContainer", func(ctx context.Context, id string) error { _, err := p.InspectContainer(ctx, id); return err }})
	}
	if p := f.rt.ServiceManager(); told.ServiceManager && p != nil {
		of := func(id string) core.ServiceInfo { return core.ServiceInfo{ID: id, Name: "db", ReadinessCmd: "true"} }
		calls = append(calls,
			engineCall{"StartService", func(ctx context.Context, _ string) error {
				_, err := p.StartService(ctx, f.serviceOn(nowhere, "true"))
				return err
			}},
			engineCall{"CheckReady", func(ctx context.Context, id string) error { return p.CheckReady(ctx, of(id)) }},
			engineCall{"StopService", func(ctx context.Context, _ string) error { return p.StopService(ctx, of(nowhere)) }})
	}
	return calls
}

// follow reads a container's output to its end.
func follow(ctx context.Context, rt core.Runtime, id string) (string, error) {
	stream, err := rt.ContainerLogs(ctx, id)
	if err != nil {
		return "", err
	}
	defer stream.Close()
	out, err := io.ReadAll(stream)
	return string(out), err
}

func cancellation(f *fixture) {
	id := f.ready(f.stubborn(caseTimeout))

	ended, cancel := context.WithCancel(f.ctx)
	cancel()
	for _, call := range engineCalls(f) {
		_, err := begin(call.name, func() (struct{}, error) { return struct{}{}, call.do(ended, id) }).until("its context has ended").result(f)
		f.wantClass(call.name+" with a context that has ended", err, context.Canceled)
	}
	f.wantState(id, core.StateRunning)

	for _, call := range containerCalls(f) {
		if !slices.Contains([]string{"StopContainer", "WaitContainer", "ContainerLogs", "StreamLogs"}, call.name) {
			continue // it does not take long
		}
		ctx, cancel := context.WithCancel(f.ctx)
		defer cancel()
		inProgress := begin(call.name, func() (struct{}, error) { return struct{}{}, call.do(ctx, id) })
		inProgress.goesOn(f)
		cancel()
		_, err := inProgress.on(id).until("its context has ended").result(f)
		f.wantClass(call.name+" whose context ended meanwhile", err, context.Canceled)
	}
}

// liveStreams begins what the runtime can do of Attach, StartAttached, Exec and Events,
// and returns when something has come through each. id is ticking; it starts another.
// What Exec runs ends after execTime, whatever ends the call.
func (f *fixture) liveStreams(ctx context.Context, id string, execTime time.Duration) (live []*call[struct{}]) {
	f.Helper()
	var signs []*lateWriter
	open := func(what string, do func(io.Writer) error) {
		sign := newLateWriter()
		signs = append(signs, sign)
		live = append(live, begin(what, func() (struct{}, error) { return struct{}{}, do(sign) }))
	}
	if p, ok := core.As[optional.EventSource](f.rt); ok {
		events, err := p.Events(ctx, optional.EventOptions{})
		f.must(err)
		open("Events", func(w io.Writer) error {
			for event, err := range events {
				if err != nil {
					return err
				}
				_, _ = io.WriteString(w, event.ID)
			}
			return nil
		})
	}
	if p, ok := core.As[optional.Execer](f.rt); ok {
		open("Exec", func(w io.Writer) error {
			opts := optional.ExecOptions{Cmd: agentCommand("say ready", fmt.Sprint("sleep ", execTime))}
			opts.Stdout = w
			_, err := p.Exec(ctx, id, opts)
			return err
		})
	}
	started := f.create(f.ticking())
	if !optional.CapabilitiesOf(f.rt).Attach {
		f.start(started)
	} else {
		open("Attach", func(w io.Writer) error { return f.rt.Attach(ctx, id, core.AttachOptions{Stdout: w}) })
		open("StartAttached", func(w io.Writer) error { return f.rt.StartAttached(ctx, started, core.AttachOptions{Stdout: w}) })
	}
	for _, sign := range signs {
		sign.await(f)
	}
	return live
}

func closing(f *fixture) {
	id := f.ready(f.ticking())
	waiting := begin("WaitContainer", func() (int64, error) { return f.rt.WaitContainer(f.ctx, id) })
	following := begin("ContainerLogs", func() (string, error) { return follow(f.ctx, f.rt, id) })
	live := f.liveStreams(f.ctx, id, caseTimeout)
	waiting.goesOn(f)
	following.goesOn(f)
	for _, stream := range live {
		stream.goesOn(f)
	}

	f.must(f.close())
	for _, stream := range live {
		_, _ = stream.until("the runtime is closed").result(f)
	}
	if code, err := waiting.until("the runtime is closed").result(f); err == nil {
		f.Errorf("the wait that Close ended returned code %d", code)
	}
	_, _ = following.until("the runtime is closed").result(f) // how a stream ends that Close has cut off is not promised
	for _, call := range engineCalls(f) {
		_, err := begin(call.name, func() (struct{}, error) { return struct{}{}, call.do(f.ctx, id) }).until("the runtime is closed").result(f)
		f.wantClass(call.name+" after Close", err, core.ErrUnavailable)
	}
	if err := f.close(); err != nil {
		f.Errorf("the second Close returned %v", err)
	}
	// A runtime with an engine of its own has taken the container along.
	if state, err := f.another().ContainerState(f.ctx, id); err == nil {
		want(f, "the state of a container after its runtime's Close, as another runtime sees it", state, core.StateRunning)
	} else {
		f.wantClass("the state of a container after its runtime's Close, as another runtime sees it,", err, core.ErrNotFound)
	}
}

func goroutineLeaks(f *fixture) {
	before := goroutines()
	id := f.ready(f.ticking())
	for range 2 { // connections of a pool come with the first calls
		callEverything(f, id)
	}
	warm := len(newGoroutines(before))

	const rounds = 8
	for range rounds {
		callEverything(f, id)
	}
	var left []string
	if !eventually(func() bool {
		left = newGoroutines(before)
		return len(left)-warm < rounds
	}) {
		f.Errorf("%d rounds of calls left %d goroutines:\n%s", rounds, len(left)-warm, strings.Join(left, "\n\n"))
	}
	f.remove(id)
	f.must(f.close())
	failOnNewGoroutines(f, before)
}

// callEverything makes each call once, on a running container that goes on running.
func callEverything(f *fixture, id string) {
	f.Helper()
	f.awaitOutput(id, "ready\n") // a stream that is closed before its end
	ctx, cancel := context.WithCancel(f.ctx)
	stream, err := f.rt.ContainerLogs(ctx, id)
	f.must(err)
	waiting := begin("WaitContainer", func() (int64, error) { return f.rt.WaitContainer(ctx, id) })
	cancel() // before the stream is closed
	_, _ = waiting.until("its context has ended").result(f)
	f.must(stream.Close())

	ctx, cancel = context.WithCancel(f.ctx)
	others := len(f.created)
	live := f.liveStreams(ctx, id, 5*time.Second)
	cancel() // in the middle
	for _, stream := range live {
		_, _ = stream.until("its context has ended").result(f)
	}
	for _, started := range slices.Clone(f.created[others:]) {
		f.remove(started)
	}

	ended, cancel := context.WithCancel(f.ctx)
	cancel()
	for _, call := range engineCalls(f) {
		_ = call.do(ended, id)
	}
	for _, call := range containerCalls(f) {
		_ = call.do(f.ctx, f.missing())
	}
	f.remove(f.create(f.agent()))
	f.start(id)
	_ = f.list()
	_ = f.logs(id)
	_ = f.state(id)
}

func errorShape(f *fixture) {
	missing := f.missing()
	for _, call := range containerCalls(f) {
		err := call.do(f.ctx, missing)
		if err == nil {
			continue // whether it fails at all is its own obligation's affair
		}
		e, ok := errors.AsType[*core.Error](err)
		if !ok {
			f.Errorf("%s returned %T, want an error that wraps *core.Error: %[2]v", call.name, err)
			continue
		}
		if e.Op == "" || e.Runtime != f.rt.Type() || e.Object != missing || e.Class == nil {
			f.Errorf("%s: operation %q, runtime %q, object %q or class %v does not tell what failed on %q",
				call.name, e.Op, e.Runtime, e.Object, e.Class, missing)
		}
	}
}

func missingMethods(f *fixture) {
	f.refusesWhatIsMissing(func(c Case) bool { return len(c.fields) == 0 })
}

func missingSettings(f *fixture) {
	f.refusesWhatIsMissing(func(c Case) bool { return len(c.fields) > 0 })

	cfg := f.agent()
	cfg.User = "nobody-of-that-name"
	id, err := f.tryCreate(cfg)
	if err == nil {
		err = f.rt.StartContainer(f.ctx, id)
	}
	if err == nil {
		f.Errorf("a user that the image does not know was accepted")
	}
}

// refusesWhatIsMissing makes the unsupported call of the chosen cases, where the
// runtime says that it does not support them.
func (f *fixture) refusesWhatIsMissing(chosen func(Case) bool) {
	f.Helper()
	f.refuse(slices.DeleteFunc(Cases(), func(c Case) bool { return !chosen(c) || c.ability == nil || c.ability.of(f.rt) }))
}

func runtimeType(f *fixture) {
	kind := f.rt.Type()
	if kind == "" {
		f.Errorf("the runtime's type is empty")
	}
	want(f, "the type of another runtime", f.another().Type(), kind)
	_ = f.list()
	want(f, "the type after a call", f.rt.Type(), kind)
	f.must(f.close())
	want(f, "the type after Close", f.rt.Type(), kind)
}

// another returns a second runtime of the harness.
func (f *fixture) another() core.Runtime {
	rt := f.h.New(f)
	f.Cleanup(func() {
		if err := rt.Close(); err != nil {
			f.Errorf("close: %v", err)
		}
	})
	return rt
}

func ping(f *fixture) {
	f.must(f.rt.Ping(f.ctx))
	if f.h.Unreachable == nil {
		return
	}
	err := f.unreachable().Ping(f.ctx)
	f.wantClass("Ping of an engine that does not answer", err, core.ErrUnavailable)
	if e, ok := errors.AsType[*core.Error](err); !ok || e.Remedy == "" {
		f.Errorf("Ping of an engine that does not answer names no remedy: %v", err)
	}
}

// unreachable returns a runtime whose engine does not answer.
func (f *fixture) unreachable() core.Runtime {
	rt := f.h.Unreachable(f)
	f.Cleanup(func() {
		if err := rt.Close(); err != nil {
			f.Errorf("close: %v", err)
		}
	})
	return rt
}

func managers(f *fixture) {
	told := optional.CapabilitiesOf(f.rt)
	for _, manager := range []struct {
		name  string
		told  bool
		isNil bool
	}{
		{"NetworkManager", told.NetworkManager, f.rt.NetworkManager() == nil},
		{"SidecarManager", told.SidecarManager, f.rt.SidecarManager() == nil},
		{"BuildManager", told.BuildManager, f.rt.BuildManager() == nil},
		{"ServiceManager", told.ServiceManager, f.rt.ServiceManager() == nil},
	} {
		if manager.isNil == manager.told {
			f.Errorf("%s() == nil is %t although Capabilities.%[1]s is %[3]t", manager.name, manager.isNil, manager.told)
		}
	}
}
