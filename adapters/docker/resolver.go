package docker

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"
	"github.com/moatproject/moat/core"
)

// On networks the engine's name server listens at an address of each container's own
// loopback, by rules of the host kernel's, which a sandbox's network stack never sees.
// So each network that a sandboxed container is created on gets a helper container
// without a sandbox, the resolver, which hands lookups on to the engine's. It writes its
// address into its own /etc/resolv.conf, a file of the engine's host that the engine
// tells the path of; sandboxed containers get that file, read-only, for their own.
// programs/resolver.c is its source.

// resolvConf is what the file that names the name servers is called in every container.
const resolvConf = "/etc/resolv.conf"

// resolverRestarts bounds how often the engine starts a resolver again that ends before
// it has run for ten seconds.
const resolverRestarts = 10

// resolverName is the resolver's on a network.
func resolverName(networkID string) string { return "moat-resolver-" + networkID[:12] }

// resolvers are the networks' resolvers, by the network's ID.
type resolvers struct {
	lock     sync.Mutex
	networks map[string]*resolver
}

// resolver is what this process knows of one.
type resolver struct {
	changing mutex        // the first container on a network starts it, others wait for that
	joining  atomic.Int32 // how many containers that need it are just being created
	ready    string       // the life of the resolver's that has been seen to answer
}

func (all *resolvers) of(networkID string) *resolver {
	all.lock.Lock()
	defer all.lock.Unlock()
	if all.networks == nil {
		all.networks = map[string]*resolver{}
	}
	if all.networks[networkID] == nil {
		all.networks[networkID] = &resolver{changing: make(mutex, 1)}
	}
	return all.networks[networkID]
}

func (all *resolvers) forget(networkID string) {
	all.lock.Lock()
	defer all.lock.Unlock()
	delete(all.networks, networkID)
}

// needsResolver tells whether a sandboxed container is to get a resolv.conf of ours,
// and refuses what would leave it without names.
func needsResolver(c *call, cfg core.Config, joined network.Inspect) (bool, error) {
	if slices.ContainsFunc(cfg.Mounts, func(m core.MountConfig) bool { return m.Target == resolvConf }) {
		return false, nil // the caller knows better
	}
	if len(cfg.DNS) > 0 {
		return false, c.wrong(core.ErrUnsupported, "DNS", "the name server of a network is the same for all sandboxed containers on it",
			"Leave DNS out, or use network bridge")
	}
	if joined.Options[optionICC] == "false" {
		return false, c.wrong(core.ErrUnsupported, "NetworkMode", "on an isolated network a sandbox reaches no name server",
			"Mount a file of yours at "+resolvConf+", or use another network")
	}
	return true, nil
}

// createBeside makes a request for a container that needs its network's resolver.
func (r *Runtime) createBeside(c *call, name string, asked request) (response container.CreateResponse, err error) {
	of := r.resolvers.of(asked.joins.ID)
	for range 2 {
		var path string
		if path, err = r.joinResolver(c, of, asked.joins); err != nil {
			return response, c.failed(err)
		}
		response, err = r.create(c, name, withResolvConf(asked, path))
		of.joining.Add(-1)
		if err == nil || !strings.Contains(err.Error(), path) {
			break
		}
		// Another process has removed the resolver meanwhile, with its last container there.
	}
	if err != nil {
		r.leaveNetwork(c.ctx, asked.visits)
	}
	return response, err
}

// withResolvConf gives a sandboxed container the resolver's resolv.conf.
func withResolvConf(asked request, path string) request {
	host := *asked.hostConfig
	host.Mounts = append(slices.Clip(host.Mounts), mount.Mount{Type: mount.TypeBind, Source: path, Target: resolvConf, ReadOnly: true})
	asked.hostConfig = &host
	return asked
}

// joinResolver has a network's resolver run, and returns the path, on the engine's
// host, of the file to be a sandboxed container's resolv.conf. Until joining is counted
// down this process does not remove it. A failure leaves none behind that nobody needs.
func (r *Runtime) joinResolver(c *call, of *resolver, found network.Inspect) (path string, err error) {
	one, err := r.call(c.ctx, c.op, c.object)
	if err != nil {
		return "", err
	}
	defer one.end()
	if err := of.changing.lock(one.ctx); err != nil {
		return "", one.failed(err)
	}
	defer of.changing.unlock()
	path, err = r.runResolver(one.ctx, of, found)
	if noSuchImage(err) {
		err = errors.New(err.Error()) // it is not the container's that is missing
	}
	if err != nil {
		failed := one.failed(fmt.Errorf("start the resolver of network %s: %w", found.Name, err))
		r.removeIdle(one.ctx, of, found.ID)
		return "", failed
	}
	of.joining.Add(1)
	return path, nil
}

func (r *Runtime) runResolver(ctx context.Context, of *resolver, found network.Inspect) (path string, err error) {
	name := resolverName(found.ID)
	running, err := r.engine.ContainerInspect(ctx, name)
	if err == nil && running.State.Running && of.ready == lifeOf(running) {
		return running.ResolvConfPath, nil
	}
	if errdefs.IsNotFound(err) {
		err = r.createResolver(ctx, name, found)
	}
	if err == nil {
		err = r.startResolver(ctx, name, found)
	}
	if err == nil {
		running, err = r.engine.ContainerInspect(ctx, name)
	}
	if err == nil {
		err = r.awaitResolver(ctx, running)
	}
	if err != nil {
		return "", err
	}
	of.ready = lifeOf(running)
	return running.ResolvConfPath, nil
}

// lifeOf tells one run of a container from those before and after.
func lifeOf(c container.InspectResponse) string { return c.ID + " " + c.State.StartedAt }

func (r *Runtime) createResolver(ctx context.Context, name string, found network.Inspect) error {
	version, err := r.engine.ServerVersion(ctx)
	if err != nil {
		return err
	}
	program, err := programs.ReadFile("programs/resolver-" + version.Arch)
	if err != nil {
		return &core.Error{Class: core.ErrUnsupported, Err: errors.New("there is no resolver for " + version.Arch), Remedy: "Use network bridge"}
	}
	plain, err := r.plainRuntime(ctx)
	if err != nil {
		return err
	}
	ref := programImage("resolver", program)
	labels := core.ObjectLabels("", core.RoleHelper)
	labels[core.LabelNetwork] = found.ID
	// It heeds no other signal: an engine that stops would wait for it, ten seconds.
	config := &container.Config{Image: ref, Labels: labels, StopSignal: "SIGKILL"}
	pids := int64(1)
	hostConfig := &container.HostConfig{
		Runtime:       plain,
		NetworkMode:   container.NetworkMode(found.ID),
		CapDrop:       []string{"ALL"},
		CapAdd:        []string{"NET_BIND_SERVICE"},
		SecurityOpt:   []string{"no-new-privileges"},
		DNS:           nameServers(found, nil),
		RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyOnFailure, MaximumRetryCount: resolverRestarts},
		LogConfig:     logConfig,
		Resources:     container.Resources{PidsLimit: &pids},
	}
	endpoint := &network.EndpointSettings{IPAMConfig: resolverAddress(found)}
	networking := &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{found.ID: endpoint}}
	create := func() error {
		graced, cancel := withGrace(ctx)
		defer cancel()
		_, err := r.engine.ContainerCreate(graced, config, hostConfig, networking, nil, name)
		return err
	}
	err = create()
	if noSuchImage(err) {
		if err = r.importProgram(ctx, ref, "resolver", program); err == nil {
			err = create()
		}
	}
	if errdefs.IsConflict(err) {
		return nil // another process has created it meanwhile
	}
	return err
}

// resolverAddress is the last of a network of ours: the engine gives it to others only
// when it has given all that come before, so that the resolver has it again after a restart.
func resolverAddress(found network.Inspect) *network.EndpointIPAMConfig {
	if !isOurs(found) || len(found.IPAM.Config) == 0 {
		return nil
	}
	subnet, err := netip.ParsePrefix(found.IPAM.Config[0].Subnet)
	if err != nil || !subnet.Addr().Is4() {
		return nil
	}
	var last [4]byte
	first := binary.BigEndian.Uint32(subnet.Addr().AsSlice())
	binary.BigEndian.PutUint32(last[:], first+1<<(32-subnet.Bits())-2)
	return &network.EndpointIPAMConfig{IPv4Address: netip.AddrFrom4(last).String()}
}

// startResolver starts a resolver that may be running, may be going, or may have lost
// its address: what stands still holds none.
func (r *Runtime) startResolver(ctx context.Context, name string, found network.Inspect) error {
	err := r.engine.ContainerStart(ctx, name, container.StartOptions{})
	switch {
	case errdefs.IsNotFound(err) || isBeingRemoved(err):
		if _, err := receive(r.engine.ContainerWait(ctx, name, container.WaitConditionRemoved)); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		if err := r.createResolver(ctx, name, found); err != nil {
			return err
		}
	case isAddressTaken(err):
		if err := r.engine.NetworkDisconnect(ctx, found.ID, name, true); err != nil {
			return err
		}
		if err := r.engine.NetworkConnect(ctx, found.ID, name, nil); err != nil {
			return err
		}
	default:
		return err
	}
	return r.engine.ContainerStart(ctx, name, container.StartOptions{})
}

// awaitResolver returns when the resolver has said that it answers: in its present
// life, which is what its log has after the end of the one before. (What it says first
// may come before the engine has noted when it started.)
func (r *Runtime) awaitResolver(ctx context.Context, running container.InspectResponse) error {
	options := container.LogsOptions{ShowStdout: true, ShowStderr: true, Follow: true}
	if !parseTime(running.State.FinishedAt).IsZero() {
		options.Since = running.State.FinishedAt
	}
	body, err := r.engine.ContainerLogs(ctx, running.ID, options)
	if err != nil {
		return err
	}
	defer body.Close()
	said := bufio.NewScanner(body)
	var last string
	for said.Scan() {
		if last = said.Text(); strings.HasSuffix(last, "ready") {
			return nil
		}
	}
	return errors.Join(errors.New("it has ended: "+strings.TrimLeft(last, "\x00\x01\x02")), said.Err())
}

// leaveNetwork removes the resolver of a network that is not ours, unless a container
// there needs it: its owner could not remove the network otherwise.
func (r *Runtime) leaveNetwork(ctx context.Context, networkID string) {
	if networkID == "" {
		return
	}
	ctx, cancel := tidying(ctx)
	defer cancel()
	of := r.resolvers.of(networkID)
	if of.changing.lock(ctx) != nil {
		return
	}
	defer of.changing.unlock()
	r.removeIdle(ctx, of, networkID)
}

// removeIdle removes a resolver that no container needs: created and exited ones do,
// which a network does not list, and those whose creation is in progress.
func (r *Runtime) removeIdle(ctx context.Context, of *resolver, networkID string) {
	if of.joining.Load() > 0 {
		return
	}
	ctx, cancel := tidying(ctx)
	defer cancel()
	tied, err := r.engine.ContainerList(ctx, container.ListOptions{
		All: true, Filters: filters.NewArgs(filters.Arg("label", core.LabelNetwork+"="+networkID)),
	})
	if err != nil || slices.ContainsFunc(tied, func(c container.Summary) bool { return c.Labels[core.LabelRole] != core.RoleHelper }) {
		return
	}
	for _, helper := range tied {
		_ = r.engine.ContainerRemove(ctx, helper.ID, container.RemoveOptions{Force: true, RemoveVolumes: true})
	}
}

// visited returns the network that is not ours whose resolver a container may be the
// last to need, before the container is removed. Of other processes' the engine is asked.
func (r *Runtime) visited(ctx context.Context, id string) (networkID string) {
	if known, found := r.known.find(id); found || r.options.Sandbox == nil {
		return known.visits
	}
	found, err := r.engine.ContainerInspect(ctx, id)
	if err != nil || found.Config == nil || found.Config.Labels[core.LabelNetwork] == "" {
		return ""
	}
	on, err := r.engine.NetworkInspect(ctx, found.Config.Labels[core.LabelNetwork], network.InspectOptions{})
	if err != nil || isOurs(on) {
		return ""
	}
	return on.ID
}

func isOurs(n network.Inspect) bool { return n.Labels[core.LabelManaged] == "true" }

// tidying returns a context for what is to be done even where ctx has ended, which then
// has little time.
func tidying(ctx context.Context) (context.Context, context.CancelFunc) {
	limit := callTimeout
	if ctx.Err() != nil {
		limit = removeGrace
	}
	return context.WithTimeout(context.WithoutCancel(ctx), limit)
}
