package optional

import (
	"context"
	"net/netip"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/internal/validation"
)

// NetworkCreator is the optional interface of a [core.NetworkManager] that creates
// networks with options, found by type assertion.
type NetworkCreator interface {
	// CreateNetworkFrom creates a network and returns its ID.
	//
	//   - NM-09: Subnet, Labels and RunID hold; a subnet that overlaps
	//     another network's: [core.ErrInUse], field Subnet; what is no subnet:
	//     [core.ErrInvalidConfig], field Subnet.
	//   - NM-10: Isolated holds; where it cannot: [core.ErrUnsupported].
	//   - NM-12: Internal holds; where it cannot: [core.ErrUnsupported].
	CreateNetworkFrom(ctx context.Context, cfg NetworkConfig) (string, error)
}

// NetworkConfig says what [NetworkCreator] creates. Networks are of IPv4 only.
type NetworkConfig struct {
	Name     string
	Subnet   string            // "192.0.2.0/26"; empty: a small one that is free
	Internal bool              // no way out of it, not even to the engine's host
	Isolated bool              // its containers do not reach each other, nor a name server among them
	RunID    string            // the run it belongs to, for [core.LabelRunID]
	Labels   map[string]string // beside Moat's own, which they cannot replace
}

// Validate reports the first setting that no runtime could honour, as
// [core.ErrInvalidConfig] with the field's name.
func (c NetworkConfig) Validate() error {
	switch c.Name {
	case "bridge", "host", "none", "default":
		return core.Invalid("Name", "%q is a network mode", c.Name)
	}
	if !validation.NetworkName().MatchString(c.Name) {
		return core.Invalid("Name", "%q must be of [a-zA-Z0-9_.-] and begin with a letter or digit", c.Name)
	}
	if c.Subnet != "" {
		subnet, err := netip.ParsePrefix(c.Subnet)
		if err != nil || subnet != subnet.Masked() || !subnet.Addr().Is4() || subnet.Bits() > 29 {
			return core.Invalid("Subnet", "%q is not an IPv4 subnet of eight addresses or more, such as 192.0.2.0/26", c.Subnet)
		}
		for _, reserved := range []string{"0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4"} { // of which no host has an address on a network
			if subnet.Overlaps(netip.MustParsePrefix(reserved)) {
				return core.Invalid("Subnet", "%q has addresses of %s, which no container can have", c.Subnet, reserved)
			}
		}
	}
	return core.Config{Image: "none", Labels: c.Labels, RunID: c.RunID}.Validate()
}
