package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// fakeSandbox resolves to name, or fails.
type fakeSandbox struct {
	name     string
	err      error
	hold     func(context.Context)
	keeps    bool // what is written
	resolved atomic.Int32
	forgot   atomic.Int32
}

func (s *fakeSandbox) Resolve(ctx context.Context, _ client.APIClient) (string, error) {
	s.resolved.Add(1)
	if s.hold != nil {
		s.hold(ctx)
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	return s.name, s.err
}

// Check refuses a configuration with AllowNewPrivileges.
func (s *fakeSandbox) Check(_ context.Context, _ client.APIClient, ociRuntime string, cfg core.Config) error {
	if cfg.AllowNewPrivileges {
		return &core.Error{Op: "check configuration", Object: ociRuntime, Field: "AllowNewPrivileges", Class: core.ErrUnsupported}
	}
	return nil
}

func (s *fakeSandbox) Forget(client.APIClient) { s.forgot.Add(1) }

func (s *fakeSandbox) Remedy(err error) string {
	if strings.Contains(err.Error(), "sandbox is incomplete") {
		return "Install all of it"
	}
	return ""
}

func (s *fakeSandbox) KeepsFiles(context.Context, client.APIClient, string) (bool, error) {
	return s.keeps, s.err
}

func (s *fakeSandbox) Describe(context.Context, client.APIClient) (string, string, error) {
	return "gVisor", "4.4.0", s.err
}

func sandboxedBy(sandbox Sandbox) func(*Options) {
	return func(o *Options) { o.Sandbox = sandbox }
}

func TestSandboxIsProvenOnce(t *testing.T) {
	engine := startFake(t)
	var runtimes sync.Map
	engine.on(createRoute, func(w http.ResponseWriter, r *http.Request) {
		var request struct{ HostConfig container.HostConfig }
		_ = json.NewDecoder(r.Body).Decode(&request)
		runtimes.Store(request.HostConfig.Runtime, true)
		answer(http.StatusCreated, container.CreateResponse{ID: testID})(w, r)
	})
	sandbox := &fakeSandbox{name: "my-runsc"}
	r := engine.runtime(t, sandboxedBy(sandbox))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := r.CreateContainer(t.Context(), core.Config{Image: "image"}); err != nil {
				t.Error(err)
			}
			if err := r.Verify(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := sandbox.resolved.Load(); got != 1 {
		t.Errorf("it was resolved %d times", got)
	}
	runtimes.Range(func(name, _ any) bool {
		if name != "my-runsc" {
			t.Errorf("a container was created with the runtime %q", name)
		}
		return true
	})
	if r.Type() != core.RuntimeDocker || r.Capabilities().Isolation != optional.IsolationSandbox {
		t.Errorf("type %q, isolation %q", r.Type(), r.Capabilities().Isolation)
	}
}

// TestASandboxIsForCreation is about what needs none: all else works on an engine without.
func TestASandboxIsForCreation(t *testing.T) {
	engine := startFake(t)
	for _, method := range methods(engine.host) {
		if method.name == "CreateContainer" || method.name == "Describe" {
			continue
		}
		t.Run(method.name, func(t *testing.T) {
			engine.on(inspectRoute, inspected("running"))
			sandbox := &fakeSandbox{err: &core.Error{Class: core.ErrGVisorNotAvailable}}
			if err := method.do(t.Context(), engine.runtime(t, sandboxedBy(sandbox))); err != nil {
				t.Error(err)
			}
			if n := sandbox.resolved.Load(); n > 0 {
				t.Errorf("it was resolved %d times", n)
			}
		})
	}
}

func TestSandboxFailuresAreNotRemembered(t *testing.T) {
	engine := startFake(t)
	missing := &core.Error{Op: "find the sandbox", Runtime: core.RuntimeDocker, Class: core.ErrGVisorNotAvailable}
	sandbox := &fakeSandbox{err: missing}
	r := engine.runtime(t, sandboxedBy(sandbox))
	for range 2 {
		if _, err := r.CreateContainer(t.Context(), core.Config{Image: "image"}); err != missing {
			t.Errorf("got %v, want the sandbox's own error", err)
		}
	}
	if got := sandbox.resolved.Load(); got != 2 {
		t.Errorf("it was resolved %d times", got)
	}
	engine.wantRequests(t)
	sandbox.err = errors.New("Error response from daemon: strange")
	if err := r.Verify(t.Context()); !errors.As(err, new(*core.Error)) {
		t.Errorf("the client's errors are not classified: %#v", err)
	}
}

func TestWaitingForTheProofEndsWithTheContext(t *testing.T) {
	engine := startFake(t)
	proving, proven := make(chan struct{}), make(chan struct{})
	sandbox := &fakeSandbox{name: "runsc", hold: func(context.Context) { close(proving); <-proven }}
	r := engine.runtime(t, sandboxedBy(sandbox))
	first := begin(func() (struct{}, error) { return struct{}{}, r.Verify(t.Context()) })
	await(t, proving, "the proof")
	ctx, cancel := context.WithCancel(t.Context())
	second := begin(func() (struct{}, error) { return struct{}{}, r.Verify(ctx) })
	cancel()
	if _, err := second.result(t); !errors.Is(err, context.Canceled) {
		t.Errorf("the second caller got %v", err)
	}
	close(proven)
	if _, err := first.result(t); err != nil {
		t.Errorf("the first caller got %v", err)
	}
}

func TestSandboxThatBreaksIsProvenAgain(t *testing.T) {
	for name, test := range map[string]struct{ route, text string }{
		"unknown to Docker 20.10": {createRoute, "Unknown runtime specified runsc"},
		"unknown to Docker 29":    {createRoute, "unknown or invalid runtime name: runsc"},
		"its program is gone": {"POST /containers/{id}/start", "failed to create shim task: OCI runtime create failed: unable to retrieve OCI runtime error " +
			"(open log.json: no such file or directory): fork/exec /nonexistent/runsc: no such file or directory: unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			engine := startFake(t)
			engine.on(test.route, failure(http.StatusBadRequest, test.text))
			sandbox := &fakeSandbox{name: "runsc"}
			r := engine.runtime(t, sandboxedBy(sandbox))
			_, err := r.CreateContainer(t.Context(), core.Config{Image: "image"})
			if err == nil {
				err = r.StartContainer(t.Context(), testID)
			}
			if !errors.Is(err, core.ErrGVisorNotAvailable) || sandbox.forgot.Load() != 1 {
				t.Errorf("got %v, forgotten %d times", err, sandbox.forgot.Load())
			}
			if err := r.Verify(t.Context()); err != nil || sandbox.resolved.Load() != 2 {
				t.Errorf("then it was resolved %d times: %v", sandbox.resolved.Load(), err)
			}
			plain := engine.runtime(t)
			_, err = plain.CreateContainer(t.Context(), core.Config{Image: "image"})
			if err == nil {
				err = plain.StartContainer(t.Context(), testID)
			}
			if !errors.Is(err, core.ErrUnavailable) || errors.Is(err, core.ErrGVisorNotAvailable) {
				t.Errorf("without a sandbox: %v", err)
			}
		})
	}
}

func TestSandboxThatIsIncomplete(t *testing.T) {
	engine := startFake(t)
	engine.on("POST /containers/{id}/start", failure(http.StatusBadRequest, "OCI runtime create failed: sandbox is incomplete: no such file or directory"))
	sandbox := &fakeSandbox{name: "runsc"}
	err := engine.runtime(t, sandboxedBy(sandbox)).StartContainer(t.Context(), testID)
	failed, ok := errors.AsType[*core.Error](err)
	if !ok || !errors.Is(err, core.ErrGVisorNotAvailable) || failed.Remedy != "Install all of it" {
		t.Errorf("got %v", err)
	}
	if sandbox.forgot.Load() != 1 {
		t.Errorf("forgotten %d times", sandbox.forgot.Load())
	}
	if err := engine.runtime(t).StartContainer(t.Context(), testID); errors.Is(err, core.ErrGVisorNotAvailable) {
		t.Errorf("without a sandbox: %v", err)
	}
}

func TestOneWarningWithoutASandbox(t *testing.T) {
	engine := startFake(t)
	for _, test := range []struct {
		sandbox Sandbox
		goos    string
		want    int
	}{{nil, "linux", 1}, {&fakeSandbox{name: "runsc"}, "linux", 0}, {nil, "darwin", 0}} {
		var logged bytes.Buffer
		r := engine.runtime(t, func(o *Options) {
			o.Sandbox, o.GOOS, o.Logger = test.sandbox, test.goos, slog.New(slog.NewTextHandler(&logged, nil))
		})
		for range 3 {
			if _, err := r.CreateContainer(t.Context(), core.Config{Image: "image"}); err != nil {
				t.Fatal(err)
			}
		}
		if got := strings.Count(logged.String(), "level=WARN"); got != test.want {
			t.Errorf("%d warnings, want %d: %s", got, test.want, logged.String())
		}
	}
}

func TestVerifyWithoutASandboxIsOnePing(t *testing.T) {
	engine := startFake(t)
	r := engine.runtime(t)
	for range 2 {
		if err := r.Verify(t.Context()); err != nil || engine.pings() != 1 {
			t.Errorf("Verify: %v after %d pings", err, engine.pings())
		}
	}
}
