package gvisor

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/moatproject/moat/adapters/docker"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// openFake returns a runtime on a fake engine.
func openFake(t *testing.T, host string, cache Cache) *docker.Runtime {
	t.Helper()
	rt, err := New(docker.Options{Host: host}, Options{Cache: cache})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = rt.Close() })
	return rt
}

func TestRuntimeWithoutGVisor(t *testing.T) {
	_, api := startFake(t, map[string]string{"runc": "runc"})
	rt := openFake(t, api.DaemonHost(), nil)
	if got := rt.Capabilities().Isolation; got != optional.IsolationSandbox {
		t.Errorf("isolation %q", got)
	}
	if err := rt.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	_, created := rt.CreateContainer(t.Context(), core.Config{Image: "any"})
	for what, err := range map[string]error{"verify": rt.Verify(t.Context()), "create": created} {
		if !errors.Is(err, core.ErrGVisorNotAvailable) {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if line, _, _ := strings.Cut(err.Error(), "\n"); !strings.HasSuffix(line, firstLine) {
			t.Errorf("%s: the user sees %q first", what, line)
		}
		if !strings.HasSuffix(err.Error(), "\nthe engine lists no runtime runsc\nInstall gVisor's archive, with its helper programs (docs/gvisor.md)") {
			t.Errorf("%s: the user sees %q", what, err)
		}
	}
}

func TestRuntimeOnStoppedEngine(t *testing.T) {
	rt := openFake(t, "unix://"+t.TempDir()+"/none.sock", nil)
	_, created := rt.CreateContainer(t.Context(), core.Config{Image: "any"})
	_, described := rt.Describe(t.Context())
	for what, err := range map[string]error{"verify": rt.Verify(t.Context()), "create": created, "describe": described} {
		if !errors.Is(err, core.ErrUnavailable) || errors.Is(err, core.ErrGVisorNotAvailable) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestRuntimeForgets: a runtime that the cache knows and the engine no more is
// looked for again.
func TestRuntimeForgets(t *testing.T) {
	engine, api := startFake(t, map[string]string{"runsc": "/usr/bin/runsc"})
	cache := &memoryCache{}
	cache.Store(cacheKey(api), "gone")
	rt := openFake(t, api.DaemonHost(), cache)
	engine.refuse = map[string]http.HandlerFunc{"gone": refuse(http.StatusBadRequest, "Unknown runtime specified gone")}
	engine.images["work"] = true

	if _, err := rt.CreateContainer(t.Context(), core.Config{Image: "work"}); !errors.Is(err, core.ErrGVisorNotAvailable) {
		t.Fatal(err)
	}
	if _, err := rt.CreateContainer(t.Context(), core.Config{Image: "work"}); err != nil {
		t.Fatal(err)
	}
	if last := engine.created[len(engine.created)-1]; last.HostConfig.Runtime != "runsc" {
		t.Errorf("created with runtime %q", last.HostConfig.Runtime)
	}
	if name, ok := cache.Load(cacheKey(api)); !ok || name != "runsc" {
		t.Errorf("cached %q, %v", name, ok)
	}
}
