package docker

import (
	"archive/tar"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/moatproject/moat/core"
)

// walledID is the container that gets a firewall.
const walledID = "1111111111111111111111111111111111111111111111111111111111111111"

// walled is a fake engine with a container that gets a firewall.
type walled struct {
	*fakeEngine

	mu       sync.Mutex
	found    container.InspectResponse // of the container
	labels   map[string]string         // of the network; nil: it does not exist yet
	guards   int                       // how often the guard has listened
	dropped  int                       // frames, by the guard
	checked  string                    // result of the attempt to reach the proxy
	created  []container.CreateRequest
	onHost   string // the guard's /etc/resolv.conf
	guardRun bool
	ended    string // the end of the guard's run before
}

func startWalled(t *testing.T) *walled {
	t.Helper()
	w := &walled{fakeEngine: startFake(t), dropped: 5, checked: "connected", onHost: "nameserver 192.0.2.53\n", guardRun: true}
	w.found = container.InspectResponse{
		ContainerJSONBase: &container.ContainerJSONBase{ID: walledID, Name: "/walled", State: &container.State{Status: "created"}, HostConfig: &container.HostConfig{
			Runtime: "runc", NetworkMode: "default", CapDrop: []string{"ALL"}, ExtraHosts: []string{"proxy.example:192.0.2.200", "host.example:host-gateway"},
		}},
		Config:          &container.Config{Labels: map[string]string{core.LabelRunID: "run"}},
		NetworkSettings: &container.NetworkSettings{Networks: map[string]*network.EndpointSettings{"bridge": {}}},
	}
	w.on("/_ping", ping("1.43")) // of the last engine that asks no name server from its host
	w.on("GET /version", answer(http.StatusOK, map[string]string{"Version": "29", "Arch": "amd64"}))
	w.on("GET /containers/{id}/json", w.inspect)
	w.on("GET /containers/{id}/logs", w.say)
	w.on("GET /containers/{id}/archive", w.readServers)
	w.on("GET /networks/{name}", w.inspectNetwork)
	w.on("POST /containers/create", recorded(&w.created, answer(http.StatusCreated, container.CreateResponse{ID: testID})))
	w.on("POST /networks/create", func(rw http.ResponseWriter, r *http.Request) {
		var asked network.CreateRequest
		_ = json.NewDecoder(r.Body).Decode(&asked)
		w.mu.Lock()
		defer w.mu.Unlock()
		if asked.Internal || w.labels != nil {
			failure(http.StatusConflict, "network with name "+asked.Name+" already exists")(rw, r)
			return
		}
		w.labels = asked.Labels
		answer(http.StatusCreated, map[string]string{"Id": testID})(rw, r)
	})
	w.on("POST /networks/{id}/{verb}", func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if r.PathValue("verb") == "connect" {
			w.found.NetworkSettings.Networks[firewallName(walledID)] = &network.EndpointSettings{}
		} else {
			delete(w.found.NetworkSettings.Networks, r.PathValue("id"))
		}
	})
	w.on("POST /containers/{id}/kill", func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if r.URL.Query().Get("signal") == "USR1" {
			w.guards++
		}
		rw.WriteHeader(http.StatusNoContent)
	})
	return w
}

func (w *walled) inspect(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	id := r.PathValue("id")
	if id == walledID || id == "walled" {
		answer(http.StatusOK, w.found)(rw, r)
		return
	}
	answer(http.StatusOK, container.InspectResponse{ContainerJSONBase: &container.ContainerJSONBase{ID: id, State: &container.State{Running: w.guardRun, FinishedAt: w.ended}}})(rw, r)
}

func (w *walled) inspectNetwork(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	found := network.Inspect{ID: testID, Name: firewallName(walledID), Labels: w.labels, IPAM: network.IPAM{Config: []network.IPAMConfig{{Subnet: "198.51.100.0/26"}}}}
	switch {
	case r.PathValue("name") == firewallName(walledID) && w.labels == nil:
		gone(rw, r)
		return
	case r.PathValue("name") == "bridge":
		found = network.Inspect{Name: "bridge", IPAM: network.IPAM{Config: []network.IPAMConfig{{Subnet: "192.0.2.0/26", Gateway: "192.0.2.1"}}}}
	}
	answer(http.StatusOK, found)(rw, r)
}

// say is the output of the guard and of the check.
func (w *walled) say(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	said := "ready\n"
	for i := range w.guards {
		said += fmt.Sprintf("listening %d %d\nheard %[1]d dropped %[3]d arrived 0\n", i+1, 40000+i, w.dropped)
	}
	if strings.HasPrefix(r.PathValue("id"), "moat-check-") {
		said = ""
		for i, attempt := range w.created[len(w.created)-1].Cmd {
			switch {
			case i == 0:
				said += attempt + " " + w.checked + "\n"
			case strings.HasPrefix(attempt, "udp"):
				said += attempt + " sent\n"
			default:
				said += attempt + " failed\n"
			}
		}
	} else if _, following := r.URL.Query()["follow"]; following {
		said += "gone\n" // read only where nothing before it is what was waited for
	}
	logs(frame(streamStderr, said))(rw, r)
}

func (w *walled) readServers(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	content := w.onHost
	stat, _ := json.Marshal(map[string]any{"name": "resolv.conf", "size": len(content)})
	rw.Header().Set("X-Docker-Container-Path-Stat", base64.StdEncoding.EncodeToString(stat))
	archive := tar.NewWriter(rw)
	_ = archive.WriteHeader(&tar.Header{Name: "resolv.conf", Mode: 0o644, Size: int64(len(content))})
	_, _ = archive.Write([]byte(content))
	_ = archive.Close()
}

// kept returns the requests that change something.
func (w *walled) kept() (changes []string) {
	for _, asked := range w.requests() {
		if !strings.HasPrefix(asked, "GET ") {
			changes = append(changes, strings.ReplaceAll(asked, testID, "NETWORK"))
		}
	}
	return changes
}

func TestFirewall(t *testing.T) {
	w := startWalled(t)
	r := w.runtime(t)
	if r.Capabilities().EnforcedEgress {
		t.Error("it says that it is enforced before it was checked")
	}
	if err := r.SetupFirewall(t.Context(), "walled", "192.0.2.200", 3128); err != nil {
		t.Fatal(err)
	}
	if !r.Capabilities().EnforcedEgress {
		t.Error("it does not say that it is enforced")
	}
	if w.labels[core.LabelServes] != walledID || w.labels[core.LabelRunID] != "run" || w.labels[core.LabelManaged] != "true" || w.labels[core.LabelExpires] == "" || w.labels[labelFirewall] != "192.0.2.200:3128" {
		t.Errorf("its network has the labels %v", w.labels)
	}
	guard, check := w.created[0], w.created[1]
	if !slices.Equal(guard.Cmd, []string{"br-" + testID[:12], "192.0.2.200:3128"}) || guard.HostConfig.NetworkMode != "host" {
		t.Errorf("the guard is %q, %+v", guard.Cmd, guard.HostConfig)
	}
	if check.HostConfig.NetworkMode != testID || len(check.HostConfig.CapAdd) > 0 || !check.HostConfig.ReadonlyRootfs || check.Cmd[0] != "tcp:192.0.2.200:3128" {
		t.Errorf("the check is %q, %+v", check.Cmd, check.HostConfig)
	}
	for _, target := range []string{"tcp:192.0.2.1:40000", "udp:192.0.2.1:40000", "tcp:198.51.100.1:40000", "udp:255.255.255.255:40000", "vsock"} {
		if !slices.Contains(check.Cmd, target) {
			t.Errorf("it does not try %s: %q", target, check.Cmd)
		}
	}
	changes := w.kept()
	connected, left := slices.Index(changes, "POST /networks/NETWORK/connect"), slices.Index(changes, "POST /networks/bridge/disconnect")
	guarded := slices.Index(changes, "POST /containers/moat-guard-"+testID[:12]+"/start")
	if guarded < 0 || connected < guarded || left < connected {
		t.Errorf("it is moved in the wrong order: %q", changes)
	}
	if !slices.ContainsFunc(changes, func(change string) bool { return strings.HasPrefix(change, "DELETE /containers/moat-check-") }) {
		t.Errorf("the check stays: %q", changes)
	}

	if err := r.SetupFirewall(t.Context(), walledID, "proxy.example", 3128); err != nil {
		t.Errorf("the same again: %v", err)
	}
	if err := r.SetupFirewall(t.Context(), "walled", "192.0.2.200", 3129); !errors.Is(err, core.ErrAlreadyExists) {
		t.Errorf("another one: %v", err)
	}
	if err := r.StartContainer(t.Context(), "walled"); err != nil {
		t.Errorf("start: %v", err)
	}
	w.guardRun = false
	if err := r.StartContainer(t.Context(), walledID); !errors.Is(err, core.ErrPolicyNotEnforced) {
		t.Errorf("start without a guard: %v", err)
	}
	w.guardRun = true
	w.found.NetworkSettings.Networks["bridge"] = &network.EndpointSettings{}
	if err := r.StartContainer(t.Context(), "walled"); !errors.Is(err, core.ErrPolicyNotEnforced) {
		t.Errorf("start on two networks: %v", err)
	}
	if err := r.RemoveContainer(t.Context(), "walled"); err != nil {
		t.Error(err)
	}
	for _, removal := range []string{"/containers/walled?force=1&v=1", "/networks/NETWORK", "/containers/" + guardName(testID) + "?force=1&v=1"} {
		if !slices.Contains(w.kept(), "DELETE "+removal) {
			t.Errorf("%s stays: %q", removal, w.kept())
		}
	}
}

// TestFirewallOnRunning leaves the container without a network until it is closed.
func TestFirewallOnRunning(t *testing.T) {
	for name, test := range map[string]struct {
		checked string
		dropped int
		class   error
	}{
		"it holds":                 {"connected", 5, nil},
		"the proxy does not run":   {"failed", 5, core.ErrPolicyNotEnforced},
		"the guard is not asked":   {"connected", 0, core.ErrPolicyNotEnforced},
		"the check says something": {"", 5, core.ErrPolicyNotEnforced},
	} {
		t.Run(name, func(t *testing.T) {
			w := startWalled(t)
			w.found.State = &container.State{Status: "running", Running: true}
			w.checked, w.dropped = test.checked, test.dropped
			err := w.runtime(t).SetupFirewall(t.Context(), "walled", "192.0.2.200", 3128)
			if !errors.Is(err, test.class) {
				t.Errorf("got %v", err)
			}
			changes := w.kept()
			left, connected := slices.Index(changes, "POST /networks/bridge/disconnect"), slices.Index(changes, "POST /networks/NETWORK/connect")
			if left < 0 || connected < left {
				t.Errorf("it is moved in the wrong order: %q", changes)
			}
			if mode := w.created[1].HostConfig.NetworkMode; mode != container.NetworkMode("container:"+walledID) {
				t.Errorf("the check is in %s", mode)
			}
			if killed := slices.Contains(changes, "POST /containers/"+walledID+"/kill?signal=KILL"); killed != (test.class != nil) {
				t.Errorf("that it is killed is %t: %q", killed, changes)
			}
		})
	}
}

func TestNoFirewall(t *testing.T) {
	for name, test := range map[string]struct {
		host    string
		port    int
		change  func(*walled)
		class   error
		field   string
		touched bool // the engine may have been asked for changes
	}{
		"no port":              {"192.0.2.200", 0, nil, core.ErrInvalidConfig, "proxyPort", false},
		"too high a port":      {"192.0.2.200", 65536, nil, core.ErrInvalidConfig, "proxyPort", false},
		"no host":              {"", 1, nil, core.ErrInvalidConfig, "proxyHost", false},
		"loopback":             {"127.0.0.1", 1, nil, core.ErrInvalidConfig, "proxyHost", false},
		"mapped loopback":      {"::ffff:127.0.0.1", 1, nil, core.ErrInvalidConfig, "proxyHost", false},
		"a name of loopback":   {"localhost", 1, nil, core.ErrInvalidConfig, "proxyHost", false},
		"no address":           {"0.0.0.0", 1, nil, core.ErrInvalidConfig, "proxyHost", false},
		"this network":         {"0.0.0.1", 1, nil, core.ErrInvalidConfig, "proxyHost", false},
		"everybody":            {"255.255.255.255", 1, nil, core.ErrInvalidConfig, "proxyHost", false},
		"a group":              {"224.0.0.1", 1, nil, core.ErrInvalidConfig, "proxyHost", false},
		"link-local":           {"169.254.169.254", 1, nil, core.ErrInvalidConfig, "proxyHost", false},
		"IPv6":                 {"2001:db8::1", 1, nil, core.ErrUnsupported, "proxyHost", false},
		"a malformed name":     {"a..example", 1, nil, core.ErrInvalidConfig, "proxyHost", false},
		"a number":             {"0x7f000001", 1, nil, core.ErrInvalidConfig, "proxyHost", false},
		"an international one": {"bücher.example", 1, nil, core.ErrInvalidConfig, "proxyHost", false},
		"a URL":                {"http://proxy.example", 1, nil, core.ErrInvalidConfig, "proxyHost", false},
		"the host's network":   {"192.0.2.200", 1, func(w *walled) { w.found.HostConfig.NetworkMode = "host" }, core.ErrUnsupported, "NetworkMode", false},
		"another's network":    {"192.0.2.200", 1, func(w *walled) { w.found.HostConfig.NetworkMode = "container:x" }, core.ErrUnsupported, "NetworkMode", false},
		"no network":           {"192.0.2.200", 1, func(w *walled) { w.found.HostConfig.NetworkMode = "none" }, core.ErrUnsupported, "NetworkMode", false},
		"privileged":           {"192.0.2.200", 1, func(w *walled) { w.found.HostConfig.Privileged = true }, core.ErrUnsupported, "Privileged", false},
		"a capability":         {"192.0.2.200", 1, func(w *walled) { w.found.HostConfig.CapAdd = []string{"CHOWN", "CAP_NET_RAW"} }, core.ErrUnsupported, "CapAdd", false},
		"published ports": {"192.0.2.200", 1, func(w *walled) {
			publish(core.Config{Ports: []core.PortMapping{{ContainerPort: 80}}}, w.found.Config, w.found.HostConfig)
		}, core.ErrUnsupported, "Ports", false},
		"another profile": {"192.0.2.200", 1, func(w *walled) {
			w.on("/_ping", ping("1.41"))
			w.found.HostConfig.SecurityOpt = []string{"no-new-privileges", "seccomp=unconfined"}
		}, core.ErrPolicyNotEnforced, "", false},
		"a running sandbox": {"192.0.2.200", 1, func(w *walled) {
			w.found.HostConfig.Runtime, w.found.State = "runsc", &container.State{Status: "running", Running: true}
		}, core.ErrUnsupported, "", false},
		"it is gone":                     {"192.0.2.200", 1, func(w *walled) { w.on("GET /containers/{id}/json", gone) }, core.ErrNotFound, "", false},
		"another's network of that name": {"192.0.2.200", 1, func(w *walled) { w.labels = map[string]string{} }, core.ErrInUse, "", true},
		"the guard fails": {"192.0.2.200", 1, func(w *walled) {
			w.on("GET /containers/{id}/logs", logs(frame(streamStderr, "the chain cannot be made: error 095\n")))
		}, core.ErrPolicyNotEnforced, "", true},
		"others connect it":      {"192.0.2.200", 1, func(w *walled) { w.on("POST /networks/{id}/{verb}", status(http.StatusOK)) }, core.ErrPolicyNotEnforced, "", true},
		"names by the host":      {"192.0.2.200", 1, func(w *walled) { w.onHost = "nameserver 127.0.0.1\n" }, core.ErrPolicyNotEnforced, "DNS", true},
		"names by newer engines": {"192.0.2.200", 1, func(w *walled) { w.on("/_ping", ping("1.44")) }, core.ErrPolicyNotEnforced, "DNS", true},
		"a runtime of any name": {"192.0.2.200", 1, func(w *walled) {
			w.on("/_ping", ping("1.44"))
			w.found.HostConfig.Runtime = "nvidia"
		}, core.ErrPolicyNotEnforced, "DNS", true},
		"capabilities that are kept": {"192.0.2.200", 1, func(w *walled) { w.found.HostConfig.CapDrop = nil }, core.ErrUnsupported, "", false},
		"a device":                   {"192.0.2.200", 1, func(w *walled) { w.found.HostConfig.Devices = []container.DeviceMapping{{}} }, core.ErrUnsupported, "", false},
		"the host's processes":       {"192.0.2.200", 1, func(w *walled) { w.found.HostConfig.PidMode = "host" }, core.ErrUnsupported, "", false},
		"it is restarted":            {"192.0.2.200", 1, func(w *walled) { w.found.HostConfig.RestartPolicy.Name = "always" }, core.ErrUnsupported, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			w := startWalled(t)
			if test.change != nil {
				test.change(w)
			}
			r := w.runtime(t)
			err := r.SetupFirewall(t.Context(), "walled", test.host, test.port)
			if !errors.Is(err, test.class) || core.FieldOf(err) != test.field {
				t.Errorf("got %v about %q", err, core.FieldOf(err))
			}
			if changes := w.kept(); !test.touched && len(changes) > 0 {
				t.Errorf("it has changed something: %q", changes)
			}
			if name == "the guard fails" && !slices.Contains(w.kept(), "DELETE /networks/NETWORK") {
				t.Errorf("the network stays: %q", w.kept())
			}
			if r.Capabilities().EnforcedEgress {
				t.Error("it says that it is enforced")
			}
		})
	}
}

// TestFirewallWithServers has a container with name servers of its own.
func TestFirewallWithServers(t *testing.T) {
	w := startWalled(t)
	w.on("/_ping", ping("1.44"))
	w.found.HostConfig.DNS = []string{"0.0.0.1"}
	if err := w.runtime(t).SetupFirewall(t.Context(), "walled", "192.0.2.200", 3128); err != nil {
		t.Error(err)
	}
}

// TestFirewallStartedMeanwhile has a container that another process starts.
func TestFirewallStartedMeanwhile(t *testing.T) {
	w := startWalled(t)
	w.on("POST /containers/{id}/wait", func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.found.State = &container.State{Status: "running", Running: true, StartedAt: "2026-01-02T03:04:05Z"}
		w.mu.Unlock()
		exits(0)(rw, r)
	})
	r := w.runtime(t)
	if err := r.SetupFirewall(t.Context(), "walled", "192.0.2.200", 3128); !errors.Is(err, core.ErrPolicyNotEnforced) {
		t.Errorf("got %v", err)
	}
	if !slices.Contains(w.kept(), "POST /containers/"+walledID+"/kill?signal=KILL") {
		t.Errorf("it is not killed: %q", w.kept())
	}
	if err := r.StartContainer(t.Context(), "walled"); !errors.Is(err, core.ErrPolicyNotEnforced) {
		t.Errorf("it starts without a proof: %v", err)
	}
}

// TestFirewallOfAnotherProcess is known by the container's network.
func TestFirewallOfAnotherProcess(t *testing.T) {
	w := startWalled(t)
	if err := w.runtime(t).SetupFirewall(t.Context(), "walled", "192.0.2.200", 3128); err != nil {
		t.Fatal(err)
	}
	another := w.runtime(t)
	if err := another.StartContainer(t.Context(), "walled"); err != nil {
		t.Error(err)
	}
	w.guardRun = false
	if err := another.StartContainer(t.Context(), "walled"); !errors.Is(err, core.ErrPolicyNotEnforced) {
		t.Errorf("start without a guard: %v", err)
	}
	w.guardRun = true
	if err := another.RemoveContainer(t.Context(), "walled"); err != nil {
		t.Error(err)
	}
	if !slices.Contains(w.kept(), "DELETE /networks/NETWORK") {
		t.Errorf("the network stays: %q", w.kept())
	}
}

// TestFirewallTwiceAtOnce has calls that wait for each other.
func TestFirewallTwiceAtOnce(t *testing.T) {
	w := startWalled(t)
	r := w.runtime(t)
	failures := make(chan error)
	for range 4 {
		go func() { failures <- r.SetupFirewall(t.Context(), "walled", "192.0.2.200", 3128) }()
	}
	for range 4 {
		if err := <-failures; err != nil {
			t.Error(err)
		}
	}
	connections := 0
	for _, change := range w.kept() {
		if change == "POST /networks/NETWORK/connect" {
			connections++
		}
	}
	if connections != 1 {
		t.Errorf("it is connected %d times: %q", connections, w.kept())
	}
}

// TestFirewallAfterARestart reads what the guard has said since.
func TestFirewallAfterARestart(t *testing.T) {
	w := startWalled(t)
	r := w.runtime(t)
	if err := r.SetupFirewall(t.Context(), "walled", "192.0.2.200", 3128); err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	w.guards, w.ended = 0, "2026-01-02T03:04:06Z"
	w.mu.Unlock()
	before := len(w.requests())
	if err := r.SetupFirewall(t.Context(), "walled", "192.0.2.200", 3128); err != nil {
		t.Fatal(err)
	}
	reads := 0
	for _, asked := range w.requests()[before:] {
		if !strings.Contains(asked, guardName(testID)+"/logs") {
			continue
		}
		if reads++; !strings.Contains(asked, "since=1767323046.000000000") {
			t.Errorf("it reads the guard's earlier run too: %s", asked)
		}
	}
	if reads < 4 { // that it is ready, how often it has listened, and twice what it hears
		t.Errorf("it has read what the guard says %d times", reads)
	}
}

func TestAsksFromHost(t *testing.T) {
	for name, test := range map[string]struct {
		onHost string
		mode   container.NetworkMode
		want   bool
	}{
		"a server elsewhere":             {"nameserver 192.0.2.53\n", "default", false},
		"the host itself":                {"nameserver 192.0.2.53\nnameserver 127.0.0.1\n", "default", true},
		"by IPv6":                        {"nameserver ::1\n", "default", true},
		"systemd-resolved":               {"nameserver 127.0.0.53\n", "default", false},
		"systemd-resolved, on a network": {"nameserver 127.0.0.53\n", "net", true},
		"nonsense":                       {"nameserver x\n", "default", true},
		"none":                           {"", "default", false},
	} {
		if got := asksFromHost(test.onHost, test.mode); got != test.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// TestFirewallGivenUp leaves nothing of the check.
func TestFirewallGivenUp(t *testing.T) {
	w := startWalled(t)
	ctx, cancel := context.WithCancel(t.Context())
	w.on("POST /containers/{id}/wait", func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})
	if err := w.runtime(t).SetupFirewall(ctx, "walled", "192.0.2.200", 3128); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	changes := w.kept()
	if !slices.ContainsFunc(changes, func(change string) bool { return strings.HasPrefix(change, "DELETE /containers/moat-check-") }) {
		t.Errorf("the check stays: %q", changes)
	}
}
