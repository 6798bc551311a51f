package wiring

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/detect"
	"github.com/rs/zerolog"
	"go.uber.org/fx"
)

// stub is a runtime that can only be opened and closed.
type stub struct {
	core.Runtime
	kind   core.RuntimeType
	ping   error
	closed int
}

func (s *stub) Type() core.RuntimeType     { return s.kind }
func (s *stub) Ping(context.Context) error { return s.ping }
func (s *stub) Close() error               { s.closed++; return nil }

func settingsFor(forced string, rt *stub, log *bytes.Buffer) Settings {
	return Settings{
		Host: detect.Host{GOOS: "linux", GOARCH: "amd64", Getenv: func(key string) string {
			if key == detect.EnvRuntime {
				return forced
			}
			return ""
		}},
		Registered: func(*slog.Logger) []detect.Registration {
			return []detect.Registration{{Name: rt.kind, Candidates: func() []detect.Candidate {
				return []detect.Candidate{{Type: rt.kind, New: func() (core.Runtime, error) { return rt, nil }}}
			}}}
		},
		LogOutput: log, LogLevel: zerolog.WarnLevel,
	}
}

// ports asks for everything that the module provides.
type ports struct {
	fx.In
	Runtime   core.Runtime
	Identity  core.Identity
	Lifecycle core.Lifecycle
	Logs      core.Logs
	Attacher  core.Attacher
	Images    core.Images
	Ports     core.Ports
	Firewall  core.Firewall
	Managers  core.Managers
}

func TestEveryPortResolvesForEveryRuntime(t *testing.T) {
	for _, kind := range []core.RuntimeType{core.RuntimeDocker, core.RuntimeApple, "gvisor", "memory", "remote"} {
		t.Run(string(kind), func(t *testing.T) {
			rt := &stub{kind: kind}
			app := fx.New(Module(settingsFor(string(kind), rt, &bytes.Buffer{})), fx.Invoke(func(p ports) {
				if p.Lifecycle == nil || p.Runtime.(*Engine).Runtime != nil {
					t.Error("a constructor opened the runtime")
				}
			}))
			if err := app.Err(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestWithOpensAndCloses(t *testing.T) {
	rt := &stub{kind: "memory"}
	failure := errors.New("of the command")
	err := With(t.Context(), settingsFor("memory", rt, &bytes.Buffer{}), func(_ context.Context, identity core.Identity) error {
		if identity.Type() != "memory" || rt.closed != 0 {
			t.Error("the runtime is not open in the command")
		}
		return failure
	})
	if !errors.Is(err, failure) || rt.closed != 1 {
		t.Errorf("error %v, closed %d times", err, rt.closed)
	}
}

func TestFailuresReachTheUserWithoutWiring(t *testing.T) {
	for _, test := range []struct {
		name, forced string
		rt           *stub
		want         error
	}{
		{"unknown runtime", "nonsense", &stub{kind: core.RuntimeDocker}, core.ErrInvalidConfig},
		{"missing adapter", "apple", &stub{kind: core.RuntimeDocker}, core.ErrInvalidConfig},
		{"engine down", "docker", &stub{kind: core.RuntimeDocker, ping: &core.Error{Op: "ping", Class: core.ErrUnavailable}}, core.ErrUnavailable},
	} {
		t.Run(test.name, func(t *testing.T) {
			var log bytes.Buffer
			err := With(t.Context(), settingsFor(test.forced, test.rt, &log), func(context.Context, core.Identity) error {
				t.Error("the command ran")
				return nil
			})
			_, isMoats := errors.AsType[*core.Error](err)
			_, isDetection := errors.AsType[*detect.NoRuntimeError](err)
			if !errors.Is(err, test.want) || (!isMoats && !isDetection) || bytes.Contains([]byte(err.Error()), []byte("fx")) {
				t.Errorf("error %v", err)
			}
			if log.Len() > 0 {
				t.Errorf("logged %q", log.String())
			}
		})
	}
}

func TestFileCache(t *testing.T) {
	cache := FileCache{Dir: filepath.Join(t.TempDir(), "made", "later")}
	if _, found := cache.Load("key"); found {
		t.Error("found before it was stored")
	}
	cache.Store("key", "old")
	cache.Store("key", "new")
	if value, found := cache.Load("key"); !found || value != "new" {
		t.Errorf("loaded %q, %v", value, found)
	}
	if _, found := cache.Load("other"); found {
		t.Error("another key was found")
	}
	if files, _ := os.ReadDir(cache.Dir); len(files) != 1 {
		t.Errorf("%d files are left", len(files))
	}
	stale := time.Now().Add(-cacheLifetime - time.Minute)
	if err := os.Chtimes(cache.path("key"), stale, stale); err != nil {
		t.Fatal(err)
	}
	if _, found := cache.Load("key"); found {
		t.Error("a stale entry was found")
	}
	cache.Store("another engine's", "again")
	if files, _ := os.ReadDir(cache.Dir); len(files) != 1 {
		t.Errorf("%d files are left, of which one is stale", len(files))
	}
	cache.Store("key", "again")
	cache.Delete("key")
	if _, found := cache.Load("key"); found {
		t.Error("a deleted entry was found")
	}
	FileCache{}.Store("key", "value")
	if _, found := (FileCache{}).Load("key"); found {
		t.Error("a cache without a folder remembered")
	}
}
