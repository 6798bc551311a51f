package docker

import (
	"context"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/system"
	"github.com/docker/go-connections/nat"
	"github.com/moatproject/moat/core"
)

// GetPortBindings returns the first IPv4 binding of each published TCP port.
func (r *Runtime) GetPortBindings(ctx context.Context, id string) (map[int]int, error) {
	c := call{op: "read port bindings", object: id}
	found, err := r.inspect(ctx, c.op, id)
	if err != nil {
		return nil, err
	}
	if !found.State.Running {
		return nil, c.wrong(core.ErrNotRunning, "", "ports are bound when it starts", "Start it first")
	}
	return portsOf(found.NetworkSettings), nil
}

func portsOf(settings *container.NetworkSettings) map[int]int {
	ports := map[int]int{}
	if settings == nil {
		return ports
	}
	for port, bindings := range settings.Ports {
		if hostPort, ok := firstIPv4(bindings); ok && port.Proto() == "tcp" {
			ports[port.Int()] = hostPort
		}
	}
	return ports
}

// firstIPv4 returns the host port of the first IPv4 binding, or of the first at all.
func firstIPv4(bindings []nat.PortBinding) (hostPort int, found bool) {
	for _, binding := range bindings {
		port, err := strconv.Atoi(binding.HostPort)
		if err != nil {
			continue
		}
		if address, err := netip.ParseAddr(binding.HostIP); err == nil && address.Is4() {
			return port, true
		}
		if !found {
			hostPort, found = port, true
		}
	}
	return hostPort, found
}

// desktopHost is the name that engines in a virtual machine give to its host.
const desktopHost = "host.docker.internal"

// hostTimeout bounds the questions of methods that take no context.
const hostTimeout = 2 * time.Second

// hostFacts is what the engine says of its host, asked once.
type hostFacts struct {
	asking  mutex
	known   bool
	address string // at which containers reach it
	native  bool   // it is this machine, with no virtual machine between

	ociRuntime string // the engine's default
}

// GetHostAddress returns the address at which a container on the bridge network
// reaches the engine's host. It asks the engine once, for two seconds at most. It is
// empty where there is no such address: a rootless engine's containers have none.
func (r *Runtime) GetHostAddress() string {
	address, _ := r.askHost()
	return address
}

// SupportsHostNetwork tells whether network mode "host" means this machine's network.
// It asks as [Runtime.GetHostAddress] does.
func (r *Runtime) SupportsHostNetwork() bool {
	_, native := r.askHost()
	return native
}

func (r *Runtime) askHost() (address string, native bool) {
	c, err := r.begin(context.Background(), hostTimeout, "describe host", r.options.Host)
	if err != nil {
		return "", false
	}
	defer c.end()
	facts, err := r.hostFacts(c.ctx)
	return facts.address, err == nil && facts.native
}

func (r *Runtime) hostFacts(ctx context.Context) (hostFacts, error) {
	if err := r.host.asking.lock(ctx); err != nil {
		return hostFacts{}, err
	}
	defer r.host.asking.unlock()
	if r.host.known {
		return r.host, nil
	}
	info, err := r.engine.Info(ctx)
	if err != nil {
		return hostFacts{}, err
	}
	switch {
	case isRootless(info):
	case isVirtual(info, r.options.GOOS):
		r.host.address = desktopHost
	default:
		bridge, err := r.engine.NetworkInspect(ctx, network.NetworkBridge, network.InspectOptions{})
		if err != nil {
			return hostFacts{}, err
		}
		r.host.address = gatewayOf(bridge)
		// A sandbox has a network stack of its own, to which the host's does not belong.
		r.host.native = strings.HasPrefix(r.options.Host, "unix://") && r.options.Sandbox == nil
	}
	r.host.known, r.host.ociRuntime = true, info.DefaultRuntime
	return r.host, nil
}

func isRootless(info system.Info) bool {
	for _, option := range info.SecurityOptions {
		if strings.Contains(option, "name=rootless") {
			return true
		}
	}
	return false
}

// isVirtual tells an engine in a desktop's virtual machine: by its products' names,
// or because it is not an engine for this machine's.
func isVirtual(info system.Info, goos string) bool {
	for _, mark := range []string{"docker desktop", "orbstack", "rancher-desktop", "colima"} {
		if strings.Contains(strings.ToLower(info.OperatingSystem+" "+info.Name), mark) {
			return true
		}
	}
	return info.OSType != goos
}

func gatewayOf(bridge network.Inspect) string {
	for _, config := range bridge.IPAM.Config {
		if address, err := netip.ParseAddr(config.Gateway); err == nil && address.Is4() {
			return config.Gateway
		}
	}
	return ""
}
