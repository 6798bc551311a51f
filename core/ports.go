package core

import "context"

// Ports tells how a container and its host reach each other.
type Ports interface {
	// GetPortBindings returns the host port of each published TCP port, as
	// container port → host port, for a running container. Of several host ports it is
	// the first one with an IPv4 address; [Info].Published has all.
	//
	//   - RT-85: the host port answers on the bind address that was asked for.
	//   - RT-86: nothing published: empty, not nil; missing: [ErrNotFound]; not
	//     running: [ErrNotRunning].
	GetPortBindings(ctx context.Context, id string) (map[int]int, error)

	// GetHostAddress returns the address at which a container reaches the host, as
	// the engine tells it (not guessed from this process's system). It is empty
	// where the engine has not answered yet.
	//
	//   - RT-87: where it is an address, a container reaches the ports that are published
	//     there.
	GetHostAddress() string

	// SupportsHostNetwork tells whether NetworkMode "host" means this host's network.
	//
	//   - RT-88: where it is false, that mode is [ErrUnsupported].
	SupportsHostNetwork() bool
}
