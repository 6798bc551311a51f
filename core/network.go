package core

import (
	"context"
	"net/netip"
)

// NetworkManager handles networks between containers.
// Returned by Runtime.NetworkManager - nil if not supported.
//
// A container joins one by Config.NetworkMode, with its ID or name. On a network
// containers reach each other by name, ID (its first twelve digits) and alias:
//
//   - NM-06: in both directions, whatever isolates each of them, also what joins later
//     or is started again; by the name, an alias and the host name.
//   - NM-07: not what is on another network.
type NetworkManager interface {
	// CreateNetwork creates a network for inter-container communication and returns its ID.
	//
	//   - NM-01: it is listed, under its ID and name, with Moat's labels.
	//   - NM-02: a name that is taken: [ErrAlreadyExists]; one that no network can
	//     have: [ErrInvalidConfig], field Name.
	//   - NM-11: when it fails, no network is left behind.
	//   - NM-08: forty networks at once are no problem.
	CreateNetwork(ctx context.Context, name string) (string, error)

	// RemoveNetwork removes a network by ID.
	//
	//   - NM-03: it is gone; missing: nil.
	//   - NM-04: containers that run on it: [ErrInUse], and it stays.
	RemoveNetwork(ctx context.Context, networkID string) error

	// ForceRemoveNetwork disconnects all containers from a network, then removes it.
	//
	//   - NM-05: the containers run on; missing: nil.
	ForceRemoveNetwork(ctx context.Context, networkID string) error

	// ListNetworks returns the managed networks, sorted by name.
	ListNetworks(ctx context.Context) ([]NetworkInfo, error)
}

// NetworkCreator is the optional port of a [NetworkManager] that makes networks to
// measure, found by type assertion.
type NetworkCreator interface {
	// CreateNetworkFrom creates a network and returns its ID.
	//
	//   - NM-09: Subnet, Labels and RunID hold; a subnet that overlaps
	//     another network's: [ErrInUse], field Subnet; what is no subnet:
	//     [ErrInvalidConfig], field Subnet.
	//   - NM-10: Isolated holds; where it cannot: [ErrUnsupported].
	//   - NM-12: Internal holds; where it cannot: [ErrUnsupported].
	CreateNetworkFrom(ctx context.Context, cfg NetworkConfig) (string, error)
}

// NetworkConfig says what [NetworkCreator] creates. Networks are of IPv4 only.
type NetworkConfig struct {
	Name     string
	Subnet   string            // "192.0.2.0/26"; empty: a small one that is free
	Internal bool              // no way out of it, not even to the engine's host
	Isolated bool              // its containers do not reach each other, nor a name server among them
	RunID    string            // the run it belongs to, for [LabelRunID]
	Labels   map[string]string // beside Moat's own, which they cannot replace
}

// Validate reports the first setting that no runtime could honour, as
// [ErrInvalidConfig] with the field's name.
func (c NetworkConfig) Validate() error {
	switch c.Name {
	case "bridge", "host", "none", "default":
		return invalid("Name", "%q is a network mode", c.Name)
	}
	if !networkPattern().MatchString(c.Name) {
		return invalid("Name", "%q must be of [a-zA-Z0-9_.-] and begin with a letter or digit", c.Name)
	}
	if c.Subnet != "" {
		subnet, err := netip.ParsePrefix(c.Subnet)
		if err != nil || subnet != subnet.Masked() || !subnet.Addr().Is4() || subnet.Bits() > 29 {
			return invalid("Subnet", "%q is not an IPv4 subnet of eight addresses or more, such as 192.0.2.0/26", c.Subnet)
		}
		for _, reserved := range []string{"0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4"} { // of which no host has an address on a network
			if subnet.Overlaps(netip.MustParsePrefix(reserved)) {
				return invalid("Subnet", "%q has addresses of %s, which no container can have", c.Subnet, reserved)
			}
		}
	}
	return validateIdentity(Config{Image: "none", Labels: c.Labels, RunID: c.RunID})
}

// NetworkInfo contains information about a network.
type NetworkInfo struct {
	ID   string `json:"id"`
	Name string `json:"name"`

	// What follows is not in the documented package.

	Subnet   string            `json:"subnet,omitempty"`
	Internal bool              `json:"internal"`
	Labels   map[string]string `json:"labels,omitempty"`
}
