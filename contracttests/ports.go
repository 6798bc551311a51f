package contracttests

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
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

// anyPort returns a port of the engine's machine that is very likely free: few
// programs listen there, and no system hands them out.
func anyPort() int { return 20000 + rand.IntN(10000) }

// server is a configuration of a container that greets who connects.
func (f *fixture) server() core.Config {
	return f.shell(fmt.Sprintf(`while true; do echo hello | nc -l -p %d; done`, containerPort))
}

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
	cfg := f.command("true")
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
