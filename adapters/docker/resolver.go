package docker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"
	"github.com/moatproject/moat/adapters/docker/programs"
	"github.com/moatproject/moat/core"
)

// On a network the engine's name server listens on each container's loopback, by rules of
// the host kernel that a sandbox's network stack does not use. So a network with a
// sandboxed container gets a helper container without a sandbox, the resolver. It forwards
// lookups to the engine's name server. It writes its address into its own /etc/resolv.conf,
// a file on the engine's host whose path the engine reports; sandboxed containers mount
// that file read-only. Its source is programs/source/resolver.c.

// resolvConf is the file of name servers in every container.
const resolvConf = "/etc/resolv.conf"

// resolverRestarts bounds how often the engine restarts a resolver that exits within ten
// seconds.
const resolverRestarts = 10

// helperUnused is how long a helper of a network may be there without a container that needs
// it: it comes just before the first.
const helperUnused = 2 * time.Minute

// resolverName returns the name of a network's resolver.
func resolverName(networkID string) string { return "moat-resolver-" + networkID[:12] }

// maxUnused bounds the cache of networks whose resolver answers. There is no event for a
// network that another process removes.
const maxUnused = 256

// resolvers has the networks' resolvers by network ID.
type resolvers struct {
	lock     sync.Mutex
	networks map[string]*resolver
}

// resolver is this process's knowledge of one resolver.
type resolver struct {
	changing mutex        // held while it is started or removed
	joining  atomic.Int32 // number of containers in creation that need it
	ready    string       // the run of the resolver (lifeOf) that has answered

	users int  // callers of use that are not done
	gone  bool // it was removed
}

// use returns the resolver of a network. The caller calls done when it no longer uses it.
func (all *resolvers) use(networkID string) (of *resolver, done func()) {
	all.lock.Lock()
	defer all.lock.Unlock()
	if all.networks == nil {
		all.networks = map[string]*resolver{}
	}
	if all.networks[networkID] == nil {
		if len(all.networks) >= maxUnused {
			maps.DeleteFunc(all.networks, func(_ string, of *resolver) bool { return of.users == 0 })
		}
		all.networks[networkID] = &resolver{changing: make(mutex, 1)}
	}
	of = all.networks[networkID]
	of.users, of.gone = of.users+1, false
	return of, func() {
		all.lock.Lock()
		defer all.lock.Unlock()
		if of.users--; of.users == 0 && of.gone {
			delete(all.networks, networkID)
		}
	}
}

// forget records that a network's resolver has been removed.
func (all *resolvers) forget(networkID string) {
	all.lock.Lock()
	defer all.lock.Unlock()
	if of := all.networks[networkID]; of != nil && of.users > 0 {
		of.gone = true
	} else {
		delete(all.networks, networkID)
	}
}

// needsResolver reports whether a sandboxed container gets the resolver's resolv.conf. It
// refuses settings with which the container could not look up names.
func needsResolver(c *call, cfg core.Config, joined network.Inspect) (bool, error) {
	if slices.ContainsFunc(cfg.Mounts, func(m core.MountConfig) bool { return m.Target == resolvConf }) {
		return false, nil // the caller has its own
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

// createBeside creates a container that needs its network's resolver.
func (r *Runtime) createBeside(c *call, name string, asked request) (response container.CreateResponse, err error) {
	of, done := r.resolvers.use(asked.joins.ID)
	defer done()
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
		// Another process has removed the resolver meanwhile, with the network's last
		// container.
	}
	if err != nil {
		r.leaveNetwork(c.ctx, asked.visits)
	}
	return response, err
}

// withResolvConf adds the mount of the resolver's resolv.conf to a request.
func withResolvConf(asked request, path string) request {
	host := *asked.hostConfig
	host.Mounts = append(slices.Clip(host.Mounts), mount.Mount{Type: mount.TypeBind, Source: path, Target: resolvConf, ReadOnly: true})
	asked.hostConfig = &host
	return asked
}

// joinResolver makes sure that a network's resolver runs, and returns the path of its
// resolv.conf on the engine's host. This process does not remove the resolver before
// joining is counted down. On failure, an unneeded resolver is removed.
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
		err = errors.New(err.Error()) // not the container's own image or network is missing
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
	running, err := r.inspectContainer(ctx, name)
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
		running, err = r.inspectContainer(ctx, name)
	}
	if err == nil {
		err = r.awaitReady(ctx, running)
	}
	if err != nil {
		return "", err
	}
	of.ready = lifeOf(running)
	return running.ResolvConfPath, nil
}

// lifeOf identifies one run of a container, from its start to its exit.
func lifeOf(c container.InspectResponse) string { return c.ID + " " + c.State.StartedAt }

func (r *Runtime) createResolver(ctx context.Context, name string, found network.Inspect) error {
	program, err := r.program(ctx, "resolver", "Use network bridge")
	if err != nil {
		return err
	}
	endpoint := &network.EndpointSettings{IPAMConfig: addressFromEnd(found, 1)}
	return r.createHelper(ctx, helperSpec{
		name: name, program: "resolver", binary: program,
		config: container.Config{Labels: core.AdapterLabels(found.ID, time.Now().Add(helperUnused))},
		hostConfig: container.HostConfig{
			NetworkMode:   container.NetworkMode(found.ID),
			CapAdd:        []string{"NET_BIND_SERVICE"},
			DNS:           nameServers(found, nil),
			RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyOnFailure, MaximumRetryCount: resolverRestarts},
		},
		networking: &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{found.ID: endpoint}},
	})
}

// program returns a helper's program for the engine's architecture.
func (r *Runtime) program(ctx context.Context, name, remedy string) ([]byte, error) {
	version, err := r.engine.ServerVersion(ctx)
	if err != nil {
		return nil, err
	}
	program, err := programs.Read(name, version.Arch)
	if err != nil {
		return nil, &core.Error{Class: core.ErrUnsupported, Err: errors.New("there is no " + name + " for " + version.Arch), Remedy: remedy}
	}
	return program, nil
}

// addressFromEnd returns the nth address from the end of a network of ours. The engine
// assigns addresses in order, so a helper usually gets the same one after a restart.
func addressFromEnd(found network.Inspect, n uint32) *network.EndpointIPAMConfig {
	if !isOurs(found) || len(found.IPAM.Config) == 0 {
		return nil
	}
	subnet, err := netip.ParsePrefix(found.IPAM.Config[0].Subnet)
	if err != nil || !subnet.Addr().Is4() {
		return nil
	}
	var address [4]byte
	first := binary.BigEndian.Uint32(subnet.Addr().AsSlice())
	binary.BigEndian.PutUint32(address[:], first+1<<(32-subnet.Bits())-1-n)
	return &network.EndpointIPAMConfig{IPv4Address: netip.AddrFrom4(address).String()}
}

// startResolver starts a resolver, which may run already, may be in removal, or may have
// lost its address: a stopped container keeps none.
func (r *Runtime) startResolver(ctx context.Context, name string, found network.Inspect) error {
	err := r.engine.ContainerStart(ctx, name, container.StartOptions{})
	switch {
	case isStillborn(err): // once more
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

// leaveNetwork removes the resolver of a network that is not ours, unless a container there
// needs it. The network's owner could not remove the network otherwise.
func (r *Runtime) leaveNetwork(ctx context.Context, networkID string) {
	if networkID == "" {
		return
	}
	ctx, cancel := tidying(ctx)
	defer cancel()
	of, done := r.resolvers.use(networkID)
	defer done()
	if of.changing.lock(ctx) != nil {
		return
	}
	defer of.changing.unlock()
	r.removeIdle(ctx, of, networkID)
}

// removeIdle removes a resolver that no container needs. Created and exited containers need
// it, which a network does not list, and so do containers in creation.
func (r *Runtime) removeIdle(ctx context.Context, of *resolver, networkID string) {
	if of.joining.Load() > 0 {
		return
	}
	ctx, cancel := tidying(ctx)
	defer cancel()
	tied, err := r.engine.ContainerList(ctx, container.ListOptions{
		All: true, Filters: filters.NewArgs(filters.Arg("label", core.LabelServes+"="+networkID)),
	})
	if err != nil || slices.ContainsFunc(tied, func(c container.Summary) bool { return c.Labels[core.LabelRole] != core.RoleAdapter }) {
		return
	}
	for _, helper := range tied {
		if !slices.Contains(helper.Names, "/"+guardName(networkID)) && !slices.Contains(helper.Names, "/"+proxyName(networkID)) {
			_ = r.kind().destroy(ctx, r, helper.ID)
		}
	}
	r.resolvers.forget(networkID)
}

// visited returns the network of other owners whose resolver a container uses, to be called
// before the container's removal. found is what [Runtime.inspectUnlessKnown] has returned.
func (r *Runtime) visited(ctx context.Context, id string, found container.InspectResponse) (networkID string) {
	if known, ok := r.known.find(id); ok || r.options.Sandbox == nil {
		return known.visits
	}
	if found.Config == nil || !isWholeID(found.Config.Labels[core.LabelServes]) { // it may be a label of the image
		return ""
	}
	on, err := r.engine.NetworkInspect(ctx, found.Config.Labels[core.LabelServes], network.InspectOptions{})
	if err != nil || isOurs(on) {
		return ""
	}
	return on.ID
}

func isOurs(n network.Inspect) bool { return n.Labels[core.LabelManaged] == "true" }

// tidying returns a context for clean-up, with a short timeout where ctx has ended.
func tidying(ctx context.Context) (context.Context, context.CancelFunc) {
	limit := callTimeout
	if ctx.Err() != nil {
		limit = removeGrace
	}
	return context.WithTimeout(context.WithoutCancel(ctx), limit)
}
