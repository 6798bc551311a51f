package core

import "context"

// Firewall restricts where a container may connect.
type Firewall interface {
	// SetupFirewall lets the container reach proxyHost:proxyPort over TCP and nothing else,
	// enforced from outside the container. Where that cannot be guaranteed it
	// returns [ErrPolicyNotEnforced] or [ErrUnsupported]; it never weakens silently.
	// proxyHost is an address that containers reach; of the engine's host, that of
	// [Ports.GetHostAddress]. A name is looked up once, during the call: in the container's
	// ExtraHosts, or else as this process looks names up. The proxy must answer.
	//
	// A created container is closed from its first instruction on. The connections of a
	// running container end; some runtimes refuse one that runs. If the setup fails after it
	// has begun, a running container is killed, and this Runtime value does not start a
	// created one: remove it. A second call for the same proxy repeats the check; for another
	// proxy it is [ErrAlreadyExists]. Calls for one container wait for each other. The firewall
	// stays until the container is removed.
	//
	//   - RT-120: it holds, or is refused; a port outside 1 to 65535 or an empty host:
	//     [ErrInvalidConfig]; a proxy that does not answer: [ErrPolicyNotEnforced]; missing:
	//     [ErrNotFound].
	SetupFirewall(ctx context.Context, id string, proxyHost string, proxyPort int) error
}

// ValidateProxy checks the arguments of SetupFirewall, for every adapter. A wrong one is
// [ErrInvalidConfig].
func ValidateProxy(host string, port int) error {
	if host == "" {
		return Invalid("proxyHost", "is empty")
	}
	if err := checkText("proxyHost", host); err != nil {
		return err
	}
	if port < 1 || port > 65535 {
		return Invalid("proxyPort", "%d is outside 1 to 65535", port)
	}
	return nil
}
