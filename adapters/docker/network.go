package docker

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"maps"
	"math/bits"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// defaultPool is divided into small subnets. The engine's own pool holds only some thirty
// networks of thousands of addresses each.
var defaultPool = netip.MustParsePrefix("10.210.0.0/16")

// subnetBits is the prefix length of a network: it has 61 addresses for containers.
const subnetBits = 26

// Options of a network.
const (
	optionICC    = "com.docker.network.bridge.enable_icc"   // its containers can reach each other
	optionNoHost = "com.docker.network.bridge.inhibit_ipv4" // the engine's host has no address on it
)

// NetworkManager returns the runtime's network manager. Docker Engine 20.10 removes the
// firewall rule between networks for some milliseconds whenever it creates a network:
// during that time containers of different networks can reach each other.
func (r *Runtime) NetworkManager() core.NetworkManager { return (*networks)(r) }

// networks is a runtime as a network manager.
type networks Runtime

var _ optional.NetworkCreator = (*networks)(nil)

func (n *networks) CreateNetwork(ctx context.Context, name string) (string, error) {
	return n.CreateNetworkFrom(ctx, optional.NetworkConfig{Name: name})
}

func (n *networks) CreateNetworkFrom(ctx context.Context, cfg optional.NetworkConfig) (string, error) {
	r := (*Runtime)(n)
	if err := cfg.Validate(); err != nil {
		return "", err
	}
	c, err := r.call(ctx, "create network", cfg.Name)
	if err != nil {
		return "", err
	}
	defer c.end()
	id, err := r.createNetworkFrom(c, cfg)
	if err != nil || !cfg.Internal || r.kind().noEgress != "" {
		return id, err
	}
	of := network.Inspect{ID: id, Labels: networkLabels(cfg)}
	if err = r.createGuard(c.ctx, of); err == nil {
		err = r.startGuard(c.ctx, id)
	}
	if err != nil {
		err = errors.Join(c.unguarded(err), r.abandon(c, id))
		if c.ctx.Err() == nil {
			id = ""
		}
		return id, err // where ctx has ended, the removal may have been given up
	}
	return id, nil
}

// createNetworkFrom creates a network of a valid configuration, without a guard.
func (r *Runtime) createNetworkFrom(c *call, cfg optional.NetworkConfig) (string, error) {
	if cfg.Subnet != "" {
		return r.createNetwork(c, cfg, netip.MustParsePrefix(cfg.Subnet))
	}
	free, err := r.freeSubnets(c)
	if err != nil {
		return "", err
	}
	for _, subnet := range free {
		id, err := r.createNetwork(c, cfg, subnet)
		if core.FieldOf(err) != "Subnet" {
			return id, err
		}
		// Another process has taken this subnet meanwhile.
	}
	return "", c.wrong(core.ErrInUse, "", "every subnet of the pool "+r.options.SubnetPool.String()+" is taken", "Remove networks: `moat clean`, `moat network rm`")
}

func (r *Runtime) createNetwork(c *call, cfg optional.NetworkConfig, subnet netip.Prefix) (string, error) {
	noIPv6 := false
	options := network.CreateOptions{
		Driver:     network.NetworkBridge,
		EnableIPv6: &noIPv6,
		IPAM:       &network.IPAM{Config: []network.IPAMConfig{{Subnet: subnet.String()}}},
		Internal:   cfg.Internal,
		Labels:     networkLabels(cfg),
		Options:    map[string]string{},
	}
	graced, cancel := withGrace(c.ctx)
	defer cancel()
	id, err := patiently(graced, func(ctx context.Context) (string, error) {
		return r.kind().createNetwork(ctx, r, c, cfg, options)
	}, func(ctx context.Context, id string) { _ = r.kind().removeNetwork(ctx, r, id) })
	if err == nil && c.ctx.Err() != nil {
		err = c.ctx.Err()
		discard(c.ctx, func(ctx context.Context) { _ = r.kind().removeNetwork(ctx, r, id) })
	}
	if err != nil {
		return "", c.failed(err)
	}
	return id, nil
}

func networkLabels(cfg optional.NetworkConfig) map[string]string {
	labels := map[string]string{}
	maps.Copy(labels, cfg.Labels)
	maps.Copy(labels, core.ObjectLabels(cfg.RunID, core.RoleNetwork))
	return labels
}

// freeSubnets returns the free subnets of the pool. With an engine on this machine, the
// addresses of the machine's interfaces are taken too, and subnets that it has routes to
// come last, because a network would hide them. The order is random, so that two processes
// rarely try the same subnet.
func (r *Runtime) freeSubnets(c *call) ([]netip.Prefix, error) {
	all, err := r.engine.NetworkList(c.ctx, network.ListOptions{})
	if err != nil {
		return nil, c.failed(err)
	}
	var taken, routes []netip.Prefix
	for _, found := range all {
		for _, config := range found.IPAM.Config {
			if subnet, err := netip.ParsePrefix(config.Subnet); err == nil {
				taken = append(taken, subnet)
			}
		}
	}
	if strings.HasPrefix(r.options.Host, "unix://") {
		taken = append(taken, ownSubnets()...)
		routes = routesIn(r.routes)
	}
	pool := r.options.SubnetPool
	size := max(subnetBits, pool.Bits())
	first := binary.BigEndian.Uint32(pool.Addr().AsSlice())
	var free, routed []netip.Prefix
	for i := range uint32(1) << (size - pool.Bits()) {
		var address [4]byte
		binary.BigEndian.PutUint32(address[:], first+i<<(32-size))
		subnet := netip.PrefixFrom(netip.AddrFrom4(address), size)
		switch {
		case slices.ContainsFunc(taken, subnet.Overlaps):
		case slices.ContainsFunc(routes, subnet.Overlaps):
			routed = append(routed, subnet)
		default:
			free = append(free, subnet)
		}
	}
	for _, some := range [][]netip.Prefix{free, routed} {
		rand.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
	}
	return slices.Concat(free, routed), nil
}

func ownSubnets() (subnets []netip.Prefix) {
	addresses, _ := net.InterfaceAddrs() // without them, the engine checks the subnet
	for _, address := range addresses {
		if subnet, err := netip.ParsePrefix(address.String()); err == nil {
			subnets = append(subnets, subnet.Masked())
		}
	}
	return subnets
}

// routesIn reads Linux's table of IPv4 routes, without default routes. On other systems the
// file does not exist.
func routesIn(file string) (routes []netip.Prefix) {
	table, _ := os.ReadFile(file)
	for line := range strings.Lines(string(table)) {
		const destination, mask, columns = 1, 7, 8
		values := strings.Fields(line)
		if len(values) < columns {
			continue
		}
		to, err := strconv.ParseUint(values[destination], 16, 32)
		of, noMask := strconv.ParseUint(values[mask], 16, 32)
		if err != nil || noMask != nil || of == 0 {
			continue
		}
		var address [4]byte
		binary.NativeEndian.PutUint32(address[:], uint32(to)) // in the kernel's byte order
		routes = append(routes, netip.PrefixFrom(netip.AddrFrom4(address), bits.OnesCount32(uint32(of))))
	}
	return routes
}

func (n *networks) RemoveNetwork(ctx context.Context, networkID string) error {
	return n.remove(ctx, networkID, false)
}

func (n *networks) ForceRemoveNetwork(ctx context.Context, networkID string) error {
	return n.remove(ctx, networkID, true)
}

// removeTries bounds how often a removal starts again because a container has joined the
// network.
const removeTries = 5

func (n *networks) remove(ctx context.Context, id string, force bool) error {
	r := (*Runtime)(n)
	c, err := r.onNetwork(ctx, "remove network", id)
	if err != nil {
		return err
	}
	defer c.end()
	if id, err = r.wholeID(c, id); id == "" {
		return err
	}
	if of := r.restrictions.of(id); of != nil {
		if err := r.closeProxy(c, of, force); err != nil {
			return err
		}
	}
	err = r.removeNetwork(c, id)
	if errors.Is(err, core.ErrInUse) {
		return r.removeUsed(c, id, force)
	}
	if err == nil && r.options.Sandbox != nil {
		err = r.removeResolver(c, id) // an exited one does not keep the network in use
	}
	if err != nil {
		return err
	}
	return c.failed(r.removeGuard(c.ctx, id))
}

// wholeID returns the ID of a network from its name or the beginning of its ID, or "" where
// there is no such network.
func (r *Runtime) wholeID(c *call, id string) (string, error) {
	if isWholeID(id) {
		return id, nil
	}
	found, err := r.engine.NetworkInspect(c.ctx, id, network.InspectOptions{})
	if errdefs.IsNotFound(err) {
		return "", nil
	}
	return found.ID, c.failed(err)
}

func isWholeID(id string) bool {
	raw, err := hex.DecodeString(id)
	return err == nil && len(raw) == 32
}

func (r *Runtime) removeNetwork(c *call, id string) error {
	err := r.kind().removeNetwork(c.ctx, r, id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	return c.failed(err)
}

// removeUsed removes a network that is used only by its resolver, and with force any
// network. It stops the resolver and removes it only after the network, because a container
// that joins meanwhile still mounts a file of this resolver.
func (r *Runtime) removeUsed(c *call, id string, force bool) error {
	id, err := r.wholeID(c, id)
	if id == "" {
		return err
	}
	of, done := r.resolvers.use(id)
	defer done()
	if err := of.changing.lock(c.ctx); err != nil {
		return c.failed(err)
	}
	defer of.changing.unlock()
	resolver := "" // the stopped one
	for range removeTries {
		stopped, failure := r.empty(c, id, force)
		resolver = cmp.Or(stopped, resolver)
		if err = failure; err != nil {
			break
		}
		if err = r.removeNetwork(c, id); !errors.Is(err, core.ErrInUse) {
			break
		}
	}
	if err == nil {
		return errors.Join(r.removeResolver(c, id), c.failed(r.removeGuard(c.ctx, id)))
	}
	if resolver != "" {
		ctx, cancel := tidying(c.ctx)
		defer cancel()
		_ = r.engine.ContainerStart(ctx, resolver, container.StartOptions{})
	}
	return err
}

// empty ends the proxy and the resolver of a network, returns the resolver, and with force
// disconnects all other containers.
func (r *Runtime) empty(c *call, id string, force bool) (stopped string, err error) {
	found, err := r.engine.NetworkInspect(c.ctx, id, network.InspectOptions{})
	if errdefs.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", c.failed(err)
	}
	members, err := r.kind().members(c.ctx, r, found)
	if err != nil {
		return "", c.failed(err)
	}
	resolver, proxy := "", ""
	for member, name := range members {
		switch {
		case name == resolverName(found.ID):
			resolver = member
		case name == proxyName(found.ID):
			proxy = member
		case !force:
			return "", c.wrong(core.ErrInUse, "", "the container "+name+" uses "+found.Name, "Stop the containers on it, or force the removal")
		default:
			if err := r.engine.NetworkDisconnect(c.ctx, id, member, true); err != nil && !errdefs.IsNotFound(err) {
				return "", c.failed(err)
			}
		}
	}
	for _, helper := range []string{proxy, resolver} {
		if helper == "" {
			continue
		}
		err := r.engine.ContainerKill(c.ctx, helper, "KILL")
		if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsConflict(err) { // then it has exited
			return resolver, c.failed(err)
		}
	}
	return resolver, nil
}

func (r *Runtime) removeResolver(c *call, networkID string) error {
	r.resolvers.forget(networkID)
	return c.failed(r.remove(c.ctx, resolverName(networkID)))
}

func (n *networks) ListNetworks(ctx context.Context) ([]core.NetworkInfo, error) {
	r := (*Runtime)(n)
	all, err := ask(ctx, r, "list networks", r.options.Host, func(ctx context.Context) ([]network.Summary, error) {
		return r.engine.NetworkList(ctx, network.ListOptions{Filters: filters.NewArgs(filters.Arg("label", core.LabelManaged+"=true"))})
	})
	if err != nil {
		return nil, err
	}
	infos := make([]core.NetworkInfo, len(all))
	for i, found := range all {
		infos[i] = core.NetworkInfo{ID: found.ID, Name: found.Name, Internal: found.Internal, Labels: found.Labels}
		for _, config := range found.IPAM.Config {
			infos[i].Subnet = config.Subnet
		}
	}
	slices.SortFunc(infos, func(a, b core.NetworkInfo) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return infos, nil
}

// onNetwork starts a call about a network.
func (r *Runtime) onNetwork(ctx context.Context, op, id string) (*call, error) {
	c, err := r.on(ctx, r.timeout, op, id)
	if core.FieldOf(err) == "id" {
		wrong := &call{op: op, object: id}
		return nil, wrong.wrong(core.ErrInvalidConfig, "networkID", "it is no network's name or ID", "")
	}
	return c, err
}
