package contracttests

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/egress"
	"github.com/moatproject/moat/core/optional"
)

func egressCases() []Case {
	one := func(number, title string, check func(*fixture)) Case {
		return Case{Number: number, Title: title, check: check, unsupported: refusedRestriction}
	}
	return []Case{
		one("EG-01", "a restricted workload reaches no other container", outOfReach),
		one("EG-02", "a restricted workload does not reach the engine's host", hostOutOfReach),
	}
}

// refusedRestriction is the unsupported call of these cases.
func refusedRestriction(f *fixture, _ string) error {
	restricter, restricts := f.rt.NetworkManager().(optional.EgressRestricter)
	if !restricts {
		return core.ErrUnsupported
	}
	f.networked = true
	cfg := f.restriction("")
	cfg.Program = func(string) ([]byte, error) { return nil, errors.New("there is no program") }
	made, err := restricter.CreateRestrictedNetwork(f.ctx, cfg)
	if made.ID != "" {
		f.joined = append(f.joined, made.ID)
	}
	return err
}

// restriction configures a restricted network that leads nowhere.
func (f *fixture) restriction(name string) optional.RestrictedNetworkConfig {
	return optional.RestrictedNetworkConfig{
		NetworkConfig: optional.NetworkConfig{Name: f.runID + name, RunID: f.runID},
		Program:       f.h.EgressProxy,
		Proxy:         egress.ProxyConfig{Run: f.runID + name, Token: uniqueText()},
	}
}

func (f *fixture) restricter() optional.EgressRestricter {
	f.Helper()
	restricter, restricts := f.networks().(optional.EgressRestricter)
	if !restricts {
		f.Fatal("the case is not declared unsupported, but the network manager is no optional.EgressRestricter")
	}
	return restricter
}

// restricted creates a restricted network.
func (f *fixture) restricted(cfg optional.RestrictedNetworkConfig) optional.RestrictedNetwork {
	f.Helper()
	restricter := f.restricter()
	if cfg.Program == nil {
		f.lacks("there is no moat-proxy (EgressProxy of the harness), which restricted networks need")
	}
	made, err := restricter.CreateRestrictedNetwork(f.ctx, cfg)
	if made.ID != "" {
		f.joined = append(f.joined, made.ID)
	}
	f.must(err)
	return made
}

// workload starts a workload on a restricted network as a run does: held, confirmed, and
// then released.
func (f *fixture) workload(network string, steps ...string) (id string) {
	f.Helper()
	cfg := f.onNetwork(f.agent(steps...), network)
	cfg.Held = true
	id = f.create(cfg)
	attached := f.startingAttached(id, core.AttachOptions{})
	confirming := begin("ConfirmEgress", func() (optional.EgressEvidence, error) { return f.restricter().ConfirmEgress(f.ctx, id) })
	_, err := confirming.on(id).within(f, workPatience)
	f.must(err)
	f.must(f.release(f.ctx, id))
	f.Cleanup(func() { <-attached.done }) // the case's context has ended
	return id
}

// victim is a container that tells all that arrives at its ports.
type victim struct {
	name string
	rt   core.Runtime
	id   string
}

// hearing is what a victim runs.
func hearing(ports ...int) string { return "hear " + strings.Trim(fmt.Sprint(ports), "[]") }

// victim starts one with the case's runtime, and returns its address.
func (f *fixture) victim(name string, cfg core.Config) (*victim, string) {
	f.Helper()
	id := f.ready(cfg)
	details, err := portOf[optional.Inspector](f).Inspect(f.ctx, id)
	f.must(err)
	return &victim{name, f.rt, id}, details.IPAddress
}

// victimOnHost starts one in the network of the engine's host.
func (f *fixture) victimOnHost(port int) *victim {
	f.Helper()
	rt := f.rt
	if f.h.OnHost != nil {
		rt = f.h.OnHost(f)
	}
	var id string
	f.Cleanup(func() {
		if id != "" {
			if err := rt.RemoveContainer(context.WithoutCancel(f.ctx), id); err != nil {
				f.Errorf("clean up: %v", err)
			}
		}
		if rt == f.rt {
			return
		}
		if err := rt.Close(); err != nil {
			f.Errorf("close: %v", err)
		}
	})
	if !rt.SupportsHostNetwork() {
		f.lacks("nothing starts containers in the network of the engine's host (OnHost of the harness)")
	}
	cfg := f.agent(hearing(port))
	cfg.NetworkMode = "host"
	id, err := rt.CreateContainer(f.ctx, cfg)
	f.must(err)
	f.must(rt.StartContainer(f.ctx, id))
	v := &victim{"the engine's host", rt, id}
	f.hears(v, "ready")
	return v
}

func (f *fixture) heardBy(v *victim) string {
	f.Helper()
	out, err := v.rt.ContainerLogsAll(f.ctx, v.id)
	f.must(err)
	return string(out)
}

// hears waits until a victim has written a text.
func (f *fixture) hears(v *victim, text string) bool {
	f.Helper()
	return eventually(func() bool { return strings.Contains(f.heardBy(v), text) })
}

// attack is a way to reach a victim.
type attack struct {
	victim  *victim
	way     string // as the agent's verb "send" has it
	address string
	inside  string // the address to attack from a restricted network, where it is another one
	from    string // the network from which the attack has to succeed; "": the usual one
}

func (a attack) String() string { return a.way + " to " + a.address + ", " + a.victim.name }

// attackSteps are the agent's. Each attack has a name, which is the text that is sent.
func attackSteps(attacks []attack, names []string, inside bool) (steps []string) {
	for i, a := range attacks {
		address := a.address
		if inside && a.inside != "" {
			address = a.inside
		}
		step := "send " + a.way + " " + address + " " + names[i]
		if a.way == "tcp" || a.way == "icmp" { // which may have to wait
			step = "start " + step
		}
		steps = append(steps, step)
	}
	return append(steps, "wait", "say done")
}

// outcomes are those of attacks, by the attack's name.
func outcomes(output string) map[string]string {
	found := map[string]string{}
	for line := range strings.Lines(output) {
		result, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		name, reason, _ := strings.Cut(rest, " ")
		found[name] = strings.TrimSpace(result + " " + reason)
	}
	return found
}

// attackNames are what the victims hear.
func (f *fixture) attackNames(number int, where string) (names []string) {
	for i := range number {
		names = append(names, fmt.Sprintf("%s-%d-%s", where, i, uniqueText()))
	}
	return names
}

// withstands lets what is confined attack. The same attacks succeed from an open network: that
// they do so later, and that the victims hear them, shows that what was not heard by then has
// not arrived.
func (f *fixture) withstands(attacks []attack, confined func(steps []string) (output string)) {
	f.Helper()
	insideNames := f.attackNames(len(attacks), "confined")
	inside := outcomes(confined(attackSteps(attacks, insideNames, true)))
	openNames := f.attackNames(len(attacks), "open")
	open := map[string]string{}
	var networks []string
	for _, a := range attacks {
		if !slices.Contains(networks, a.from) {
			networks = append(networks, a.from)
		}
	}
	for _, network := range networks {
		var from []attack
		var names []string
		for i, a := range attacks {
			if a.from == network {
				from, names = append(from, a), append(names, openNames[i])
			}
		}
		id := f.started(f.onNetwork(f.agent(append(attackSteps(from, names, false), "sleep")...), network))
		f.awaitOutput(id, "done\n")
		for name, outcome := range outcomes(f.logs(id)) {
			open[name] = outcome
		}
	}
	shown := 0
	for i, a := range attacks {
		if strings.HasPrefix(open[openNames[i]], "impossible") {
			f.Logf("%s is no way to attack here: %s", a, open[openNames[i]])
			continue
		}
		if open[openNames[i]] != "succeeded" || a.way != "icmp" && !f.hears(a.victim, openNames[i]) {
			f.Errorf("%s has to succeed from an open network, or the case shows nothing: %q, and it has heard %s", a, open[openNames[i]], excerpt(f.heardBy(a.victim)))
			continue
		}
		shown++
	}
	if shown == 0 {
		f.Fatal("no attack succeeds from an open network, so the case shows nothing")
	}
	for i, a := range attacks {
		answered := a.way == "tcp" || a.way == "icmp"
		switch outcome := inside[insideNames[i]]; {
		case outcome == "":
			f.Errorf("%s: the workload does not tell what has become of it", a)
		case answered && outcome == "succeeded":
			f.Errorf("%s succeeds from a restricted network", a)
		case strings.Contains(f.heardBy(a.victim), insideNames[i]):
			f.Errorf("%s has arrived from a restricted network", a)
		}
	}
}

// attackingWorkload is what attacks as the workload of a restricted network.
func (f *fixture) attackingWorkload(network string) func([]string) string {
	return func(steps []string) string {
		f.Helper()
		id := f.workload(network, append(steps, "sleep")...)
		f.awaitOutput(id, "done\n")
		return f.logs(id)
	}
}

func outOfReach(f *fixture) {
	const dns = 53
	open := f.network(f.runID + "-open")
	cfg := f.agent(hearing(containerPort, dns))
	host := f.hostIP()
	var publishedAt int
	if host != "" && optional.CapabilitiesOf(f.rt).PublishedPorts {
		publishedAt = anyPort()
		for _, protocol := range []string{"tcp", "udp"} {
			cfg.Ports = append(cfg.Ports, core.PortMapping{ContainerPort: containerPort, Protocol: protocol, HostIP: host, HostPort: publishedAt})
		}
	}
	usual, usualAddress := f.victim("a container on the usual network", cfg)
	sibling := f.restricted(f.restriction("-sibling"))
	other, otherAddress := f.victim("a container on another restricted network", f.onNetwork(f.agent(hearing(containerPort, dns)), sibling.ID))

	var attacks []attack
	for _, to := range []attack{{victim: usual, address: usualAddress}, {victim: other, address: otherAddress, from: sibling.ID}} {
		address := to.address
		for _, port := range []int{containerPort, dns} {
			for _, to.way = range []string{"tcp", "udp"} {
				to.address = net.JoinHostPort(address, fmt.Sprint(port))
				attacks = append(attacks, to)
			}
		}
		to.way, to.address = "icmp", address+":0"
		attacks = append(attacks, to)
	}
	if publishedAt > 0 {
		for _, way := range []string{"tcp", "udp"} {
			attacks = append(attacks, attack{victim: usual, way: way, address: net.JoinHostPort(host, fmt.Sprint(publishedAt)), from: open})
		}
	}
	f.withstands(attacks, f.attackingWorkload(f.restricted(f.restriction("")).ID))
}

// firstAddress returns the one that a network's gateway has, or would have.
func (f *fixture) firstAddress(network string) string {
	f.Helper()
	info, _ := f.listedNetwork(network)
	subnet, err := netip.ParsePrefix(info.Subnet)
	f.must(err)
	return subnet.Addr().Next().String()
}

// hostAttacks returns what may reach a victim on the engine's host. From the network open it
// has to.
func (f *fixture) hostAttacks(v *victim, port int, open, restricted string) (attacks []attack) {
	f.Helper()
	at := func(ways, address, inside string) {
		for way := range strings.FieldsSeq(ways) {
			a := attack{victim: v, way: way, address: net.JoinHostPort(address, fmt.Sprint(port)), from: open}
			if inside != "" {
				a.inside = net.JoinHostPort(inside, fmt.Sprint(port))
			}
			attacks = append(attacks, a)
		}
	}
	if host := f.hostIP(); host != "" {
		at("tcp udp device icmp", host, "")
	}
	at("tcp udp device", f.firstAddress(open), f.firstAddress(restricted)) // which may be the workload's own, and then answers echoes
	at("udp device", "255.255.255.255", "")
	at("udp device", "224.0.0.1", "")
	at("udp", "ff02::1%eth0", "")
	return attacks
}

func hostOutOfReach(f *fixture) {
	port := anyPort()
	host := f.victimOnHost(port)
	open := f.network(f.runID + "-open")
	restricted := f.restricted(f.restriction(""))
	f.withstands(f.hostAttacks(host, port, open, restricted.ID), f.attackingWorkload(restricted.ID))
}
