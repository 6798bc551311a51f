package core

import "context"

// Firewall restricts where a container may connect.
type Firewall interface {
	// SetupFirewall lets the container reach proxyHost:proxyPort and nothing else,
	// enforced from outside the container. Where that cannot be guaranteed it
	// returns [ErrPolicyNotEnforced] or [ErrUnsupported]; it never weakens silently.
	//
	//   - RT-120: a port outside 1 to 65535 or an empty host: [ErrInvalidConfig].
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
