package services_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
	"github.com/moatproject/moat/core/services"
)

// engine is a runtime of which only what the managers call is there.
type engine struct {
	core.Runtime
	created []core.Config
	removed []string
	removal bool // hangs

	create, start, inspect, execution, wait, logs error

	state    string
	stateErr error
	code     int64
	said     string
}

func (e *engine) Type() core.RuntimeType { return "fake" }
func (e *engine) CreateContainer(_ context.Context, cfg core.Config) (string, error) {
	e.created = append(e.created, cfg)
	return "id", e.create
}
func (e *engine) StartContainer(context.Context, string) error { return e.start }
func (e *engine) RemoveContainer(ctx context.Context, id string) error {
	e.removed = append(e.removed, id)
	if e.removal {
		<-ctx.Done()
	}
	return ctx.Err()
}
func (e *engine) ContainerState(context.Context, string) (string, error) { return e.state, e.stateErr }
func (e *engine) WaitContainer(context.Context, string) (int64, error)   { return e.code, e.wait }
func (e *engine) ContainerLogsAll(context.Context, string) ([]byte, error) {
	return []byte(e.said), e.logs
}

// able is an engine with the optional interfaces that the managers need.
type able struct{ *engine }

func (a able) Inspect(context.Context, string) (optional.Details, error) {
	return optional.Details{State: core.State{Running: true, ExitCode: 3}}, a.inspect
}
func (a able) Exec(_ context.Context, _ string, opts optional.ExecOptions) (int64, error) {
	_, _ = io.WriteString(opts.Stdout, a.said)
	return a.code, a.execution
}

var errBroken = errors.New("broken")

func TestSidecarManager(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // what is left behind must go all the same
	for name, test := range map[string]struct {
		engine  engine
		err     error
		removed int
	}{
		"started":     {engine{}, nil, 0},
		"not created": {engine{create: errBroken}, errBroken, 0},
		"not started": {engine{start: errBroken}, errBroken, 1},
	} {
		id, err := services.NewSidecarManager(&test.engine).StartSidecar(ctx, buildkit())
		if !errors.Is(err, test.err) || (err == nil) != (id == "id") || len(test.engine.removed) != test.removed {
			t.Errorf("%s: %q, %v; removed %q", name, id, err, test.engine.removed)
		}
		if errors.Is(err, context.Canceled) {
			t.Errorf("%s: the removal failed: %v", name, err)
		}
	}
	if _, err := services.NewSidecarManager(&engine{}).StartSidecar(ctx, core.SidecarConfig{}); core.FieldOf(err) != "Image" {
		t.Errorf("nothing: %v", err)
	}
}

// TestFailedStartsThatHang cancels the start of what can only be removed slowly.
func TestFailedStartsThatHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		begin := time.Now()
		_, err := services.NewManager(&engine{start: context.Canceled, removal: true}).StartService(ctx, postgres())
		if took := time.Since(begin); took > time.Second || !errors.Is(err, context.Canceled) {
			t.Errorf("after %s: %v", took, err)
		}
	})
}

func TestInspectContainer(t *testing.T) {
	if found, err := services.NewSidecarManager(able{&engine{}}).InspectContainer(t.Context(), "id"); err != nil || found.State.ExitCode != 3 {
		t.Errorf("%+v, %v", found.State, err)
	}
	if found, err := services.NewSidecarManager(able{&engine{inspect: errBroken}}).InspectContainer(t.Context(), "id"); !errors.Is(err, errBroken) || found.State != nil {
		t.Errorf("%+v, %v", found.State, err)
	}
	if _, err := services.NewSidecarManager(&engine{}).InspectContainer(t.Context(), "id"); !errors.Is(err, core.ErrUnsupported) {
		t.Error(err)
	}
}

func TestServiceManagerStarts(t *testing.T) {
	e := &engine{}
	manager := services.NewManager(e)
	cfg := postgres()
	cfg.NetworkID = ""
	manager.SetNetworkID("other")
	info, err := manager.StartService(t.Context(), cfg)
	if err != nil || info.ID != "id" || info.Host != "postgres" || e.created[0].NetworkMode != "other" {
		t.Errorf("%v, %v: %+v", info, err, e.created)
	}
	if _, err := manager.StartService(t.Context(), core.ServiceConfig{}); core.FieldOf(err) != "Name" {
		t.Errorf("nothing: %v", err)
	}
	e.start = fmt.Errorf("it said %s: %w", secret, errBroken)
	_, err = manager.StartService(t.Context(), postgres())
	if !errors.Is(err, errBroken) || strings.Contains(fmt.Sprintf("%v %+v", err, err), secret) {
		t.Errorf("a start that failed: %v", err)
	}
	if err := manager.StopService(t.Context(), core.ServiceInfo{}); err != nil || len(e.removed) != 1 {
		t.Errorf("nothing to stop: %v, removed %q", err, e.removed)
	}
	if err := manager.StopService(t.Context(), info); err != nil || !slices.Equal(e.removed, []string{"id", "id"}) {
		t.Errorf("%v, removed %q", err, e.removed)
	}
}

func TestCheckReady(t *testing.T) {
	running := func(change func(*engine)) *engine {
		e := &engine{state: core.StateRunning}
		change(e)
		return e
	}
	long := strings.Repeat("a line\n", 30000) + "the last but " + secret + "\nthe last\n"
	for name, test := range map[string]struct {
		engine  *engine
		nothing bool     // there is nothing to run
		class   error    // nil: ready
		texts   []string // in the error
	}{
		"ready":                     {running(func(*engine) {}), false, nil, nil},
		"not yet":                   {running(func(e *engine) { e.code, e.said = 2, long }), false, errAny, []string{"status 2", "the last but [redacted]\nthe last"}},
		"not asked":                 {running(func(e *engine) { e.execution = errBroken }), false, errBroken, nil},
		"nothing to ask":            {running(func(*engine) {}), true, nil, nil},
		"nothing to ask, died":      {&engine{state: core.StateExited, code: 5, said: long}, true, core.ErrNotRunning, []string{"status 5", "the last but [redacted]"}},
		"nothing to ask, and gone":  {&engine{stateErr: core.ErrNotFound}, true, core.ErrNotFound, nil},
		"died":                      {&engine{state: core.StateExited, code: 5, said: long}, false, core.ErrNotRunning, []string{"status 5", "the last but [redacted]"}},
		"died, and so did the exec": {&engine{state: core.StateExited, execution: core.ErrNotRunning}, false, core.ErrNotRunning, nil},
		"died, of unknown code":     {&engine{state: core.StateExited, code: 5, wait: errBroken}, false, errBroken, nil},
		"died, without a log":       {&engine{state: core.StateExited, code: 5, logs: errBroken}, false, core.ErrNotRunning, []string{"broken"}},
		"never started":             {&engine{state: core.StateCreated, execution: core.ErrNotRunning}, false, core.ErrNotRunning, []string{"not been started"}},
		"paused":                    {&engine{state: core.StatePaused, execution: core.ErrNotRunning}, false, errAny, []string{"it is paused"}},
		"nothing to ask, paused":    {&engine{state: core.StatePaused}, true, errAny, []string{"it is paused"}},
		"being removed":             {&engine{state: core.StateStopping, code: 137}, false, errAny, []string{"it is stopping"}},
		"dead":                      {&engine{state: core.StateDead, code: 5, said: long}, false, core.ErrNotRunning, []string{"status 5"}},
		"gone":                      {&engine{stateErr: core.ErrNotFound, execution: core.ErrNotFound}, false, core.ErrNotFound, nil},
	} {
		info := postgres().Info("id", "postgres")
		info.ReadinessCmd = "ask"
		if test.nothing {
			info.ReadinessCmd = ""
		}
		err := services.NewManager(able{test.engine}).CheckReady(t.Context(), info)
		if (err == nil) != (test.class == nil) || (test.class != errAny && !errors.Is(err, test.class)) ||
			(test.class == errAny && errors.Is(err, core.ErrNotRunning)) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, text := range test.texts {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %q is missing from %q", name, text, err)
			}
		}
		if err != nil && (len(err.Error()) > 2500 || strings.Contains(err.Error(), secret)) {
			t.Errorf("%s: too long, or with the password: %q", name, err)
		}
	}
	if err := services.NewManager(&engine{}).CheckReady(t.Context(), postgres().Info("id", "")); !errors.Is(err, core.ErrUnsupported) {
		t.Errorf("without an Execer: %v", err)
	}
}

// errAny is any error.
var errAny = errors.New("any")
