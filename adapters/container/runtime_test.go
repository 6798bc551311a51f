package container_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moatproject/moat/adapters/container"
	"github.com/moatproject/moat/core"
)

// deadline is for what must happen at some time, and is far beyond it.
const deadline = 30 * time.Second

func TestForcedRuntime(t *testing.T) {
	tests := []struct {
		forced  string
		sandbox bool
		want    core.RuntimeType
		err     error
	}{
		{forced: "docker", want: core.RuntimeDocker},
		{forced: "Docker", want: core.RuntimeDocker},
		{forced: "auto", want: core.RuntimeDocker},
		{forced: "", want: core.RuntimeDocker},
		{forced: "docker", sandbox: true, err: core.ErrGVisorNotAvailable},
		{forced: "gvisor", err: core.ErrGVisorNotAvailable},
		{forced: "apple", err: core.ErrInvalidConfig},
		{forced: "memory", err: core.ErrInvalidConfig},
		{forced: "docker\n", err: core.ErrInvalidConfig},
	}
	for _, test := range tests {
		t.Run(test.forced, func(t *testing.T) {
			(&engine{runtimes: []string{"runc"}}).start(t)
			t.Setenv("MOAT_RUNTIME", test.forced)
			rt, err := container.NewRuntimeWithOptions(container.RuntimeOptions{Sandbox: test.sandbox})
			if !errors.Is(err, test.err) || (test.err != nil && rt != nil) {
				t.Fatalf("got %v, %v, want %v", rt, err, test.err)
			}
			if test.err == nil {
				defer rt.Close()
				if rt.Type() != test.want {
					t.Errorf("got %s, want %s", rt.Type(), test.want)
				}
			}
		})
	}
}

func TestForcedJunkNamesWhatIsAllowed(t *testing.T) {
	t.Setenv("MOAT_RUNTIME", "podman")
	_, err := container.NewRuntime()
	for _, part := range []string{"podman", "MOAT_RUNTIME", "allowed are auto, docker, gvisor"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not name %s", err, part)
		}
	}
}

// constructors are the ways to a Docker runtime, each with and without a sandbox.
var constructors = map[string]func(sandbox bool) (container.Runtime, error){
	"NewRuntimeWithOptions": func(sandbox bool) (container.Runtime, error) {
		return container.NewRuntimeWithOptions(container.RuntimeOptions{Sandbox: sandbox})
	},
	"NewDockerRuntime": func(sandbox bool) (container.Runtime, error) {
		rt, err := container.NewDockerRuntime(sandbox)
		if err != nil {
			return nil, err
		}
		return rt, nil
	},
}

func forEachConstructor(t *testing.T, test func(*testing.T, func(sandbox bool) (container.Runtime, error))) {
	t.Setenv("MOAT_RUNTIME", "")
	for name, construct := range constructors {
		t.Run(name, func(t *testing.T) { test(t, construct) })
	}
}

func TestStoppedEngineIsUnavailableAndNotWithoutGVisor(t *testing.T) {
	forEachConstructor(t, func(t *testing.T, construct func(bool) (container.Runtime, error)) {
		host := deadSocket(t)
		for _, sandbox := range []bool{true, false} {
			_, err := construct(sandbox)
			if !errors.Is(err, core.ErrUnavailable) || errors.Is(err, container.ErrGVisorNotAvailable) {
				t.Errorf("sandbox %t: %v", sandbox, err)
			}
			if err != nil && !strings.Contains(err.Error(), host) {
				t.Errorf("sandbox %t: %q does not name %s", sandbox, err, host)
			}
		}
		if container.GVisorAvailable(t.Context()) {
			t.Error("gVisor is available on a stopped engine")
		}
	})
}

func TestEngineWithoutGVisor(t *testing.T) {
	forEachConstructor(t, func(t *testing.T, construct func(bool) (container.Runtime, error)) {
		fake := &engine{runtimes: []string{"runc"}}
		fake.start(t)
		_, err := construct(true)
		if !errors.Is(err, container.ErrGVisorNotAvailable) || errors.Is(err, core.ErrUnavailable) {
			t.Errorf("with a sandbox: %v", err)
		}
		if container.GVisorAvailable(t.Context()) {
			t.Error("gVisor is available where it is not listed")
		}
		rt, err := construct(false)
		if err != nil {
			t.Fatal(err)
		}
		defer rt.Close()
		create(t, rt)
		if got, want := fake.ociRuntimes(), []string{""}; !slices.Equal(got, want) {
			t.Errorf("containers were created with runtimes %q, want %q", got, want)
		}
	})
}

func TestEngineWithGVisor(t *testing.T) {
	forEachConstructor(t, func(t *testing.T, construct func(bool) (container.Runtime, error)) {
		fake := &engine{runtimes: []string{"runc", "runsc"}}
		fake.start(t)
		if !container.GVisorAvailable(t.Context()) {
			t.Error("gVisor is not available")
		}
		for range 2 {
			rt, err := construct(true)
			if err != nil {
				t.Fatal(err)
			}
			create(t, rt)
			_ = rt.Close()
		}
		// One proof for all in this process, and the two containers.
		if got, want := fake.ociRuntimes(), []string{"runsc", "runsc", "runsc"}; !slices.Equal(got, want) {
			t.Errorf("containers were created with runtimes %q, want %q", got, want)
		}
	})
}

func TestWithoutSandboxWarns(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("elsewhere there is no sandbox to miss")
	}
	(&engine{}).start(t)
	var log bytes.Buffer
	previous := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(previous)
	rt, err := container.NewDockerRuntime(false)
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	create(t, rt)
	create(t, rt)
	if got := strings.Count(log.String(), "level=WARN"); got != 1 {
		t.Errorf("%d warnings: %s", got, &log)
	}
}

func create(t *testing.T, rt container.Runtime) {
	t.Helper()
	if _, err := rt.CreateContainer(t.Context(), container.Config{Image: "alpine"}); err != nil {
		t.Error(err)
	}
}

func TestNewRuntimeTakesTheDefaultOptions(t *testing.T) {
	t.Setenv("MOAT_RUNTIME", "")
	(&engine{runtimes: []string{"runc"}}).start(t)
	for _, noSandbox := range []string{"", "1"} {
		t.Setenv("MOAT_NO_SANDBOX", noSandbox)
		rt, err := container.NewRuntime()
		if refused := errors.Is(err, container.ErrGVisorNotAvailable); refused != container.DefaultRuntimeOptions().Sandbox {
			t.Errorf("MOAT_NO_SANDBOX=%q: %v", noSandbox, err)
		}
		if rt != nil {
			_ = rt.Close()
		}
	}
}

func TestGVisorAvailableObeysItsContext(t *testing.T) {
	(&engine{runtimes: []string{"runsc"}}).start(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if container.GVisorAvailable(ctx) {
		t.Error("it went on after its context had ended")
	}
}

func TestHungEngineIsGivenUp(t *testing.T) {
	t.Setenv("MOAT_RUNTIME", "")
	listen(t) // connects, and never answers
	given := make(chan error, 1)
	go func() {
		_, err := container.NewRuntime()
		given <- err
	}()
	select {
	case err := <-given:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("given up with %v", err)
		}
	case <-time.After(deadline):
		t.Error("it is waited for without end")
	}
}

func TestBrokenDockerContext(t *testing.T) {
	t.Setenv("DOCKER_HOST", "")
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	t.Setenv("DOCKER_CONTEXT", "gone")

	t.Setenv("MOAT_RUNTIME", "")
	for _, sandbox := range []bool{true, false} {
		_, err := container.NewRuntimeWithOptions(container.RuntimeOptions{Sandbox: sandbox})
		if err == nil || !strings.Contains(err.Error(), "gone") {
			t.Errorf("sandbox %t: %v does not name the context", sandbox, err)
		}
	}
}

func TestDefaultRuntimeOptions(t *testing.T) {
	t.Setenv("MOAT_NO_SANDBOX", "")
	if got, want := container.DefaultRuntimeOptions().Sandbox, runtime.GOOS == "linux"; got != want {
		t.Errorf("sandbox %t, want %t", got, want)
	}
	t.Setenv("MOAT_NO_SANDBOX", "1")
	if container.DefaultRuntimeOptions().Sandbox {
		t.Error("MOAT_NO_SANDBOX=1 leaves the sandbox on")
	}
}

func TestDefaultDNS(t *testing.T) {
	if got := container.DefaultDNS(nil); !slices.Equal(got, []string{"8.8.8.8", "8.8.4.4"}) {
		t.Errorf("got %v", got)
	}
	if got := container.DefaultDNS([]string{"192.0.2.1"}); !slices.Equal(got, []string{"192.0.2.1"}) {
		t.Errorf("got %v", got)
	}
}
