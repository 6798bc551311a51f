package gvisor

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/system"
	"github.com/docker/docker/client"
	"github.com/moatproject/moat/core"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var firstLine, _, _ = strings.Cut(core.ErrGVisorNotAvailable.Error(), "\n")

var (
	loadRequests  = []string{"POST /containers/create", "POST /images/load"}
	probeRequests = []string{
		"POST /containers/create", "POST /containers/NAME/start", "POST /containers/NAME/wait",
		"GET /containers/NAME/logs", "DELETE /containers/NAME",
	}
)

func TestResolveAsksOnlyWhatItMust(t *testing.T) {
	engine, api := startFake(t, map[string]string{"runc": "runc", "runsc": "/usr/bin/runsc"})
	for _, want := range [][]string{
		slices.Concat([]string{"GET /info"}, loadRequests, probeRequests),
		slices.Concat([]string{"GET /info"}, probeRequests), // the image is kept
	} {
		name, err := NewSandbox(Options{}).Resolve(t.Context(), api)
		if err != nil || name != "runsc" {
			t.Fatalf("%q, %v", name, err)
		}
		if got := engine.asked(); !slices.Equal(got, want) {
			t.Errorf("asked %q, want %q", got, want)
		}
		engine.mustBeTidy(t)
	}
}

func TestProbeContainer(t *testing.T) {
	engine, api := startFake(t, map[string]string{"runsc": "/usr/bin/runsc"})
	if _, err := NewSandbox(Options{}).Resolve(t.Context(), api); err != nil {
		t.Fatal(err)
	}
	asked := engine.created[0]
	if asked.Labels[core.LabelManaged] != "true" || asked.Labels[core.LabelRole] != core.RoleAdapter || asked.Labels[core.LabelExpires] == "" {
		t.Errorf("labels %v", asked.Labels)
	}
	host, err := json.Marshal(map[string]any{
		"runtime": asked.HostConfig.Runtime, "network": asked.HostConfig.NetworkMode,
		"readonly": asked.HostConfig.ReadonlyRootfs, "drop": asked.HostConfig.CapDrop,
		"security": asked.HostConfig.SecurityOpt, "log": asked.HostConfig.LogConfig.Type,
		"memory": asked.HostConfig.Memory, "swap": asked.HostConfig.MemorySwap,
	})
	const want = `{"drop":["ALL"],"log":"json-file","memory":268435456,"network":"none","readonly":true,` +
		`"runtime":"runsc","security":["no-new-privileges"],"swap":268435456}`
	if err != nil || string(host) != want {
		t.Errorf("host configuration\n%s\nwant\n%s", host, want)
	}
}

func TestResolveChooses(t *testing.T) {
	runtimes := func(names map[string]string) func(*fakeEngine) {
		return func(e *fakeEngine) {
			for name, path := range names {
				e.info.Runtimes[name] = system.RuntimeWithStatus{Runtime: system.Runtime{Path: path}}
				e.output[name] = gvisorOutput
			}
		}
	}
	for _, test := range []struct {
		name   string
		set    []func(*fakeEngine)
		want   string
		reason string // where nothing is chosen
	}{
		{
			name: "not listed",
			set:  []func(*fakeEngine){runtimes(map[string]string{"crun": "/usr/bin/crun"})}, reason: "lists no runtime",
		},
		{
			name: "runsc before others",
			set:  []func(*fakeEngine){runtimes(map[string]string{"a": "/runsc", "b": "/runsc", "runsc": "/runsc", "z": "/runsc"})}, want: "runsc",
		},
		{
			name: "by its name alone",
			set:  []func(*fakeEngine){runtimes(map[string]string{"runsc": "/opt/wrapper"})}, want: "runsc",
		},
		{
			name: "renamed",
			set:  []func(*fakeEngine){runtimes(map[string]string{"runc": "runc", "gvisor": "/opt/bin/runsc-2026"})}, want: "gvisor",
		},
		{
			name: "a shim",
			set: []func(*fakeEngine){func(e *fakeEngine) {
				e.info.Runtimes["g"] = system.RuntimeWithStatus{Runtime: system.Runtime{Type: "io.containerd.runsc.v1"}}
				e.output["g"] = gvisorOutput
			}},
			want: "g",
		},
		{
			name: "listed, cannot start",
			set: []func(*fakeEngine){runtimes(map[string]string{"runsc": "/x/runsc"}), func(e *fakeEngine) {
				e.start["runsc"] = refuse(http.StatusInternalServerError, "fork/exec /x/runsc: no such file")
			}},
			reason: "fork/exec /x/runsc: no such file",
		},
		{
			name: "listed, ignored by the engine",
			set: []func(*fakeEngine){runtimes(map[string]string{"runsc": "/x/runsc"}), func(e *fakeEngine) {
				e.output["runsc"] = hostOutput
			}},
			reason: "on Linux " + hostRelease + ", not on gVisor",
		},
		{
			name: "the host's log speaks of gVisor",
			set: []func(*fakeEngine){runtimes(map[string]string{"runsc": "/x/runsc"}), func(e *fakeEngine) {
				e.output["runsc"] = probeOutput(hostRelease, "<6>[    0.000000] Starting gVisor...\n")
			}},
			reason: "not on gVisor",
		},
		{
			name: "another kernel that is not gVisor's",
			set: []func(*fakeEngine){runtimes(map[string]string{"runsc": "/x/runsc"}), func(e *fakeEngine) {
				e.output["runsc"] = probeOutput("5.10.0", "<6>[    0.000000] Linux version 5.10.0\n<6>Starting gVisor...\n")
			}},
			reason: "on Linux 5.10.0, not on gVisor",
		},
		{
			name: "a probe without output",
			set: []func(*fakeEngine){runtimes(map[string]string{"runsc": "/x/runsc"}), func(e *fakeEngine) {
				e.output["runsc"] = ""
			}},
			reason: "wrote 0 bytes",
		},
		{
			name: "others in order",
			set:  []func(*fakeEngine){runtimes(map[string]string{"z": "/runsc", "b": "/runsc", "a": "/runsc", "c": "/runsc"})}, want: "a",
		},
		{
			name: "the first is broken, the second works",
			set: []func(*fakeEngine){runtimes(map[string]string{"runsc": "/x/runsc", "runsc-new": "/y/runsc"}), func(e *fakeEngine) {
				e.start["runsc"] = refuse(http.StatusInternalServerError, "broken")
			}},
			want: "runsc-new",
		},
		{
			name: "an architecture without gVisor",
			set: []func(*fakeEngine){runtimes(map[string]string{"runsc": "/x/runsc"}), func(e *fakeEngine) {
				e.info.Architecture = "riscv64"
			}},
			reason: "riscv64",
		},
		{
			name: "arm64",
			set: []func(*fakeEngine){runtimes(map[string]string{"runsc": "/x/runsc"}), func(e *fakeEngine) {
				e.info.Architecture = "aarch64"
			}},
			want: "runsc",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			engine, api := startFake(t, nil)
			for _, set := range test.set {
				set(engine)
			}
			cache := &memoryCache{}
			name, err := NewSandbox(Options{Cache: cache}).Resolve(t.Context(), api)
			engine.mustBeTidy(t)
			if test.reason == "" {
				if err != nil || name != test.want {
					t.Fatalf("%q, %v, want %q", name, err, test.want)
				}
				return
			}
			if !errors.Is(err, core.ErrGVisorNotAvailable) {
				t.Fatalf("%q, %v", name, err)
			}
			if text := err.Error(); !strings.Contains(text, firstLine) || !strings.Contains(text, test.reason) {
				t.Errorf("%q lacks %q or %q", text, firstLine, test.reason)
			}
			if len(cache.stored) > 0 {
				t.Errorf("a failure was remembered: %v", cache.stored)
			}
		})
	}
}

// TestResolveBlamesTheEngine: what the engine fails at says nothing about gVisor.
func TestResolveBlamesTheEngine(t *testing.T) {
	for _, test := range []struct {
		name string
		set  func(*fakeEngine)
		want string
	}{
		{"information refused", func(e *fakeEngine) { e.infoStatus = http.StatusInternalServerError }, "no information"},
		{"killed while starting", func(e *fakeEngine) { e.start["runsc"] = hangUp }, "EOF"},
		{"image refused", func(e *fakeEngine) { e.load = refuse(http.StatusInternalServerError, "no space") }, "no space"},
		{"image refused in the stream", func(e *fakeEngine) {
			e.load = func(w http.ResponseWriter, _ *http.Request) {
				answerJSON(w, http.StatusOK, map[string]string{"error": "no space"})
			}
		}, "no space"},
	} {
		t.Run(test.name, func(t *testing.T) {
			engine, api := startFake(t, map[string]string{"runsc": "/usr/bin/runsc"})
			test.set(engine)
			_, err := NewSandbox(Options{}).Resolve(t.Context(), api)
			if err == nil || errors.Is(err, core.ErrGVisorNotAvailable) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
			engine.mustBeTidy(t)
		})
	}
}

// stuckEngine never answers some of the calls.
type stuckEngine struct {
	client.APIClient
	stuck   []string
	removed []string
}

func (*stuckEngine) DaemonHost() string { return "tcp://stuck" }

func (e *stuckEngine) answer(ctx context.Context, call string) error {
	if slices.Contains(e.stuck, call) {
		<-ctx.Done()
	}
	return ctx.Err()
}

func (e *stuckEngine) Info(ctx context.Context) (system.Info, error) {
	runtimes := map[string]system.RuntimeWithStatus{"runsc": {}}
	return system.Info{Architecture: "x86_64", Runtimes: runtimes}, e.answer(ctx, "info")
}

func (e *stuckEngine) ContainerCreate(ctx context.Context, _ *container.Config, _ *container.HostConfig, _ *network.NetworkingConfig, _ *ocispec.Platform, _ string) (container.CreateResponse, error) {
	return container.CreateResponse{}, e.answer(ctx, "create")
}

func (e *stuckEngine) ContainerStart(ctx context.Context, _ string, _ container.StartOptions) error {
	return e.answer(ctx, "start")
}

func (e *stuckEngine) ContainerRemove(ctx context.Context, name string, _ container.RemoveOptions) error {
	err := e.answer(ctx, "remove")
	e.removed = append(e.removed, name)
	return err
}

// TestDeadlines: where the caller sets none, the calls have deadlines of their own.
func TestDeadlines(t *testing.T) {
	for stuck, want := range map[string]struct {
		class error
		text  string
	}{
		"info":   {core.ErrTimeout, "ask the engine for its runtimes"},
		"create": {core.ErrGVisorNotAvailable, "does not end within 30s"},
		"start":  {core.ErrGVisorNotAvailable, "does not end within 30s"},
	} {
		t.Run(stuck, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				engine := &stuckEngine{stuck: []string{stuck}}
				_, err := NewSandbox(Options{}).Resolve(t.Context(), engine)
				if !errors.Is(err, want.class) || !strings.Contains(err.Error(), want.text) {
					t.Errorf("%v, want %v with %q", err, want.class, want.text)
				}
				if stuck != "info" && len(engine.removed) != 1 {
					t.Errorf("removed %q", engine.removed)
				}
			})
		})
	}
}

// TestCancelledWhileNothingAnswers: no removal keeps the caller waiting either.
func TestCancelledWhileNothingAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		engine := &stuckEngine{stuck: []string{"create", "remove"}}
		began := time.Now()
		_, err := NewSandbox(Options{}).Resolve(ctx, engine)
		if late := time.Since(began) - time.Second; late >= time.Second || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v after its context, %v", late, err)
		}
	})
}

// TestResolveCancelled: whatever hangs, the call ends with its context and leaves
// no container.
func TestResolveCancelled(t *testing.T) {
	for _, test := range []struct {
		name string
		hang func(*fakeEngine, http.HandlerFunc)
	}{
		{"start", func(e *fakeEngine, hang http.HandlerFunc) { e.start["runsc"] = hang }},
		{"load", func(e *fakeEngine, hang http.HandlerFunc) { e.load = hang }},
	} {
		t.Run(test.name, func(t *testing.T) {
			engine, api := startFake(t, map[string]string{"runsc": "/usr/bin/runsc"})
			ctx, cancel := context.WithCancel(t.Context())
			test.hang(engine, func(_ http.ResponseWriter, r *http.Request) {
				cancel()
				<-r.Context().Done()
			})
			mustEndWith(ctx, t, func() error {
				_, err := NewSandbox(Options{}).Resolve(ctx, api)
				return err
			})
			engine.mustBeTidy(t)
		})
	}
	t.Run("while the container is being created", func(t *testing.T) {
		engine, api := startFake(t, map[string]string{"runsc": "/usr/bin/runsc"})
		ctx, cancel := context.WithCancel(t.Context())
		engine.images[mustProbeImage(t).tag] = true
		engine.create = func(_ http.ResponseWriter, r *http.Request) {
			cancel()
			select {
			case <-time.After(grace / 3): // it takes its time
			case <-r.Context().Done(): // and creates it all the same
				engine.waitFor("DELETE /containers/NAME")
			}
		}
		mustEndWith(ctx, t, func() error {
			_, err := NewSandbox(Options{}).Resolve(ctx, api)
			return err
		})
		if len(engine.created) != 1 {
			t.Errorf("%d containers were created", len(engine.created))
		}
		engine.mustBeTidy(t)
	})
}

// mustEndWith fails unless f returns ctx's error, soon after it.
func mustEndWith(ctx context.Context, t *testing.T, f func() error) {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- f() }()
	done, overdue := ctx.Done(), (<-chan time.Time)(nil)
	for {
		select {
		case <-done:
			done, overdue = nil, time.After(time.Second)
		case <-overdue:
			t.Fatal("still busy a second after its context has ended")
		case err := <-ended:
			if ctx.Err() == nil || !errors.Is(err, ctx.Err()) || errors.Is(err, core.ErrGVisorNotAvailable) {
				t.Errorf("%v, want %v", err, ctx.Err())
			}
			return
		}
	}
}

func mustProbeImage(t *testing.T) archive {
	t.Helper()
	image, err := probeImage("amd64")
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func TestResolveTwiceAtOnce(t *testing.T) {
	engine, api := startFake(t, map[string]string{"runsc": "/usr/bin/runsc"})
	sandbox := NewSandbox(Options{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if name, err := sandbox.Resolve(t.Context(), api); err != nil || name != "runsc" {
				t.Errorf("%q, %v", name, err)
			}
		})
	}
	wg.Wait()
	engine.mustBeTidy(t)
	if len(engine.images) != 1 {
		t.Errorf("images %v", engine.images)
	}
}

func TestAnotherLoadsTheImageMeanwhile(t *testing.T) {
	engine, api := startFake(t, map[string]string{"runsc": "/usr/bin/runsc"})
	engine.load = func(w http.ResponseWriter, _ *http.Request) {
		engine.mu.Lock()
		engine.images[mustProbeImage(t).tag] = true
		engine.mu.Unlock()
		answerJSON(w, http.StatusOK, map[string]string{"error": "AlreadyExists"})
	}
	if name, err := NewSandbox(Options{}).Resolve(t.Context(), api); err != nil || name != "runsc" {
		t.Errorf("%q, %v", name, err)
	}
}

func TestCache(t *testing.T) {
	engine, api := startFake(t, map[string]string{"gvisor": "/opt/runsc"})
	cache := &memoryCache{}
	sandbox := NewSandbox(Options{Cache: cache})
	resolve := func() {
		t.Helper()
		if name, err := sandbox.Resolve(t.Context(), api); err != nil || name != "gvisor" {
			t.Fatalf("%q, %v", name, err)
		}
	}
	resolve()
	engine.asked()
	resolve()
	if requests := engine.asked(); len(requests) > 0 {
		t.Errorf("asked in spite of the cache: %q", requests)
	}
	sandbox.Forget(api)
	resolve()
	if requests := engine.asked(); len(requests) == 0 {
		t.Error("not forgotten")
	}
	later := time.Now().Add(time.Hour) // the mark of a new socket
	if err := os.Chtimes(strings.TrimPrefix(api.DaemonHost(), "unix://"), later, later); err != nil {
		t.Fatal(err)
	}
	resolve()
	if requests := engine.asked(); len(requests) == 0 {
		t.Error("the cache outlived the engine")
	}
	_, other := startFake(t, nil)
	if name, err := sandbox.Resolve(t.Context(), other); err == nil {
		t.Errorf("another engine's cache served: %q", name)
	}
}

type memoryCache struct {
	mu     sync.Mutex
	stored map[string]string
}

func (c *memoryCache) Load(key string) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	value, ok := c.stored[key]
	return value, ok
}

func (c *memoryCache) Store(key, value string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stored == nil {
		c.stored = map[string]string{}
	}
	c.stored[key] = value
}

func (c *memoryCache) Delete(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.stored, key)
}

func TestAvailable(t *testing.T) {
	for _, test := range []struct {
		name     string
		runtimes map[string]string
		want     bool
	}{
		{"listed", map[string]string{"runc": "runc", "runsc": "runsc"}, true},
		{"not listed", map[string]string{"runc": "runc"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			engine, api := startFake(t, test.runtimes)
			if got := Available(t.Context(), api); got != test.want {
				t.Errorf("%v", got)
			}
			if got := engine.asked(); !slices.Equal(got, []string{"GET /info"}) {
				t.Errorf("asked %q", got)
			}
		})
	}
	if Available(t.Context(), newClient(t, "unix://"+t.TempDir()+"/none.sock")) {
		t.Error("available without an engine")
	}
}

func FuzzParseKernel(f *testing.F) {
	f.Add([]byte(gvisorOutput))
	f.Add([]byte(hostOutput))
	f.Add([]byte(gvisorOutput[:utsSize-1]))
	f.Fuzz(func(t *testing.T, output []byte) {
		inside, err := parseKernel(output)
		if (err == nil) != (len(output) >= utsSize) {
			t.Fatalf("%d bytes: %v", len(output), err)
		}
		if err == nil && inside.mustBeGVisor(inside.release) == nil {
			t.Fatal("the host's own kernel passed for gVisor")
		}
	})
}
