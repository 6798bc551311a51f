package core

import (
	"context"
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

// NetworkInfo contains information about a network.
type NetworkInfo struct {
	ID   string `json:"id"`
	Name string `json:"name"`

	// What follows is not in the documented package.

	Subnet   string            `json:"subnet,omitempty"`
	Internal bool              `json:"internal"`
	Labels   map[string]string `json:"labels,omitempty"`
}
