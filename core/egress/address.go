package egress

import "net/netip"

// Class is the purpose of an address, such as "private" or "loopback".
type Class string

// The classes that programs need to tell from the others.
const (
	Public   Class = ""         // a destination on the public internet
	Metadata Class = "metadata" // a service that hands out a cloud machine's credentials
)

// Classify returns the class of an address. An IPv4 address inside an IPv6 one
// (::ffff:0:0/96) counts as that IPv4 address, which is where it leads.
func Classify(address netip.Addr) Class {
	if !address.IsValid() || address.Zone() != "" {
		return "invalid"
	}
	address = address.Unmap()
	for _, special := range specialPrefixes {
		if special.prefix.Contains(address) {
			return special.class
		}
	}
	if address.Is6() && !globalUnicast.Contains(address) {
		return "reserved"
	}
	return Public
}

// globalUnicast is the only part of IPv6 from which public addresses are given out.
var globalUnicast = netip.MustParsePrefix("2000::/3")

// specialPrefixes are IANA's registries of special-purpose addresses, and before them
// the metadata addresses of clouds. The first match counts.
var specialPrefixes = func() []specialPrefix {
	var prefixes []specialPrefix
	for _, class := range []struct {
		name     Class
		prefixes []string
	}{
		{Metadata, []string{
			"169.254.169.254/32", "169.254.170.2/32", "169.254.170.23/32", // most clouds; AWS containers
			"100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32", // Alibaba, Azure, Oracle
			"fd00:ec2::254/128", "fd00:ec2::23/128", "fd20:ce::254/128", // AWS, Google
		}},
		{"loopback", []string{"127.0.0.0/8", "::1/128"}},
		{"unspecified", []string{"0.0.0.0/8", "::/128"}},
		{"private", []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10"}},
		{"link-local", []string{"169.254.0.0/16", "fe80::/10"}},
		{"carrier-grade NAT", []string{"100.64.0.0/10"}},
		{"multicast", []string{"224.0.0.0/4", "ff00::/8"}},
		{"benchmark", []string{"198.18.0.0/15", "2001:2::/48"}},
		{"documentation", []string{"192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20"}},
		{"NAT64", []string{"64:ff9b::/96", "64:ff9b:1::/48"}},
		{"6to4", []string{"2002::/16", "192.88.99.0/24"}},
		{"Teredo", []string{"2001::/32"}},
		{"reserved", []string{"192.0.0.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.175.48.0/24", "240.0.0.0/4", "2001::/23", "2620:4f:8000::/48"}},
	} {
		for _, prefix := range class.prefixes {
			prefixes = append(prefixes, specialPrefix{netip.MustParsePrefix(prefix), class.name})
		}
	}
	return prefixes
}()

type specialPrefix struct {
	prefix netip.Prefix
	class  Class
}
