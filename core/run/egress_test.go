package run

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
	"github.com/moatproject/moat/core/services"
)

// restrictingRuntime is a fakeRuntime whose networks can be restricted.
type restrictingRuntime struct {
	*fakeRuntime
	asked    optional.RestrictedNetworkConfig
	evidence optional.EgressEvidence
}

func (f *restrictingRuntime) NetworkManager() core.NetworkManager {
	return restrictingNetworks{fakeNetworks{fake: f.fakeRuntime}, f}
}

type restrictingNetworks struct {
	fakeNetworks
	runtime *restrictingRuntime
}

func (n restrictingNetworks) CreateRestrictedNetwork(_ context.Context, cfg optional.RestrictedNetworkConfig) (optional.RestrictedNetwork, error) {
	n.runtime.asked = cfg
	made := optional.RestrictedNetwork{ID: "net", Proxy: netip.MustParseAddrPort("192.0.2.2:3128"), Container: "proxy"}
	return made, n.fake.call("restrict network")
}

func (n restrictingNetworks) ConfirmEgress(_ context.Context, id string) (optional.EgressEvidence, error) {
	return n.runtime.evidence, n.fake.call("confirm %s", id)
}

func restricted() Spec {
	return Spec{
		Workload: core.Config{Image: "image", Env: []string{"MINE=1"}},
		Egress: &Egress{
			Rules: []string{"example.com"}, AllowBy: func(runID string) string { return "ask for " + runID }, Hosts: []string{"example.com:192.0.2.9"},
			Program: func(string) ([]byte, error) { return nil, nil },
			Private: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
		},
	}
}

// TestEgress has a run that begins when its network is confirmed.
func TestEgress(t *testing.T) {
	fake := &restrictingRuntime{fakeRuntime: &fakeRuntime{held: true, release: make(chan struct{})}, evidence: optional.EgressEvidence{Dropped: 3}}
	var events []Event
	spec := restricted()
	spec.Services = []Service{{Definition: services.Definition{Name: "db", Image: "db", Ports: map[string]int{"default": 1}}}}
	spec.Workload.Ports, spec.Workload.PortBindings = []core.PortMapping{{ContainerPort: 80}}, map[int]string{81: ""}
	r, err := New(fake, spec, Options{Attached: true, Random: strings.NewReader(strings.Repeat("r", 100)), Progress: func(e Event) { events = append(events, e) }})
	check(t, err)
	check(t, r.Prepare(t.Context()))
	check(t, r.StartAttached(t.Context(), core.AttachOptions{}, func() error { return fake.call("begin") }))
	check(t, r.Close(t.Context()))

	order := slices.DeleteFunc(slices.Clone(fake.calls), func(call string) bool {
		return !slices.Contains([]string{"restrict network", "create", "start db on net", "confirm workload", "begin", "release"}, call)
	})
	if !slices.Equal(order, []string{"restrict network", "create", "confirm workload", "start db on net", "begin", "release"}) {
		t.Errorf("it has called %q", order)
	}
	if last := len(fake.calls) - 1; fake.calls[last] != "remove net" || !slices.Contains(fake.calls, "remove proxy") {
		t.Errorf("the network or its proxy stays: %q", fake.calls)
	}
	proxy := fake.asked.Proxy
	if proxy.Run != r.ID() || len(proxy.Token) != 32 || !slices.Equal(proxy.Rules, []string{"example.com"}) || proxy.AllowBy != "ask for "+r.ID() ||
		len(proxy.Private) != 1 || !slices.Equal(fake.asked.Hosts, []string{"example.com:192.0.2.9"}) || fake.asked.RunID != r.ID() {
		t.Errorf("it asked for %+v", fake.asked)
	}
	location := "http://" + r.ID() + ":" + proxy.Token + "@192.0.2.2:3128"
	for _, want := range []string{"HTTP_PROXY=" + location, "https_proxy=" + location, "ALL_PROXY=" + location, "NO_PROXY=localhost,127.0.0.1,::1,db", "no_proxy=localhost,127.0.0.1,::1,db", "MINE=1"} {
		if !slices.Contains(fake.config.Env, want) {
			t.Errorf("%s is missing from %q", want, fake.config.Env)
		}
	}
	if !fake.config.Held || fake.config.NetworkMode != "net" || len(fake.config.PublishedPorts()) > 0 {
		t.Errorf("the workload is %+v", fake.config)
	}
	if ports := fake.asked.Ports; len(ports) != 2 || ports[0].ContainerPort != 81 || ports[1].ContainerPort != 80 || fake.asked.PortsTo != r.Name() {
		t.Errorf("published are %+v, of %q", ports, fake.asked.PortsTo)
	}
	told := slices.IndexFunc(events, func(e Event) bool { return e.Type == EventEvidence })
	if told < 0 || events[told].Evidence.Dropped != 3 || events[told].State != StateHeld || r.Evidence().Dropped != 3 {
		t.Errorf("the evidence is not told: %+v", events)
	}
}

// TestEgressThatFails has runs that never begin, and of which nothing stays.
func TestEgressThatFails(t *testing.T) {
	broken := errors.New("broken")
	for call, step := range map[string]Step{"restrict network": StepNetwork, "confirm workload": StepNetwork, "create": StepWorkload} {
		fake := &restrictingRuntime{fakeRuntime: &fakeRuntime{held: true, release: make(chan struct{}), fail: map[string]error{call: broken}}}
		spec := restricted()
		spec.Services = []Service{{Definition: services.Definition{Name: "db", Image: "db", Ports: map[string]int{"default": 1}}}}
		r, err := New(fake, spec, Options{Attached: true})
		check(t, err)
		if err = r.Prepare(t.Context()); err == nil {
			err = r.StartAttached(t.Context(), core.AttachOptions{}, func() error { return fake.call("begin") })
		}
		check(t, r.Close(t.Context()))
		failed, ok := errors.AsType[*StepError](err)
		if !ok || failed.Step != step || !errors.Is(err, broken) {
			t.Errorf("%s: %v", call, err)
		}
		began := slices.ContainsFunc(fake.calls, func(call string) bool { return call == "begin" || call == "release" || call == "start db on net" })
		if began || !slices.Contains(fake.calls, "remove net") {
			t.Errorf("%s: %q", call, fake.calls)
		}
	}
}

// TestDetachedEgress has a run that is left when its program begins.
func TestDetachedEgress(t *testing.T) {
	for _, fails := range []string{"", "confirm workload", "attach"} {
		broken := errors.New("broken")
		fake := &restrictingRuntime{fakeRuntime: &fakeRuntime{held: true, release: make(chan struct{}), fail: map[string]error{fails: broken}}}
		spec := restricted()
		spec.Detached = true
		r, err := New(fake, spec, Options{})
		check(t, err)
		check(t, r.Prepare(t.Context()))
		err = r.Start(t.Context())
		if failed, ok := errors.AsType[*StepError](err); (fails == "") != (err == nil) || err != nil && (!ok || !errors.Is(failed, broken)) {
			t.Errorf("where %q fails: %v", fails, err)
		}
		check(t, r.Close(t.Context()))
		if removed := slices.Contains(fake.calls, "remove net"); removed != (fails != "") || !removed && r.State() != StateLeft {
			t.Errorf("where %q fails, the run is %s, after %q", fails, r.State(), fake.calls)
		}
	}
}

// TestEgressUnsupported has runtimes that cannot restrict a network, or not hold a start.
func TestEgressUnsupported(t *testing.T) {
	for name, runtime := range map[string]core.Runtime{
		"its networks":    &fakeRuntime{held: true},
		"its held starts": &restrictingRuntime{fakeRuntime: &fakeRuntime{}},
		"this image":      &restrictingRuntime{fakeRuntime: &fakeRuntime{held: true, refuses: true}},
	} {
		r, err := New(runtime, restricted(), Options{Attached: true})
		check(t, err)
		if err := r.Prepare(t.Context()); !errors.Is(err, core.ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
		check(t, r.Close(t.Context()))
	}
}

func TestEgressOfASpec(t *testing.T) {
	for name, change := range map[string]func(*Spec){
		"a rule":     func(s *Spec) { s.Egress.Rules = []string{"https://example.com"} },
		"no program": func(s *Spec) { s.Egress.Program = nil },
		"a network":  func(s *Spec) { s.Workload.NetworkMode = "bridge" },
		"the host's": func(s *Spec) { s.Workload.NetworkMode = "host" },
		"DNS":        func(s *Spec) { s.Workload.DNS = []string{"192.0.2.53"} },
		"privileged": func(s *Spec) { s.Workload.Privileged = true },
		"a UDP port": func(s *Spec) {
			s.Workload.Ports = []core.PortMapping{{ContainerPort: 80}, {ContainerPort: 53, Protocol: "udp"}}
		},
		"detached input": func(s *Spec) { s.Detached, s.Workload.Interactive = true, true },
		"NET_ADMIN":      func(s *Spec) { s.Workload.CapAdd = []string{"NET_ADMIN"} },
		"cap_net_raw":    func(s *Spec) { s.Workload.CapAdd = []string{"CHOWN", "cap_net_raw"} },
		"ALL":            func(s *Spec) { s.Workload.CapAdd = []string{"ALL"} },
	} {
		spec := restricted()
		change(&spec)
		if err := spec.Validate(); !errors.Is(err, core.ErrInvalidConfig) || core.FieldOf(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	spec := restricted()
	spec.Egress.Rules = nil
	check(t, spec.Validate())
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
