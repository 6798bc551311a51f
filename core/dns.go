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
		if _, err := netip.ParseAddr(server); err != nil {
			return invalid("DNS", "%q is not an IP address", server)
		}
	}
	return nil
}
