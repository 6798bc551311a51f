package docker

import (
	"errors"
	"net/http"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/go-connections/nat"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

func TestInspect(t *testing.T) {
	settings := &container.NetworkSettings{Networks: map[string]*network.EndpointSettings{"mine": {IPAddress: "172.18.0.2"}}}
	settings.Ports = nat.PortMap{"80/tcp": {{HostIP: "127.0.0.1", HostPort: "8080"}}}
	pids := int64(100)
	described := container.InspectResponse{
		ContainerJSONBase: &container.ContainerJSONBase{
			ID: testID, Name: "/named", Created: "2026-01-02T03:04:05.123456789Z",
			State: &container.State{
				Status: "exited", ExitCode: 137, OOMKilled: true, StartedAt: "2026-01-02T03:04:06Z", FinishedAt: "2026-01-02T03:04:07Z",
				Health: &container.Health{Status: "unhealthy"},
			},
			HostConfig: &container.HostConfig{
				NetworkMode: "mine", Runtime: "my-runsc",
				Resources: container.Resources{Memory: 512 << 20, MemorySwap: 512 << 20, NanoCPUs: 5e8, PidsLimit: &pids},
			},
		},
		Config: &container.Config{
			Image: "image:tag", User: "1000", Entrypoint: []string{"/entry.sh"}, Cmd: []string{"serve"}, Tty: true,
			Labels: map[string]string{"a": "b"},
		},
		Mounts: []container.MountPoint{
			{Type: mount.TypeBind, Source: "/src", Destination: "/work", RW: true},
			{Type: mount.TypeBind, Source: "/ro", Destination: "/ro"},
			{Type: mount.TypeVolume, Source: "/var/lib/docker/volumes/x", Destination: "/data", RW: true},
		},
		NetworkSettings: settings,
	}
	want := optional.Details{
		Info: core.Info{
			ID: testID, Name: "named", Image: "image:tag", Status: core.StateExited,
			Created: time.Date(2026, 1, 2, 3, 4, 5, 123456789, time.UTC), Labels: map[string]string{"a": "b"},
			Published: []core.PortMapping{{ContainerPort: 80, Protocol: "tcp", HostIP: "127.0.0.1", HostPort: 8080}},
		},
		State: core.State{
			Status: core.StateExited, ExitCode: 137, OOMKilled: true, Health: "unhealthy",
			StartedAt: time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC), FinishedAt: time.Date(2026, 1, 2, 3, 4, 7, 0, time.UTC),
		},
		Cmd: []string{"/entry.sh", "serve"}, User: "1000", Network: "mine", IPAddress: "172.18.0.2",
		Mounts:   []core.MountConfig{{Source: "/src", Target: "/work"}, {Source: "/ro", Target: "/ro", ReadOnly: true}},
		Ports:    map[int]int{80: 8080},
		MemoryMB: 512, NanoCPUs: 5e8, TTY: true, Isolation: optional.IsolationContainer,
		MemorySwapMB: 512, PidsLimit: 100,
	}
	engine := startFake(t)
	engine.on(inspectRoute, answer(http.StatusOK, described))
	for name, test := range map[string]struct {
		sandbox   Sandbox
		isolation optional.Isolation
	}{
		"without a sandbox":                {nil, optional.IsolationContainer},
		"in the sandbox":                   {&fakeSandbox{name: "my-runsc"}, optional.IsolationSandbox},
		"beside the sandbox":               {&fakeSandbox{name: "other"}, optional.IsolationContainer},
		"with a sandbox that is not there": {&fakeSandbox{err: errors.New("no")}, optional.IsolationContainer},
	} {
		want.Isolation = test.isolation
		got, err := engine.runtime(t, sandboxedBy(test.sandbox)).Inspect(t.Context(), testID)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v; want %+v", name, got, err, want)
		}
	}
}

// TestLimitsThatAreNone is of engines that tell a limit's absence in several ways.
func TestLimitsThatAreNone(t *testing.T) {
	none, unlimited := int64(0), int64(-1)
	for _, config := range []container.HostConfig{
		{},
		{Resources: container.Resources{PidsLimit: &none}},
		{Resources: container.Resources{PidsLimit: &unlimited, MemorySwap: -1}},
	} {
		if swap, pids := swapLimitOf(&config), pidsLimitOf(&config); swap != -1 || pids != -1 {
			t.Errorf("of %+v the limits are %d and %d", config.Resources, swap, pids)
		}
	}
}

func TestInspectBeforeTheStart(t *testing.T) {
	engine := startFake(t)
	engine.on(inspectRoute, inspected("created"))
	got, err := engine.runtime(t).Inspect(t.Context(), testID)
	if err != nil || !got.State.StartedAt.IsZero() || !got.State.FinishedAt.IsZero() || got.Ports == nil || got.Mounts == nil {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestDescribe(t *testing.T) {
	engine := startFake(t)
	engine.on("GET /version", answer(http.StatusOK, types.Version{Version: "29.1.0", APIVersion: "1.52", Os: "linux", Arch: "amd64", KernelVersion: "6.1"}))
	want := optional.Description{Engine: "Docker Engine 29.1.0 (API 1.52)", Endpoint: engine.host, Platform: "linux/amd64", Kernel: "6.1"}
	if got, err := engine.runtime(t).Describe(t.Context()); got != want || err != nil {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	want.Sandbox, want.Kernel = "gVisor", "4.4.0"
	for keeps, files := range map[bool]string{false: filesGone, true: filesKept} {
		want.Files = files
		if got, err := engine.runtime(t, sandboxedBy(&fakeSandbox{name: "runsc", keeps: keeps})).Describe(t.Context()); got != want || err != nil {
			t.Errorf("sandboxed: got %+v, %v; want %+v", got, err, want)
		}
	}
	broken := &fakeSandbox{err: errors.New("Error response from daemon: strange")}
	if _, err := engine.runtime(t, sandboxedBy(broken)).Describe(t.Context()); !errors.As(err, new(*core.Error)) {
		t.Errorf("with a sandbox that is broken: %#v", err)
	}
}

// Podman's inspection fails while a container's process ends.
func TestInspectWhileTheProcessEnds(t *testing.T) {
	gone := failure(http.StatusInternalServerError, "read /proc/8572/cgroup: no such process")
	for _, test := range []struct {
		failures int
		state    string
	}{{inspectTries - 1, core.StateExited}, {inspectTries, ""}} {
		engine := startFake(t)
		engine.on("GET /containers/{id}/json", inOrder(append(slices.Repeat([]http.HandlerFunc{gone}, test.failures), inspected("exited"))...))
		state, err := engine.runtime(t).ContainerState(t.Context(), testID)
		if state != test.state || (err == nil) != (test.state != "") {
			t.Errorf("after %d failures: %q, %v", test.failures, state, err)
		}
	}
}
