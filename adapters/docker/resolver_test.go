package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/moatproject/moat/adapters/docker/programs"
	"github.com/moatproject/moat/core"
)

// resolverEngine is a fake with a network, on which a resolver can be started.
func resolverEngine(t *testing.T, managed bool) (engine *fakeEngine, bodies *[]container.CreateRequest) {
	engine = startFake(t)
	found := network.Inspect{ID: testID, Name: "net", IPAM: network.IPAM{Config: []network.IPAMConfig{{Subnet: "198.51.100.0/26"}}}}
	if managed {
		found.Labels = core.ObjectLabels("run", core.RoleNetwork)
	}
	engine.on("GET /networks/{name}", answer(http.StatusOK, found))
	engine.on("GET /version", answer(http.StatusOK, map[string]string{"Version": "20.10.24", "Arch": "amd64"}))
	engine.on("GET /info", answer(http.StatusOK, map[string]string{"OSType": "linux", "DefaultRuntime": "sandbox"}))
	engine.on("GET /containers/{id}/json", inOrder(gone, answer(http.StatusOK, container.InspectResponse{
		ContainerJSONBase: &container.ContainerJSONBase{
			ID: "resolver", State: &container.State{Status: "running", Running: true}, ResolvConfPath: "/engine/resolv.conf",
		},
	})))
	engine.on("GET /containers/{id}/logs", logs(frame(streamStderr, "ready\n")))
	bodies = &[]container.CreateRequest{}
	engine.on("POST /containers/create", recorded(bodies, answer(http.StatusCreated, container.CreateResponse{ID: testID})))
	return engine, bodies
}

// TestInternalNames creates containers on networks from which no name leads out.
func TestInternalNames(t *testing.T) {
	for _, test := range []struct {
		name     string
		internal bool
		options  []func(*Options)
		dns      []string
		want     [][]string // of each container
	}{
		{"on a network", false, nil, nil, [][]string{nil}},
		{"on an internal one", true, nil, nil, [][]string{{"0.0.0.1"}}},
		{"with a name server", true, nil, []string{"192.0.2.53"}, [][]string{{"192.0.2.53"}}},
		{"in a sandbox", true, []func(*Options){sandboxedBy(&fakeSandbox{name: "sandbox"})}, nil, [][]string{{"0.0.0.1"}, {"0.0.0.1"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			engine, bodies := resolverEngine(t, true)
			engine.on("GET /networks/{name}", answer(http.StatusOK, network.Inspect{ID: testID, Name: "net", Internal: test.internal}))
			cfg := core.Config{Image: "image", NetworkMode: "net", DNS: test.dns}
			if _, err := engine.runtime(t, test.options...).CreateContainer(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
			var got [][]string
			for _, body := range *bodies {
				got = append(got, body.HostConfig.DNS)
			}
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("they ask %q, want %q", got, test.want)
			}
		})
	}
}

func TestResolver(t *testing.T) {
	for _, managed := range []bool{true, false} {
		t.Run(fmt.Sprintf("managed %t", managed), func(t *testing.T) {
			engine, bodies := resolverEngine(t, managed)
			r := engine.runtime(t, sandboxedBy(&fakeSandbox{name: "sandbox"}))
			cfg := core.Config{Image: "image", NetworkMode: "net", RunID: "run", Labels: map[string]string{"team": "blue"}}
			for range 2 {
				if _, err := r.CreateContainer(t.Context(), cfg); err != nil {
					t.Fatal(err)
				}
			}
			if len(*bodies) != 3 {
				t.Fatalf("it created %d containers", len(*bodies))
			}
			resolver, workload := (*bodies)[0], (*bodies)[1]
			if resolver.HostConfig.Runtime != "runc" || !slices.Equal(resolver.HostConfig.CapDrop, []string{"ALL"}) ||
				resolver.Labels[core.LabelRole] != core.RoleAdapter || resolver.Labels[core.LabelRunID] != "" || resolver.Labels[core.LabelServes] != testID || resolver.Labels[core.LabelExpires] == "" || resolver.HostConfig.NetworkMode != testID {
				t.Errorf("the resolver is %+v, %+v", resolver.Config, resolver.HostConfig)
			}
			if limit := resolver.HostConfig.PidsLimit; limit == nil || *limit != helperThreads {
				t.Errorf("its limit of threads is %v", limit)
			}
			if resolver.StopSignal != "SIGKILL" {
				t.Errorf("it is stopped with %q", resolver.StopSignal)
			}
			if policy := resolver.HostConfig.RestartPolicy; policy.Name != container.RestartPolicyOnFailure || policy.MaximumRetryCount != resolverRestarts {
				t.Errorf("it is started again as %+v", policy)
			}
			address := resolver.NetworkingConfig.EndpointsConfig[testID].IPAMConfig
			if managed && (address == nil || address.IPv4Address != "198.51.100.62") || !managed && address != nil {
				t.Errorf("its address is %+v", address)
			}
			for _, body := range (*bodies)[1:] {
				mounts := body.HostConfig.Mounts
				if len(mounts) != 1 || mounts[0].Source != "/engine/resolv.conf" || mounts[0].Target != resolvConf || !mounts[0].ReadOnly {
					t.Errorf("the workload's mounts are %+v", mounts)
				}
			}
			if workload.HostConfig.Runtime != "sandbox" || workload.Labels[core.LabelServes] != testID {
				t.Errorf("the workload's OCI runtime is %q, its labels are %q", workload.HostConfig.Runtime, workload.Labels)
			}
		})
	}
}

func TestResolverIsNotNeeded(t *testing.T) {
	for name, test := range map[string]struct {
		sandbox Sandbox
		cfg     core.Config
	}{
		"without a sandbox":        {nil, core.Config{NetworkMode: "net"}},
		"on the default network":   {&fakeSandbox{name: "sandbox"}, core.Config{}},
		"without a network":        {&fakeSandbox{name: "sandbox"}, core.Config{NetworkMode: "none"}},
		"with a file of its own":   {&fakeSandbox{name: "sandbox"}, core.Config{NetworkMode: "net", DNS: []string{"192.0.2.53"}, Mounts: []core.MountConfig{{Source: "/etc/hosts", Target: resolvConf}}}},
		"for a privileged sidecar": {&fakeSandbox{name: "sandbox"}, core.Config{NetworkMode: "net", Privileged: true, Role: core.RoleSidecar}},
	} {
		t.Run(name, func(t *testing.T) {
			engine, bodies := resolverEngine(t, true)
			test.cfg.Image = "image"
			if _, err := engine.runtime(t, sandboxedBy(test.sandbox)).CreateContainer(t.Context(), test.cfg); err != nil {
				t.Fatal(err)
			}
			if len(*bodies) != 1 || len((*bodies)[0].HostConfig.Mounts) != len(test.cfg.Mounts) || (*bodies)[0].Labels[core.LabelServes] != "" {
				t.Errorf("it created %+v", *bodies)
			}
		})
	}
}

func TestResolverFaults(t *testing.T) {
	for name, test := range map[string]struct {
		route   string
		handler http.HandlerFunc
		class   error
	}{
		"another processor":     {"GET /version", answer(http.StatusOK, map[string]string{"Arch": "riscv64"}), core.ErrUnsupported},
		"no answer":             {"GET /version", die, core.ErrUnavailable},
		"it does not start":     {"POST /containers/{id}/start", failure(http.StatusInternalServerError, "no"), errAny},
		"it ends at once":       {"GET /containers/{id}/logs", logs(frame(streamStderr, "port 53 cannot be listened on\n")), errAny},
		"nobody reads its logs": {"GET /containers/{id}/logs", die, core.ErrUnavailable},
		"it cannot be created":  {"POST /containers/create", die, core.ErrUnavailable},
		"its image is no image": {"POST /containers/create", failure(http.StatusNotFound, "No such image: moat-resolver"), errAny},
	} {
		t.Run(name, func(t *testing.T) {
			engine, _ := resolverEngine(t, true)
			engine.on(test.route, test.handler)
			r := engine.runtime(t, sandboxedBy(&fakeSandbox{name: "sandbox"}))
			_, err := r.CreateContainer(t.Context(), core.Config{Image: "image", NetworkMode: "net"})
			if !matches(err, test.class) || !strings.Contains(fmt.Sprint(err), "network net") {
				t.Errorf("got %v, want %v", err, test.class)
			}
		})
	}
}

func TestNamesRefused(t *testing.T) {
	engine, bodies := resolverEngine(t, true)
	r := engine.runtime(t, sandboxedBy(&fakeSandbox{name: "sandbox"}))
	_, err := r.CreateContainer(t.Context(), core.Config{Image: "image", NetworkMode: "net", DNS: []string{"192.0.2.53"}})
	if !errors.Is(err, core.ErrUnsupported) || core.FieldOf(err) != "DNS" {
		t.Errorf("a name server of its own: %v", err)
	}
	engine.on("GET /networks/{name}", answer(http.StatusOK, network.Inspect{ID: testID, Options: map[string]string{optionICC: "false"}}))
	_, err = r.CreateContainer(t.Context(), core.Config{Image: "image", NetworkMode: "net"})
	if !errors.Is(err, core.ErrUnsupported) || core.FieldOf(err) != "NetworkMode" {
		t.Errorf("on an isolated network: %v", err)
	}
	if len(*bodies) != 0 {
		t.Errorf("it created %+v", *bodies)
	}
}

// tied are containers as the engine lists them, by their roles.
func tied(roles ...string) http.HandlerFunc {
	list := []container.Summary{}
	for i, role := range roles {
		list = append(list, container.Summary{ID: fmt.Sprintf("%s-%d", role, i), Labels: map[string]string{core.LabelRole: role, core.LabelServes: testID}})
	}
	return answer(http.StatusOK, list)
}

// helperRemoved tells whether the helper that tied lists first was removed.
func helperRemoved(engine *fakeEngine) bool {
	return slices.Contains(engine.requests(), "DELETE /containers/adapter-0?force=1&v=1")
}

func TestTheLastRemovesTheResolver(t *testing.T) {
	for name, test := range map[string]struct {
		managed bool
		tied    http.HandlerFunc
		removed bool
	}{
		"no container needs it":           {false, tied(core.RoleAdapter), true},
		"another container is there":      {false, tied(core.RoleAdapter, core.RoleMain), false},
		"it is gone":                      {false, tied(), false},
		"nobody tells":                    {false, die, false},
		"the same on a network of Moat's": {true, tied(core.RoleAdapter), false},
	} {
		for _, known := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, known %t", name, known), func(t *testing.T) {
				engine, _ := resolverEngine(t, test.managed)
				engine.on("GET /containers/json", test.tied)
				r := engine.runtime(t, sandboxedBy(&fakeSandbox{name: "sandbox"}))
				if _, err := r.CreateContainer(t.Context(), core.Config{Image: "image", Name: "named", NetworkMode: "net"}); err != nil {
					t.Fatal(err)
				}
				if !known { // another process's
					r = engine.runtime(t, sandboxedBy(&fakeSandbox{name: "sandbox"}))
					engine.on("GET /containers/{id}/json", answer(http.StatusOK, container.InspectResponse{
						Config: &container.Config{Labels: map[string]string{core.LabelServes: testID}},
					}))
				}
				if err := r.RemoveContainer(t.Context(), "named"); err != nil {
					t.Fatal(err)
				}
				if helperRemoved(engine) != test.removed {
					t.Errorf("it asked for %q", engine.requests())
				}
				lists := "GET /containers/json?all=1&filters=%7B%22label%22%3A%7B%22moat.serves%3D" + testID + "%22%3Atrue%7D%7D"
				if !test.managed && !slices.Contains(engine.requests(), lists) {
					t.Errorf("it asked for %q", engine.requests())
				}
			})
		}
	}
}

// TestTheNextKeepsTheResolver removes the last container while another is created.
func TestTheNextKeepsTheResolver(t *testing.T) {
	engine, _ := resolverEngine(t, false)
	engine.on("GET /containers/json", tied(core.RoleAdapter))
	r := engine.runtime(t, sandboxedBy(&fakeSandbox{name: "sandbox"}))
	cfg := core.Config{Image: "image", NetworkMode: "net"}
	first, err := r.CreateContainer(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	gate := newGate()
	engine.on("POST /containers/create", gate.then(failure(http.StatusInternalServerError, "no")))
	second := begin(func() (string, error) { return r.CreateContainer(t.Context(), cfg) })
	await(t, gate.arrived, "the second creation")
	if err := r.RemoveContainer(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if helperRemoved(engine) {
		t.Error("it was removed although it is needed")
	}
	close(gate.open)
	if _, err := second.result(t); err == nil {
		t.Fatal("the second was created")
	}
	if !helperRemoved(engine) {
		t.Error("it stays although the second was not created")
	}
}

func TestAFailureRemovesTheResolver(t *testing.T) {
	broken := failure(http.StatusInternalServerError, "no")
	noImage := failure(http.StatusNotFound, "No such image: image")
	created := answer(http.StatusCreated, container.CreateResponse{ID: testID})
	limited := answer(http.StatusCreated, container.CreateResponse{ID: testID, Warnings: []string{"Your kernel does not support memory limit capabilities. Limitation discarded."}})
	for name, test := range map[string]struct {
		route   string
		handler http.HandlerFunc
		managed bool
		removed bool
	}{
		"it does not start":                   {"POST /containers/{id}/start", broken, false, true},
		"it does not start on one of ours":    {"POST /containers/{id}/start", broken, true, true},
		"it ends at once":                     {"GET /containers/{id}/logs", logs(frame(streamStderr, "port 53 cannot be listened on\n")), true, true},
		"its user is not created":             {"POST /containers/create", inOrder(created, broken), false, true},
		"its user is not created on our own":  {"POST /containers/create", inOrder(created, broken), true, false},
		"its user's image is missing":         {"POST /containers/create", inOrder(created, noImage), false, true},
		"its user's limit cannot be honoured": {"POST /containers/create", inOrder(created, limited), false, true},
	} {
		t.Run(name, func(t *testing.T) {
			engine, _ := resolverEngine(t, test.managed)
			engine.on("GET /containers/json", tied(core.RoleAdapter))
			engine.on("POST /images/create", failure(http.StatusNotFound, "manifest unknown"))
			engine.on(test.route, test.handler)
			r := engine.runtime(t, sandboxedBy(&fakeSandbox{name: "sandbox"}))
			if _, err := r.CreateContainer(t.Context(), core.Config{Image: "image", NetworkMode: "net", MemoryMB: 64}); err == nil {
				t.Fatal("it was created")
			}
			if helperRemoved(engine) != test.removed {
				t.Errorf("it asked for %q", engine.requests())
			}
		})
	}
}

// TestResolverOfNobody has the caller give up while the resolver is created.
func TestResolverOfNobody(t *testing.T) {
	engine, _ := resolverEngine(t, true)
	engine.on("GET /containers/json", tied(core.RoleAdapter))
	ctx, cancel := context.WithCancel(t.Context())
	engine.on("POST /containers/create", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // or the server does not notice that the caller leaves
		cancel()                           // the engine goes on
		select {
		case <-time.After(20 * time.Millisecond):
		case <-r.Context().Done():
			t.Error("nobody waits for what comes of it")
		}
		answer(http.StatusCreated, container.CreateResponse{ID: testID})(w, r)
	})
	r := engine.runtime(t, sandboxedBy(&fakeSandbox{name: "sandbox"}))
	if _, err := r.CreateContainer(ctx, core.Config{Image: "image", NetworkMode: "net"}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	asked := engine.requests()
	if created := slices.IndexFunc(asked, func(request string) bool { return strings.HasPrefix(request, "POST /containers/create") }); !helperRemoved(engine) || created < 0 ||
		strings.HasSuffix(asked[created+1], "/start") {
		t.Errorf("it asked for %q", asked)
	}
}

func TestResolverHasADeadline(t *testing.T) {
	engine, _ := resolverEngine(t, true)
	engine.on("GET /containers/{id}/logs", hang)
	r := engine.runtime(t, sandboxedBy(&fakeSandbox{name: "sandbox"}))
	r.timeout = 100 * time.Millisecond
	create := begin(func() (string, error) {
		return r.CreateContainer(t.Context(), core.Config{Image: "image", NetworkMode: "net"})
	})
	if _, err := create.result(t); !errors.Is(err, core.ErrTimeout) {
		t.Errorf("got %v, want %v", err, core.ErrTimeout)
	}
}

// TestResolversDoNotWait has one network's resolver not start.
func TestResolversDoNotWait(t *testing.T) {
	engine, _ := resolverEngine(t, true)
	engine.on("GET /networks/{name}", func(w http.ResponseWriter, r *http.Request) {
		answer(http.StatusOK, network.Inspect{ID: strings.Repeat(r.PathValue("name"), 64), Labels: core.ObjectLabels("", core.RoleNetwork)})(w, r)
	})
	gate := newGate()
	engine.on("POST /containers/{id}/start", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("id") == "moat-resolver-aaaaaaaaaaaa" {
			gate.then(status(http.StatusNoContent))(w, r)
		}
	})
	r := engine.runtime(t, sandboxedBy(&fakeSandbox{name: "sandbox"}))
	slow := begin(func() (string, error) {
		return r.CreateContainer(t.Context(), core.Config{Image: "image", NetworkMode: "a"})
	})
	await(t, gate.arrived, "the start of the first")
	other := begin(func() (string, error) {
		return r.CreateContainer(t.Context(), core.Config{Image: "image", NetworkMode: "b"})
	})
	if _, err := other.result(t); err != nil {
		t.Error(err)
	}
	close(gate.open)
	if _, err := slow.result(t); err != nil {
		t.Error(err)
	}
}

// TestResolverLives has the resolver end and start again between two creations.
func TestResolverLives(t *testing.T) {
	engine, _ := resolverEngine(t, true)
	life := func(started, finished string) http.HandlerFunc {
		return answer(http.StatusOK, container.InspectResponse{ContainerJSONBase: &container.ContainerJSONBase{
			ID: "resolver", ResolvConfPath: "/engine/resolv.conf",
			State: &container.State{Running: true, StartedAt: started, FinishedAt: finished},
		}})
	}
	first, second := life("2026-01-02T03:04:05.1Z", "0001-01-01T00:00:00Z"), life("2026-01-02T03:05:00Z", "2026-01-02T03:04:59.5Z")
	engine.on("GET /containers/{id}/json", inOrder(gone, first, first, second))
	r := engine.runtime(t, sandboxedBy(&fakeSandbox{name: "sandbox"}))
	for range 4 {
		if _, err := r.CreateContainer(t.Context(), core.Config{Image: "image", NetworkMode: "net"}); err != nil {
			t.Fatal(err)
		}
	}
	var read []string
	for _, request := range engine.requests() {
		if strings.Contains(request, "/logs") {
			read = append(read, request)
		}
	}
	const all = "GET /containers/resolver/logs?follow=1&"
	if len(read) != 2 || strings.Contains(read[0], "since") || !strings.HasPrefix(read[1], all+"since=1767323099.500000000&") {
		t.Errorf("its logs were read by %q", read)
	}
}

func TestResolverIsBroughtBack(t *testing.T) {
	ok := status(http.StatusNoContent)
	const name = "moat-resolver-4f2d1e0c9b8a"
	program, _ := programs.Read("resolver", "amd64")
	image := "GET /images/" + programImage("resolver", program) + "/json"
	for about, test := range map[string]struct {
		start    http.HandlerFunc // its first
		requests []string         // after that, up to the next start
	}{
		"its address is taken": {
			failure(http.StatusForbidden, "failed to set up container networking: Address already in use"),
			[]string{"POST /networks/" + testID + "/disconnect", "POST /networks/" + testID + "/connect"},
		},
		"its process ended before it became the program": {
			failure(http.StatusInternalServerError, "cannot start a stopped process: unknown"), nil,
		},
		"it has been removed": {
			failure(http.StatusNotFound, "No such container: "+name),
			[]string{"POST /containers/" + name + "/wait?condition=removed", "GET /version", "GET /info", "GET /networks/bridge", image, "POST /containers/create?name=" + name},
		},
		"it is being removed": {
			failure(http.StatusConflict, "container is marked for removal and cannot be started"),
			[]string{"POST /containers/" + name + "/wait?condition=removed", "GET /version", "GET /info", "GET /networks/bridge", image, "POST /containers/create?name=" + name},
		},
	} {
		t.Run(about, func(t *testing.T) {
			engine, _ := resolverEngine(t, true)
			stands := answer(http.StatusOK, container.InspectResponse{ContainerJSONBase: &container.ContainerJSONBase{
				ID: "resolver", ResolvConfPath: "/engine/resolv.conf", State: &container.State{},
			}})
			engine.on("GET /containers/{id}/json", stands)
			engine.on("POST /containers/{id}/start", inOrder(test.start, ok))
			r := engine.runtime(t, sandboxedBy(&fakeSandbox{name: "sandbox"}))
			if _, err := r.CreateContainer(t.Context(), core.Config{Image: "image", NetworkMode: "net"}); err != nil {
				t.Fatal(err)
			}
			start := "POST /containers/" + name + "/start"
			asked := engine.requests()
			asked = asked[slices.Index(asked, start)+1:]
			if !slices.Equal(asked[:len(test.requests)], test.requests) || asked[len(test.requests)] != start {
				t.Errorf("it asked for %q", asked)
			}
		})
	}
}

// TestResolverLeavesMeanwhile has another process remove the resolver with its last
// container on the network, just before the creation of the next.
func TestResolverLeavesMeanwhile(t *testing.T) {
	engine, bodies := resolverEngine(t, false)
	missing := failure(http.StatusBadRequest, `invalid mount config for type "bind": bind source path does not exist: /engine/resolv.conf`)
	created := answer(http.StatusCreated, container.CreateResponse{ID: testID})
	engine.on("POST /containers/create", recorded(bodies, inOrder(created, missing, created)))
	r := engine.runtime(t, sandboxedBy(&fakeSandbox{name: "sandbox"}))
	if _, err := r.CreateContainer(t.Context(), core.Config{Image: "image", NetworkMode: "net"}); err != nil {
		t.Fatal(err)
	}
	if last := (*bodies)[len(*bodies)-1].HostConfig; len(*bodies) != 3 || len(last.Mounts) != 1 {
		t.Errorf("it created %d, the last with %+v", len(*bodies), last.Mounts)
	}
	engine.on("POST /containers/create", recorded(bodies, missing))
	if _, err := r.CreateContainer(t.Context(), core.Config{Image: "image", NetworkMode: "net"}); core.FieldOf(err) != "Mounts" {
		t.Errorf("where it always leaves: %v", err)
	}
	if len(*bodies) != 5 {
		t.Errorf("it tried %d times", len(*bodies)-3)
	}
}
