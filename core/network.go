package core

import "context"

// NetworkManager handles networks between containers.
// Returned by Runtime.NetworkManager - nil if not supported.
type NetworkManager interface {
	// CreateNetwork creates a network for inter-container communication and returns its ID.
	CreateNetwork(ctx context.Context, name string) (string, error)

	// RemoveNetwork removes a network by ID. Active endpoints: [ErrInUse]; missing: nil.
	RemoveNetwork(ctx context.Context, networkID string) error

	// ForceRemoveNetwork disconnects all containers from a network, then removes it.
	ForceRemoveNetwork(ctx context.Context, networkID string) error

	// ListNetworks returns the managed networks.
	ListNetworks(ctx context.Context) ([]NetworkInfo, error)
}

// NetworkInfo contains information about a network.
type NetworkInfo struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}
