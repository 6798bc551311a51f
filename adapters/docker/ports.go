package docker

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"
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
	settings, err := r.publishing(ctx, found)
	return portsOf(settings), err
}

// publisherOf returns the name of the proxy that publishes a container's ports, "" where
// none does. The label may be one of the image, which names whatever it likes.
func publisherOf(labels map[string]string, networkMode string) string {
	if name := labels[labelPublisher]; len(networkMode) > shortLength && name == proxyName(networkMode) {
		return name
	}
	return ""
}

// publishing returns the network settings that have a container's published ports: those of
// its proxy, if its network is restricted.
func (r *Runtime) publishing(ctx context.Context, found container.InspectResponse) (*container.NetworkSettings, error) {
	if found.Config == nil || found.HostConfig == nil {
		return found.NetworkSettings, nil
	}
	publisher := publisherOf(found.Config.Labels, string(found.HostConfig.NetworkMode))
	if publisher == "" {
		return found.NetworkSettings, nil
	}
	proxy, err := r.inspect(ctx, "read port bindings", publisher)
	if errors.Is(err, core.ErrNotFound) {
		return nil, nil
	}
	return proxy.NetworkSettings, err
}

// publishedIn is publishing for a row of a list.
func publishedIn(all []container.Summary, row container.Summary) []core.PortMapping {
	publisher := publisherOf(row.Labels, row.HostConfig.NetworkMode)
	if publisher == "" {
		return listedPorts(row.Ports)
	}
	for _, other := range all {
		if nameOf(other.Names) == publisher {
			return listedPorts(other.Ports)
		}
	}
	return nil
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

// publishedOf returns all published ports, TCP and UDP.
func publishedOf(settings *container.NetworkSettings) (published []core.PortMapping) {
	if settings == nil {
		return nil
	}
	for port, bindings := range settings.Ports {
		for _, binding := range bindings {
			if hostPort, err := strconv.Atoi(binding.HostPort); err == nil {
				published = append(published, core.PortMapping{
					ContainerPort: port.Int(), Protocol: port.Proto(), HostIP: binding.HostIP, HostPort: hostPort,
				})
			}
		}
	}
	slices.SortFunc(published, comparePorts)
	return published
}

// listedPorts is publishedOf for a row of a list.
func listedPorts(ports []container.Port) (published []core.PortMapping) {
	for _, port := range ports {
		if port.PublicPort > 0 {
			published = append(published, core.PortMapping{
				ContainerPort: int(port.PrivatePort), Protocol: port.Type, HostIP: port.IP, HostPort: int(port.PublicPort),
			})
		}
	}
	slices.SortFunc(published, comparePorts)
	return published
}

func comparePorts(a, b core.PortMapping) int {
	return cmp.Or(cmp.Compare(a.ContainerPort, b.ContainerPort), strings.Compare(a.Protocol, b.Protocol),
		strings.Compare(a.HostIP, b.HostIP), cmp.Compare(a.HostPort, b.HostPort))
}

// firstIPv4 returns the host port of the first IPv4 binding, or else of the first binding.
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

// desktopHost is the name of the host in containers of engines in a virtual machine.
const desktopHost = "host.docker.internal"

// pingTimeout bounds the first ping of methods without a context.
const pingTimeout = 2 * time.Second

// hostFactsAge is how long facts are kept: an engine may restart with other settings, and
// its host's addresses may change.
const hostFactsAge = time.Minute

// hostFacts are facts about the engine's host.
type hostFacts struct {
	asking  mutex
	at      time.Time // time of the request; zero: none yet
	address string    // address of the host in containers
	native  bool      // the host is this machine, without a virtual machine

	ociRuntime string // the engine's default
	root       string // the directory in which it keeps images and containers
}

// GetHostAddress returns the address at which a container on the bridge network
// reaches the engine's host. It asks the engine once a minute, for two seconds at most.
// It is empty where there is no such address: a rootless engine's containers have none.
func (r *Runtime) GetHostAddress() string {
	address, _ := r.askHost()
	return address
}

// SupportsHostNetwork reports whether network mode "host" is this machine's network. It
// asks the engine as [Runtime.GetHostAddress] does.
func (r *Runtime) SupportsHostNetwork() bool {
	_, native := r.askHost()
	return native
}

func (r *Runtime) askHost() (address string, native bool) {
	c, err := r.begin(context.Background(), pingTimeout, "describe host", r.options.Host)
	if err != nil {
		return "", false
	}
	c.end() // the ping has told the product
	if c, err = r.begin(context.Background(), r.kind().hostTimeout, c.op, c.object); err != nil {
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
	if !r.host.at.IsZero() && time.Since(r.host.at) < hostFactsAge {
		return r.host, nil
	}
	info, err := r.engine.Info(ctx)
	if err != nil {
		return hostFacts{}, err
	}
	facts := hostFacts{asking: r.host.asking, at: time.Now(), ociRuntime: info.DefaultRuntime, root: info.DockerRootDir}
	switch {
	case isRootless(info):
	case isVirtual(info, r.options.GOOS):
		facts.address = desktopHost
	default:
		bridge, err := r.engine.NetworkInspect(ctx, network.NetworkBridge, network.InspectOptions{})
		if err != nil {
			return hostFacts{}, err
		}
		facts.address = gatewayOf(bridge)
		// A sandbox has its own network stack, not the host's.
		facts.native = strings.HasPrefix(r.options.Host, "unix://") && r.options.Sandbox == nil
	}
	r.host = facts
	return facts, nil
}

func isRootless(info system.Info) bool {
	for _, option := range info.SecurityOptions {
		if strings.Contains(option, "name=rootless") {
			return true
		}
	}
	return false
}

// isVirtual reports whether an engine runs in a virtual machine of a desktop product: it
// has such a product's name, or another operating system than this machine.
func isVirtual(info system.Info, goos string) bool {
	for _, mark := range []string{"docker desktop", "orbstack", "rancher-desktop", "colima"} {
		if strings.Contains(strings.ToLower(info.OperatingSystem+" "+info.Name), mark) {
			return true
		}
	}
	return info.OSType != goos
}

// gatewayOf returns the host's address on a bridge. Docker Engine 20.10 reports only the
// subnet until its restart; the host then has the subnet's first address.
func gatewayOf(bridge network.Inspect) string {
	for _, config := range bridge.IPAM.Config {
		address, err := netip.ParseAddr(config.Gateway)
		if subnet, subnetErr := netip.ParsePrefix(config.Subnet); config.Gateway == "" && subnetErr == nil {
			address, err = subnet.Masked().Addr().Next(), nil
		}
		if err == nil && address.Is4() {
			return address.String()
		}
	}
	return ""
}
