package optional

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/egress"
)

// EgressRestricter is the optional interface of a [core.NetworkManager] that can close a
// network but for a proxy, found by type assertion.
type EgressRestricter interface {
	// CreateRestrictedNetwork creates a network, and begins to start on it the proxy that is
	// the only way out. A container whose program is not held starts only when that is done.
	// ConfirmEgress waits for it, and returns its failure.
	//
	// ForceRemoveNetwork removes both, and RemoveNetwork does where nothing else is on the
	// network. If creation fails, it removes the network. If ctx has ended, or the removal
	// fails, the network may remain: the caller removes that of the ID beside the error.
	//
	// This holds against a hostile container on it, whose program is root:
	//
	//   - EG-01: other containers are out of its reach, on the engine's usual network and on
	//     another restricted one, by TCP, UDP, ICMP and DNS, and by ports that they publish.
	//   - EG-02: so is the engine's host, by its addresses on any network, by broadcast and
	//     multicast, and past the routes. Not even a datagram that has no answer arrives.
	//   - EG-03: it has neither raw nor packet sockets, and cannot change addresses or routes.
	//   - EG-05: further programs in it are as confined.
	//   - EG-06: so are services and other containers on the network.
	//   - EG-07: the proxy answers the run's credential alone, on this network alone, and passes
	//     on what the rules allow.
	//   - EG-08: while the proxy does not run, nothing leads out.
	CreateRestrictedNetwork(ctx context.Context, cfg RestrictedNetworkConfig) (RestrictedNetwork, error)

	// ConfirmEgress tries to leave a restricted network from within a container whose
	// program is held, and returns the result of each attempt. It waits until
	// StartAttached has started the container. It executes nothing of the container's image.
	// If there is a way out beside the proxy, or it is not certain that there is none, or
	// the proxy does not answer, the error is [core.ErrPolicyNotEnforced].
	//
	// Without a confirmation, the program of a held container on a restricted network is not
	// released: StartAttached fails with the same error. A confirmation is good for one start,
	// by the same Runtime value. When ReleaseContainer has returned, the program begins even
	// if the ctx of StartAttached ends.
	//
	//   - EG-04: without a confirmation of its own for each start, nothing of the container's
	//     image has been executed when StartAttached fails.
	ConfirmEgress(ctx context.Context, id string) (EgressEvidence, error)
}

// RestrictedNetworkFinder is the optional interface of a [core.NetworkManager] that finds
// the restricted networks of other processes, found by type assertion.
type RestrictedNetworkFinder interface {
	// FindRestrictedNetwork returns the restricted network of a run by the run's ID. It asks
	// the engine, so another process may have created the network. If the run's network is
	// gone, or not restricted, the error is [core.ErrNotFound]. If its proxy has not been
	// created yet, or has been removed, the error is [core.ErrNotRunning]. An empty ID is
	// [core.ErrInvalidConfig].
	FindRestrictedNetwork(ctx context.Context, runID string) (RestrictedNetwork, error)
}

// RestrictedNetworkConfig configures a restricted network.
type RestrictedNetworkConfig struct {
	NetworkConfig // Internal is implied

	// Program returns the proxy's program, moat-proxy, for the engine's architecture by Go's
	// name of it. It is called once.
	Program func(architecture string) ([]byte, error)

	// Proxy configures it. The runtime sets Listen, Sources and Relays itself.
	Proxy egress.ProxyConfig

	// Hosts are entries for the proxy's /etc/hosts, "HOST:IP".
	Hosts []string

	// Ports are published by the proxy, which passes connections on to the container on the
	// network whose name is PortsTo. Protocols other than TCP are [core.ErrUnsupported]. The
	// runtime reports the ports as that container's, which is created without them.
	Ports   []core.PortMapping
	PortsTo string
}

// RestrictedNetwork is a network whose only way out is a proxy.
type RestrictedNetwork struct {
	ID        string
	Proxy     netip.AddrPort // its address on the network
	Container string         // the proxy's name; the audit is its standard output
	Program   string         // the path of its program in Container, whose commands change the rules
}

// EgressEvidence is the result of ConfirmEgress.
type EgressEvidence struct {
	Time     time.Time       `json:"time"`
	Attempts []EgressAttempt `json:"attempts"`
	Dropped  int             `json:"dropped"` // frames that the host has dropped, which shows that its rule was asked
	Arrived  int             `json:"arrived"` // datagrams of the attempts that have reached the host
}

// EgressAttempt is an attempt to reach an address from within a container.
type EgressAttempt struct {
	Network string         `json:"network"` // "tcp", "udp" or [EgressVsock]
	Address netip.AddrPort `json:"address"` // zero for [EgressVsock]
	Proxy   bool           `json:"proxy"`   // true for the proxy, which must answer
	Result  string         `json:"result"`
}

// EgressVsock is the network of an attempt to open a socket of the family AF_VSOCK, which
// leads out of a virtual machine past every network of its own.
const EgressVsock = "vsock"

// The results of an attempt. A datagram that is sent has not arrived yet: see
// [EgressEvidence].Arrived.
const (
	EgressConnected = "connected"
	EgressSent      = "sent"
	EgressOpened    = "opened" // of EgressVsock
	EgressFailed    = "failed"
)

// String returns the attempt as text: its network, address and result.
func (a EgressAttempt) String() string {
	if !a.Address.IsValid() {
		return a.Network + " " + a.Result
	}
	return fmt.Sprintf("%s %s %s", a.Network, a.Address, a.Result)
}
