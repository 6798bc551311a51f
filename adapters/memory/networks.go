package memory

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
	"github.com/moatproject/moat/core/services"
)

// NetworkManager returns the runtime's one network manager. Its networks are only kept
// account of: containers join them and hold them, but nothing passes between.
func (r *Runtime) NetworkManager() core.NetworkManager { return (*networks)(r) }

// SidecarManager returns core's, on this runtime.
func (r *Runtime) SidecarManager() core.SidecarManager { return services.NewSidecarManager(r) }

// networks is a runtime as a network manager.
type networks Runtime

var _ optional.NetworkCreator = (*networks)(nil)

func (n *networks) CreateNetwork(ctx context.Context, name string) (string, error) {
	return n.CreateNetworkFrom(ctx, optional.NetworkConfig{Name: name})
}

func (n *networks) CreateNetworkFrom(ctx context.Context, cfg optional.NetworkConfig) (string, error) {
	const op = "create network"
	r := (*Runtime)(n)
	if err := cfg.Validate(); err != nil {
		return "", refused(op, cfg.Name, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.check(ctx, op, cfg.Name); err != nil {
		return "", err
	}
	if r.networkOf(cfg.Name) != nil {
		return "", failure(op, cfg.Name, core.ErrAlreadyExists, errors.New("another network has the name; remove it or choose another name"))
	}
	if cfg.Subnet == "" {
		if cfg.Subnet = r.freeSubnet(); cfg.Subnet == "" {
			return "", failure(op, cfg.Name, core.ErrInUse, errors.New("every subnet is taken; remove networks"))
		}
	}
	wanted := netip.MustParsePrefix(cfg.Subnet)
	for _, other := range r.networks {
		if wanted.Overlaps(netip.MustParsePrefix(other.Subnet)) {
			return "", &core.Error{
				Op: op, Runtime: Type, Object: cfg.Name, Field: "Subnet", Class: core.ErrInUse,
				Err: errors.New("it overlaps with that of " + other.Name),
			}
		}
	}
	id := make([]byte, 32)
	rand.Read(id)
	labels := maps.Clone(cfg.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, core.ObjectLabels(cfg.RunID, core.RoleNetwork))
	r.networks = append(r.networks, core.NetworkInfo{
		ID: hex.EncodeToString(id), Name: cfg.Name, Subnet: cfg.Subnet, Internal: cfg.Internal, Labels: labels,
	})
	return hex.EncodeToString(id), nil
}

// freeSubnet returns the first that overlaps no network's, "" for none.
func (r *Runtime) freeSubnet() string {
	for i := range 1 << 16 {
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
		if !slices.ContainsFunc(r.networks, func(other core.NetworkInfo) bool { return subnet.Overlaps(netip.MustParsePrefix(other.Subnet)) }) {
			return subnet.String()
		}
	}
	return ""
}

// networkOf returns a network by ID or name, or nil.
func (r *Runtime) networkOf(id string) *core.NetworkInfo {
	for i, network := range r.networks {
		if network.ID == id || network.Name == id {
			return &r.networks[i]
		}
	}
	return nil
}

func (n *networks) RemoveNetwork(ctx context.Context, networkID string) error {
	return n.remove(ctx, networkID, false)
}

func (n *networks) ForceRemoveNetwork(ctx context.Context, networkID string) error {
	return n.remove(ctx, networkID, true)
}

func (n *networks) remove(ctx context.Context, id string, force bool) error {
	const op = "remove network"
	r := (*Runtime)(n)
	if id == "" {
		return invalid(op, id, "networkID", errors.New("it is no network's name or ID"))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.check(ctx, op, id); err != nil {
		return err
	}
	network := r.networkOf(id)
	if network == nil {
		return nil
	}
	for _, c := range r.containers {
		if c.state == core.StateRunning && c.network == network.ID && !force {
			return failure(op, id, core.ErrInUse, fmt.Errorf("the container %s runs on it", c.info.Name))
		}
	}
	removed := network.ID
	r.networks = slices.DeleteFunc(r.networks, func(other core.NetworkInfo) bool { return other.ID == removed })
	for _, c := range r.containers {
		if c.network == removed {
			c.network = ""
		}
	}
	return nil
}

func (n *networks) ListNetworks(ctx context.Context) ([]core.NetworkInfo, error) {
	r := (*Runtime)(n)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.check(ctx, "list networks", ""); err != nil {
		return nil, err
	}
	all := slices.Clone(r.networks)
	for i := range all {
		all[i].Labels = maps.Clone(all[i].Labels)
	}
	slices.SortFunc(all, func(a, b core.NetworkInfo) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}
