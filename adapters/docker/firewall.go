package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/egress"
	"github.com/moatproject/moat/core/optional"
)

// A container with a firewall is on a network of its own, and on no other. The guard of that
// network lets TCP to the proxy pass, and nothing else. A check of ours on the same network,
// or in the network stack of a container that runs, then tries other ways.

// labelFirewall is the label of a firewall's network that has the address of the proxy.
const labelFirewall = "moat.docker.firewall"

// firewallFactor is how many times as long as other requests the setup may take: it starts
// two helpers.
const firewallFactor = 2

func firewallName(containerID string) string { return "moat-firewall-" + containerID[:shortLength] }

// firewalls has the networks of the firewalls that this Runtime has set up, by container ID.
type firewalls struct {
	lock     sync.Mutex
	networks map[string]string
	enforced bool // a check has shown that a restriction holds
}

func (f *firewalls) add(containerID, networkID string) {
	f.lock.Lock()
	defer f.lock.Unlock()
	if f.networks == nil {
		f.networks = map[string]string{}
	}
	f.networks[containerID] = networkID
}

func (f *firewalls) remove(containerID string) {
	f.lock.Lock()
	defer f.lock.Unlock()
	delete(f.networks, containerID)
}

func (f *firewalls) enforce() {
	f.lock.Lock()
	defer f.lock.Unlock()
	f.enforced = true
}

func (f *firewalls) enforces() bool {
	f.lock.Lock()
	defer f.lock.Unlock()
	return f.enforced
}

// of returns the container of an ID or a name and the network of its firewall. Without
// firewalls it asks the engine for nothing.
func (f *firewalls) of(ctx context.Context, r *Runtime, id string) (found container.InspectResponse, networkID string, err error) {
	f.lock.Lock()
	none := len(f.networks) == 0
	f.lock.Unlock()
	if none {
		return found, "", nil
	}
	found, err = r.inspectContainer(ctx, id)
	if errdefs.IsNotFound(err) {
		found.ContainerJSONBase, err = &container.ContainerJSONBase{ID: id}, nil // it may have removed itself
	}
	if err != nil {
		return found, "", err
	}
	f.lock.Lock()
	defer f.lock.Unlock()
	return found, f.networks[found.ID], nil
}

// SetupFirewall lets a container connect to proxyHost:proxyPort over TCP and to nothing
// else. It moves the container to a network of its own, from which no names can be looked
// up, and removes it from all other networks. The first address of proxyHost, which may be
// an entry of the container's ExtraHosts, counts from then on. The proxy must answer.
//
// A created container is closed from its first instruction on. A running one keeps no
// connection, and is killed if the check fails. A running sandbox does not see that its
// networks change: [core.ErrUnsupported]. Setting up the same firewall again checks it again.
// [Runtime.RemoveContainer] removes the network.
func (r *Runtime) SetupFirewall(ctx context.Context, id string, proxyHost string, proxyPort int) error {
	if err := core.ValidateProxy(proxyHost, proxyPort); err != nil {
		return err
	}
	c, err := r.on(ctx, firewallFactor*r.timeout, "set up firewall", id)
	if err != nil {
		return err
	}
	defer c.end()
	found, err := r.inspectContainer(c.ctx, id)
	if err != nil {
		return c.failed(err)
	}
	if err := r.checkFirewall(c, found); err != nil {
		return err
	}
	address, err := r.pin(c, found, proxyHost, proxyPort)
	if err != nil {
		return err
	}
	on, err := r.firewallNetwork(c, found, address)
	if err != nil {
		return err
	}
	r.firewalls.add(found.ID, on.ID)
	err = r.moveTo(c, found, on.ID)
	if err == nil {
		err = r.confirmFirewall(c, found, &restriction{network: on, proxy: address})
	}
	if err == nil {
		r.firewalls.enforce()
		return nil
	}
	if found.State.Running {
		ctx, cancel := tidying(c.ctx)
		defer cancel()
		_ = r.engine.ContainerKill(ctx, found.ID, "KILL")
	}
	return c.failed(err)
}

// checkFirewall refuses containers that a firewall would not hold.
func (r *Runtime) checkFirewall(c *call, found container.InspectResponse) error {
	host := found.HostConfig
	mode := host.NetworkMode
	capability := slices.IndexFunc(host.CapAdd, egress.IsEscape)
	switch {
	case r.kind().noEgress != "":
		return c.wrong(core.ErrUnsupported, "", r.kind().noEgress, "Use Docker Engine")
	case mode.IsHost() || mode.IsContainer() || mode.IsNone():
		return c.wrong(core.ErrUnsupported, "NetworkMode", "a container with the network mode "+string(mode)+" has no network of its own", "Create it with network bridge")
	case host.Privileged:
		return c.wrong(core.ErrUnsupported, "Privileged", "a privileged workload could leave its network", "Create it without")
	case capability >= 0:
		return c.wrong(core.ErrUnsupported, "CapAdd", "with the capability "+host.CapAdd[capability]+" a workload could change or leave its network", "Create it without")
	case len(host.PortBindings) > 0:
		return c.wrong(core.ErrUnsupported, "Ports", "answers to connections from outside would be dropped", "Create it without published ports")
	case isPlain(host.Runtime) && !r.hasSeccomp(host):
		return c.wrong(core.ErrPolicyNotEnforced, "", "its seccomp profile may leave AF_VSOCK open", "Create it again with this version of Moat")
	case found.State.Running && !isPlain(host.Runtime):
		return c.wrong(core.ErrUnsupported, "", "a running sandbox does not see that its networks change", "Set the firewall up before the container is started")
	}
	return nil
}

// pin returns the address of the proxy.
func (r *Runtime) pin(c *call, found container.InspectResponse, host string, port int) (pinned netip.AddrPort, err error) {
	const remedy = "Use an address at which containers reach the proxy, such as that of GetHostAddress"
	address, err := netip.ParseAddr(host)
	if err != nil {
		if address, err = r.lookUp(c, found, host, remedy); err != nil {
			return pinned, err
		}
	}
	address = address.Unmap()
	switch {
	case !address.Is4():
		return pinned, c.wrong(core.ErrUnsupported, "proxyHost", "the container's network has no IPv6", "Use an IPv4 address")
	case !address.IsGlobalUnicast() || address.As4()[0] == 0 || address.As4()[0] >= 224:
		return pinned, c.wrong(core.ErrInvalidConfig, "proxyHost", "a container cannot reach "+address.String()+" outside", remedy)
	}
	return netip.AddrPortFrom(address, uint16(port)), nil
}

// lookUp finds the address of a name as the container would, and else as this process does.
func (r *Runtime) lookUp(c *call, found container.InspectResponse, name, remedy string) (address netip.Addr, err error) {
	if _, err := egress.ParseDestination(name, 1); err != nil {
		return address, c.wrong(core.ErrInvalidConfig, "proxyHost", err.Error(), "")
	}
	for _, entry := range found.HostConfig.ExtraHosts {
		host, text, _ := strings.Cut(entry, ":")
		if !strings.EqualFold(host, name) {
			continue
		}
		if text == "host-gateway" {
			facts, err := r.hostFacts(c.ctx)
			if err != nil {
				return address, c.failed(err)
			}
			text = facts.address
		}
		if address, err = netip.ParseAddr(text); err == nil {
			return address, nil
		}
	}
	all, err := net.DefaultResolver.LookupNetIP(c.ctx, "ip4", name)
	missing, isDNS := errors.AsType[*net.DNSError](err)
	switch {
	case c.ctx.Err() != nil:
		return address, c.failed(c.ctx.Err())
	case isDNS && !missing.IsNotFound:
		return address, c.wrong(core.ErrUnavailable, "proxyHost", err.Error(), remedy)
	case err != nil || len(all) == 0:
		return address, c.wrong(core.ErrInvalidConfig, "proxyHost", name+" has no IPv4 address here", remedy)
	}
	return all[0], nil
}

// firewallNetwork returns the network of a container's firewall, with a guard. Where the
// setup has been tried before, it goes on with that network.
func (r *Runtime) firewallNetwork(c *call, found container.InspectResponse, proxy netip.AddrPort) (on network.Inspect, err error) {
	labels := core.AdapterLabels(found.ID, time.Now().Add(helperUnused))
	labels[labelFirewall] = proxy.String()
	cfg := optional.NetworkConfig{Name: firewallName(found.ID), RunID: found.Config.Labels[core.LabelRunID], Labels: labels}
	id, err := r.createNetworkFrom(c, cfg)
	mine := err == nil
	if errors.Is(err, core.ErrAlreadyExists) {
		id, err = cfg.Name, nil
	}
	if err != nil {
		return on, err
	}
	on, err = r.engine.NetworkInspect(c.ctx, id, network.InspectOptions{})
	switch {
	case err != nil:
		err = c.failed(err)
	case on.Labels[core.LabelServes] != found.ID || on.Internal:
		err = c.wrong(core.ErrInUse, "", "the network "+on.Name+" is another's", "Remove it")
	case on.Labels[labelFirewall] != proxy.String():
		err = c.wrong(core.ErrAlreadyExists, "", "it has a firewall for "+on.Labels[labelFirewall], "Remove the container and create it again")
	default:
		if err = r.createGuard(c.ctx, on, proxy); err == nil {
			err = r.startGuard(c.ctx, on.ID)
		}
		if err != nil {
			err = c.unguarded(err)
		}
	}
	if err != nil && mine {
		err = errors.Join(err, r.abandon(c, id))
	}
	return on, err
}

// moveTo puts a container on one network alone. It is never on none, because a start would
// put it on the engine's usual one.
func (r *Runtime) moveTo(c *call, found container.InspectResponse, networkID string) error {
	_, joined := found.NetworkSettings.Networks[firewallName(found.ID)]
	if found.State.Running { // its connections end, and new ones cannot begin
		if err := r.leaveOthers(c, found); err != nil {
			return err
		}
	}
	if !joined {
		if err := r.engine.NetworkConnect(c.ctx, networkID, found.ID, nil); err != nil {
			return err
		}
	}
	if err := r.leaveOthers(c, found); err != nil {
		return err
	}
	moved, err := r.inspectContainer(c.ctx, found.ID)
	if err == nil && !isOnlyOn(moved, networkID) {
		err = c.wrong(core.ErrPolicyNotEnforced, "", "others have put it on another network meanwhile", "")
	}
	return err
}

func (r *Runtime) leaveOthers(c *call, found container.InspectResponse) error {
	for name := range found.NetworkSettings.Networks {
		if name == firewallName(found.ID) {
			continue
		}
		err := r.engine.NetworkDisconnect(c.ctx, name, found.ID, true)
		if err != nil && !isNotConnected(err) && !errdefs.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// isOnlyOn reports whether a container is on the network of its firewall alone, which the
// engine knows by name until the container starts.
func isOnlyOn(found container.InspectResponse, networkID string) bool {
	if found.NetworkSettings == nil || len(found.NetworkSettings.Networks) != 1 {
		return false
	}
	endpoint := found.NetworkSettings.Networks[firewallName(found.ID)]
	return endpoint != nil && (endpoint.NetworkID == "" || endpoint.NetworkID == networkID)
}

// confirmFirewall tries to leave a firewall's network other than to the proxy.
func (r *Runtime) confirmFirewall(c *call, found container.InspectResponse, of *restriction) error {
	guard, err := r.inspectContainer(c.ctx, guardName(of.network.ID))
	if err != nil {
		return err
	}
	if of.listened, err = r.listenings(c.ctx, guard); err != nil {
		return err
	}
	of.listened++
	mode := container.NetworkMode(of.network.ID)
	if found.State.Running {
		mode = container.NetworkMode("container:" + found.ID)
	}
	var names []byte // the check's /etc/resolv.conf
	evidence, err := r.gatherBy(c.ctx, of, func(attempts []string) (said string, err error) {
		said, names, err = r.runCheck(c.ctx, mode, attempts)
		return said, err
	})
	if err != nil {
		return err
	}
	err = judge(evidence)
	if err == nil && isPlain(found.HostConfig.Runtime) && len(found.HostConfig.DNS) == 0 {
		var host []byte
		if host, err = r.resolvConfOf(c.ctx, guard.ID); err == nil && asksFromHost(string(names), string(host), found.HostConfig.NetworkMode) {
			return c.wrong(core.ErrPolicyNotEnforced, "DNS", "the engine looks names up for the container from its host",
				"Create it with a name server of its own, such as 0.0.0.1, which is out of its reach: the proxy looks names up")
		}
	}
	if err != nil && c.ctx.Err() == nil {
		return &core.Error{Op: c.op, Runtime: core.RuntimeDocker, Object: c.object, Class: core.ErrPolicyNotEnforced, Err: err, Remedy: "Start the proxy first"}
	}
	return err
}

// listenings returns how often a guard has begun to listen in its present run.
func (r *Runtime) listenings(ctx context.Context, guard container.InspectResponse) (times int, err error) {
	options := container.LogsOptions{ShowStderr: true}
	if ended := parseTime(guard.State.FinishedAt); !ended.IsZero() {
		options.Since = ended.Format(time.RFC3339Nano)
	}
	body, err := r.engine.ContainerLogs(ctx, guard.ID, options)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	var said bytes.Buffer
	err = demultiplex(&said, &said, body)
	return strings.Count(said.String(), "listening "), err
}

// runCheck makes attempts from a helper, and returns the results and its file of name
// servers.
func (r *Runtime) runCheck(ctx context.Context, mode container.NetworkMode, attempts []string) (said string, names []byte, err error) {
	binary, err := r.program(ctx, "check", "Use another engine")
	if err != nil {
		return "", nil, err
	}
	helper := helperSpec{
		name: "moat-check-" + strings.ToLower(rand.Text()[:shortLength]), program: "check", binary: binary,
		config:     container.Config{Cmd: attempts, Labels: core.AdapterLabels("", time.Now().Add(helperUnused))},
		hostConfig: container.HostConfig{NetworkMode: mode, ReadonlyRootfs: true},
	}
	if err := r.createHelper(ctx, helper); err != nil {
		return "", nil, err
	}
	defer func() {
		ctx, cancel := tidying(ctx)
		defer cancel()
		err = errors.Join(err, r.remove(ctx, helper.name))
	}()
	if err := r.engine.ContainerStart(ctx, helper.name, container.StartOptions{}); err != nil {
		return "", nil, err
	}
	code, err := r.kind().awaitExit(ctx, r, helper.name)
	if err != nil {
		return "", nil, err
	}
	body, err := r.engine.ContainerLogs(ctx, helper.name, container.LogsOptions{ShowStdout: true, ShowStderr: true})
	if err != nil {
		return "", nil, err
	}
	defer body.Close()
	var output bytes.Buffer
	if err := demultiplex(&output, &output, body); err != nil {
		return "", nil, err
	}
	if code != 0 {
		return "", nil, fmt.Errorf("the check has exited with status %d: %s", code, output.String())
	}
	names, err = r.resolvConfOf(ctx, helper.name)
	return output.String(), names, err
}

// resolvConfOf reads a helper's file of name servers.
func (r *Runtime) resolvConfOf(ctx context.Context, id string) ([]byte, error) {
	archive, _, err := r.engine.CopyFromContainer(ctx, id, resolvConf)
	if err != nil {
		return nil, err
	}
	defer archive.Close()
	files := tar.NewReader(archive)
	if _, err := files.Next(); err != nil {
		return nil, err
	}
	const limit = 64 << 10
	return io.ReadAll(io.LimitReader(files, limit))
}

// asksFromHost reports whether the engine looks names up from its host's network for a
// container that is on a network of ours and has no name servers of its own. onNetwork is
// the file of name servers of a container on such a network, in which newer engines tell
// it. Older ones do it where the host, whose file is onHost, is its own name server. For a
// container of network bridge they ask the servers behind systemd-resolved in its place.
func asksFromHost(onNetwork, onHost string, mode container.NetworkMode) bool {
	const told = "ExtServers: ["
	if _, servers, is := strings.Cut(onNetwork, told); is {
		servers, _, _ = strings.Cut(servers, "]")
		return strings.Contains(servers, "host(")
	}
	var servers []string
	for line := range strings.Lines(onHost) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == "nameserver" {
			servers = append(servers, words[1])
		}
	}
	if slices.Equal(servers, []string{"127.0.0.53"}) && !mode.IsUserDefined() {
		return false
	}
	return slices.ContainsFunc(servers, func(server string) bool {
		address, err := netip.ParseAddr(server)
		return err != nil || address.IsLoopback()
	})
}

// vetFirewall refuses the start of a container whose firewall is not as it was set up.
func (r *Runtime) vetFirewall(c *call, id string) error {
	found, networkID, err := r.firewalls.of(c.ctx, r, id)
	if err != nil || networkID == "" {
		return c.failed(err)
	}
	const remedy = "Set the firewall up again"
	if !isOnlyOn(found, networkID) {
		return c.wrong(core.ErrPolicyNotEnforced, "", "it is not on the network of its firewall alone", remedy)
	}
	guard, err := r.inspectContainer(c.ctx, guardName(networkID))
	if err == nil && !guard.State.Running {
		err = errors.New("it does not run")
	}
	if err == nil {
		err = r.awaitReady(c.ctx, guard)
	}
	if err != nil {
		return c.unguarded(err)
	}
	return nil
}

// removeFirewall removes the network of a container that is gone.
func (r *Runtime) removeFirewall(ctx context.Context, containerID, networkID string) error {
	r.firewalls.remove(containerID)
	return (*networks)(r).ForceRemoveNetwork(ctx, networkID)
}
