package docker

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/go-connections/nat"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// capabilities are what root keeps: enough to install packages (dnf wants SETFCAP)
// and for servers that change their user (gosu; setpriv wants SETPCAP). Not among
// them is what reaches beyond the container, of what engines give by default:
// NET_RAW (forged packets), MKNOD (device nodes), AUDIT_WRITE (the host's log),
// SYS_CHROOT. What is not listed is dropped, so that one unknown to us is too.
var capabilities = []string{
	"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID",
}

// A creation that the engine has begun goes on there when its caller gives up. So the
// call waits a little longer, in order to remove the new object. An engine that is busy
// takes more time than a call may: then creation and removal go on after its return.
const (
	createGrace  = 500 * time.Millisecond
	removeGrace  = 250 * time.Millisecond
	latePatience = 30 * time.Second
)

// CreateContainer creates a container, pulling its image as cfg.Pull says.
func (r *Runtime) CreateContainer(ctx context.Context, cfg core.Config) (string, error) {
	if err := cfg.Validate(); err != nil {
		return "", err
	}
	object := cfg.Name
	if object == "" {
		object = cfg.Image
	}
	c, err := r.begin(ctx, 0, "create container", object)
	if err != nil {
		return "", err
	}
	defer c.end()
	request, err := r.requestFor(c, cfg)
	if err != nil {
		return "", err
	}
	if cfg.Pull == core.PullAlways {
		if err := r.PullImage(c.ctx, cfg.Image, optional.PullProgressOf(ctx)); err != nil {
			return "", err
		}
	}
	create := r.create
	if request.joins.ID != "" {
		create = r.createBeside
	}
	response, err := create(c, cfg.Name, request)
	if noSuchImage(err) && cfg.Pull != core.PullNever {
		if err := r.PullImage(c.ctx, cfg.Image, optional.PullProgressOf(ctx)); err != nil {
			return "", err
		}
		response, err = create(c, cfg.Name, request)
	}
	if noSuchImage(err) {
		c.op, c.object = "find image", cfg.Image
	}
	if err != nil {
		return "", r.sandboxed(c, err)
	}
	if err := r.heed(c, cfg, response); err != nil {
		r.leaveNetwork(c.ctx, request.visits)
		return "", err
	}
	r.known.add(response.ID, cfg, request)
	return response.ID, nil
}

// request is what the engine is asked for.
type request struct {
	config     *container.Config
	hostConfig *container.HostConfig
	networking *network.NetworkingConfig
	joins      network.Inspect // the network whose resolver it needs; zero: none
	visits     string          // that network's ID, where it is not ours
	gate       string          // what it waits for
	restricted *restriction    // of its network; nil: none
}

// requestFor finds out what the request depends on, and refuses what the engine cannot
// honour, before anything is created.
func (r *Runtime) requestFor(c *call, cfg core.Config) (request, error) {
	if !cfg.Privileged {
		if err := r.checkMounts(c, cfg.Mounts); err != nil {
			return request{}, err
		}
	}
	joined, err := r.checkNetwork(c, cfg.NetworkMode)
	if err != nil {
		return request{}, err
	}
	ociRuntime, sandboxed, err := r.ociRuntimeFor(c.ctx, cfg)
	if err != nil {
		return request{}, c.failed(err)
	}
	asked := createRequest(r.kind(), cfg, ociRuntime)
	if err := r.kind().fit(r, c, cfg, joined, &asked); err != nil {
		return request{}, err
	}
	asked.hostConfig.DNS = nameServers(joined, asked.hostConfig.DNS)
	if !sandboxed && !cfg.Privileged {
		asked.hostConfig.SecurityOpt = append(asked.hostConfig.SecurityOpt, r.seccompOptions()...)
	}
	if asked.restricted = r.restrictions.of(joined.ID); asked.restricted != nil {
		asked.config.Labels[core.LabelServes] = joined.ID
		if isHeld(asked.gate) {
			asked.gate = gateCall
			asked.config.OpenStdin = cfg.Interactive // nothing but the program's own
		}
		if publishes := asked.restricted.publishes; publishes != "" && publishes == cfg.Name {
			asked.config.Labels[labelPublisher] = proxyName(joined.ID)
		}
	}
	if !sandboxed || !cfg.OnNamedNetwork() {
		return asked, nil
	}
	if needed, err := needsResolver(c, cfg, joined); err != nil || !needed {
		return asked, err
	}
	asked.joins = joined
	asked.config.Labels[core.LabelServes] = joined.ID
	if !isOurs(joined) {
		asked.visits = joined.ID
	}
	return asked, nil
}

// create makes the request. It leaves nothing behind when its context ends.
func (r *Runtime) create(c *call, name string, asked request) (container.CreateResponse, error) {
	one, err := r.call(c.ctx, c.op, c.object)
	if err != nil {
		return container.CreateResponse{}, err
	}
	defer one.end()
	graced, cancel := withGrace(one.ctx)
	defer cancel()
	gate, err := r.gateBefore(graced, one, asked)
	if err != nil {
		return container.CreateResponse{}, err
	}
	response, err := r.createPatiently(graced, asked, name)
	created := err == nil
	if created && gate != nil {
		err = r.putPrograms(graced, asked, gate, response.ID)
	}
	if one.ctx.Err() != nil {
		err = one.failed(one.ctx.Err())
	}
	if created && err != nil {
		r.drop(one.ctx, response.ID)
	}
	return response, err
}

// createPatiently makes the request until ctx ends. A container that the engine creates
// later is removed then.
func (r *Runtime) createPatiently(ctx context.Context, asked request, name string) (container.CreateResponse, error) {
	return patiently(ctx, func(ctx context.Context) (container.CreateResponse, error) {
		return r.engine.ContainerCreate(ctx, asked.config, asked.hostConfig, asked.networking, nil, name)
	}, func(ctx context.Context, late container.CreateResponse) { _ = r.kind().destroy(ctx, r, late.ID) })
}

// patiently calls create until ctx ends. An object that exists only after that, but within
// latePatience, is removed then.
func patiently[T any](ctx context.Context, create func(context.Context) (T, error), remove func(context.Context, T)) (T, error) {
	late, cancel := context.WithCancel(context.WithoutCancel(ctx))
	type result struct {
		object T
		err    error
	}
	done := make(chan result, 1)
	go func() {
		object, err := create(late)
		done <- result{object, err}
	}()
	select {
	case created := <-done:
		cancel()
		return created.object, created.err
	case <-ctx.Done():
	}
	go func() {
		defer cancel()
		time.AfterFunc(latePatience, cancel)
		if created := <-done; created.err == nil {
			remove(late, created.object)
		}
	}()
	var none T
	return none, ctx.Err()
}

// withGrace returns a context that ends a little after ctx does.
func withGrace(ctx context.Context) (context.Context, context.CancelFunc) {
	graced, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(createGrace, cancel) })
	return graced, func() { stop(); cancel() }
}

// drop removes a container that its creator does not get.
func (r *Runtime) drop(ctx context.Context, id string) {
	discard(ctx, func(ctx context.Context) { _ = r.kind().destroy(ctx, r, id) })
}

// discard calls remove, whatever ended ctx. It returns after removeGrace at the latest;
// remove goes on. An object that is not removed at all has Moat's labels, by which it is
// found.
func discard(ctx context.Context, remove func(context.Context)) {
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), latePatience)
	removed := make(chan struct{})
	go func() {
		defer cancel()
		defer close(removed)
		remove(late)
	}()
	timer := time.NewTimer(removeGrace)
	defer timer.Stop()
	select {
	case <-removed:
	case <-timer.C:
	}
}

// heed reads the engine's warnings: a limit that was asked for and that the engine's
// kernel has not got is an error.
func (r *Runtime) heed(c *call, cfg core.Config, response container.CreateResponse) error {
	for _, warning := range response.Warnings {
		r.options.Logger.Warn("the engine warns", "container", c.object, "warning", warning)
		field := discardedLimit(warning)
		if (field == "MemoryMB" && cfg.MemoryMB > 0) || (field == "PidsLimit" && cfg.PidsLimit > 0) {
			r.drop(c.ctx, response.ID)
			return c.wrong(core.ErrUnsupported, field, warning, "Enable the cgroup controller on the engine's machine, or drop the limit")
		}
	}
	return nil
}

// checkNetwork returns the network that a container is to join, where that has a name.
func (r *Runtime) checkNetwork(c *call, mode string) (network.Inspect, error) {
	switch mode {
	case "", network.NetworkBridge, network.NetworkNone:
		return network.Inspect{}, nil
	case network.NetworkHost:
		host, err := ask(c.ctx, r, c.op, c.object, r.hostFacts)
		if err == nil && !host.native {
			err = c.wrong(core.ErrUnsupported, "NetworkMode", "the host's network is out of this engine's or its sandbox's reach",
				"Use network bridge, and publish ports")
		}
		return network.Inspect{}, err
	}
	// The engine would create the container and fail only when it starts.
	return ask(c.ctx, r, "find network", mode, func(ctx context.Context) (network.Inspect, error) {
		return r.engine.NetworkInspect(ctx, mode, network.InspectOptions{})
	})
}

// nameServers returns those that the engine is to ask for a container on a network: its
// host's where there are none. Out of an internal network that would be a way, which
// Docker Engine 20.10 takes where its host is its own name server.
func nameServers(joined network.Inspect, chosen []string) []string {
	if joined.Internal && len(chosen) == 0 {
		return []string{"0.0.0.1"} // an address that no kernel sends to
	}
	return chosen
}

// createRequest is the pure mapping of a valid configuration.
func createRequest(engine *product, cfg core.Config, ociRuntime string) request {
	stopTimeout := int(cfg.StopTimeoutOrDefault().Seconds())
	streams := stdioFor(cfg)
	openStdin := streams.stdin || streams.gate == gateLastLine
	config := &container.Config{
		Hostname:    cfg.Hostname,
		Image:       cfg.Image,
		Cmd:         cfg.Cmd,
		Env:         cfg.Env,
		User:        cfg.User,
		WorkingDir:  cfg.WorkingDir,
		Labels:      cfg.ContainerLabels(),
		OpenStdin:   openStdin,
		StdinOnce:   openStdin && !cfg.TTY,
		Tty:         cfg.TTY,
		StopTimeout: &stopTimeout,
	}
	hostConfig := &container.HostConfig{
		Runtime:     ociRuntime,
		NetworkMode: container.NetworkMode(cfg.NetworkMode),
		Mounts:      bindMounts(cfg.Mounts),
		ExtraHosts:  cfg.ExtraHosts,
		GroupAdd:    cfg.GroupAdd,
		CapAdd:      cfg.CapAdd,
		DNS:         cfg.DNS,
		AutoRemove:  cfg.AutoRemove,
		LogConfig:   engine.logConfig,
		Privileged:  cfg.Privileged,
		Resources:   resources(cfg),
	}
	if !cfg.Privileged {
		harden(hostConfig, cfg)
	}
	publish(cfg, config, hostConfig)
	if isHeld(streams.gate) {
		config.Healthcheck = noHealthcheck // the image's would be executed while the program is held
	}
	asked := request{config: config, hostConfig: hostConfig, gate: streams.gate}
	if len(cfg.NetworkAliases) > 0 {
		endpoint := &network.EndpointSettings{Aliases: cfg.NetworkAliases}
		asked.networking = &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{cfg.NetworkMode: endpoint}}
	}
	return asked
}

var noHealthcheck = &container.HealthConfig{Test: []string{"NONE"}}

// harden takes what a workload does not need. There is no init process among it: with
// one, engines report a program that does not exist as started.
func harden(hostConfig *container.HostConfig, cfg core.Config) {
	hostConfig.CapDrop = []string{"ALL"}
	hostConfig.CapAdd = slices.Concat(capabilities, cfg.CapAdd)
	if !cfg.AllowNewPrivileges {
		hostConfig.SecurityOpt = []string{"no-new-privileges"}
	}
}

func resources(cfg core.Config) container.Resources {
	pids := cfg.PidsLimit
	if pids == 0 {
		pids = core.DefaultPidsLimit
	}
	memory := int64(cfg.MemoryMB) << 20
	return container.Resources{
		Memory:     memory,
		MemorySwap: memory, // the same: no swap beyond the limit
		NanoCPUs:   cfg.CPUQuota(),
		PidsLimit:  &pids,
	}
}

func bindMounts(mounts []core.MountConfig) []mount.Mount {
	// As mounts, not binds: those the engine would create on the host where they are missing.
	bound := make([]mount.Mount, len(mounts))
	for i, m := range mounts {
		bound[i] = mount.Mount{Type: mount.TypeBind, Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly}
	}
	return bound
}

func publish(cfg core.Config, config *container.Config, hostConfig *container.HostConfig) {
	ports := cfg.PublishedPorts()
	if len(ports) == 0 {
		return
	}
	config.ExposedPorts = nat.PortSet{}
	hostConfig.PortBindings = nat.PortMap{}
	for _, port := range ports {
		key := nat.Port(fmt.Sprintf("%d/%s", port.ContainerPort, port.Protocol))
		hostPort := "" // the engine's choice
		if port.HostPort > 0 {
			hostPort = strconv.Itoa(port.HostPort)
		}
		if port.HostPortEnd > port.HostPort {
			hostPort += "-" + strconv.Itoa(port.HostPortEnd)
		}
		address := netip.MustParseAddr(port.HostIP) // validated
		config.ExposedPorts[key] = struct{}{}
		hostConfig.PortBindings[key] = append(hostConfig.PortBindings[key], nat.PortBinding{HostIP: address.String(), HostPort: hostPort})
	}
}
