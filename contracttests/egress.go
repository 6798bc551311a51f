package contracttests

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"strings"
	"time"

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
		one("EG-03", "a restricted workload cannot change its network", unchangeable),
		one("EG-04", "without a confirmation no restricted program begins", unconfirmed),
		one("EG-05", "a further program of a restricted workload is as confined", confinedExec),
		one("EG-06", "all containers on a restricted network are as confined", confinedNeighbours),
		one("EG-07", "a restricted workload's proxy serves its run by its rules", proxied),
		one("EG-08", "a restricted network without its proxy leads nowhere", proxyGone),
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
		f.lacks("there is no moat-proxy for restricted networks: set EgressProxy of the harness, or --proxy of moat-conform")
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
	f.confirmed(id)
	return id
}

// confirmed starts what is held, confirms and releases it.
func (f *fixture) confirmed(id string) {
	f.Helper()
	attached := f.startingAttached(id, core.AttachOptions{})
	f.Cleanup(func() {
		select {
		case <-attached.done:
		case <-time.After(patience):
			f.Error("StartAttached has not returned although the case's own context has ended")
		}
	})
	confirming := begin("ConfirmEgress", func() (optional.EgressEvidence, error) { return f.restricter().ConfirmEgress(f.ctx, id) })
	_, err := confirming.on(id).within(f, workPatience)
	f.must(err)
	f.must(f.release(f.ctx, id))
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
	if !f.hears(v, "ready\n") {
		f.Fatalf("a container in the network of the engine's host does not listen on port %d; it has written %s", port, excerpt(f.heardBy(v)))
	}
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
	victim  *victim // nil: it is a change of the network
	way     string  // as the agent's verb "send" or "change" has it
	address string
	inside  string // the address to attack from a restricted network, where it is another one
	from    string // the network from which the attack has to succeed; "": the usual one
	change  bool   // of the network: it has to succeed with the capabilities for that
}

func (a attack) String() string {
	if a.victim == nil {
		return "a new " + a.way + ", " + a.address + ","
	}
	return a.way + " to " + a.address + ", " + a.victim.name + ","
}

// tells reports whether the outcome tells if the attack has succeeded. Otherwise its victim does.
func (a attack) tells() bool { return a.way != "udp" && a.way != "device" }

// networkCapabilities are those of who may change a network.
var networkCapabilities = []string{"NET_ADMIN", "NET_RAW"}

// attackSteps are the agent's. Each attack has a name, which is the text that is sent.
func attackSteps(attacks []attack, names []string, inside bool) (steps []string) {
	for i, a := range attacks {
		address := a.address
		if inside && a.inside != "" {
			address = a.inside
		}
		step := "send " + a.way + " " + address + " " + names[i]
		if a.victim == nil {
			step = "change " + a.way + " " + address + " " + names[i]
		}
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
	type origin struct {
		network string
		change  bool
	}
	origins := map[origin][]int{}
	for i, a := range attacks {
		origins[origin{a.from, a.change}] = append(origins[origin{a.from, a.change}], i)
	}
	for origin, numbers := range origins {
		var from []attack
		var names []string
		for _, i := range numbers {
			from, names = append(from, attacks[i]), append(names, openNames[i])
		}
		cfg := f.onNetwork(f.agent(append(attackSteps(from, names, false), "sleep")...), origin.network)
		if origin.change {
			cfg.CapAdd = networkCapabilities
		}
		id := f.started(cfg)
		maps.Copy(open, outcomes(f.attacked(id)))
	}
	shown := 0
	for i, a := range attacks {
		if strings.HasPrefix(open[openNames[i]], "impossible") {
			f.Logf("%s is no way to attack here: %s", a, open[openNames[i]])
			continue
		}
		if open[openNames[i]] != "succeeded" {
			f.Errorf("%s has to succeed from an open network, or the case shows nothing: %q", a, open[openNames[i]])
			continue
		}
		if a.victim != nil && a.way != "icmp" && !f.hears(a.victim, openNames[i]) {
			f.Errorf("%s has to arrive from an open network, or the case shows nothing; it has heard %s", a, excerpt(f.heardBy(a.victim)))
			continue
		}
		shown++
	}
	if shown == 0 {
		f.Fatal("no attack succeeds from an open network, so the case shows nothing")
	}
	for i, a := range attacks {
		switch outcome := inside[insideNames[i]]; {
		case outcome == "":
			f.Errorf("%s: the workload does not tell what has become of it", a)
		case a.tells() && outcome == "succeeded":
			f.Errorf("%s succeeds from a restricted network", a)
		case a.victim != nil && strings.Contains(f.heardBy(a.victim), insideNames[i]):
			f.Errorf("%s has arrived from a restricted network", a)
		}
	}
}

// attacked returns the output of a container when it has made its attacks.
func (f *fixture) attacked(id string) string {
	f.Helper()
	f.awaitOutputFor(id, "done\n", workPatience)
	return f.logs(id)
}

// attackingExec is what attacks as a further program in a container.
func (f *fixture) attackingExec(id string) func([]string) string {
	return func(steps []string) string {
		f.Helper()
		output := &screen{}
		opts := optional.ExecOptions{Cmd: agentCommand(steps...), User: "0", AttachOptions: core.AttachOptions{Stdout: output, Stderr: output}}
		code, err := f.executing(f.ctx, id, opts).within(f, workPatience)
		f.must(err)
		want(f, "the exit code of the attacks, which write "+excerpt(output.String())+",", code, 0)
		return output.String()
	}
}

// attackingWorkload is what attacks as the workload of a restricted network.
func (f *fixture) attackingWorkload(network string) func([]string) string {
	return func(steps []string) string {
		f.Helper()
		id := f.workload(network, append(steps, "sleep")...)
		return f.attacked(id)
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
	restricted := f.restricted(f.restriction(""))
	f.withstands(attacks, f.attackingWorkload(restricted.ID))
	if optional.CapabilitiesOf(f.rt).DNSServers {
		f.asksNoServer(usual, usualAddress, restricted.ID)
	}
}

// asksNoServer looks a name up where a name server of the configuration is out of reach. The
// runtime may refuse to have one.
func (f *fixture) asksNoServer(server *victim, address, restricted string) {
	f.Helper()
	labels := f.attackNames(1, "confined")
	cfg := f.onNetwork(f.agent("try find "+labels[0]+".example", "say done", "sleep"), restricted)
	cfg.DNS, cfg.Held = []string{address}, true
	id, err := f.tryCreate(cfg)
	if errors.Is(err, core.ErrUnsupported) || errors.Is(err, core.ErrInvalidConfig) {
		want(f, "the field of a name server that cannot be reached", core.FieldOf(err), "DNS")
		return
	}
	f.must(err)
	f.confirmed(id)
	f.attacked(id)
	open := f.attackNames(1, "open")[0]
	cfg = f.agent("try find " + open + ".example")
	cfg.DNS = []string{address}
	f.started(cfg)
	if !f.hears(server, open) {
		f.Errorf("a name that is looked up on the usual network has to arrive, or the case shows nothing; the server has heard %s", excerpt(f.heardBy(server)))
	}
	if strings.Contains(f.heardBy(server), labels[0]) {
		f.Error("a name that is looked up on a restricted network has arrived at a name server of another one")
	}
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

// changes returns what needs capabilities that no workload on a restricted network has.
func (f *fixture) changes(v *victim, port int, open, restricted string) []attack {
	f.Helper()
	at := func(network string) string { return net.JoinHostPort(f.firstAddress(network), fmt.Sprint(port)) }
	return []attack{
		{way: "address", address: "203.0.113.9/32", from: open, change: true},
		{way: "route", address: "198.51.100.0/24", from: open, change: true},
		{victim: v, way: "raw", address: at(open), inside: at(restricted), from: open, change: true},
		{victim: v, way: "packet", address: at(open), inside: at(restricted), from: open, change: true},
	}
}

func unchangeable(f *fixture) {
	if !optional.CapabilitiesOf(f.rt).LinuxCaps {
		f.lacks("the runtime cannot give a container the capabilities with which the attacks succeed (LinuxCaps)")
	}
	port := anyPort()
	host, open, restricted := f.victimOnHost(port), f.network(f.runID+"-open"), f.restricted(f.restriction(""))
	f.withstands(f.changes(host, port, open, restricted.ID), f.attackingWorkload(restricted.ID))
}

// tryRelease releases what may not be released. StartAttached tells.
func (f *fixture) tryRelease(id string) {
	f.Helper()
	_, _ = begin("ReleaseContainer", func() (struct{}, error) { return struct{}{}, f.release(f.ctx, id) }).on(id).result(f)
}

func unconfirmed(f *fixture) {
	restricted := f.restricted(f.restriction(""))
	cfg := f.onNetwork(f.agent("say began", "exit 7"), restricted.ID)
	cfg.Held = true
	id, output := f.create(cfg), &screen{}
	attached := f.heldAttachment(f.ctx, id, core.AttachOptions{Stdout: output}, output)
	f.tryRelease(id)
	_, err := attached.until("it was released, and is not confirmed").result(f)
	f.wantClass("starting what is not confirmed", err, core.ErrPolicyNotEnforced)
	f.wantNotBegun(id)
	want(f, "the output of what is not confirmed", output.String(), "")

	id = f.workload(restricted.ID, "say began", "exit 7")
	want(f, "the exit code of what is confirmed", f.wait(id), 7)
	again := f.startingAttached(id, core.AttachOptions{})
	f.tryRelease(id)
	_, err = again.until("its confirmation was for the first start").result(f)
	f.wantClass("starting once more without another confirmation", err, core.ErrPolicyNotEnforced)
	want(f, "the output of two starts of which one is confirmed", f.logs(id), "began\n")
}

func (f *fixture) needsExec() {
	f.Helper()
	if _, execs := core.As[optional.Execer](f.rt); !execs {
		f.lacks("the runtime starts no further programs (optional.Execer)")
	}
}

func confinedExec(f *fixture) {
	f.needsExec()
	port := anyPort()
	host, open, restricted := f.victimOnHost(port), f.network(f.runID+"-open"), f.restricted(f.restriction(""))
	id := f.workload(restricted.ID, "sleep")
	attacks := append(f.hostAttacks(host, port, open, restricted.ID), f.changes(host, port, open, restricted.ID)...)
	f.withstands(attacks, f.attackingExec(id))
}

func confinedNeighbours(f *fixture) {
	port := anyPort()
	host, open, restricted := f.victimOnHost(port), f.network(f.runID+"-open"), f.restricted(f.restriction(""))
	attacks := f.hostAttacks(host, port, open, restricted.ID)
	f.withstands(attacks, func(steps []string) string {
		id := f.started(f.onNetwork(f.agent(append(steps, "sleep")...), restricted.ID))
		return f.attacked(id)
	})
	if !optional.CapabilitiesOf(f.rt).ServiceManager {
		return
	}
	f.withstands(attacks, func(steps []string) string {
		service := f.startService(f.serviceOn(restricted.ID, append(steps, "sleep")...))
		return f.attacked(service.ID)
	})
}

// credential is that of a restricted network's run.
func credential(cfg optional.RestrictedNetworkConfig) string {
	return cfg.Proxy.Run + ":" + cfg.Proxy.Token
}

// allowing configures a restricted network that leads to a victim by a name, and to none by
// other names.
func (f *fixture) allowing(address, elsewhere string) optional.RestrictedNetworkConfig {
	f.Helper()
	allowed, err := netip.ParseAddr(address)
	f.must(err)
	cfg := f.restriction("")
	cfg.Hosts = []string{"allowed.example:" + address, "denied.example:" + address, "inside.example:" + elsewhere}
	cfg.Proxy.Rules = []string{fmt.Sprint("allowed.example:", containerPort), fmt.Sprint("inside.example:", containerPort)}
	cfg.Proxy.Private = []netip.Prefix{netip.PrefixFrom(allowed, allowed.BitLen())}
	return cfg
}

func proxied(f *fixture) {
	const otherPort = containerPort + 1
	v, address := f.victim("a container", f.agent(hearing(containerPort, otherPort)))
	inside, insideAddress := f.victim("a container of a private address", f.agent(hearing(containerPort)))
	cfg, siblingConfig := f.allowing(address, insideAddress), f.restriction("-sibling")
	restricted, sibling := f.restricted(cfg), f.restricted(siblingConfig)

	type request struct{ how, credential, host, status string }
	own, port := credential(cfg), fmt.Sprint(":", containerPort)
	requests := []request{
		{"another host", own, "denied.example" + port, "403"},
		{"another port", own, fmt.Sprint("allowed.example:", otherPort), "403"},
		{"an allowed name of a private address", own, "inside.example" + port, "403"},
		{"an address", own, address + port, "4"},
		{"no credential", "-", "allowed.example" + port, "407"},
		{"a wrong password", cfg.Proxy.Run + ":" + uniqueText(), "allowed.example" + port, "407"},
		{"another run's credential", credential(siblingConfig), "allowed.example" + port, "407"},
		{"what is allowed", own, "allowed.example" + port, ""},
	}
	names := f.attackNames(len(requests), "request")
	step := func(i int) string {
		return strings.Join([]string{"tunnel", restricted.Proxy.String(), requests[i].credential, requests[i].host, names[i]}, " ")
	}
	last := len(requests) - 1
	fromSibling := f.attackNames(1, "sibling")[0]
	attack := strings.TrimSuffix(step(last), names[last]) + fromSibling
	if outcome := outcomes(f.attackingWorkload(sibling.ID)([]string{attack, "say done"}))[fromSibling]; !strings.HasPrefix(outcome, "failed") {
		f.Errorf("a workload on another restricted network is served with the credential: %q", outcome)
	}

	var steps []string
	for i := range requests {
		steps = append(steps, step(i))
	}
	found := outcomes(f.attackingWorkload(restricted.ID)(append(steps, "say done")))
	if found[names[last]] != "succeeded" || !f.hears(v, names[last]) {
		f.Fatalf("%s does not arrive through the proxy: %q", requests[last].how, found[names[last]])
	}
	for i, request := range requests[:last] {
		if outcome := found[names[i]]; !strings.HasPrefix(outcome, "failed "+request.status) {
			f.Errorf("with %s the proxy's answer is %q, want %s", request.how, outcome, request.status)
		}
	}
	for _, name := range append(names[:last], fromSibling) {
		if strings.Contains(f.heardBy(v)+f.heardBy(inside), name) {
			f.Errorf("%s has arrived", name)
		}
	}
}

func proxyGone(f *fixture) {
	f.needsExec()
	port := anyPort()
	v, address := f.victim("a container", f.agent(hearing(containerPort)))
	host, open := f.victimOnHost(port), f.network(f.runID+"-open")
	cfg := f.allowing(address, address)
	restricted := f.restricted(cfg)
	id := f.workload(restricted.ID, "sleep")
	exec := f.attackingExec(id)
	ask := func() string {
		name := f.attackNames(1, "request")[0]
		step := strings.Join([]string{"tunnel", restricted.Proxy.String(), credential(cfg), fmt.Sprint("allowed.example:", containerPort), name}, " ")
		outcome := outcomes(exec([]string{step}))[name]
		if outcome == "succeeded" && !f.hears(v, name) {
			f.Error("what has succeeded through the proxy has not arrived")
		}
		return outcome
	}
	want(f, "a request through the proxy", ask(), "succeeded")
	if signaler, signals := core.As[optional.Signaler](f.rt); signals {
		f.must(signaler.SignalContainer(f.ctx, restricted.Container, sigKILL))
	} else {
		f.must(f.rt.StopContainer(f.ctx, restricted.Container))
	}
	if !eventually(func() bool { return f.state(restricted.Container) == core.StateExited }) {
		f.Fatalf("the proxy that was killed is %s", f.state(restricted.Container))
	}
	attacks := f.hostAttacks(host, port, open, restricted.ID)
	for _, way := range []string{"tcp", "udp"} {
		attacks = append(attacks, attack{victim: v, way: way, address: net.JoinHostPort(address, fmt.Sprint(containerPort))})
	}
	f.withstands(attacks, exec)
	if outcome := ask(); !strings.HasPrefix(outcome, "failed") {
		f.Errorf("a request to the proxy that was killed: %q", outcome)
	}
}
