package gvisor

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/system"
	"github.com/docker/docker/client"
	"github.com/moatproject/moat/adapters/docker"
	"github.com/moatproject/moat/adapters/docker/dockertest"
	"github.com/moatproject/moat/core"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// guestRelease is the Linux release of the gVisor that tools/versions.env names.
const guestRelease = "4.19.0-gvisor"

const (
	baseImage   = "moat/test-base:latest"
	harnessName = "gvisor"
)

func absence() string { return dockertest.Absence(os.Getenv("MOAT_TEST_ENGINE"), "MOAT_TEST_ENGINE") }

// realEngine returns a client of the engine to test with. Its absence skips the
// test, unless CONTRACT_REQUIRED names this adapter.
func realEngine(t *testing.T) client.APIClient {
	t.Helper()
	dockertest.Need(t, harnessName, absence())
	return newClient(t, os.Getenv("MOAT_TEST_ENGINE"))
}

// recorder notes the names of the containers that are created.
type recorder struct {
	client.APIClient
	names []string
}

func (r *recorder) ContainerCreate(ctx context.Context, config *container.Config, host *container.HostConfig, networking *network.NetworkingConfig, platform *ocispec.Platform, name string) (container.CreateResponse, error) {
	r.names = append(r.names, name)
	return r.APIClient.ContainerCreate(ctx, config, host, networking, platform, name)
}

// mustBeTidy fails the test if one of the containers is left.
func (r *recorder) mustBeTidy(t *testing.T) {
	t.Helper()
	if len(r.names) == 0 {
		t.Error("no container was created")
	}
	for _, name := range r.names {
		if _, err := r.ContainerInspect(t.Context(), name); !errdefs.IsNotFound(err) {
			t.Errorf("%s is left behind: %v", name, err)
		}
	}
}

// TestEngineVerdicts has the engine's runtimes verified one by one, as if it listed
// no other. The engine is one that tools/engine.sh has set up.
func TestEngineVerdicts(t *testing.T) {
	for name, want := range map[string]string{
		"runsc":         "",
		"moat-sandbox":  "", // runsc by another name
		"runsc-broken":  "/bin/false did not terminate successfully",
		"runsc-missing": "/nonexistent/runsc: no such file",
		"runsc-alone":   "This runsc lacks its helper programs",
	} {
		t.Run(name, func(t *testing.T) {
			engine := &recorder{APIClient: realEngine(t)}
			probe, err := newProber(t.Context(), engine)
			if err != nil {
				t.Fatal(err)
			}
			listed, ok := probe.info.Runtimes[name]
			if !ok {
				t.Fatal("the engine does not list it")
			}
			probe.info.Runtimes = map[string]system.RuntimeWithStatus{name: listed}
			found, err := probe.find(t.Context())
			engine.mustBeTidy(t)
			if want != "" {
				if !errors.Is(err, core.ErrGVisorNotAvailable) || !strings.Contains(err.Error(), want) {
					t.Errorf("%v, want %q", err, want)
				}
				return
			}
			if err != nil || found.name != name || found.release != guestRelease || found.release == probe.info.KernelVersion {
				t.Errorf("%+v, %v", found, err)
			}
		})
	}
}

// TestEngineWithoutSandbox: a runtime that shares the host's kernel is not taken for
// gVisor, whatever its name.
func TestEngineWithoutSandbox(t *testing.T) {
	engine := &recorder{APIClient: realEngine(t)}
	probe, err := newProber(t.Context(), engine)
	if err != nil {
		t.Fatal(err)
	}
	inside, err := probe.verify(t.Context(), "runc")
	engine.mustBeTidy(t)
	if err == nil || inside.release != probe.info.KernelVersion {
		t.Errorf("%+v, %v", inside, err)
	}
}

func TestEngineDetails(t *testing.T) {
	engine := &recorder{APIClient: realEngine(t)}
	got, err := NewSandbox(Options{}).Details(t.Context(), engine)
	engine.mustBeTidy(t)
	if err != nil || got.Runtime != "runsc" || got.Version == "" || got.Platform != "systrap" || got.Kernel != guestRelease {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestEngineKeepsFiles: as the engine starts it, gVisor keeps none.
func TestEngineKeepsFiles(t *testing.T) {
	engine := &recorder{APIClient: realEngine(t)}
	if kept, err := NewSandbox(Options{}).KeepsFiles(t.Context(), engine, "runsc"); kept || err != nil {
		t.Errorf("runsc: %t, %v", kept, err)
	}
	if kept, err := NewSandbox(Options{}).KeepsFiles(t.Context(), engine, "runc"); !kept || err != nil {
		t.Errorf("runc, which keeps everything: %t, %v", kept, err)
	}
	engine.mustBeTidy(t)
}

// TestEnginePrivileges: one of the engine's two gVisors honours set-user-ID bits.
// That it does, the contract suite shows.
func TestEnginePrivileges(t *testing.T) {
	api := realEngine(t)
	for runtime, want := range map[string]error{"runsc": nil, "moat-sandbox": core.ErrUnsupported} {
		err := NewSandbox(Options{}).Check(t.Context(), api, runtime, core.Config{AllowNewPrivileges: true})
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", runtime, err, want)
		}
	}
}

// TestEngineWorkload: it is the workload's kernel that counts.
func TestEngineWorkload(t *testing.T) {
	realEngine(t)
	rt, err := New(docker.Options{Host: os.Getenv("MOAT_TEST_ENGINE")}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	ctx := t.Context()
	id, err := rt.CreateContainer(ctx, core.Config{Image: baseImage, Cmd: []string{"uname", "-r"}, Pull: core.PullNever})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := rt.RemoveContainer(context.WithoutCancel(ctx), id); err != nil {
			t.Error(err)
		}
	}()
	if err := rt.StartContainer(ctx, id); err != nil {
		t.Fatal(err)
	}
	code, err := rt.WaitContainer(ctx, id)
	if err != nil || code != 0 {
		t.Fatal(code, err)
	}
	release, err := rt.ContainerLogsAll(ctx, id)
	if err != nil || string(release) != guestRelease+"\n" {
		t.Errorf("%q, %v", release, err)
	}
	description, err := rt.Describe(ctx)
	if err != nil || description.Kernel != guestRelease || !strings.HasPrefix(description.Sandbox, "gVisor ") {
		t.Errorf("%+v, %v", description, err)
	}
}
