package contracttests

import (
	"slices"
	"strings"

	"github.com/moatproject/moat/core"
)

func networkCases() []Case {
	modes := capability("NetworkModes")
	noNetwork := refusedConfig(func(c *core.Config) { c.NetworkMode = "none" })
	return []Case{
		{
			Number: "CF-09", Title: "ExtraHosts are known inside", check: extraHosts, fields: []string{"ExtraHosts"},
			ability: capability("HostEntries"), unsupported: refusedConfig(addHost),
		},
		{
			Number: "CF-10", Title: "NetworkMode bridge is the default", check: bridgeNetwork, fields: []string{"NetworkMode"},
			ability: modes, unsupported: noNetwork,
		},
		{
			Number: "CF-11", Title: "NetworkMode none leaves loopback", check: noNetworkAtAll, fields: []string{"NetworkMode"},
			ability: modes, unsupported: noNetwork,
		},
		{
			Number: "CF-12", Title: "NetworkMode host is the host's", check: hostNetwork, fields: []string{"NetworkMode"},
			ability:     &ability{"SupportsHostNetwork", core.Runtime.SupportsHostNetwork},
			unsupported: refusedConfig(func(c *core.Config) { c.NetworkMode = "host" }),
		},
		{
			Number: "CF-25", Title: "DNS servers are the only ones", check: dnsServers, fields: []string{"DNS"},
			ability: capability("DNSServers"), unsupported: refusedConfig(useDNS),
		},
	}
}

func addHost(c *core.Config) {
	c.ExtraHosts = []string{"db.example:192.0.2.7", "six.example:2001:db8::7"}
}

func extraHosts(f *fixture) {
	cfg := f.agent("cat /etc/hosts")
	addHost(&cfg)
	out := f.output(cfg)
	for host, address := range map[string]string{"db.example": "192.0.2.7", "six.example": "2001:db8::7"} {
		if !slices.ContainsFunc(strings.Split(out, "\n"), func(line string) bool {
			return slices.Equal(strings.Fields(line), []string{address, host})
		}) {
			f.Errorf("no line has %s for %s:\n%s", address, host, out)
		}
	}
}

// fallbackDevices are what Linux puts into each network namespace where the modules of
// tunnels are loaded. They are down and lead nowhere.
var fallbackDevices = []string{
	"tunl0", "gre0", "gretap0", "erspan0", "sit0", "ip_vti0", "ip6_vti0", "ip6tnl0", "ip6gre0", "teql0",
}

// interfaces returns the names of the network interfaces that a container has.
func (f *fixture) interfaces(mode string) []string {
	f.Helper()
	cfg := f.agent("cat /proc/net/dev")
	cfg.NetworkMode = mode
	var names []string
	for line := range strings.Lines(f.output(cfg)) {
		if name, _, found := strings.Cut(line, ":"); found && !slices.Contains(fallbackDevices, strings.TrimSpace(name)) {
			names = append(names, strings.TrimSpace(name))
		}
	}
	return names
}

func bridgeNetwork(f *fixture) {
	for _, mode := range []string{"", "bridge"} {
		names := slices.DeleteFunc(f.interfaces(mode), func(name string) bool { return name == "lo" })
		if len(names) != 1 {
			f.Errorf("a container with network mode %q has the interfaces %v beside lo", mode, names)
		}
	}
}

func noNetworkAtAll(f *fixture) {
	if names := f.interfaces("none"); slices.ContainsFunc(names, func(name string) bool { return name != "lo" }) {
		f.Errorf("a container without a network has the interfaces %v", names)
	}
}

// hostNetwork reaches a server inside at an address of the host's, without a published port.
func hostNetwork(f *fixture) {
	port := anyPort()
	cfg := f.servers(port)
	cfg.NetworkMode = "host"
	f.started(cfg)
	f.wantGreeting(port)
}

func useDNS(c *core.Config) { c.DNS = []string{"192.0.2.53", "192.0.2.54"} }

func dnsServers(f *fixture) {
	cfg := f.agent("cat /etc/resolv.conf")
	if servers := nameServers(f.output(cfg)); len(servers) == 0 {
		f.Error("without DNS in its Config a container has no name server at all")
	}
	useDNS(&cfg)
	if servers := nameServers(f.output(cfg)); !slices.Equal(servers, cfg.DNS) {
		f.Errorf("the name servers are %v, want %v", servers, cfg.DNS)
	}
}

// nameServers returns those that a resolv.conf names.
func nameServers(file string) (servers []string) {
	for line := range strings.Lines(file) {
		if words := strings.Fields(line); len(words) == 2 && words[0] == "nameserver" {
			servers = append(servers, words[1])
		}
	}
	return servers
}
