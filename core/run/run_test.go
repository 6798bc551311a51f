package run

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
	"github.com/moatproject/moat/core/services"
)

// fakeRuntime notes what is asked of it. Its services are ready at once.
type fakeRuntime struct {
	core.Runtime // what a run does not call panics

	mu      sync.Mutex
	calls   []string
	fail    map[string]error // by call
	config  core.Config      // of the last container
	held    bool             // it can hold a start
	state   string           // of the workload
	exit    chan int64       // nil: the workload exits with 0 at once
	ready   chan struct{}    // nil: services are ready at once
	release chan struct{}    // closed when the workload is released
	refuses bool             // to hold this image's start
}

func (f *fakeRuntime) call(format string, args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	call := fmt.Sprintf(format, args...)
	f.calls = append(f.calls, call)
	return f.fail[call]
}

func (f *fakeRuntime) sorted() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(slices.Values(f.calls))
}

func (f *fakeRuntime) Type() core.RuntimeType { return "fake" }
func (f *fakeRuntime) Capabilities() optional.Capabilities {
	return optional.Capabilities{HeldStart: f.held}
}
func (f *fakeRuntime) CreateContainer(_ context.Context, config core.Config) (string, error) {
	if config.Held && f.refuses {
		return "", &core.Error{Op: "create container", Field: "Held", Class: core.ErrUnsupported}
	}
	if err := config.Validate(); err != nil {
		return "", err
	}
	f.config = config
	if err := f.call("create"); err != nil {
		return "", err
	}
	return "workload", nil
}
func (f *fakeRuntime) StartContainer(context.Context, string) error { return f.call("start") }
func (f *fakeRuntime) StartAttached(ctx context.Context, _ string, _ core.AttachOptions) error {
	if f.config.Held && f.fail["attach"] == nil { // or it is not even started
		select {
		case <-f.release:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return f.call("attach")
}
func (f *fakeRuntime) ReleaseContainer(context.Context, string) error {
	close(f.release)
	return f.call("release")
}
func (f *fakeRuntime) WaitContainer(ctx context.Context, _ string) (int64, error) {
	if f.exit == nil {
		return 0, f.call("wait")
	}
	select {
	case code := <-f.exit:
		return code, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}
func (f *fakeRuntime) ContainerState(context.Context, string) (string, error) { return f.state, nil }
func (f *fakeRuntime) RemoveContainer(_ context.Context, id string) error {
	return f.call("remove %s", id)
}
func (f *fakeRuntime) SignalContainer(_ context.Context, _ string, signal int) error {
	return f.call("signal %d", signal)
}
func (f *fakeRuntime) NetworkManager() core.NetworkManager { return fakeNetworks{fake: f} }
func (f *fakeRuntime) ServiceManager() core.ServiceManager { return fakeServices{fake: f} }

type fakeNetworks struct {
	core.NetworkManager
	fake *fakeRuntime
}

func (n fakeNetworks) CreateNetwork(context.Context, string) (string, error) {
	if err := n.fake.call("create network"); err != nil {
		return "", err
	}
	return "net", nil
}
func (n fakeNetworks) ForceRemoveNetwork(_ context.Context, id string) error {
	return n.fake.call("remove %s", id)
}

type fakeServices struct {
	core.ServiceManager
	fake *fakeRuntime
}

func (s fakeServices) StartService(_ context.Context, config core.ServiceConfig) (core.ServiceInfo, error) {
	if err := s.fake.call("start %s on %s", config.Name, config.NetworkID); err != nil {
		return core.ServiceInfo{}, err
	}
	return config.Info(config.Name, config.Name), nil
}
func (s fakeServices) CheckReady(ctx context.Context, info core.ServiceInfo) error {
	if s.fake.ready != nil {
		select {
		case <-s.fake.ready:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return s.fake.call("check %s", info.Name)
}
func (s fakeServices) StopService(_ context.Context, info core.ServiceInfo) error {
	return s.fake.call("remove %s", strings.TrimPrefix(info.ID, "moat-"))
}

var errBroken = &core.Error{Op: "break", Class: core.ErrInvalidConfig, Err: errors.New("broken")}

func redis() Service {
	definition, _ := services.Default().Lookup("redis")
	return Service{Definition: definition}
}

// newRun returns a run with a service, what it tells, and its store.
func newRun(t *testing.T, f *fakeRuntime, change func(*Spec, *Options)) (*Run, *[]string, memoryStore) {
	t.Helper()
	var told []string
	store := memoryStore{}
	spec := Spec{Workload: core.Config{Image: "image", RunID: "0badcafe"}, Services: []Service{redis()}}
	options := Options{Store: store, Progress: func(event Event) {
		switch {
		case event.Type == EventState && event.Err == nil:
			told = append(told, string(event.State))
		case event.Err != nil:
			told = append(told, fmt.Sprintf("%s %s failed", event.State, event.Step))
		default:
			told = append(told, fmt.Sprintf("%s %s", event.Type, event.Step))
		}
	}}
	if change != nil {
		change(&spec, &options)
	}
	r, err := New(f, spec, options)
	if err != nil {
		t.Fatal(err)
	}
	return r, &told, store
}

func TestRunFromStartToEnd(t *testing.T) {
	f := &fakeRuntime{exit: make(chan int64, 1)}
	r, told, store := newRun(t, f, nil)
	ctx := t.Context()
	if err := errors.Join(r.Prepare(ctx), r.Start(ctx)); err != nil {
		t.Fatal(err)
	}
	if store["0badcafe"] != LivenessLive || r.State() != StateRunning || !r.OwnNetwork() || r.WorkloadID() != "workload" || r.Name() != "0badcafe" {
		t.Errorf("the run is %v, %s, named %s", store, r.State(), r.Name())
	}
	if f.config.Labels[LabelOwner] != "me" || f.config.Labels[LabelForeground] != "true" || f.config.NetworkMode != "net" || f.config.Held {
		t.Errorf("the workload is %+v", f.config)
	}
	if !slices.ContainsFunc(f.config.Env, func(entry string) bool { return strings.HasPrefix(entry, "MOAT_REDIS_URL=redis://") }) {
		t.Errorf("the workload does not know its service: %d variables", len(f.config.Env))
	}
	f.exit <- 3
	if code, err := r.Wait(ctx); code != 3 || err != nil {
		t.Errorf("exited with %d, %v", code, err)
	}
	for range 2 {
		if err := r.Close(ctx); err != nil {
			t.Error(err)
		}
	}
	want := []string{
		"step-begun network", "step-done network", "step-begun services", "step-begun workload", "step-done workload", "held",
		"step-done services", "running", "exited", "removing", "gone",
	}
	if !slices.Equal(*told, want) {
		t.Errorf("told\n%q, want\n%q", *told, want)
	}
	if want := []string{"check redis", "create", "create network", "remove net", "remove redis", "remove workload", "start", "start redis on net"}; !slices.Equal(f.sorted(), want) {
		t.Errorf("called %q, want %q", f.sorted(), want)
	}
	if f.calls[len(f.calls)-1] != "remove net" || store["0badcafe"] != LivenessUnknown {
		t.Errorf("last was %q, the run is %v", f.calls[len(f.calls)-1], store)
	}
}

// TestFailedSteps fails each step, and finds everything removed.
func TestFailedSteps(t *testing.T) {
	for call, test := range map[string]struct {
		step    Step
		removed []string
	}{
		"create network":     {StepNetwork, nil},
		"start redis on net": {StepServices, []string{"remove net", "remove redis-0badcafe", "remove workload"}},
		"check redis":        {StepServices, []string{"remove net", "remove redis", "remove workload"}},
		"create":             {StepWorkload, []string{"remove net", "remove redis"}},
		"start":              {StepWorkload, []string{"remove net", "remove redis", "remove workload"}},
	} {
		t.Run(call, func(t *testing.T) {
			f := &fakeRuntime{fail: map[string]error{call: errBroken}}
			r, told, store := newRun(t, f, func(s *Spec, _ *Options) { s.Keep = true })
			err := r.Prepare(t.Context())
			if call == "start" {
				if err != nil {
					t.Fatal(err)
				}
				err = r.Start(t.Context())
			}
			step, ok := errors.AsType[*StepError](err)
			if !ok || step.Step != test.step || !errors.Is(err, errBroken) || strings.Contains(err.Error(), string(test.step)) {
				t.Errorf("failed with %v", err)
			}
			if call != "start" && !slices.Contains(*told, fmt.Sprintf("%s %s failed", StatePreparing, test.step)) &&
				!slices.Contains(*told, fmt.Sprintf("%s %s failed", StateHeld, test.step)) {
				t.Errorf("told %q", *told)
			}
			if err := r.Close(t.Context()); err != nil {
				t.Error(err)
			}
			removed := slices.DeleteFunc(f.sorted(), func(call string) bool { return !strings.HasPrefix(call, "remove") })
			// The workload may not have been created yet when its service fails.
			if !slices.Equal(removed, test.removed) && !slices.Equal(append(removed, "remove workload"), test.removed) {
				t.Errorf("removed %q, want %q", removed, test.removed)
			}
			if r.State() != StateGone || store["0badcafe"] != LivenessUnknown {
				t.Errorf("the run is %s, %v", r.State(), store)
			}
		})
	}
}

// TestStartLeavesNothing is the package's Start, which closes the run itself.
func TestStartLeavesNothing(t *testing.T) {
	f := &fakeRuntime{fail: map[string]error{"start": errBroken}}
	_, err := Start(t.Context(), f, Spec{Workload: core.Config{Image: "image"}})
	if want := []string{"create", "remove workload", "start"}; !errors.Is(err, errBroken) || !slices.Equal(f.sorted(), want) {
		t.Errorf("%v, called %q, want %q", err, f.sorted(), want)
	}
	if _, err := Start(t.Context(), f, Spec{}); !errors.Is(err, core.ErrInvalidConfig) || core.FieldOf(err) != "Image" {
		t.Errorf("without an image: %v", err)
	}
}

func TestEndings(t *testing.T) {
	ctx := t.Context()
	for name, test := range map[string]struct {
		spec     Spec
		fail     map[string]error
		do       func(*Run) error
		state    State
		liveness Liveness
		removed  []string
	}{
		"removed while it runs": {state: StateGone, removed: []string{"remove workload"}},
		"kept, and runs":        {spec: Spec{Keep: true}, state: StateLeft, liveness: LivenessLeft},
		"kept, and exited":      {spec: Spec{Keep: true}, do: func(r *Run) error { _, err := r.Wait(ctx); return err }, state: StateGone},
		"kept, and killed":      {spec: Spec{Keep: true}, do: func(r *Run) error { return r.Kill(ctx) }, state: StateGone},
		"left":                  {do: func(r *Run) error { r.Leave(); return nil }, state: StateLeft, liveness: LivenessLeft},
		"detached":              {spec: Spec{Detached: true}, state: StateLeft},
		"not removed": {
			fail: map[string]error{"remove workload": errBroken}, state: StateRemoving, liveness: LivenessKilled, removed: []string{"remove workload"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fakeRuntime{fail: test.fail}
			r, _, store := newRun(t, f, func(s *Spec, _ *Options) { s.Services, s.Keep, s.Detached = nil, test.spec.Keep, test.spec.Detached })
			err := errors.Join(r.Prepare(ctx), r.Start(ctx))
			if test.do != nil {
				err = errors.Join(err, test.do(r))
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Close(ctx); (err != nil) != (test.fail != nil) {
				t.Error(err)
			}
			removed := slices.DeleteFunc(f.sorted(), func(call string) bool { return !strings.HasPrefix(call, "remove") })
			if r.State() != test.state || store[r.ID()] != test.liveness || !slices.Equal(removed, test.removed) {
				t.Errorf("the run is %s, %v; removed %q", r.State(), store, removed)
			}
			if f.config.AutoRemove != test.spec.Detached || f.config.Labels[LabelForeground] != strconv.FormatBool(!test.spec.Detached) {
				t.Errorf("the workload is %+v", f.config)
			}
		})
	}
}

// TestHeldUntilServicesAreReady starts the workload while its service starts.
// TestQuestionsDuringPreparation is for the race detector.
func TestQuestionsDuringPreparation(t *testing.T) {
	r, _, _ := newRun(t, &fakeRuntime{}, nil)
	prepared := make(chan error)
	go func() { prepared <- r.Prepare(t.Context()) }()
	for r.WorkloadID() == "" || !r.OwnNetwork() {
		runtime.Gosched()
	}
	if err := errors.Join(<-prepared, r.Close(t.Context())); err != nil {
		t.Error(err)
	}
}

func TestHeldUntilServicesAreReady(t *testing.T) {
	for _, refuses := range []bool{false, true} {
		f := &fakeRuntime{held: true, refuses: refuses, ready: make(chan struct{}), release: make(chan struct{})}
		r, told, _ := newRun(t, f, func(_ *Spec, o *Options) { o.Attached = true })
		if refuses {
			close(f.ready)
		}
		if err := r.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !refuses {
			close(f.ready)
		}
		err := r.StartAttached(t.Context(), core.AttachOptions{}, func() error {
			if !slices.Contains(f.sorted(), "check redis") || slices.Contains(*told, "running") {
				t.Errorf("the program begins after %q", f.sorted())
			}
			return nil
		})
		if err != nil || r.State() != StateRunning || f.config.Held == refuses {
			t.Errorf("%v, the run is %s", err, r.State())
		}
		if err := r.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// TestWorkloadThatNeverBegins tells why in the words of the failure.
func TestWorkloadThatNeverBegins(t *testing.T) {
	f := &fakeRuntime{held: true, fail: map[string]error{"check redis": errBroken}}
	r, _, _ := newRun(t, f, func(_ *Spec, o *Options) { o.Attached = true })
	if err := r.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := r.StartAttached(t.Context(), core.AttachOptions{}, nil)
	if step, ok := errors.AsType[*StepError](err); !ok || step.Step != StepServices || err.Error() != errBroken.Error() {
		t.Errorf("a service that fails: %v", err)
	}
	f = &fakeRuntime{}
	r, _, _ = newRun(t, f, func(s *Spec, o *Options) { s.Services, o.Attached = nil, true })
	if err := r.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.StartAttached(t.Context(), core.AttachOptions{}, func() error { return fs.ErrClosed }); !errors.Is(err, fs.ErrClosed) || slices.Contains(f.sorted(), "attach") {
		t.Errorf("a caller that is not ready: %v, called %q", err, f.sorted())
	}
	if err := r.Kill(t.Context()); err != nil || slices.Contains(f.sorted(), "signal 9") {
		t.Errorf("killed before it began: %v, %q", err, f.sorted())
	}
}

// TestInterruptedPreparation ends the start of services with the caller's context.
func TestInterruptedPreparation(t *testing.T) {
	f := &fakeRuntime{ready: make(chan struct{})}
	r, _, _ := newRun(t, f, nil)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(time.Millisecond, cancel)
	if err := r.Prepare(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("prepared with %v", err)
	}
	if err := r.Close(t.Context()); err != nil || !slices.Contains(f.sorted(), "remove redis") {
		t.Errorf("closed with %v, %q", err, f.sorted())
	}
}

func TestSpecsThatAreRefused(t *testing.T) {
	image := core.Config{Image: "image"}
	with := func(change func(*core.Config)) core.Config {
		config := image
		change(&config)
		return config
	}
	for field, spec := range map[string]Spec{
		"Held":           {Workload: with(func(c *core.Config) { c.Held = true })},
		"AutoRemove":     {Workload: with(func(c *core.Config) { c.AutoRemove = true })},
		"Role":           {Workload: with(func(c *core.Config) { c.Role = core.RoleService })},
		"Labels":         {Workload: with(func(c *core.Config) { c.Labels = map[string]string{LabelOwner: "other"} })},
		"MemoryMB":       {Workload: with(func(c *core.Config) { c.MemoryMB = -1 })},
		"ServiceTimeout": {Workload: image, ServiceTimeout: -1},
		"Services":       {Workload: image, Services: []Service{redis(), redis()}},
	} {
		if err := spec.Validate(); !errors.Is(err, core.ErrInvalidConfig) || core.FieldOf(err) != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	for _, spec := range []Spec{
		{Workload: image, Services: []Service{redis()}, Detached: true},
		{Workload: with(func(c *core.Config) { c.NetworkMode = "none" }), Services: []Service{redis()}},
	} {
		if err := spec.Validate(); core.FieldOf(err) != "Services" {
			t.Errorf("%+v: %v", spec, err)
		}
	}
	if err := (Spec{Workload: image, Services: []Service{redis()}}).Validate(); err != nil {
		t.Error(err)
	}
}

func TestServicesPrintNoPassword(t *testing.T) {
	service := redis()
	service.Version, service.Env = "7", map[string]string{"REDIS_PASSWORD": "secret"}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		if got := fmt.Sprintf(format, Spec{Services: []Service{service}}); strings.Contains(got, "secret") || !strings.Contains(got, "redis:7") {
			t.Errorf("%s: %s", format, got)
		}
	}
}

func TestRunIsNamedByItsID(t *testing.T) {
	ids := map[string]bool{}
	for range 2 {
		r, err := New(&fakeRuntime{}, Spec{Workload: core.Config{Image: "image"}}, Options{})
		if err != nil || !core.IsRunName(r.ID()) || r.Name() != r.ID() {
			t.Errorf("%s of run %s, %v", r.Name(), r.ID(), err)
		}
		ids[r.ID()] = true
	}
	if len(ids) != 2 {
		t.Errorf("two runs are called %v", slices.Collect(maps.Keys(ids)))
	}
}
