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
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/versions"
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

// firewalls is the state of the firewalls that this Runtime has set up.
type firewalls struct {
	changing sync.Map // a mutex for each container, by ID
	unproven sync.Map // the containers whose check has failed, or is still to come, by ID
	enforced atomic.Bool
}

// SetupFirewall lets a container connect to proxyHost:proxyPort over TCP and to nothing
// else. It moves the container to a network of its own, and removes it from all other
// networks. The address that proxyHost has now counts from then on. The proxy must answer.
//
// A created container is closed from its first instruction on. A running one keeps no
// connection, and is killed if the setup fails after it has begun. A running sandbox does
// not see that its networks change: [core.ErrUnsupported]. Without a sandbox, newer engines
// look names up for a container from their host's network, unless it has Config.DNS:
// [core.ErrPolicyNotEnforced]. [Runtime.RemoveContainer] removes the network. Without a
// deadline in ctx, the call takes at most two minutes.
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
	lock, _ := r.firewalls.changing.LoadOrStore(found.ID, make(mutex, 1))
	changing := lock.(mutex)
	if err := changing.lock(c.ctx); err != nil {
		return c.failed(err)
	}
	defer changing.unlock()
	if found, err = r.inspectContainer(c.ctx, found.ID); err != nil { // another call may have moved it meanwhile
		return c.failed(err)
	}
	if err := r.checkFirewall(c, found); err != nil {
		return err
	}
	proxies, err := r.pin(c, found, proxyHost, proxyPort)
	if err != nil {
		return err
	}
	on, proxy, err := r.firewallNetwork(c, found, proxies)
	if err != nil {
		return c.failed(err)
	}
	r.firewalls.unproven.Store(found.ID, nil)
	r.known.wall(found.ID)
	if err := r.closeContainer(c, found, on, proxy); err != nil {
		ctx, cancel := tidying(c.ctx)
		defer cancel()
		if killed := r.engine.ContainerKill(ctx, found.ID, "KILL"); killed != nil && !errdefs.IsConflict(killed) && !errdefs.IsNotFound(killed) {
			err = errors.Join(err, killed)
		}
		return c.failed(err)
	}
	r.firewalls.unproven.Delete(found.ID)
	r.firewalls.enforced.Store(true)
	return nil
}

// closeContainer closes a container but for a proxy, by the network of its firewall.
func (r *Runtime) closeContainer(c *call, found container.InspectResponse, on network.Inspect, proxy netip.AddrPort) error {
	guard, err := r.guardFirewall(c, on, proxy)
	if err == nil {
		err = r.moveTo(c, found, on.ID)
	}
	if err == nil {
		err = r.confirmFirewall(c, found, guard, &restriction{network: on, proxy: proxy})
	}
	if err != nil {
		return err
	}
	moved, err := r.inspectContainer(c.ctx, found.ID)
	switch {
	case err != nil:
		return err
	case !isOnlyOn(moved, on.ID):
		return c.wrong(core.ErrPolicyNotEnforced, "", "others have put it on another network meanwhile", "")
	case moved.State.StartedAt != found.State.StartedAt || moved.State.Running != found.State.Running:
		return c.wrong(core.ErrPolicyNotEnforced, "", "it was started or has ended meanwhile", "Set the firewall up before the start")
	}
	return nil
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
	case !slices.Contains(host.CapDrop, "ALL") || len(host.Devices) > 0 || host.PidMode.IsHost():
		return c.wrong(core.ErrUnsupported, "", "it has capabilities, devices or processes of the host with which it could change or leave its network", "Create it with Moat")
	case !host.RestartPolicy.IsNone():
		return c.wrong(core.ErrUnsupported, "", "the engine may start it again before its guard", "Create it with Moat, which restarts no workloads")
	case len(host.PortBindings) > 0 || host.PublishAllPorts:
		return c.wrong(core.ErrUnsupported, "Ports", "answers to connections from outside would be dropped", "Create it without published ports")
	case isPlain(host.Runtime) && !r.hasSeccomp(host):
		return c.wrong(core.ErrPolicyNotEnforced, "", "its seccomp profile may leave AF_VSOCK open", "Create it again with this version of Moat")
	case found.State.Running && !isPlain(host.Runtime):
		return c.wrong(core.ErrUnsupported, "", "a running sandbox does not see that its networks change", "Set the firewall up before the container is started")
	}
	return nil
}

// pin returns the addresses of the proxy.
func (r *Runtime) pin(c *call, found container.InspectResponse, host string, port int) (pinned []netip.AddrPort, err error) {
	const remedy = "Use an address at which containers reach the proxy, such as that of GetHostAddress"
	var addresses []netip.Addr
	if address, err := netip.ParseAddr(host); err == nil {
		addresses = append(addresses, address)
	} else if addresses, err = r.lookUp(c, found, host, remedy); err != nil {
		return nil, err
	}
	for _, address := range addresses {
		address = address.Unmap()
		switch {
		case !address.Is4():
			return nil, c.wrong(core.ErrUnsupported, "proxyHost", "the container's network has no IPv6", "Use an IPv4 address")
		case !address.IsGlobalUnicast() || address.As4()[0] == 0 || address.As4()[0] >= 224:
			return nil, c.wrong(core.ErrInvalidConfig, "proxyHost", "a container cannot reach "+address.String()+" outside", remedy)
		}
		pinned = append(pinned, netip.AddrPortFrom(address, uint16(port)))
	}
	return pinned, nil
}

// lookUp finds the addresses of a name, in the container's ExtraHosts or else as this process
// does.
func (r *Runtime) lookUp(c *call, found container.InspectResponse, name, remedy string) (addresses []netip.Addr, err error) {
	if _, err := egress.ParseDestination(name, 1); err != nil {
		return nil, c.wrong(core.ErrInvalidConfig, "proxyHost", err.Error(), "")
	}
	for _, entry := range found.HostConfig.ExtraHosts {
		host, text, _ := strings.Cut(entry, ":")
		if !strings.EqualFold(host, name) {
			continue
		}
		if text == "host-gateway" {
			facts, err := r.hostFacts(c.ctx)
			if err != nil {
				return nil, c.failed(err)
			}
			text = facts.address
		}
		if address, err := netip.ParseAddr(text); err == nil {
			return []netip.Addr{address}, nil
		}
	}
	addresses, err = net.DefaultResolver.LookupNetIP(c.ctx, "ip4", name)
	missing, isDNS := errors.AsType[*net.DNSError](err)
	switch {
	case c.ctx.Err() != nil:
		return nil, c.failed(c.ctx.Err())
	case isDNS && !missing.IsNotFound:
		return nil, c.wrong(core.ErrUnavailable, "proxyHost", err.Error(), remedy)
	case err != nil || len(addresses) == 0:
		return nil, c.wrong(core.ErrInvalidConfig, "proxyHost", name+" has no IPv4 address here", remedy)
	}
	return addresses, nil
}

// firewallNetwork returns the network of a container's firewall and the address of the proxy
// to which it leads. Where the setup has been tried before, it goes on with that network.
func (r *Runtime) firewallNetwork(c *call, found container.InspectResponse, proxies []netip.AddrPort) (on network.Inspect, proxy netip.AddrPort, err error) {
	labels := core.AdapterLabels(found.ID, time.Now().Add(helperUnused))
	labels[labelFirewall] = proxies[0].String()
	cfg := optional.NetworkConfig{Name: firewallName(found.ID), RunID: found.Config.Labels[core.LabelRunID], Labels: labels}
	id, err := r.createNetworkFrom(c, cfg)
	if errors.Is(err, core.ErrAlreadyExists) {
		id, err = cfg.Name, nil
	}
	if err != nil {
		return on, proxy, err
	}
	if on, err = r.engine.NetworkInspect(c.ctx, id, network.InspectOptions{}); err != nil {
		return on, proxy, err
	}
	if on.Labels[core.LabelServes] != found.ID || on.Internal {
		return on, proxy, c.wrong(core.ErrInUse, "", "the network "+on.Name+" is another's", "Remove it")
	}
	proxy, err = netip.ParseAddrPort(on.Labels[labelFirewall])
	if err != nil || !slices.Contains(proxies, proxy) {
		err = c.wrong(core.ErrAlreadyExists, "", "it has a firewall for "+on.Labels[labelFirewall], "Remove the container and create it again")
	}
	return on, proxy, err
}

// guardFirewall returns the guard of a firewall's network when it drops. Where there is none,
// it removes the network again, unless the container is on it.
func (r *Runtime) guardFirewall(c *call, on network.Inspect, proxy netip.AddrPort) (guard container.InspectResponse, err error) {
	if err = r.createGuard(c.ctx, on, proxy); err == nil {
		err = r.engine.ContainerStart(c.ctx, guardName(on.ID), container.StartOptions{})
	}
	if err == nil {
		guard, err = r.inspectContainer(c.ctx, guardName(on.ID))
	}
	if err == nil {
		err = r.awaitReady(c.ctx, guard)
	}
	if err == nil {
		return guard, nil
	}
	err = c.unguarded(err)
	ctx, cancel := tidying(c.ctx)
	defer cancel()
	if removed := (*networks)(r).RemoveNetwork(ctx, on.ID); removed != nil && !errors.Is(removed, core.ErrInUse) {
		err = errors.Join(err, removed)
	}
	return guard, err
}

// moveTo puts a container on the network of its firewall alone. A container that does not
// run is never without a network, because a start would put it on the engine's usual one.
func (r *Runtime) moveTo(c *call, found container.InspectResponse, networkID string) error {
	name := firewallName(found.ID)
	joined, stale := found.NetworkSettings.Networks[name], false
	if joined != nil && joined.NetworkID != "" && joined.NetworkID != networkID {
		stale = true // that network was removed, and this one has its name
	}
	if found.State.Running { // its connections end, and new ones cannot begin
		if err := r.leaveOthers(c, found); err != nil {
			return err
		}
	}
	if stale {
		_ = r.engine.NetworkDisconnect(c.ctx, name, found.ID, true) // the connection shows whether it is off
	}
	if joined == nil || stale {
		if err := r.engine.NetworkConnect(c.ctx, networkID, found.ID, nil); err != nil {
			return err
		}
	}
	return r.leaveOthers(c, found)
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
func (r *Runtime) confirmFirewall(c *call, found, guard container.InspectResponse, of *restriction) (err error) {
	if err := r.checkLookups(c, found, guard.ID); err != nil {
		return err
	}
	of.guardEnded = parseTime(guard.State.FinishedAt)
	mode := container.NetworkMode(of.network.ID)
	if found.State.Running {
		mode = container.NetworkMode("container:" + found.ID)
	}
	var evidence optional.EgressEvidence
	if of.listened, err = r.listenings(c.ctx, of); err == nil {
		of.listened++
		evidence, err = r.gatherBy(c.ctx, of, func(attempts []string) (string, error) { return r.runCheck(c.ctx, mode, attempts) })
	}
	remedy := "Report this, with the output of `moat doctor`"
	if err == nil {
		err = judge(evidence)
		if len(evidence.Attempts) > 0 && evidence.Attempts[0].Result != optional.EgressConnected {
			remedy = "Start the proxy first"
		}
	}
	if err != nil && c.ctx.Err() == nil {
		return &core.Error{Op: c.op, Runtime: core.RuntimeDocker, Object: c.object, Class: core.ErrPolicyNotEnforced, Err: err, Remedy: remedy}
	}
	return err
}

// listenings returns how often a guard has begun to listen in its present run.
func (r *Runtime) listenings(ctx context.Context, of *restriction) (times int, err error) {
	options := container.LogsOptions{ShowStderr: true}
	if !of.guardEnded.IsZero() {
		options.Since = of.guardEnded.Format(time.RFC3339Nano)
	}
	body, err := r.engine.ContainerLogs(ctx, guardName(of.network.ID), options)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	var said bytes.Buffer
	err = demultiplex(&said, &said, body)
	return strings.Count(said.String(), "listening "), err
}

// runCheck makes attempts from a helper, and returns the results.
func (r *Runtime) runCheck(ctx context.Context, mode container.NetworkMode, attempts []string) (said string, err error) {
	binary, err := r.program(ctx, "check", "Use another engine")
	if err != nil {
		return "", err
	}
	helper := helperSpec{
		name: "moat-check-" + strings.ToLower(rand.Text()[:shortLength]), program: "check", binary: binary,
		config:     container.Config{Cmd: attempts, Labels: core.AdapterLabels("", time.Now().Add(helperUnused))},
		hostConfig: container.HostConfig{NetworkMode: mode, ReadonlyRootfs: true},
	}
	if err := r.createHelper(ctx, helper); err != nil {
		return "", err
	}
	defer func() {
		ctx, cancel := tidying(ctx)
		defer cancel()
		err = errors.Join(err, r.remove(ctx, helper.name))
	}()
	if err := r.engine.ContainerStart(ctx, helper.name, container.StartOptions{}); err != nil {
		return "", err
	}
	code, err := r.kind().awaitExit(ctx, r, helper.name)
	if err != nil {
		return "", err
	}
	body, err := r.engine.ContainerLogs(ctx, helper.name, container.LogsOptions{ShowStdout: true, ShowStderr: true})
	if err != nil {
		return "", err
	}
	defer body.Close()
	var output bytes.Buffer
	if err := demultiplex(&output, &output, body); err != nil {
		return "", err
	}
	if code != 0 {
		err = fmt.Errorf("the check has exited with status %d: %s", code, output.String())
	}
	return output.String(), err
}

// asksFromHostSince is the first API version of engines that look names up from their host's
// network for each container on a network, unless it has name servers of its own. Older
// ones do so where their host is its own name server.
const asksFromHostSince = "1.44"

// checkLookups refuses a container for which the engine would look names up from its host.
// The network stack of a proven sandbox does not reach the engine's name server.
func (r *Runtime) checkLookups(c *call, found container.InspectResponse, guardID string) error {
	if len(found.HostConfig.DNS) > 0 {
		return nil
	}
	if r.options.Sandbox != nil {
		if ociRuntime, err := r.ociRuntime(c.ctx); err != nil || ociRuntime == found.HostConfig.Runtime {
			return err
		}
	}
	asks := versions.GreaterThanOrEqualTo(r.engine.ClientVersion(), asksFromHostSince)
	if !asks {
		onHost, err := r.resolvConfOf(c.ctx, guardID)
		if err != nil {
			return err
		}
		asks = asksFromHost(string(onHost), found.HostConfig.NetworkMode)
	}
	if asks {
		return c.wrong(core.ErrPolicyNotEnforced, "DNS", "the engine looks names up for it from its host",
			"Create it with a name server of its own, such as 0.0.0.1, which is out of its reach: the proxy looks names up")
	}
	return nil
}

// resolvConfOf reads a helper's file of name servers. In the host's network that is the
// host's.
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

// asksFromHost reports whether an engine before asksFromHostSince, with this file of name
// servers on its host, looks names up from there. For a container of network bridge it asks
// the servers behind systemd-resolved in its place.
func asksFromHost(onHost string, mode container.NetworkMode) bool {
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

// inspectUnlessKnown returns a container by ID or name, unless this process has created it and not given
// it a firewall: then all about it is known, and the result is zero. So it is where there
// is no such container.
func (r *Runtime) inspectUnlessKnown(ctx context.Context, id string) (found container.InspectResponse, err error) {
	known, created := r.known.find(id)
	if created && !known.walled {
		return found, nil
	}
	found, err = r.inspectContainer(ctx, id)
	if errdefs.IsNotFound(err) {
		if err = nil; created { // it has removed itself
			found.ContainerJSONBase = &container.ContainerJSONBase{ID: r.known.whole(id)}
		}
	}
	return found, err
}

// firewallOf returns the ID of the network of a container's firewall, "" for none.
func (r *Runtime) firewallOf(ctx context.Context, found container.InspectResponse) (networkID string, err error) {
	if found.ContainerJSONBase == nil {
		return "", nil
	}
	isThere := found.State != nil
	if isThere && (found.NetworkSettings == nil || found.NetworkSettings.Networks[firewallName(found.ID)] == nil) {
		return "", nil
	}
	on, err := r.engine.NetworkInspect(ctx, firewallName(found.ID), network.InspectOptions{})
	if errdefs.IsNotFound(err) || err == nil && on.Labels[core.LabelServes] != found.ID {
		return "", nil
	}
	return on.ID, err
}

// vetFirewall refuses the start of a container whose firewall is not as it was set up.
func (r *Runtime) vetFirewall(c *call, id string) error {
	found, err := r.inspectUnlessKnown(c.ctx, id)
	if err != nil || found.ContainerJSONBase == nil {
		return c.failed(err)
	}
	networkID, err := r.firewallOf(c.ctx, found)
	if err != nil {
		return c.failed(err)
	}
	const remedy = "Set the firewall up again"
	_, unproven := r.firewalls.unproven.Load(found.ID)
	known := r.known.get(found.ID)
	switch {
	case unproven:
		return c.wrong(core.ErrPolicyNotEnforced, "", "its firewall was not set up to the end", remedy)
	case networkID == "" && known.walled:
		return c.wrong(core.ErrPolicyNotEnforced, "", "it is not on the network of its firewall", remedy)
	case networkID == "":
		return nil
	case !isOnlyOn(found, networkID):
		return c.wrong(core.ErrPolicyNotEnforced, "", "it is not on the network of its firewall alone", remedy)
	}
	guard, err := r.inspectContainer(c.ctx, guardName(networkID))
	if err == nil && guard.State.Running {
		err = r.awaitReady(c.ctx, guard)
	} else if err == nil || errdefs.IsNotFound(err) {
		err = c.wrong(core.ErrPolicyNotEnforced, "", "the guard of its network does not run", remedy)
	}
	if err != nil {
		return c.failed(err)
	}
	return r.checkLookups(c, found, guard.ID)
}

// removeFirewall removes the network of a container that is gone.
func (r *Runtime) removeFirewall(ctx context.Context, containerID, networkID string) error {
	if err := (*networks)(r).ForceRemoveNetwork(ctx, networkID); err != nil {
		return err
	}
	r.firewalls.changing.Delete(containerID)
	r.firewalls.unproven.Delete(containerID)
	return nil
}
