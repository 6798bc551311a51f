package docker

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/go-connections/nat"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/egress"
	"github.com/moatproject/moat/core/optional"
)

// restrictedEngine is a fake on which a network can be restricted. Its guard and its proxy
// say what these texts have at the time.
func restrictedEngine(t *testing.T, guard *string, proxy string) (engine *fakeEngine, bodies *[]container.CreateRequest) {
	t.Helper()
	engine, bodies = guardEngine(t)
	engine.on("GET /networks/{name}", answer(http.StatusOK, network.Inspect{
		ID: testID, Name: "net", Internal: true, Labels: core.ObjectLabels("run", core.RoleNetwork),
		IPAM: network.IPAM{Config: []network.IPAMConfig{{Subnet: "192.0.2.0/26"}}},
	}))
	running := func(w http.ResponseWriter, r *http.Request) {
		state := &container.State{Status: "running", Running: true}
		answer(http.StatusOK, container.InspectResponse{
			ContainerJSONBase: &container.ContainerJSONBase{ID: r.PathValue("id"), State: state},
			NetworkSettings:   &container.NetworkSettings{},
		})(w, r)
	}
	engine.on("GET /containers/{id}/json", running)
	engine.on("GET /containers/{id}/logs", func(w http.ResponseWriter, r *http.Request) {
		text := *guard
		if r.PathValue("id") == proxyName(testID) {
			text = proxy
		}
		logs(frame(streamStderr, text))(w, r)
	})
	return engine, bodies
}

func restrict(ctx context.Context, r *Runtime) (optional.RestrictedNetwork, error) {
	return r.NetworkManager().(optional.EgressRestricter).CreateRestrictedNetwork(ctx, optional.RestrictedNetworkConfig{
		NetworkConfig: optional.NetworkConfig{Name: "net", Subnet: "192.0.2.0/26", RunID: "run"},
		Program:       func(string) ([]byte, error) { return []byte(aProxy), nil },
		Proxy:         egress.ProxyConfig{Run: "run", Token: "secret", Rules: []string{"example.com"}},
		Hosts:         []string{"example.com:198.51.100.7"},
		Ports:         []core.PortMapping{{ContainerPort: 3128, HostPort: 8080}, {ContainerPort: 80}, {ContainerPort: 80, HostPort: 8081}},
		PortsTo:       "workload",
	})
}

func TestRestrictedNetwork(t *testing.T) {
	guard := "ready\n"
	engine, bodies := restrictedEngine(t, &guard, "ready\n")
	r := engine.runtime(t)
	made, err := restrict(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.restrictions.of(testID).await(t.Context()); err != nil {
		t.Fatal(err)
	}
	if made.ID != testID || made.Proxy != netip.MustParseAddrPort("192.0.2.61:3129") || made.Container != proxyName(testID) {
		t.Errorf("it is %+v", made)
	}
	if len(*bodies) != 2 {
		t.Fatalf("it has created %d containers", len(*bodies))
	}
	for _, made := range *bodies {
		labels := made.Labels
		if labels[core.LabelRunID] != "run" || labels[core.LabelRole] != core.RoleAdapter || labels[core.LabelServes] != testID {
			t.Errorf("its labels are %v", labels)
		}
	}
	proxy := (*bodies)[1] // after the guard
	host := proxy.HostConfig
	if !slices.Equal(host.CapDrop, []string{"ALL"}) || len(host.CapAdd) > 0 || !host.ReadonlyRootfs || host.Sysctls["net.ipv4.ip_forward"] != "0" ||
		host.Memory != proxyMemory || host.MemorySwap != proxyMemory || *host.PidsLimit != proxyThreads || !slices.Contains(host.SecurityOpt, "no-new-privileges") ||
		!slices.Equal(host.ExtraHosts, []string{"example.com:198.51.100.7"}) || host.RestartPolicy.Name != "" || proxy.User != "65534:65534" {
		t.Errorf("the proxy is %+v, of the user %q", host, proxy.User)
	}
	var config egress.ProxyConfig
	text, _ := strings.CutPrefix(proxy.Env[0], egress.ProxyVariable+"=")
	if err := json.Unmarshal([]byte(text), &config); err != nil || config.Listen != "192.0.2.61:3129" || config.Sources[0].String() != "192.0.2.0/26" ||
		config.Run != "run" || config.Token != "secret" || !slices.Equal(config.Rules, []string{"example.com"}) {
		t.Errorf("it is configured with %s, %v", text, err)
	}
	if want := []egress.Relay{{Listen: ":3128", To: "workload:3128"}, {Listen: ":80", To: "workload:80"}}; !slices.Equal(config.Relays, want) {
		t.Errorf("it relays %v", config.Relays)
	}
	published := host.PortBindings
	if len(published) != 2 || !slices.Equal(published["80/tcp"], []nat.PortBinding{{HostIP: "127.0.0.1"}, {HostIP: "127.0.0.1", HostPort: "8081"}}) ||
		host.Sysctls["net.ipv4.ip_unprivileged_port_start"] != "0" {
		t.Errorf("it publishes %v with %v", published, host.Sysctls)
	}
	const id = "1111111111111111111111111111111111111111111111111111111111111111"
	engine.on("POST /containers/create", recorded(bodies, answer(http.StatusCreated, container.CreateResponse{ID: id})))
	for _, name := range []string{"workload", "other"} {
		if _, err := r.CreateContainer(t.Context(), core.Config{Image: "image", Name: name, NetworkMode: testID}); err != nil {
			t.Fatal(err)
		}
		publisher := (*bodies)[len(*bodies)-1].Labels[labelPublisher]
		if (publisher == proxyName(testID)) != (name == "workload") {
			t.Errorf("the ports of %s are published by %q", name, publisher)
		}
	}
	asked := engine.requests()
	connected := slices.Index(asked, "POST /networks/"+testID+"/connect")
	if begun := slices.Index(asked, "POST /containers/"+proxyName(testID)+"/start"); connected < 0 || begun < connected {
		t.Errorf("it is on no network when it starts: %q", asked)
	}
}

// TestNoRestrictedNetwork has networks on which no container starts, and of which nothing
// stays.
func TestNoRestrictedNetwork(t *testing.T) {
	for name, test := range map[string]struct {
		guard, proxy, want string
		class              error
	}{
		"the proxy fails":   {"ready\n", "moat-proxy: rules: no\n", "moat-proxy: rules: no", nil},
		"the guard fails":   {"the chain cannot be made: error 095\n", "ready\n", "error 095", core.ErrPolicyNotEnforced},
		"they both fail":    {"the chain cannot be made: error 095\n", "no\n", "error 095", core.ErrPolicyNotEnforced},
		"the bridge is not": {"gone\n", "ready\n", "gone", core.ErrPolicyNotEnforced},
	} {
		t.Run(name, func(t *testing.T) {
			guard := test.guard
			engine, _ := restrictedEngine(t, &guard, test.proxy)
			r := engine.runtime(t)
			if _, err := restrict(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			const id = "1111111111111111111111111111111111111111111111111111111111111111"
			r.known.add(id, core.Config{Name: "service"}, request{config: &container.Config{}, restricted: r.restrictions.of(testID)})
			err := r.StartContainer(t.Context(), "service")
			if err == nil || !strings.Contains(err.Error(), test.want) || test.class != nil && !errors.Is(err, test.class) {
				t.Errorf("got %v", err)
			}
			guard = "gone\n"
			if err := r.NetworkManager().ForceRemoveNetwork(t.Context(), testID); err != nil {
				t.Error(err)
			}
			asked := engine.requests()
			if slices.Contains(asked, "POST /containers/service/start") {
				t.Error("the service has started")
			}
			for _, removal := range []string{"/networks/" + testID, "/containers/" + proxyName(testID) + "?force=1&v=1", "/containers/" + guardName(testID) + "?force=1&v=1"} {
				if !slices.Contains(asked, "DELETE "+removal) {
					t.Errorf("%s stays: %q", removal, asked)
				}
			}
		})
	}
}

// TestRestrictedNetworkRemovedEarly has one that is removed while its proxy starts.
func TestRestrictedNetworkRemovedEarly(t *testing.T) {
	guard := "ready\ngone\n"
	engine, _ := restrictedEngine(t, &guard, "ready\n")
	starting := make(chan struct{})
	engine.on("POST /containers/{id}/start", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("id") == proxyName(testID) {
			close(starting)
			<-r.Context().Done()
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	r := engine.runtime(t)
	if _, err := restrict(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	<-starting
	if err := r.NetworkManager().ForceRemoveNetwork(t.Context(), testID); err != nil {
		t.Error(err)
	}
	if asked := engine.requests(); !slices.Contains(asked, "DELETE /containers/"+proxyName(testID)+"?force=1&v=1") {
		t.Errorf("the proxy stays: %q", asked)
	}
}

// TestReleaseWithoutConfirmation has a program that never begins.
func TestReleaseWithoutConfirmation(t *testing.T) {
	guard := "ready\n"
	engine, _ := restrictedEngine(t, &guard, "ready\n")
	r := engine.runtime(t)
	if _, err := restrict(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	of := r.restrictions.of(testID)
	if err := of.await(t.Context()); err != nil {
		t.Fatal(err)
	}
	const id = "1111111111111111111111111111111111111111111111111111111111111111"
	r.known.add(id, core.Config{Name: "workload"}, request{config: &container.Config{}, restricted: of})
	c := &call{object: "workload"}
	if err := r.vetRelease(c, id, gateCall); !errors.Is(err, core.ErrPolicyNotEnforced) {
		t.Errorf("without a confirmation: %v", err)
	}
	of.confirmed.Store(id, nil)
	if err := r.vetRelease(c, id, gateCall); err != nil {
		t.Errorf("with one: %v", err)
	}
	if err := r.vetRelease(c, id, gateCall); !errors.Is(err, core.ErrPolicyNotEnforced) {
		t.Errorf("at the second start: %v", err)
	}
	if err := r.vetRelease(c, "2222", gateCall); !errors.Is(err, core.ErrPolicyNotEnforced) {
		t.Errorf("of another process: %v", err)
	}
	engine.on(inspectRoute, answer(http.StatusOK, container.InspectResponse{
		ContainerJSONBase: &container.ContainerJSONBase{ID: id, State: &container.State{Status: "exited"}},
		Config: &container.Config{
			Entrypoint: []string{gatePath, gateCall}, Cmd: []string{"x"},
		},
	}))
	if err := r.StartAttached(t.Context(), "another", core.AttachOptions{}); !errors.Is(err, core.ErrPolicyNotEnforced) {
		t.Errorf("started again: %v", err)
	}
}

func TestJudge(t *testing.T) {
	address := netip.MustParseAddrPort("192.0.2.1:40000")
	proxy := optional.EgressAttempt{Network: "tcp", Address: address, Proxy: true, Result: optional.EgressConnected}
	closed := optional.EgressAttempt{Network: "tcp", Address: address, Result: optional.EgressFailed}
	sent := optional.EgressAttempt{Network: "udp", Address: address, Result: optional.EgressSent}
	for name, test := range map[string]struct {
		evidence optional.EgressEvidence
		want     string
	}{
		"closed":          {optional.EgressEvidence{Attempts: []optional.EgressAttempt{proxy, closed, sent}, Dropped: 2}, ""},
		"a connection":    {optional.EgressEvidence{Attempts: []optional.EgressAttempt{proxy, {Network: "tcp", Address: address, Result: optional.EgressConnected}}, Dropped: 2}, "there is a way out: tcp 192.0.2.1:40000"},
		"a datagram":      {optional.EgressEvidence{Attempts: []optional.EgressAttempt{proxy, closed, sent}, Dropped: 2, Arrived: 1}, "1 datagrams have reached"},
		"no proxy":        {optional.EgressEvidence{Attempts: []optional.EgressAttempt{{Network: "tcp", Address: address, Proxy: true, Result: optional.EgressFailed}, closed}, Dropped: 2}, "does not answer"},
		"nothing dropped": {optional.EgressEvidence{Attempts: []optional.EgressAttempt{proxy, closed, sent}}, "dropped nothing"},
		"nothing sent":    {optional.EgressEvidence{Attempts: []optional.EgressAttempt{proxy, closed}, Dropped: 2}, "no datagram could be sent"},
		"AF_VSOCK":        {optional.EgressEvidence{Attempts: []optional.EgressAttempt{proxy, closed, sent, {Network: optional.EgressVsock, Result: optional.EgressOpened}}, Dropped: 2}, "leaves AF_VSOCK open"},
		"no AF_VSOCK":     {optional.EgressEvidence{Attempts: []optional.EgressAttempt{proxy, closed, sent, {Network: optional.EgressVsock}}, Dropped: 2}, "what became of vsock"},
		"no result":       {optional.EgressEvidence{Attempts: []optional.EgressAttempt{proxy, {Network: "udp", Address: address}}, Dropped: 2}, "not known"},
		"no proxy's":      {optional.EgressEvidence{Attempts: []optional.EgressAttempt{closed}, Dropped: 2}, "was not asked"},
		"nothing at all":  {optional.EgressEvidence{}, "was not asked"},
	} {
		err := judge(test.evidence)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
