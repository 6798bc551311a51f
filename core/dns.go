package core

import (
	"net/netip"
	"slices"
)

// DefaultDNS returns the default DNS servers if the provided list is empty, the
// list itself otherwise. Uses Google DNS (8.8.8.8, 8.8.4.4) as a reliable fallback
// since container runtime defaults often don't work (e.g., Apple container gateway DNS).
func DefaultDNS(dns []string) []string {
	if len(dns) == 0 {
		return []string{"8.8.8.8", "8.8.4.4"}
	}
	return slices.Clone(dns)
}

func validateDNS(servers []string) error {
	for _, server := range servers {
		if !isIP(server) {
			return Invalid("DNS", "%q is not an IP address", server)
		}
	}
	return nil
}

// isIP refuses zones: they name an interface of the host's, and the engines refuse them.
func isIP(text string) bool {
	address, err := netip.ParseAddr(text)
	return err == nil && address.Zone() == ""
}
