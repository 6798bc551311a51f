package docker

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/moatproject/moat/core"
)

// tiny is a pool of two networks.
func tiny(o *Options) { o.SubnetPool = netip.MustParsePrefix("198.51.100.0/25") }

// recorded decodes each request's body, and answers.
func recorded[T any](bodies *[]T, handler http.HandlerFunc) http.HandlerFunc {
	var mu sync.Mutex
	return func(w http.ResponseWriter, r *http.Request) {
		var body T
		_ = json.NewDecoder(r.Body).Decode(&body)
		mu.Lock()
		*bodies = append(*bodies, body)
		mu.Unlock()
		handler(w, r)
	}
}

func TestCreateNetwork(t *testing.T) {
	overlap := failure(http.StatusForbidden, "Pool overlaps with other one on this address space")
	created := answer(http.StatusCreated, map[string]string{"Id": testID})
	withSubnet := func(subnet string) any {
		return []network.Summary{{IPAM: network.IPAM{Config: []network.IPAMConfig{{Subnet: subnet}}}}}
	}
	for name, test := range map[string]struct {
		taken   any // what the engine lists
		answers []http.HandlerFunc
		subnets int
		last    string
		class   error
	}{
		"one is taken":                  {withSubnet("198.51.100.0/26"), []http.HandlerFunc{created}, 1, "198.51.100.64/26", nil},
		"one is taken by a part":        {withSubnet("198.51.100.127/32"), []http.HandlerFunc{created}, 1, "198.51.100.0/26", nil},
		"somebody takes one meanwhile":  {[]any{}, []http.HandlerFunc{overlap, created}, 2, "", nil},
		"all are taken meanwhile":       {[]any{}, []http.HandlerFunc{overlap}, 2, "", core.ErrInUse},
		"all are taken":                 {withSubnet("198.51.0.0/16"), nil, 0, "", core.ErrInUse},
		"the name is taken":             {[]any{}, []http.HandlerFunc{failure(http.StatusConflict, "network with name x already exists")}, 1, "", core.ErrAlreadyExists},
		"the engine lists no networks":  {nil, nil, 0, "", core.ErrUnavailable},
		"the engine creates no network": {[]any{}, []http.HandlerFunc{die}, 1, "", core.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			engine := startFake(t)
			engine.on("GET /networks", answer(http.StatusOK, test.taken))
			if test.taken == nil {
				engine.on("GET /networks", die)
			}
			var bodies []network.CreateRequest
			if test.answers != nil {
				engine.on("POST /networks/create", recorded(&bodies, inOrder(test.answers...)))
			}
			id, err := engine.runtime(t, tiny).NetworkManager().CreateNetwork(t.Context(), "net")
			if !matches(err, test.class) || (err == nil) != (id == testID) {
				t.Fatalf("%q, %v", id, err)
			}
			if len(bodies) != test.subnets {
				t.Fatalf("it asked for %+v", bodies)
			}
			for _, body := range bodies {
				if *body.EnableIPv6 || body.Driver != "bridge" || body.Labels[core.LabelRole] != core.RoleNetwork {
					t.Errorf("it asked for %+v", body)
				}
			}
			if test.last != "" && bodies[len(bodies)-1].IPAM.Config[0].Subnet != test.last {
				t.Errorf("the subnet is %+v, want %s", bodies[len(bodies)-1].IPAM.Config, test.last)
			}
		})
	}
}

func TestCreateNetworkFrom(t *testing.T) {
	engine := startFake(t)
	var bodies []network.CreateRequest
	engine.on("POST /networks/create", recorded(&bodies, answer(http.StatusCreated, map[string]string{"Id": testID})))
	creator := engine.runtime(t).NetworkManager().(core.NetworkCreator)
	cfg := core.NetworkConfig{Name: "net", Subnet: "192.0.2.0/24", Internal: true, Isolated: true, RunID: "run", Labels: map[string]string{"team": "blue"}}
	if _, err := creator.CreateNetworkFrom(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	engine.wantRequests(t, "POST /networks/create")
	body := bodies[0]
	if body.Name != "net" || !body.Internal || body.Options["com.docker.network.bridge.enable_icc"] != "false" || body.IPAM.Config[0].Subnet != "192.0.2.0/24" ||
		body.Labels["team"] != "blue" || body.Labels[core.LabelRunID] != "run" || body.Labels[core.LabelManaged] != "true" {
		t.Errorf("it asked for %+v", body)
	}
	if len(cfg.Labels) != 1 {
		t.Error("the caller's labels were changed")
	}
}

func TestSubnetPool(t *testing.T) {
	for _, pool := range []string{"2001:db8::/64", "192.0.2.0/30"} {
		if _, err := New(Options{SubnetPool: netip.MustParsePrefix(pool)}); !errors.Is(err, core.ErrInvalidConfig) || core.FieldOf(err) != "SubnetPool" {
			t.Errorf("%s: %v", pool, err)
		}
	}
}

func TestRemoveNetworkInUse(t *testing.T) {
	inUse := failure(http.StatusForbidden, "error while removing network: network net has active endpoints")
	gone := status(http.StatusNoContent)
	const peer = "1111111111111111111111111111111111111111111111111111111111111111"
	for name, test := range map[string]struct {
		members  []string // names
		force    bool
		removals []http.HandlerFunc
		class    error
		requests []string
	}{
		"a peer":               {[]string{"peer"}, false, []http.HandlerFunc{inUse}, core.ErrInUse, []string{"DELETE net", "GET net"}},
		"the resolver alone":   {[]string{resolverName(testID)}, false, []http.HandlerFunc{inUse, gone}, nil, []string{"DELETE net", "GET net", "DELETE member", "DELETE net"}},
		"a peer, by force":     {[]string{"peer"}, true, []http.HandlerFunc{inUse, gone}, nil, []string{"DELETE net", "GET net", "POST disconnect", "DELETE net"}},
		"a peer that has left": {nil, false, []http.HandlerFunc{inUse, gone}, nil, []string{"DELETE net", "GET net", "DELETE net"}},
		"peers without end":    {[]string{"peer"}, true, []http.HandlerFunc{inUse}, core.ErrInUse, nil},
	} {
		t.Run(name, func(t *testing.T) {
			engine := startFake(t)
			engine.on("DELETE /networks/{id}", inOrder(test.removals...))
			members := map[string]network.EndpointResource{}
			for _, member := range test.members {
				members[peer] = network.EndpointResource{Name: member}
			}
			engine.on("GET /networks/{name}", answer(http.StatusOK, network.Inspect{ID: testID, Name: "net", Containers: members}))
			remove := engine.runtime(t).NetworkManager().RemoveNetwork
			if test.force {
				remove = engine.runtime(t).NetworkManager().ForceRemoveNetwork
			}
			if err := remove(t.Context(), testID); !matches(err, test.class) {
				t.Fatalf("got %v, want %v", err, test.class)
			}
			var asked []string
			for _, request := range engine.requests() {
				verb, path, _ := strings.Cut(request, " ")
				switch {
				case strings.Contains(path, "disconnect"):
					path = "disconnect"
				case strings.Contains(path, peer):
					path = "member"
				default:
					path = "net"
				}
				asked = append(asked, verb+" "+path)
			}
			if test.requests != nil && !slices.Equal(asked, test.requests) {
				t.Errorf("it asked for %q", asked)
			}
		})
	}
}

func TestNetworksStayNetworks(t *testing.T) {
	engine := startFake(t)
	manager := engine.runtime(t).NetworkManager()
	for _, id := range []string{"", ".", "../containers/" + testID} {
		if err := manager.RemoveNetwork(t.Context(), id); core.FieldOf(err) != "networkID" {
			t.Errorf("removing %q: %v", id, err)
		}
	}
	engine.wantRequests(t)
}

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
				resolver.Labels[core.LabelRole] != core.RoleHelper || resolver.Labels[core.LabelRunID] != "run" || resolver.HostConfig.NetworkMode != testID {
				t.Errorf("the resolver is %+v, %+v", resolver.Config, resolver.HostConfig)
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
			if workload.HostConfig.Runtime != "sandbox" {
				t.Errorf("the workload's OCI runtime is %q", workload.HostConfig.Runtime)
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
		"for a privileged sidecar": {&fakeSandbox{name: "sandbox"}, core.Config{NetworkMode: "net", Privileged: true, Role: core.RoleSidecar}},
	} {
		t.Run(name, func(t *testing.T) {
			engine, bodies := resolverEngine(t, true)
			test.cfg.Image = "image"
			if _, err := engine.runtime(t, sandboxedBy(test.sandbox)).CreateContainer(t.Context(), test.cfg); err != nil {
				t.Fatal(err)
			}
			if len(*bodies) != 1 || len((*bodies)[0].HostConfig.Mounts) != 0 {
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
	engine, _ := resolverEngine(t, true)
	_, err := engine.runtime(t, sandboxedBy(&fakeSandbox{name: "sandbox"})).CreateContainer(t.Context(), core.Config{
		Image: "image", NetworkMode: "net", DNS: []string{"192.0.2.53"},
	})
	if !errors.Is(err, core.ErrUnsupported) || core.FieldOf(err) != "DNS" {
		t.Errorf("a name server of its own: %v", err)
	}
}
