package contracttests

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moatproject/moat/core"
)

func portCases() []Case {
	publishing := capability("PublishedPorts")
	return []Case{
		{
			Number: "RT-25", Title: "a host port is given once", check: portTaken,
			ability: publishing, unsupported: refusedConfig(publishFixed),
		},
		{
			Number: "RT-85", Title: "a published port answers", check: portAnswers, fields: []string{"PortBindings"},
			ability: publishing, unsupported: refusedConfig(publish),
		},
		{
			Number: "RT-87", Title: "the host's address leads to the host", check: hostAddress, fields: []string{"Ports"},
			ability: publishing, unsupported: refusedConfig(publish),
		},
		{
			Number: "CF-35", Title: "without an address ports are loopback's", check: loopbackPorts, fields: []string{"PortBindings", "Ports"},
			ability: publishing, unsupported: refusedConfig(publish),
		},
		{Number: "RT-86", Title: "ports that nobody published", check: noPorts},
		{Number: "RT-88", Title: "the host's network where it is supported", check: hostNetworkSupport},
		{
			Number: "CF-13", Title: "Ports may choose the host port", check: fixedPort, fields: []string{"Ports"},
			ability: publishing, unsupported: refusedConfig(publishFixed),
		},
		{
			Number: "CF-14", Title: "Ports may publish UDP", check: udpPort, fields: []string{"Ports"},
			ability: publishing, unsupported: refusedConfig(publishUDP),
		},
		{
			Number: "CF-33", Title: "Ports may publish one port several times", check: severalHostPorts, fields: []string{"Ports"},
			ability: publishing, unsupported: refusedConfig(publishTwice),
		},
		{
			Number: "CF-34", Title: "Ports may leave a range to choose from", check: portRange, fields: []string{"Ports"},
			unsupported: refusedConfig(publishRange),
		},
	}
}

const containerPort = 8080

func publish(c *core.Config) { c.PortBindings = map[int]string{containerPort: "127.0.0.1"} }

func publishFixed(c *core.Config) {
	c.Ports = []core.PortMapping{{ContainerPort: containerPort, HostIP: "127.0.0.1", HostPort: anyPort()}}
}

func publishUDP(c *core.Config) {
	c.Ports = []core.PortMapping{{ContainerPort: containerPort, Protocol: "udp", HostIP: "127.0.0.1", HostPort: anyPort()}}
}

func publishTwice(c *core.Config) {
	first := anyPort()
	for _, port := range []int{first, first - 1} {
		c.Ports = append(c.Ports, core.PortMapping{ContainerPort: containerPort, HostIP: "127.0.0.1", HostPort: port})
	}
}

// publishRange leaves two ports to choose from.
func publishRange(c *core.Config) {
	first := anyPort()
	c.Ports = []core.PortMapping{{ContainerPort: containerPort, HostIP: "127.0.0.1", HostPort: first, HostPortEnd: first + 1}}
}

// anyPort returns a port of the engine's machine that is very likely free: few
// programs listen there, and no system hands them out.
func anyPort() int { return 20000 + rand.IntN(10000) }

// server is a configuration of a container that greets who connects.
func (f *fixture) server() core.Config { return f.servers(containerPort) }

// wantGreeting connects until the container's server answers.
func (f *fixture) wantGreeting(port int) {
	f.Helper()
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	var last error
	if !eventually(func() bool { last = f.greeted(address); return last == nil }) {
		f.Errorf("nobody answers at %s: %v", address, last)
	}
}

func (f *fixture) greeted(address string) error {
	dial := f.h.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	ctx, cancel := context.WithTimeout(f.ctx, 5*time.Second)
	defer cancel()
	conn, err := dial(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	got, err := io.ReadAll(conn)
	if string(got) != "hello\n" {
		return errors.Join(fmt.Errorf("it answers %q", got), err)
	}
	return nil
}

func (f *fixture) ports(id string) map[int]int {
	f.Helper()
	ports, err := f.rt.GetPortBindings(f.ctx, id)
	f.must(err)
	return ports
}

func portAnswers(f *fixture) {
	cfg := f.server()
	publish(&cfg)
	ports := f.ports(f.started(cfg))
	if len(ports) != 1 || ports[containerPort] == 0 {
		f.Fatalf("the published ports are %v", ports)
	}
	f.wantGreeting(ports[containerPort])
}

// hostIP returns the address at which containers reach the host, "" where that is none
// that a port can be published on.
func (f *fixture) hostIP() string {
	address, err := netip.ParseAddr(f.rt.GetHostAddress())
	if err != nil || address.IsLoopback() {
		return ""
	}
	return address.String()
}

// servers is a configuration of a container that greets who connects to a port of several.
func (f *fixture) servers(ports ...int) core.Config {
	return f.agent(serving(ports...))
}

// serving is the step that does it.
func serving(ports ...int) string { return "serve " + strings.Trim(fmt.Sprint(ports), "[]") }

// asksHost is a configuration of a container that prints what it hears from a port at the
// host's address. It asks until it is answered, or a few times.
func (f *fixture) asksHost(host string, port int, patiently bool) core.Config {
	tries := 3
	if patiently {
		tries = 100
	}
	return f.agent(fmt.Sprintf("try retry %d ask %s %d", tries, host, port))
}

func (f *fixture) heardFromInside(host string, port int, patiently bool) string {
	f.Helper()
	return f.output(f.asksHost(host, port, patiently))
}

func hostAddress(f *fixture) {
	host := f.hostIP()
	if host == "" {
		f.Logf("GetHostAddress is %q: no address to publish a port on", f.rt.GetHostAddress())
		return
	}
	cfg := f.server()
	cfg.Ports = []core.PortMapping{{ContainerPort: containerPort, HostIP: host, HostPort: anyPort()}}
	f.started(cfg)
	want(f, fmt.Sprintf("what a container hears at the host's address %s from a port that is published there", host),
		f.heardFromInside(host, cfg.Ports[0].HostPort, true), "hello\n")
}

func loopbackPorts(f *fixture) {
	const byBinding, byPort, elsewhere = containerPort, containerPort + 1, containerPort + 2
	cfg := f.servers(byBinding, byPort, elsewhere)
	cfg.PortBindings = map[int]string{byBinding: ""}
	cfg.Ports = []core.PortMapping{{ContainerPort: byPort, HostPort: anyPort()}}
	host := f.hostIP()
	if host != "" { // shows that a port of another address is heard
		cfg.Ports = append(cfg.Ports, core.PortMapping{ContainerPort: elsewhere, HostIP: host, HostPort: anyPort()})
	}
	bound := f.ports(f.started(cfg))
	want(f, "the host port that Ports asked for", bound[byPort], cfg.Ports[0].HostPort)
	for _, port := range []int{bound[byBinding], bound[byPort]} {
		f.wantGreeting(port)
	}
	if host == "" {
		return
	}
	want(f, "what a container hears from a port that is published on "+host, f.heardFromInside(host, cfg.Ports[1].HostPort, true), "hello\n")
	for what, port := range map[string]int{"PortBindings": bound[byBinding], "Ports": bound[byPort]} {
		want(f, fmt.Sprintf("what a container hears at %s from a port that %s has published without an address, which is to be 127.0.0.1 alone", host, what),
			f.heardFromInside(host, port, false), "failed\n")
	}
}

func noPorts(f *fixture) {
	_, err := f.rt.GetPortBindings(f.ctx, f.missing())
	f.wantClass("the ports of what is missing", err, core.ErrNotFound)
	id := f.create(f.idle())
	_, err = f.rt.GetPortBindings(f.ctx, id)
	f.wantClass("the ports of what does not run", err, core.ErrNotRunning)
	f.start(id)
	if ports := f.ports(id); ports == nil || len(ports) > 0 {
		f.Errorf("the ports of a container that publishes none are %#v", ports)
	}
}

func hostNetworkSupport(f *fixture) {
	if f.rt.SupportsHostNetwork() {
		return // what it then means is CF-12
	}
	cfg := f.agent()
	cfg.NetworkMode = "host"
	_, err := f.tryCreate(cfg)
	f.wantClass("a container on the host's network", err, core.ErrUnsupported)
}

func fixedPort(f *fixture) {
	cfg := f.server()
	publishFixed(&cfg)
	id := f.started(cfg)
	want(f, "the host port", f.ports(id)[containerPort], cfg.Ports[0].HostPort)
	f.wantGreeting(cfg.Ports[0].HostPort)
}

func severalHostPorts(f *fixture) {
	cfg := f.server()
	publishTwice(&cfg)
	id := f.started(cfg)
	var told []int
	for _, port := range f.listed(id).Published {
		if port.ContainerPort == containerPort && port.Protocol == "tcp" && port.HostIP == "127.0.0.1" {
			told = append(told, port.HostPort)
		}
	}
	want(f, "the host ports that the list tells", fmt.Sprint(told), fmt.Sprint([]int{cfg.Ports[1].HostPort, cfg.Ports[0].HostPort}))
	if port := f.ports(id)[containerPort]; !slices.Contains(told, port) {
		f.Errorf("the host port is %d, want one of %v", port, told)
	}
	for _, port := range cfg.Ports {
		f.wantGreeting(port.HostPort)
	}
}

// portRange has as many containers choose as there are ports, and one more.
func portRange(f *fixture) {
	cfg := f.server()
	publishRange(&cfg)
	first, second := f.ports(f.started(cfg))[containerPort], f.ports(f.started(cfg))[containerPort]
	if want := cfg.Ports[0].HostPort; min(first, second) != want || max(first, second) != want+1 {
		f.Errorf("the host ports are %d and %d, want %d and %d", first, second, want, want+1)
	}
	f.wantGreeting(first)
	f.wantGreeting(second)
	f.wantPortInUse(cfg)
}

func portTaken(f *fixture) {
	cfg := f.idle()
	publishFixed(&cfg)
	f.started(cfg)
	f.wantPortInUse(cfg)
}

// wantPortInUse checks that no second container of this configuration starts.
func (f *fixture) wantPortInUse(cfg core.Config) {
	f.Helper()
	id, err := f.tryCreate(cfg)
	if err == nil {
		err = f.rt.StartContainer(f.ctx, id)
		if state := f.state(id); state == core.StateRunning {
			f.Errorf("a container whose host port is taken is running")
		}
	}
	f.wantClass("starting a container whose host port is taken", err, core.ErrInUse)
}

// udpPort publishes one number for both protocols: only where both are told apart
// does that start, and only where the second is really published is it taken.
func udpPort(f *fixture) {
	cfg := f.idle()
	publishUDP(&cfg)
	udp := cfg.Ports[0]
	tcp := udp
	tcp.Protocol = "tcp"
	cfg.Ports = append(cfg.Ports, tcp)
	f.started(cfg)
	cfg.Ports = []core.PortMapping{udp}
	f.wantPortInUse(cfg)
}
