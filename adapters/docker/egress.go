package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/egress"
	"github.com/moatproject/moat/core/optional"
)

// A restricted network is an internal one, with a guard, and with a container on it that
// also is on the engine's usual network: the proxy. Before the program of a container on it
// is released, the check, a program of ours, tries to leave the network from within that
// container, while the guard listens for it on the host.

const (
	proxyPort    = 3128
	proxyThreads = 256
	proxyMemory  = 128 << 20 // bytes

	checkPath = "/.moat-check"

	// labelPublisher is the name of the proxy that publishes a container's ports.
	labelPublisher = "moat.docker.publisher"
)

// shortLength is how much of an ID is in the name of what belongs to the object.
const shortLength = 12

// proxyName returns the name of a restricted network's proxy.
func proxyName(networkID string) string { return "moat-egress-" + networkID[:shortLength] }

// restriction is what this process knows about a restricted network.
type restriction struct {
	network   network.Inspect
	proxy     netip.AddrPort
	publishes string // the name of the container for which the proxy publishes ports

	cancel  context.CancelFunc // of what follows
	begun   chan struct{}      // closed when the proxy and the guard run, or have failed
	failure error              // read it after begun
	outside netip.Addr         // of the proxy, on its other network; read it after begun

	confirming mutex
	listened   int       // how often the guard has listened since guardEnded
	guardEnded time.Time // the end of its run before; zero: there was none
	confirmed  sync.Map
}

// await waits until nothing but the proxy leads out of the network.
func (of *restriction) await(ctx context.Context) error {
	select {
	case <-of.begun:
		return of.failure
	case <-ctx.Done():
		return ctx.Err()
	}
}

// restrictions has the restricted networks that this process has created, by ID.
type restrictions struct{ networks sync.Map }

func (all *restrictions) of(networkID string) *restriction {
	found, _ := all.networks.Load(networkID)
	of, _ := found.(*restriction)
	return of
}

var _ optional.EgressRestricter = (*networks)(nil)

func (n *networks) CreateRestrictedNetwork(ctx context.Context, cfg optional.RestrictedNetworkConfig) (optional.RestrictedNetwork, error) {
	var none optional.RestrictedNetwork
	r := (*Runtime)(n)
	cfg.Internal = true
	if err := cfg.Validate(); err != nil {
		return none, err
	}
	c, err := r.call(ctx, "create restricted network", cfg.Name)
	if err != nil {
		return none, err
	}
	defer c.end()
	switch {
	case cfg.Isolated:
		return none, c.wrong(core.ErrInvalidConfig, "Isolated", "the proxy would be out of reach", "Leave Isolated out")
	case slices.ContainsFunc(cfg.Ports, func(p core.PortMapping) bool { return p.Protocol != "" && p.Protocol != "tcp" }):
		return none, c.wrong(core.ErrUnsupported, "Ports", "the proxy passes on TCP alone", "Publish TCP ports alone")
	case cfg.Program == nil:
		return none, c.wrong(core.ErrInvalidConfig, "Program", "there is no proxy", "Set Program")
	case r.kind().noEgress != "":
		return none, c.wrong(core.ErrUnsupported, "", r.kind().noEgress, "Open the network (`--egress open`), or use Docker Engine")
	}
	id, err := r.createNetworkFrom(c, cfg.NetworkConfig)
	if err != nil {
		return none, err
	}
	of, err := r.restrict(c, id, cfg)
	if err != nil {
		return optional.RestrictedNetwork{ID: id}, errors.Join(c.failed(err), r.abandon(c, id))
	}
	return optional.RestrictedNetwork{ID: id, Proxy: of.proxy, Container: proxyName(id), Program: proxyPath}, nil
}

// restrict begins to start what makes a new internal network a restricted one.
func (r *Runtime) restrict(c *call, networkID string, cfg optional.RestrictedNetworkConfig) (*restriction, error) {
	found, err := r.engine.NetworkInspect(c.ctx, networkID, network.InspectOptions{})
	if err != nil {
		return nil, err
	}
	of := &restriction{network: found, begun: make(chan struct{}), confirming: make(mutex, 1)}
	proxy, err := r.proxyOf(c.ctx, of, cfg)
	if err != nil {
		return nil, err
	}
	starting, err := r.call(context.WithoutCancel(c.ctx), "restrict egress of network", cfg.Name)
	if err != nil {
		return nil, err
	}
	of.cancel = func() { starting.cancel(context.Canceled) }
	r.restrictions.networks.Store(networkID, of)
	go func() {
		defer starting.end()
		defer close(of.begun)
		of.failure = r.bringUp(starting, of, proxy)
	}()
	return of, nil
}

// bringUp starts the guard and the proxy.
func (r *Runtime) bringUp(c *call, of *restriction, proxy helperSpec) error {
	// Before the proxy: where there is a guard, its removal looks for a proxy as well.
	if err := r.createGuard(c.ctx, of.network); err != nil {
		return c.unguarded(err)
	}
	guarded := make(chan error, 1)
	go func() { guarded <- r.startGuard(c.ctx, of.network.ID) }()
	err := r.startProxy(c.ctx, of, proxy)
	if failure := <-guarded; failure != nil {
		return c.unguarded(failure)
	}
	return c.failed(err)
}

// proxyOf describes the proxy of a network.
func (r *Runtime) proxyOf(ctx context.Context, of *restriction, cfg optional.RestrictedNetworkConfig) (proxy helperSpec, err error) {
	version, err := r.engine.ServerVersion(ctx)
	if err != nil {
		return proxy, err
	}
	binary, err := cfg.Program(version.Arch)
	if err != nil {
		return proxy, fmt.Errorf("find the proxy's program: %w", err)
	}
	address, err := netip.ParseAddr(addressFromEnd(of.network, 2).IPv4Address)
	if err != nil {
		return proxy, err
	}
	ports := core.Config{Ports: cfg.Ports}.PublishedPorts()
	listen := uint16(proxyPort)
	for slices.ContainsFunc(ports, func(p core.PortMapping) bool { return p.ContainerPort == int(listen) }) {
		listen++
	}
	of.proxy = netip.AddrPortFrom(address, listen)
	config := cfg.Proxy
	config.Listen, config.Relays = of.proxy.String(), relays(ports, cfg.PortsTo)
	config.Sources = []netip.Prefix{netip.MustParsePrefix(of.network.IPAM.Config[0].Subnet)}
	if err := config.Validate(); err != nil {
		return proxy, &core.Error{Class: core.ErrInvalidConfig, Field: "Proxy", Err: err}
	}
	text, err := json.Marshal(config)
	if err != nil {
		return proxy, err
	}
	threads := int64(proxyThreads)
	proxy = helperSpec{
		name: proxyName(of.network.ID), program: "proxy", binary: binary,
		config: container.Config{
			Cmd: []string{"serve"}, User: "65534:65534",
			Env:    []string{egress.ProxyVariable + "=" + string(text), "GOMEMLIMIT=96MiB"},
			Labels: labelsOn(of.network),
		},
		// It never starts again by itself: rules that were revoked meanwhile would be back.
		hostConfig: container.HostConfig{
			ReadonlyRootfs: true, ExtraHosts: cfg.Hosts,
			Sysctls: map[string]string{
				"net.ipv4.ip_forward":                 "0", // or the workload could make a router of it
				"net.ipv4.ip_unprivileged_port_start": "0", // relays may have any port
			},
			Resources: container.Resources{Memory: proxyMemory, MemorySwap: proxyMemory, PidsLimit: &threads},
		},
	}
	if len(ports) > 0 {
		of.publishes = cfg.PortsTo
		publish(core.Config{Ports: ports}, &proxy.config, &proxy.hostConfig)
	}
	return proxy, nil
}

// relays lead from ports of the proxy to the same ports of a container.
func relays(ports []core.PortMapping, container string) (all []egress.Relay) {
	for _, port := range ports {
		to := strconv.Itoa(port.ContainerPort)
		relay := egress.Relay{Listen: ":" + to, To: container + ":" + to}
		if !slices.Contains(all, relay) { // it may be published at several ports of the host
			all = append(all, relay)
		}
	}
	return all
}

func (r *Runtime) startProxy(ctx context.Context, of *restriction, proxy helperSpec) error {
	if err := r.createHelper(ctx, proxy); err != nil {
		return fmt.Errorf("create the proxy: %w", err)
	}
	inside := addressFromEnd(of.network, 2)
	err := r.engine.NetworkConnect(ctx, of.network.ID, proxy.name, &network.EndpointSettings{IPAMConfig: inside})
	if err == nil {
		err = r.engine.ContainerStart(ctx, proxy.name, container.StartOptions{})
	}
	var running container.InspectResponse
	if err == nil {
		running, err = r.inspectContainer(ctx, proxy.name)
	}
	if err == nil {
		err = r.awaitReady(ctx, running)
	}
	if err != nil {
		return fmt.Errorf("start the proxy: %w", err)
	}
	if running.NetworkSettings == nil {
		return errors.New("start the proxy: the engine does not tell its addresses")
	}
	for _, endpoint := range running.NetworkSettings.Networks {
		if endpoint.NetworkID != of.network.ID {
			of.outside, _ = netip.ParseAddr(endpoint.IPAddress)
		}
	}
	return nil
}

// closeProxy lets what has been begun for a restricted network come to its end, before the
// network is removed, and with force ends all and removes the proxy.
func (r *Runtime) closeProxy(c *call, of *restriction, force bool) error {
	if !force {
		_ = of.await(c.ctx)
		return c.failed(c.ctx.Err())
	}
	of.cancel()
	<-of.begun
	return c.failed(r.remove(c.ctx, proxyName(of.network.ID)))
}

// ConfirmEgress is that of [optional.EgressRestricter]. A network is confirmed by the
// Runtime that has created it.
func (n *networks) ConfirmEgress(ctx context.Context, id string) (evidence optional.EgressEvidence, err error) {
	r := (*Runtime)(n)
	c, err := r.on(ctx, 0, "confirm egress", id)
	if err != nil {
		return evidence, err
	}
	defer c.end()
	found, err := r.inspect(c.ctx, c.op, id)
	if err != nil {
		return evidence, err
	}
	of := r.known.get(found.ID).restricted
	if of == nil {
		return evidence, c.wrong(core.ErrInvalidConfig, "id", "this runtime has not put it on a restricted network", "Create it on one")
	}
	if err := r.known.holds.AwaitStart(c.ctx, found.ID); err != nil {
		return evidence, c.failed(err)
	}
	c.limit(r.timeout)
	if err := of.await(c.ctx); err != nil {
		return evidence, c.failed(err)
	}
	if err := of.confirming.lock(c.ctx); err != nil {
		return evidence, c.failed(err)
	}
	defer of.confirming.unlock()
	evidence, err = r.gather(c.ctx, of, found.ID)
	if c.ctx.Err() != nil {
		return evidence, c.failed(c.ctx.Err())
	}
	for _, class := range []error{core.ErrNotRunning, core.ErrNotFound, core.ErrUnavailable} {
		if errors.Is(err, class) {
			return evidence, err // as of a container that was killed meanwhile
		}
	}
	if err == nil {
		err = judge(evidence)
	}
	if err != nil {
		return evidence, &core.Error{
			Op: c.op, Runtime: core.RuntimeDocker, Object: id, Class: core.ErrPolicyNotEnforced, Err: err,
			Remedy: "Report this, with the output of `moat doctor`",
		}
	}
	of.confirmed.Store(found.ID, nil)
	r.firewalls.enforced.Store(true)
	return evidence, nil
}

// gather makes the attempts from within a container.
func (r *Runtime) gather(ctx context.Context, of *restriction, id string) (optional.EgressEvidence, error) {
	of.listened++
	return r.gatherBy(ctx, of, func(attempts []string) (string, error) {
		var stdout, stderr bytes.Buffer
		code, err := r.Exec(ctx, id, optional.ExecOptions{
			Cmd: append([]string{checkPath}, attempts...), User: "0", AttachOptions: core.AttachOptions{Stdout: &stdout, Stderr: &stderr},
		})
		if err == nil && code != 0 {
			err = fmt.Errorf("the check has exited with status %d: %s", code, stderr.String())
		}
		return stdout.String(), err
	})
}

// gatherBy has a check make the attempts, while the guard listens for the of.listened-th
// time, and reads what the check has printed.
func (r *Runtime) gatherBy(ctx context.Context, of *restriction, check func(attempts []string) (string, error)) (evidence optional.EgressEvidence, err error) {
	port, err := r.listenOnHost(ctx, of)
	if err != nil {
		return evidence, err
	}
	attempts, err := r.attemptsOn(ctx, of, port)
	if err != nil {
		return evidence, err
	}
	var words []string
	for _, attempt := range attempts {
		word := attempt.Network
		if attempt.Address.IsValid() {
			word += ":" + attempt.Address.String()
		}
		words = append(words, word)
	}
	said, err := check(words)
	if err != nil {
		return evidence, err
	}
	evidence.Dropped, evidence.Arrived, err = r.heardOnHost(ctx, of)
	if err != nil {
		return evidence, err
	}
	results := map[string]string{}
	for line := range strings.Lines(said) {
		attempt, result, _ := strings.Cut(strings.TrimSpace(line), " ")
		results[attempt] = result
	}
	for i, word := range words {
		attempts[i].Result = results[word]
	}
	evidence.Time, evidence.Attempts = time.Now(), attempts
	return evidence, nil
}

// callGate lets the program of a container begin, and returns when it does.
func (r *Runtime) callGate(ctx context.Context, id, mark string) error {
	var said bytes.Buffer
	code, err := r.Exec(ctx, id, optional.ExecOptions{
		Cmd: []string{checkPath, "open:" + mark}, User: "0", AttachOptions: core.AttachOptions{Stdout: &said, Stderr: &said},
	})
	if err == nil && code != 0 {
		err = fmt.Errorf("the program has not begun: status %d: %s", code, said.String())
	}
	if errors.Is(err, core.ErrNotRunning) || errors.Is(err, core.ErrNotFound) {
		return nil // the container has ended, and the stream tells how
	}
	return err
}

// attemptsOn returns what is to be tried from within a restricted network: the proxy, which
// has to answer, and all addresses of the host and the proxy that are known.
func (r *Runtime) attemptsOn(ctx context.Context, of *restriction, port uint16) ([]optional.EgressAttempt, error) {
	usual, err := r.engine.NetworkInspect(ctx, network.NetworkBridge, network.InspectOptions{})
	if err != nil {
		return nil, err
	}
	var addresses []netip.Addr
	for _, on := range []network.Inspect{of.network, usual} {
		for _, config := range on.IPAM.Config {
			gateway, err := netip.ParseAddr(config.Gateway)
			if subnet, isSubnet := netip.ParsePrefix(config.Subnet); err != nil && isSubnet == nil {
				gateway = subnet.Addr().Next() // where no address was assigned, a gateway would be the first
			}
			if gateway.Is4() {
				addresses = append(addresses, gateway)
			}
		}
	}
	attempts := []optional.EgressAttempt{{Network: "tcp", Address: of.proxy, Proxy: true}}
	for _, address := range addresses {
		for _, kind := range []string{"tcp", "udp"} {
			attempts = append(attempts, optional.EgressAttempt{Network: kind, Address: netip.AddrPortFrom(address, port)})
		}
	}
	for _, everyone := range []string{"255.255.255.255", "224.0.0.1"} {
		attempts = append(attempts, optional.EgressAttempt{Network: "udp", Address: netip.AddrPortFrom(netip.MustParseAddr(everyone), port)})
	}
	attempts = append(attempts, optional.EgressAttempt{Network: optional.EgressVsock})
	if of.outside.Is4() {
		attempts = append(attempts, optional.EgressAttempt{Network: "tcp", Address: netip.AddrPortFrom(of.outside, proxyPort)})
	}
	return attempts, nil
}

// judge returns why evidence does not show that the only way out is the proxy.
func judge(evidence optional.EgressEvidence) error {
	var wrong []error
	if !slices.ContainsFunc(evidence.Attempts, func(a optional.EgressAttempt) bool { return a.Proxy }) {
		wrong = append(wrong, errors.New("the proxy was not asked"))
	}
	if !slices.ContainsFunc(evidence.Attempts, func(a optional.EgressAttempt) bool { return a.Result == optional.EgressSent }) {
		wrong = append(wrong, errors.New("no datagram could be sent, so that it is not known where they arrive"))
	}
	for _, attempt := range evidence.Attempts {
		switch {
		case attempt.Proxy && attempt.Result != optional.EgressConnected:
			wrong = append(wrong, fmt.Errorf("the proxy does not answer: %s", attempt))
		case attempt.Proxy:
		case attempt.Result == optional.EgressConnected:
			wrong = append(wrong, fmt.Errorf("there is a way out: %s", attempt))
		case attempt.Result == optional.EgressOpened:
			wrong = append(wrong, errors.New("the engine's seccomp profile leaves AF_VSOCK open, which leads past every network out of a virtual machine"))
		case attempt.Result == "":
			wrong = append(wrong, fmt.Errorf("it is not known what became of %s", attempt))
		}
	}
	if evidence.Arrived > 0 {
		wrong = append(wrong, fmt.Errorf("%d datagrams have reached the host", evidence.Arrived))
	}
	if evidence.Dropped == 0 {
		wrong = append(wrong, errors.New("the host has dropped nothing of what was sent to it, so its rule may not be asked"))
	}
	return errors.Join(wrong...)
}

// vetRelease refuses to release a container, by its whole ID, whose network is restricted
// and not confirmed. A confirmation is good for one start.
func (r *Runtime) vetRelease(c *call, id, gate string) error {
	if gate != gateCall {
		return nil
	}
	if of := r.known.get(id).restricted; of != nil {
		if _, ok := of.confirmed.LoadAndDelete(id); ok {
			return nil
		}
	}
	return c.wrong(core.ErrPolicyNotEnforced, "", "it was not confirmed that the proxy is the only way out", "Call ConfirmEgress before the release")
}
