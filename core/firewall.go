package core

import "context"

// Firewall restricts where a container may connect.
type Firewall interface {
	// SetupFirewall lets the container reach proxyHost:proxyPort over TCP and nothing else,
	// enforced from outside the container. Where that cannot be guaranteed it
	// returns [ErrPolicyNotEnforced] or [ErrUnsupported]; it never weakens silently.
	// proxyHost is an address, or a name whose address at the time of the call counts, as
	// containers see it: of the engine's host, that of [Ports.GetHostAddress]. The proxy must
	// answer.
	//
	// A created container is closed from its first instruction on. Of a running one, which
	// some runtimes refuse, connections end. If the setup fails after it has begun, a running
	// container is killed, and a created one is not started. The firewall stays until the
	// container is removed.
	//
	//   - RT-120: it holds, or is refused; a port outside 1 to 65535 or an empty host:
	//     [ErrInvalidConfig]; a proxy that does not answer: [ErrPolicyNotEnforced].
	SetupFirewall(ctx context.Context, id string, proxyHost string, proxyPort int) error
}

// ValidateProxy checks what SetupFirewall was asked for, the same for every adapter.
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
