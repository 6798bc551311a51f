package contracttests

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"strconv"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

func firewall(f *fixture) {
	id := f.create(f.idle())
	host := cmp.Or(f.hostIP(), "192.0.2.1")
	for _, proxy := range []struct {
		host string
		port int
	}{{"", 3128}, {host, 0}, {host, -1}, {host, 65536}} {
		err := f.rt.SetupFirewall(f.ctx, id, proxy.host, proxy.port)
		f.wantClass(fmt.Sprintf("a firewall for %q:%d", proxy.host, proxy.port), err, core.ErrInvalidConfig)
	}
	err := f.rt.SetupFirewall(f.ctx, id, host, anyPort())
	if optional.CapabilitiesOf(f.rt).EnforcedEgress {
		f.Error("Capabilities.EnforcedEgress is true before anything has shown it")
	}
	if errors.Is(err, core.ErrUnsupported) {
		return
	}
	f.wantClass("a firewall for a proxy that does not answer", err, core.ErrPolicyNotEnforced)
	f.wantClass("a firewall for a missing container", f.rt.SetupFirewall(f.ctx, f.missing(), host, 3128), core.ErrNotFound)

	port, proxyPort := anyPort(), anyPort()
	target, proxy := f.victimOnHost(port), f.victimOnHost(proxyPort)
	peer, peerAddress := f.victim("a container on the usual network", f.agent(hearing(containerPort)))
	var attacks []attack
	at := func(v *victim, ways []string, host string, port int) {
		for _, way := range ways {
			attacks = append(attacks, attack{victim: v, way: way, address: net.JoinHostPort(host, strconv.Itoa(port))})
		}
	}
	at(target, []string{"tcp", "udp", "device", "icmp"}, host, port)
	at(proxy, []string{"udp"}, host, proxyPort) // over TCP alone it is allowed
	at(target, []string{"udp", "device"}, "255.255.255.255", port)
	at(target, []string{"udp", "device"}, "224.0.0.1", port)
	at(target, []string{"udp"}, "ff02::1%eth0", port)
	at(peer, []string{"tcp", "udp", "icmp"}, peerAddress, containerPort)

	word := uniqueText()
	f.withstands(attacks, func(steps []string) string {
		f.Helper()
		cfg := f.agent(append([]string{"send tcp " + net.JoinHostPort(host, strconv.Itoa(proxyPort)) + " " + word}, append(steps, "sleep")...)...)
		if optional.CapabilitiesOf(f.rt).DNSServers {
			cfg.DNS = []string{"0.0.0.1"} // an engine that looks names up for it is a way out
		}
		id := f.create(cfg)
		f.must(f.rt.SetupFirewall(f.ctx, id, host, proxyPort))
		f.must(f.rt.SetupFirewall(f.ctx, id, host, proxyPort)) // as a retry would
		f.must(f.rt.StartContainer(f.ctx, id))
		f.awaitOutput(id, "done\n")
		return f.logs(id)
	})
	if !f.hears(proxy, word) {
		f.Errorf("the proxy has not heard the workload: %s", excerpt(f.heardBy(proxy)))
	}
	if !optional.CapabilitiesOf(f.rt).EnforcedEgress {
		f.Error("Capabilities.EnforcedEgress is false after a firewall was set up")
	}
}
