package gvisor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/moatproject/moat/adapters/docker"
	"github.com/moatproject/moat/adapters/docker/dockertest"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
	"github.com/moatproject/moat/core/run"
)

// TestOutsideNames lets containers look up what only the engine's name server knows, on
// engines whose uplink leads to an internet of the test's own.
func TestOutsideNames(t *testing.T) {
	onInternets(t, func(t *testing.T, e *dockertest.Throwaway, program string, rts map[string]*docker.Runtime) {
		networks := rts["sandboxed"].NetworkManager()
		on, err := networks.CreateNetwork(t.Context(), "outside")
		must(t, err)
		asking := func(network string, args ...string) core.Config {
			return core.Config{
				Image: baseImage, NetworkMode: network, Cmd: append([]string{"/asks"}, args...),
				Mounts: []core.MountConfig{{Source: program, Target: "/asks", ReadOnly: true}},
			}
		}

		var peers []string
		for name, rt := range rts {
			cfg := asking(on, "serve=hello from "+name)
			cfg.Name = "moat-test-" + name
			id := start(t, rt, cfg)
			mustSay(t, rt, id, "ready", 1)
			peers = append(peers, id)
		}
		// That there is no such name is an answer: who gets none says something else.
		outside := []string{"reach=" + dockertest.OutsideName + ":80", "text=" + dockertest.BigName, "reach=nowhere.example:80"}
		all := slices.Concat(outside, []string{"reach=moat-test-sandboxed:8080", "reach=moat-test-plain:8080"})
		outsideAnswer := fmt.Sprintf("%s%d\nno such name\n", dockertest.Greeting, dockertest.BigLength)
		answers := outsideAnswer + "hello from sandboxed\nhello from plain\n"
		for name, rt := range rts {
			first := create(t, rt, asking(on, all...))
			mustAnswer(t, rt, first, name+" on a network", answers)
			later := create(t, rt, asking(on, all...))
			mustAnswer(t, rt, later, name+" that has joined later", answers)
			mustAnswer(t, rt, first, name+" that was started again", answers+answers)
			without := create(t, rt, asking("", outside...))
			mustAnswer(t, rt, without, name+" on none", outsideAnswer)
			for _, id := range []string{first, later, without} {
				mustLeave(t, rt, id)
			}
		}

		kept := create(t, rts["sandboxed"], asking(on, outside...))
		mustAnswer(t, rts["sandboxed"], kept, "before the engine dies", outsideAnswer)
		killDaemon(t, e)
		e.Up()
		mustAnswer(t, rts["sandboxed"], kept, "after the engine's death", outsideAnswer+outsideAnswer)
		mustLeave(t, rts["sandboxed"], kept)

		for _, id := range peers {
			mustLeave(t, rts["sandboxed"], id)
		}
		must(t, networks.RemoveNetwork(t.Context(), on))
		engine := e.Client(e.Host())
		containers, err := engine.ContainerList(t.Context(), container.ListOptions{All: true})
		must(t, err)
		left, err := engine.NetworkList(t.Context(), network.ListOptions{})
		must(t, err)
		if len(containers) != 0 || len(left) != 3 { // bridge, host and none
			t.Errorf("left are %+v, %+v", containers, left)
		}
	})
}

// onInternets runs a test on each engine, with an uplink to an internet of the test's own.
func onInternets(t *testing.T, test func(*testing.T, *dockertest.Throwaway, string, map[string]*docker.Runtime)) {
	t.Helper()
	for adapter, like := range map[string]string{harnessName: "main", harnessName + "-current": "current"} {
		t.Run(adapter, func(t *testing.T) {
			e := &dockertest.Throwaway{TB: t, Adapter: adapter, Like: like, Flags: "--dns=" + dockertest.NameServer}
			e.Start()
			e.Connect()
			rts := map[string]*docker.Runtime{"sandboxed": sandboxedOn(t, e.Host()), "plain": plainOn(t, e.Host())}
			test(t, e, buildAsks(t), rts)
		})
	}
}

// TestInternalNetwork lets containers try what leads out of a network without a way out.
func TestInternalNetwork(t *testing.T) {
	onInternets(t, func(t *testing.T, e *dockertest.Throwaway, program string, rts map[string]*docker.Runtime) {
		for name, rt := range rts {
			networks := rt.NetworkManager().(optional.NetworkCreator)
			for internal, greetings := range map[bool]int{false: 3, true: 0} {
				const subnet, gateway = "203.0.113.0/26", "203.0.113.1"
				on, err := networks.CreateNetworkFrom(t.Context(), optional.NetworkConfig{Name: "net", Subnet: subnet, Internal: internal})
				must(t, err)
				// The first may be given the gateway's address, where there is none.
				first := start(t, rt, core.Config{Image: baseImage, NetworkMode: on, Cmd: []string{"sleep", "600"}})
				id := create(t, rt, core.Config{
					Image: baseImage, NetworkMode: on, Mounts: []core.MountConfig{{Source: program, Target: "/asks", ReadOnly: true}},
					Cmd: []string{"/asks", "reach=" + dockertest.OutsideAddress + ":80", "reach=" + dockertest.EngineAddress + ":80", "reach=" + gateway + ":80", "text=" + dockertest.BigName},
				})
				said := answer(t, rt, id)
				if found := strings.Count(said, dockertest.Greeting); found != greetings {
					t.Errorf("%s, internal %t: %d ways out, want %d: %s", name, internal, found, greetings, said)
				}
				if found := strings.Contains(said, fmt.Sprintln(dockertest.BigLength)); found == internal {
					t.Errorf("%s, internal %t: whether it finds a name of outside is %t: %s", name, internal, found, said)
				}
				mustLeave(t, rt, id)
				mustLeave(t, rt, first)
				must(t, rt.NetworkManager().RemoveNetwork(t.Context(), on))
			}
		}
	})
}

type way struct{ word, success string }

// ways are what a workload without capabilities tries: the words of testdata/asks, and what
// each prints where it succeeds. Datagrams are seen by who receives them.
var ways = []way{
	{"reach=" + dockertest.OutsideAddress + ":80", greeting},
	{"reach=" + dockertest.EngineAddress + ":80", greeting},
	{"reach=172.17.0.1:80", greeting},  // the host on the engine's usual network
	{"reach=203.0.113.1:80", greeting}, // and on the run's
	{"text=" + dockertest.BigName, strconv.Itoa(dockertest.BigLength)},
	{"send=255.255.255.255:4444", "sent"},
	{"send=224.0.0.1:4444", "sent"},
	{"send=" + dockertest.EngineAddress + ":4444", "sent"},
	{"send=203.0.113.1:4444", "sent"},
}

var greeting = strings.TrimSpace(dockertest.Greeting)

// TestRestrictedNetwork lets workloads try what leads out of a network that has a proxy.
func TestRestrictedNetwork(t *testing.T) {
	onInternets(t, func(t *testing.T, e *dockertest.Throwaway, program string, rts map[string]*docker.Runtime) {
		for _, filter := range []string{"0", "2"} {
			for _, scope := range []string{"all", "default"} {
				e.Inside("sysctl", "-qw", "net.ipv4.conf."+scope+".rp_filter="+filter)
			}
			for name, rt := range rts {
				if filter != "0" && name == "sandboxed" {
					continue // the host does not tell it from another
				}
				t.Run(name+", rp_filter "+filter, func(t *testing.T) { tryToLeave(t, e, rt, program, filter) })
			}
		}
	})
}

func tryToLeave(t *testing.T, e *dockertest.Throwaway, rt *docker.Runtime, program, filter string) {
	host := dockertest.CountDatagrams(t, e.Namespace(), ":4444")
	workload := core.Config{
		Image: baseImage, Cmd: []string{"/asks"}, Mounts: []core.MountConfig{{Source: program, Target: "/asks", ReadOnly: true}},
	}
	for _, way := range ways {
		workload.Cmd = append(workload.Cmd, way.word)
	}

	networks := rt.NetworkManager().(optional.NetworkCreator)
	open, err := networks.CreateNetworkFrom(t.Context(), optional.NetworkConfig{Name: "open", Subnet: "203.0.113.0/26"})
	must(t, err)
	workload.NetworkMode = open
	id := create(t, rt, workload)
	allSucceed(t, ways, answer(t, rt, id))
	if host.Count() == 0 {
		t.Error("no datagram has reached the host without a restriction")
	}
	engine := e.Client(e.Host())
	_, err = engine.ContainerCommit(t.Context(), id, container.CommitOptions{
		Reference: "hostile", Changes: []string{"HEALTHCHECK --interval=1ms CMD touch /too-early"},
	})
	must(t, err)
	mustLeave(t, rt, id)
	must(t, rt.NetworkManager().RemoveNetwork(t.Context(), open))

	// What an engine's options alone are worth.
	unguarded, err := engine.NetworkCreate(t.Context(), "unguarded", network.CreateOptions{
		Internal: true, Options: map[string]string{"com.docker.network.bridge.inhibit_ipv4": "true"},
	})
	must(t, err)
	workload.NetworkMode = unguarded.ID
	before := host.Count()
	id = create(t, rt, workload)
	answer(t, rt, id)
	if leaks := host.Count() > before; leaks != (filter == "0") {
		t.Errorf("that datagrams reach the host of a network without a guard is %t with rp_filter %s", leaks, filter)
	}
	mustLeave(t, rt, id)
	must(t, rt.NetworkManager().RemoveNetwork(t.Context(), unguarded.ID))

	guarded, err := networks.CreateNetworkFrom(t.Context(), optional.NetworkConfig{Name: "guarded", Internal: true})
	must(t, err)
	dockertest.AcceptAtGuard(t, e.Namespace(), "br-"+guarded[:12])
	mustSay(t, rt, "moat-guard-"+guarded[:12], "made again", 1)
	dockertest.RemoveGuardRules(t, e.Namespace())
	mustSay(t, rt, "moat-guard-"+guarded[:12], "made again", 2)
	workload.NetworkMode = guarded
	before = host.Count()
	id = create(t, rt, workload)
	answer(t, rt, id)
	if got := host.Count() - before; got != 0 {
		t.Errorf("%d datagrams have reached the host whose rules were removed", got)
	}
	mustLeave(t, rt, id)
	must(t, rt.NetworkManager().RemoveNetwork(t.Context(), guarded))

	before = host.Count()
	workload.NetworkMode, workload.Image, workload.Pull = "", "hostile", core.PullNever
	proxied := []struct{ word, success string }{
		{"proxied=" + dockertest.OutsideName + ":8080", "200 Connection established: " + greeting},
		{"proxied=" + dockertest.OutsideName + ":80", "403 Forbidden: blocked by policy"},
		{"proxied=elsewhere.example:8080", "403 Forbidden: blocked by policy"},
		{"exists=/too-early", "false"}, // what the image has executed before the release
	}
	for _, way := range proxied {
		workload.Cmd = append(workload.Cmd, way.word)
	}
	restricted, err := run.New(rt, run.Spec{
		Workload: workload,
		Egress: &run.Egress{
			Rules:   []string{dockertest.OutsideName + ":8080"},
			Program: dockertest.EgressProxy,
			Private: []netip.Prefix{netip.MustParsePrefix(dockertest.OutsideAddress + "/32")},
		},
	}, run.Options{Attached: true})
	must(t, err)
	defer func() { must(t, restricted.Close(context.WithoutCancel(t.Context()))) }()
	must(t, restricted.Prepare(t.Context()))
	var output, failures strings.Builder
	must(t, restricted.StartAttached(t.Context(), core.AttachOptions{Stdout: &output, Stderr: &failures}, nil))
	said := strings.Split(strings.TrimSpace(output.String()), "\n")
	if len(said) != len(ways)+len(proxied) {
		t.Fatalf("it says %q, %s", said, failures.String())
	}
	for i, way := range ways {
		if said[i] == way.success && way.success != "sent" {
			t.Errorf("%s succeeds", way.word)
		}
	}
	for i, way := range proxied {
		if said := said[len(ways)+i]; !strings.HasPrefix(said, way.success) {
			t.Errorf("%s: %s, want %s", way.word, said, way.success)
		}
	}
	if got := host.Count() - before; got != 0 {
		t.Errorf("%d datagrams have reached the host", got)
	}
	evidence := restricted.Evidence()
	noVsock := optional.EgressAttempt{Network: optional.EgressVsock, Result: optional.EgressFailed}
	if evidence.Dropped == 0 || evidence.Arrived != 0 || len(evidence.Attempts) < 7 || !slices.Contains(evidence.Attempts, noVsock) {
		t.Errorf("the evidence is %+v", evidence)
	}
}

// TestFirewall lets workloads try what leads past a firewall, to a proxy on the engine's host
// and to one elsewhere.
func TestFirewall(t *testing.T) {
	onInternets(t, func(t *testing.T, e *dockertest.Throwaway, program string, rts map[string]*docker.Runtime) {
		for _, scope := range []string{"all", "default"} {
			e.Inside("sysctl", "-qw", "net.ipv4.conf."+scope+".rp_filter=0")
		}
		for name, rt := range rts {
			for where, proxy := range map[string]string{"host": dockertest.EngineAddress, "elsewhere": dockertest.OutsideAddress, "name": "proxy.example"} {
				if where != "host" && name == "sandboxed" {
					continue // its guard is the same
				}
				t.Run(name+", "+where, func(t *testing.T) { tryFirewall(t, e, rt, program, proxy) })
			}
			t.Run(name+", running", func(t *testing.T) { tryFirewallLater(t, e, rt, program) })
		}
	})
}

func tryFirewall(t *testing.T, e *dockertest.Throwaway, rt *docker.Runtime, program, proxy string) {
	const port = 80
	tries := []way{
		{"reach=" + dockertest.OutsideAddress + ":80", greeting},
		{"reach=" + dockertest.OutsideAddress + ":8080", greeting},
		{"reach=" + dockertest.EngineAddress + ":80", greeting},
		{"reach=172.17.0.1:80", greeting},
		{"send=255.255.255.255:4444", "sent"},
		{"send=224.0.0.1:4444", "sent"},
		{"send=" + dockertest.EngineAddress + ":4444", "sent"},
		{"send=" + proxy + ":4444", "sent"},
	}
	if proxy == dockertest.EngineAddress { // it takes seconds to fail
		tries = append(tries, way{"text=" + dockertest.BigName, strconv.Itoa(dockertest.BigLength)})
	}
	host := dockertest.CountDatagrams(t, e.Namespace(), ":4444")
	cfg := core.Config{
		Image: baseImage, Cmd: []string{"/asks"}, Mounts: []core.MountConfig{{Source: program, Target: "/asks", ReadOnly: true}},
		ExtraHosts: []string{"proxy.example:" + dockertest.EngineAddress},
	}
	for _, try := range tries {
		cfg.Cmd = append(cfg.Cmd, try.word)
	}
	open := create(t, rt, cfg)
	allSucceed(t, tries, answer(t, rt, open))
	if host.Count() == 0 {
		t.Error("without a firewall no datagram has reached the host")
	}
	mustLeave(t, rt, open)

	if isPlainAndNew(e, rt) {
		id := create(t, rt, cfg)
		if err := rt.SetupFirewall(t.Context(), id, proxy, port); core.FieldOf(err) != "DNS" || !errors.Is(err, core.ErrPolicyNotEnforced) {
			t.Errorf("without name servers of its own: %v", err)
		}
		mustLeave(t, rt, id)
		cfg.DNS = []string{"0.0.0.1"}
	}
	id := create(t, rt, cfg)
	must(t, rt.SetupFirewall(t.Context(), id, proxy, port))
	must(t, rt.SetupFirewall(t.Context(), id, proxy, port))
	if err := rt.SetupFirewall(t.Context(), id, proxy, 81); !errors.Is(err, core.ErrAlreadyExists) {
		t.Errorf("another one: %v", err)
	}
	if !rt.Capabilities().EnforcedEgress {
		t.Error("it is not known that it is enforced")
	}
	before := host.Count()
	said := strings.Split(answer(t, rt, id), "\n")
	for i, try := range tries {
		allowed := try.word == "reach="+proxy+":80" || proxy == "proxy.example" && try.word == "reach="+dockertest.EngineAddress+":80"
		if succeeds := said[i] == try.success && try.success != "sent"; succeeds != allowed {
			t.Errorf("that %s succeeds is %t: %s", try.word, succeeds, said[i])
		}
	}
	if got := host.Count() - before; got != 0 {
		t.Errorf("%d datagrams have reached the host", got)
	}

	must(t, e.Client(e.Host()).NetworkConnect(t.Context(), "bridge", id, nil))
	if err := rt.StartContainer(t.Context(), id); !errors.Is(err, core.ErrPolicyNotEnforced) {
		t.Errorf("with another network: %v", err)
	}
	must(t, rt.SetupFirewall(t.Context(), id, proxy, port))
	must(t, rt.StartContainer(t.Context(), id))
	mustLeave(t, rt, id)
	left, err := rt.NetworkManager().ListNetworks(t.Context())
	must(t, err)
	containers, err := rt.ListContainers(t.Context())
	must(t, err)
	if len(left)+len(containers) > 0 {
		t.Errorf("left are %v, %v", left, containers)
	}
}

// isPlainAndNew tells that an engine looks names up from its host for containers without a
// sandbox.
func isPlainAndNew(e *dockertest.Throwaway, rt *docker.Runtime) bool {
	return e.Like == "current" && rt.Capabilities().Isolation == optional.IsolationContainer
}

// tryFirewallLater sets a firewall up for a container that runs.
func tryFirewallLater(t *testing.T, e *dockertest.Throwaway, rt *docker.Runtime, program string) {
	cfg := core.Config{
		Image: baseImage, Cmd: []string{"sleep", "600"}, Mounts: []core.MountConfig{{Source: program, Target: "/asks", ReadOnly: true}},
	}
	if isPlainAndNew(e, rt) {
		cfg.DNS = []string{"0.0.0.1"}
	}
	id := start(t, rt, cfg)
	reaches := func(host string) bool {
		var said strings.Builder
		_, err := rt.Exec(t.Context(), id, optional.ExecOptions{Cmd: []string{"/asks", "reach=" + host + ":80"}, AttachOptions: core.AttachOptions{Stdout: &said}})
		must(t, err)
		return strings.TrimSpace(said.String()) == greeting
	}
	if !reaches(dockertest.EngineAddress) || !reaches(dockertest.OutsideAddress) {
		t.Fatal("it reaches nothing without a firewall")
	}
	err := rt.SetupFirewall(t.Context(), id, dockertest.EngineAddress, 80)
	if rt.Capabilities().Isolation == optional.IsolationSandbox {
		if !errors.Is(err, core.ErrUnsupported) || reaches(dockertest.OutsideAddress) == false {
			t.Errorf("a running sandbox: %v", err)
		}
		mustLeave(t, rt, id)
		return
	}
	must(t, err)
	if !reaches(dockertest.EngineAddress) || reaches(dockertest.OutsideAddress) {
		t.Error("it does not reach the proxy alone")
	}
	// Where the proxy does not answer, the container is killed.
	second := start(t, rt, cfg)
	if err := rt.SetupFirewall(t.Context(), second, dockertest.EngineAddress, 9); !errors.Is(err, core.ErrPolicyNotEnforced) {
		t.Errorf("without a proxy: %v", err)
	}
	if code, err := rt.WaitContainer(t.Context(), second); err != nil || code != 137 {
		t.Errorf("it has ended with %d, %v", code, err)
	}
	mustLeave(t, rt, id)
	mustLeave(t, rt, second)
	left, err := rt.NetworkManager().ListNetworks(t.Context())
	must(t, err)
	if len(left) > 0 {
		t.Errorf("left are %v", left)
	}
}

// allSucceed compares what an open workload has said with the successes of its tries.
func allSucceed(t *testing.T, tries []way, output string) {
	t.Helper()
	said := strings.Split(output, "\n")
	for i, try := range tries {
		if said[i] != try.success {
			t.Errorf("%s on an open network: %s", try.word, said[i])
		}
	}
}

// buildAsks returns the program of testdata/asks, which needs no library: busybox's own
// look-ups do not ask over TCP, and those of its programs crash in a static one.
func buildAsks(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "asks")
	build := exec.Command("go", "build", "-o", path, "./testdata/asks")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

func killDaemon(t *testing.T, e *dockertest.Throwaway) {
	t.Helper()
	content, err := os.ReadFile(e.PIDFile())
	must(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	must(t, err)
	must(t, syscall.Kill(pid, syscall.SIGKILL))
}

// mustSay waits until a container has said a line so many times.
func mustSay(t *testing.T, rt core.Runtime, id, line string, times int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	logs, err := rt.ContainerLogs(ctx, id)
	must(t, err)
	defer logs.Close()
	said := bufio.NewScanner(logs)
	for said.Scan() {
		if said.Text() == line {
			times--
		}
		if times == 0 {
			return
		}
	}
	t.Fatalf("it has not said %q: %v", line, said.Err())
}

// mustAnswer starts a container and compares all that it has said so far.
func mustAnswer(t *testing.T, rt core.Runtime, id, what, answers string) {
	t.Helper()
	if said := answer(t, rt, id); said != answers {
		t.Errorf("%s: the answers are %q, want %q", what, said, answers)
	}
}

// answer starts a container and returns all that it has said when it has exited.
func answer(t *testing.T, rt core.Runtime, id string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must(t, rt.StartContainer(ctx, id))
	_, err := rt.WaitContainer(ctx, id)
	must(t, err)
	said, err := rt.ContainerLogsAll(ctx, id)
	must(t, err)
	return string(said)
}
