package docker

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/docker/docker/api/types/network"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
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

// TestTwoHundredNetworks keeps them all, on an engine that refuses what overlaps.
func TestTwoHundredNetworks(t *testing.T) {
	engine := startFake(t)
	networks := []network.Summary{{IPAM: network.IPAM{Config: []network.IPAMConfig{{Subnet: "10.210.0.0/20"}}}}}
	engine.on("GET /networks", func(w http.ResponseWriter, r *http.Request) { answer(http.StatusOK, networks)(w, r) })
	engine.on("POST /networks/create", func(w http.ResponseWriter, r *http.Request) {
		var asked network.CreateRequest
		_ = json.NewDecoder(r.Body).Decode(&asked)
		wanted := netip.MustParsePrefix(asked.IPAM.Config[0].Subnet)
		for _, other := range networks {
			if wanted.Overlaps(netip.MustParsePrefix(other.IPAM.Config[0].Subnet)) {
				failure(http.StatusForbidden, "Pool overlaps with other one on this address space")(w, r)
				return
			}
		}
		networks = append(networks, network.Summary{Name: asked.Name, IPAM: *asked.IPAM})
		answer(http.StatusCreated, map[string]string{"Id": testID})(w, r)
	})
	manager := engine.runtime(t).NetworkManager()
	for i := range 200 {
		if _, err := manager.CreateNetwork(t.Context(), fmt.Sprintf("net-%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if len(networks) != 201 || len(engine.requests()) != 400 {
		t.Errorf("there are %d networks, after %d requests", len(networks), len(engine.requests()))
	}
}

// TestRoutes has this machine reach a part of the pool, and then all of it, through a
// gateway: what is left of it comes first.
func TestRoutes(t *testing.T) {
	const header = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
	route := func(subnet string) string {
		prefix := netip.MustParsePrefix(subnet)
		mask := net.CIDRMask(prefix.Bits(), 32)
		return fmt.Sprintf("tun0\t%08X\t0100000A\t0003\t0\t0\t0\t%08X\t0\t0\t0\n",
			binary.NativeEndian.Uint32(prefix.Addr().AsSlice()), binary.NativeEndian.Uint32(mask))
	}
	for name, test := range map[string]struct {
		table, last string
	}{
		"to a part":   {header + route("0.0.0.0/0") + route("198.51.100.64/27"), "198.51.100.64/26"},
		"to the rest": {header + route("198.51.100.0/32") + route("203.0.113.0/24"), "198.51.100.0/26"},
		"to all":      {header + route("198.0.0.0/8"), ""},
		"to nothing":  {header + "tun0\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			engine := startFake(t)
			r := engine.runtime(t, tiny)
			r.routes = filepath.Join(t.TempDir(), "route")
			if err := os.WriteFile(r.routes, []byte(test.table), 0o600); err != nil {
				t.Fatal(err)
			}
			c, err := r.call(t.Context(), "create network", "net")
			if err != nil {
				t.Fatal(err)
			}
			defer c.end()
			for range 8 { // their order is one of chance
				free, err := r.freeSubnets(c)
				if err != nil || len(free) != 2 || (test.last != "" && free[1].String() != test.last) {
					t.Fatalf("%v, %v", free, err)
				}
			}
		})
	}
}

func TestCreateNetworkFrom(t *testing.T) {
	engine, _ := guardEngine(t)
	var bodies []network.CreateRequest
	engine.on("POST /networks/create", recorded(&bodies, answer(http.StatusCreated, map[string]string{"Id": testID})))
	creator := engine.runtime(t).NetworkManager().(optional.NetworkCreator)
	cfg := optional.NetworkConfig{Name: "net", Subnet: "192.0.2.0/24", Internal: true, Isolated: true, RunID: "run", Labels: map[string]string{"team": "blue"}}
	if _, err := creator.CreateNetworkFrom(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	body := bodies[0]
	if body.Name != "net" || !body.Internal || body.Options["com.docker.network.bridge.enable_icc"] != "false" ||
		body.Options["com.docker.network.bridge.inhibit_ipv4"] != "true" || body.IPAM.Config[0].Subnet != "192.0.2.0/24" ||
		body.Labels["team"] != "blue" || body.Labels[core.LabelRunID] != "run" || body.Labels[core.LabelManaged] != "true" {
		t.Errorf("it asked for %+v", body)
	}
	if len(cfg.Labels) != 1 {
		t.Error("the caller's labels were changed")
	}
}

// TestLateNetwork has an engine create a network only after its creator has given up.
func TestLateNetwork(t *testing.T) {
	engine := startFake(t)
	ctx, cancel := context.WithCancel(t.Context())
	returned, removed := make(chan struct{}), make(chan string, 1)
	engine.on("POST /networks/create", func(w http.ResponseWriter, r *http.Request) {
		cancel()
		<-returned
		answer(http.StatusCreated, map[string]string{"Id": testID})(w, r)
	})
	engine.on("DELETE /networks/{id}", func(w http.ResponseWriter, r *http.Request) {
		removed <- r.PathValue("id")
		status(http.StatusNoContent)(w, r)
	})
	_, err := engine.runtime(t).NetworkManager().CreateNetwork(ctx, "net")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want %v", err, context.Canceled)
	}
	close(returned)
	if id := await(t, removed, "the removal"); id != testID {
		t.Errorf("it removed %s", id)
	}
}

func TestSubnetPool(t *testing.T) {
	for _, pool := range []string{"2001:db8::/64", "192.0.2.0/30", "192.0.2.1/24", "0.0.0.0/7"} {
		if _, err := New(Options{SubnetPool: netip.MustParsePrefix(pool)}); !errors.Is(err, core.ErrInvalidConfig) || core.FieldOf(err) != "SubnetPool" {
			t.Errorf("%s: %v", pool, err)
		}
	}
}

func TestRemoveNetworkInUse(t *testing.T) {
	inUse := failure(http.StatusForbidden, "error while removing network: network net has active endpoints")
	ok := status(http.StatusNoContent)
	const peer, helper = "1111111111111111111111111111111111111111111111111111111111111111", "2222222222222222222222222222222222222222222222222222222222222222"
	nobody, aPeer := map[string]string{}, map[string]string{peer: "peer"}
	aHelper := map[string]string{helper: resolverName(testID)}
	both := map[string]string{helper: resolverName(testID), peer: "peer"}
	for name, test := range map[string]struct {
		members  []map[string]string // their names, each time that somebody looks
		force    bool
		removals []http.HandlerFunc
		class    error
		requests []string
	}{
		"a peer":             {[]map[string]string{aPeer}, false, []http.HandlerFunc{inUse}, core.ErrInUse, []string{"DELETE net", "GET net"}},
		"a peer beside it":   {[]map[string]string{both}, false, []http.HandlerFunc{inUse}, core.ErrInUse, []string{"DELETE net", "GET net"}},
		"the resolver alone": {[]map[string]string{aHelper}, false, []http.HandlerFunc{inUse, ok}, nil, []string{"DELETE net", "GET net", "KILL helper", "DELETE net", "DELETE helper"}},
		"a peer that joins": {
			[]map[string]string{aHelper, aPeer}, false, []http.HandlerFunc{inUse}, core.ErrInUse,
			[]string{"DELETE net", "GET net", "KILL helper", "DELETE net", "GET net", "START helper"},
		},
		"an engine that fails": {
			[]map[string]string{aHelper}, false, []http.HandlerFunc{inUse, die}, core.ErrUnavailable,
			[]string{"DELETE net", "GET net", "KILL helper", "DELETE net", "START helper"},
		},
		"a peer, by force":     {[]map[string]string{aPeer}, true, []http.HandlerFunc{inUse, ok}, nil, []string{"DELETE net", "GET net", "DISCONNECT net", "DELETE net", "DELETE helper"}},
		"a peer that has left": {[]map[string]string{nobody}, false, []http.HandlerFunc{inUse, ok}, nil, []string{"DELETE net", "GET net", "DELETE net", "DELETE helper"}},
		"peers without end":    {[]map[string]string{aPeer}, true, []http.HandlerFunc{inUse}, core.ErrInUse, nil},
	} {
		t.Run(name, func(t *testing.T) {
			engine := startFake(t)
			engine.on("DELETE /networks/{id}", inOrder(test.removals...))
			var looks []http.HandlerFunc
			for _, names := range test.members {
				members := map[string]network.EndpointResource{}
				for id, name := range names {
					members[id] = network.EndpointResource{Name: name}
				}
				looks = append(looks, answer(http.StatusOK, network.Inspect{ID: testID, Name: "net", Containers: members}))
			}
			engine.on("GET /networks/{name}", inOrder(looks...))
			remove := engine.runtime(t).NetworkManager().RemoveNetwork
			if test.force {
				remove = engine.runtime(t).NetworkManager().ForceRemoveNetwork
			}
			if err := remove(t.Context(), testID); !matches(err, test.class) {
				t.Fatalf("got %v, want %v", err, test.class)
			}
			if asked := networkRequests(engine); test.requests != nil && !slices.Equal(asked, test.requests) {
				t.Errorf("it asked for %q", asked)
			}
		})
	}
}

// TestRemoveNetworkWhileContainersStart has endpoints that no container has joined yet.
func TestRemoveNetworkWhileContainersStart(t *testing.T) {
	engine := startFake(t)
	engine.on("DELETE /networks/{id}", inOrder(
		failure(http.StatusForbidden, "error while removing network: network net has active endpoints"), status(http.StatusNoContent)))
	engine.on("GET /networks/{name}", answer(http.StatusOK, network.Inspect{ID: testID, Name: "net", Containers: map[string]network.EndpointResource{
		"ep-1": {Name: "peer"}, "ep-2": {Name: resolverName(testID)},
	}}))
	var left network.DisconnectOptions
	engine.on("POST /networks/{id}/{verb}", func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewDecoder(r.Body).Decode(&left)
		w.WriteHeader(http.StatusNoContent)
	})
	if err := engine.runtime(t).NetworkManager().ForceRemoveNetwork(t.Context(), testID); err != nil {
		t.Fatal(err)
	}
	kill := "POST /containers/" + resolverName(testID) + "/kill?signal=KILL"
	if asked := engine.requests(); left.Container != "peer" || !slices.Contains(asked, kill) {
		t.Errorf("%q was disconnected, and it asked for %q", left.Container, asked)
	}
}

// networkRequests tells in short what was asked for about networks and containers.
func networkRequests(engine *fakeEngine) (asked []string) {
	for _, request := range engine.requests() {
		verb, path, _ := strings.Cut(request, " ")
		object := "helper"
		if strings.HasPrefix(path, "/containers/"+guardName(testID)) {
			continue // there is none
		}
		if strings.HasPrefix(path, "/networks") {
			object = "net"
		}
		path, _, _ = strings.Cut(path, "?")
		if verb == "POST" {
			verb = strings.ToUpper(path[strings.LastIndex(path, "/")+1:])
		}
		asked = append(asked, verb+" "+object)
	}
	return asked
}

// TestRemoveNetworkWithAResolver has one that has ended: it holds no network.
func TestRemoveNetworkWithAResolver(t *testing.T) {
	for id, want := range map[string][]string{
		testID: {"DELETE /networks/" + testID, "DELETE /containers/" + resolverName(testID) + "?force=1&v=1", lookForGuard},
		"net":  {"GET /networks/net", "DELETE /networks/" + testID, "DELETE /containers/" + resolverName(testID) + "?force=1&v=1", lookForGuard},
	} {
		engine := startFake(t)
		engine.on("GET /networks/{name}", answer(http.StatusOK, network.Inspect{ID: testID, Name: "net"}))
		if err := engine.runtime(t, sandboxedBy(&fakeSandbox{})).NetworkManager().RemoveNetwork(t.Context(), id); err != nil {
			t.Error(err)
		}
		engine.wantRequests(t, want...)
	}
	engine := startFake(t)
	engine.on("DELETE /containers/{id}", failure(http.StatusInternalServerError, "no"))
	if err := engine.runtime(t, sandboxedBy(&fakeSandbox{})).NetworkManager().RemoveNetwork(t.Context(), testID); err == nil {
		t.Error("a resolver that stays is no error")
	}
	engine.on("GET /networks/{name}", gone)
	if err := engine.runtime(t, sandboxedBy(&fakeSandbox{})).NetworkManager().RemoveNetwork(t.Context(), "missing"); err != nil {
		t.Errorf("a network that is missing: %v", err)
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
