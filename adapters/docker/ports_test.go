package docker

import (
	"errors"
	"maps"
	"net/http"
	"slices"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/system"
	"github.com/docker/go-connections/nat"
	"github.com/moatproject/moat/core"
)

func TestGetPortBindings(t *testing.T) {
	settings := &container.NetworkSettings{}
	settings.Ports = nat.PortMap{
		"80/tcp":   {{HostIP: "::", HostPort: "32768"}, {HostIP: "0.0.0.0", HostPort: "32769"}, {HostIP: "127.0.0.1", HostPort: "32770"}},
		"443/tcp":  {{HostIP: "::1", HostPort: "32771"}},
		"53/udp":   {{HostIP: "127.0.0.1", HostPort: "32772"}},
		"8080/tcp": nil, // exposed by the image, not published
		"90/tcp":   {{HostIP: "127.0.0.1", HostPort: ""}},
	}
	engine := startFake(t)
	engine.on(inspectRoute, answer(http.StatusOK, container.InspectResponse{
		ContainerJSONBase: &container.ContainerJSONBase{ID: testID, State: &container.State{Running: true}},
		NetworkSettings:   settings,
	}))
	r := engine.runtime(t)
	got, err := r.GetPortBindings(t.Context(), testID)
	if want := map[int]int{80: 32769, 443: 32771}; !maps.Equal(got, want) || err != nil {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	engine.on(inspectRoute, inspected("running"))
	if got, err := r.GetPortBindings(t.Context(), testID); got == nil || len(got) > 0 || err != nil {
		t.Errorf("of a container that publishes nothing: %#v, %v", got, err)
	}
	engine.on(inspectRoute, inspected("exited"))
	if _, err := r.GetPortBindings(t.Context(), testID); !errors.Is(err, core.ErrNotRunning) {
		t.Errorf("of a container that does not run: %v", err)
	}
}

func TestPublishedPorts(t *testing.T) {
	settings := &container.NetworkSettings{}
	settings.Ports = nat.PortMap{
		"80/tcp":   {{HostIP: "127.0.0.1", HostPort: "18081"}, {HostIP: "127.0.0.1", HostPort: "18080"}},
		"53/udp":   {{HostIP: "::1", HostPort: "5353"}},
		"8080/tcp": nil, // exposed by the image, not published
	}
	want := []core.PortMapping{
		{ContainerPort: 53, Protocol: "udp", HostIP: "::1", HostPort: 5353},
		{ContainerPort: 80, Protocol: "tcp", HostIP: "127.0.0.1", HostPort: 18080},
		{ContainerPort: 80, Protocol: "tcp", HostIP: "127.0.0.1", HostPort: 18081},
	}
	if got := publishedOf(settings); !slices.Equal(got, want) {
		t.Errorf("inspect tells %v, want %v", got, want)
	}
	listed := []container.Port{
		{IP: "127.0.0.1", PrivatePort: 80, PublicPort: 18081, Type: "tcp"}, {IP: "127.0.0.1", PrivatePort: 80, PublicPort: 18080, Type: "tcp"},
		{PrivatePort: 8080, Type: "tcp"}, {IP: "::1", PrivatePort: 53, PublicPort: 5353, Type: "udp"},
	}
	if got := listedPorts(listed); !slices.Equal(got, want) {
		t.Errorf("the list tells %v, want %v", got, want)
	}
}

func bridge(gateways ...string) http.HandlerFunc {
	var described network.Inspect
	for _, gateway := range gateways {
		described.IPAM.Config = append(described.IPAM.Config, network.IPAMConfig{Gateway: gateway})
	}
	return answer(http.StatusOK, described)
}

func TestHost(t *testing.T) {
	for name, test := range map[string]struct {
		info    system.Info
		goos    string
		sandbox Sandbox
		address string
		native  bool
	}{
		"native":             {system.Info{OSType: "linux", OperatingSystem: "Debian GNU/Linux 12"}, "linux", nil, "172.17.0.1", true},
		"native, sandboxed":  {system.Info{OSType: "linux"}, "linux", &fakeSandbox{name: "runsc"}, "172.17.0.1", false},
		"rootless":           {system.Info{OSType: "linux", SecurityOptions: []string{"name=seccomp,profile=default", "name=rootless"}}, "linux", nil, "", false},
		"Docker Desktop":     {system.Info{OSType: "linux", OperatingSystem: "Docker Desktop"}, "linux", nil, desktopHost, false},
		"OrbStack":           {system.Info{OSType: "linux", OperatingSystem: "OrbStack"}, "linux", nil, desktopHost, false},
		"Colima":             {system.Info{OSType: "linux", OperatingSystem: "Ubuntu", Name: "colima"}, "linux", nil, desktopHost, false},
		"Rancher Desktop":    {system.Info{OSType: "linux", Name: "lima-rancher-desktop"}, "linux", nil, desktopHost, false},
		"for another system": {system.Info{OSType: "linux"}, "darwin", nil, desktopHost, false},
	} {
		t.Run(name, func(t *testing.T) {
			engine := startFake(t)
			engine.on("GET /info", answer(http.StatusOK, test.info))
			engine.on("GET /networks/{name}", bridge("fd00::1", "172.17.0.1"))
			r := engine.runtime(t, sandboxedBy(test.sandbox), func(o *Options) { o.GOOS = test.goos })
			for range 2 {
				if got := r.GetHostAddress(); got != test.address {
					t.Errorf("the address is %q, want %q", got, test.address)
				}
				if got := r.SupportsHostNetwork(); got != test.native {
					t.Errorf("SupportsHostNetwork() is %t", got)
				}
			}
			asked := []string{"GET /info", "GET /networks/bridge"}
			if test.address != "172.17.0.1" {
				asked = asked[:1]
			}
			engine.wantRequests(t, asked...)
		})
	}
}

// TestGatewayThatIsNotTold is of an engine that has not been restarted since it made its bridge.
func TestGatewayThatIsNotTold(t *testing.T) {
	var bridge network.Inspect
	bridge.IPAM.Config = []network.IPAMConfig{{Subnet: "fd00::/64"}, {Subnet: "172.17.0.0/16"}}
	if got := gatewayOf(bridge); got != "172.17.0.1" {
		t.Errorf("the address is %q", got)
	}
}

func TestHostOfARemoteEngineIsNotThisMachine(t *testing.T) {
	engine := startFake(t)
	engine.on("GET /networks/{name}", bridge("172.17.0.1"))
	r := engine.runtime(t)
	r.options.Host = "tcp://192.0.2.1:2376"
	if r.SupportsHostNetwork() || r.GetHostAddress() != "172.17.0.1" {
		t.Errorf("SupportsHostNetwork() is %t, GetHostAddress() %q", r.SupportsHostNetwork(), r.GetHostAddress())
	}
}

func TestHostIsAskedAgainAfterAFailure(t *testing.T) {
	engine := startFake(t)
	engine.on("GET /info", inOrder(failure(http.StatusInternalServerError, "no"), answer(http.StatusOK, system.Info{OSType: "linux"})))
	engine.on("GET /networks/{name}", inOrder(failure(http.StatusInternalServerError, "no"), bridge("172.17.0.1")))
	r := engine.runtime(t)
	for _, want := range []string{"", "", "172.17.0.1"} {
		if got := r.GetHostAddress(); got != want {
			t.Errorf("the address is %q, want %q", got, want)
		}
	}
}
