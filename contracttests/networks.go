package contracttests

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

func networkManagerCases() []Case {
	manages := capability("NetworkManager")
	noManager := func(f *fixture, _ string) error {
		_, err := core.NetworkManagerOf(f.rt)
		return err
	}
	creates := &ability{"whether its network manager is a optional.NetworkCreator", func(rt core.Runtime) bool {
		_, ok := rt.NetworkManager().(optional.NetworkCreator)
		return ok
	}}
	one := func(number, title string, check func(*fixture)) Case {
		return Case{Number: number, Title: title, check: check, ability: manages, unsupported: noManager}
	}
	connected := capability("NetworkPeers")
	return []Case{
		{
			// Serial: beside forty others a creation may take an engine longer than the call may wait to undo it.
			Number: "NM-11", Title: "a network's creation that fails leaves nothing behind", Serial: true, check: failedNetworks,
			ability: manages, unsupported: noManager,
		},
		one("NM-01", "a network is created, labelled and listed", createdNetwork),
		one("NM-02", "a network's name is given once", networkNames),
		one("NM-03", "a removed network is gone", removedNetwork),
		one("NM-04", "a network in use stays", networkInUse),
		one("NM-05", "force disconnects", forcedNetwork),
		{
			Number: "NM-06", Title: "containers on one network find each other", check: peers, fields: []string{"NetworkMode", "NetworkAliases"},
			ability: connected, unsupported: noPort,
		},
		{
			// Serial: Docker Engine 20.10 parts no networks for the moment that it creates another.
			Number: "NM-07", Title: "containers on two networks do not", Serial: true, check: strangers, fields: []string{"NetworkMode"},
			ability: connected, unsupported: noPort,
		},
		one("NM-08", "forty networks at once", manyNetworks),
		{Number: "NM-09", Title: "networks to measure", check: measuredNetworks, ability: creates, unsupported: noPort},
		{Number: "NM-12", Title: "an internal network has no way out", check: internalNetwork, unsupported: refusedNetwork(optional.NetworkConfig{Internal: true})},
		{
			Number: "NM-10", Title: "containers on an isolated network do not find each other", check: isolatedNetwork, fields: []string{"NetworkMode"},
			unsupported: func(f *fixture, created string) error {
				if !connected.of(f.rt) {
					return core.ErrUnsupported // none of its containers reach each other
				}
				return refusedNetwork(optional.NetworkConfig{Isolated: true})(f, created)
			},
		},
	}
}

// networks is the manager.
func (f *fixture) networks() core.NetworkManager {
	f.Helper()
	manager, err := core.NetworkManagerOf(f.rt)
	f.must(err)
	f.networked = true
	return manager
}

// removeNetworks removes the networks that a case has made, after its containers.
func (f *fixture) removeNetworks(ctx context.Context, rt core.Runtime) {
	for _, id := range f.joined {
		if err := rt.NetworkManager().ForceRemoveNetwork(ctx, id); err != nil {
			f.Errorf("clean up: %v", err)
		}
	}
}

// network creates one that is removed when the case ends.
func (f *fixture) network(name string) string {
	f.Helper()
	id, err := f.networks().CreateNetwork(f.ctx, name)
	f.must(err)
	f.joined = append(f.joined, id)
	return id
}

func (f *fixture) listedNetwork(id string) (info core.NetworkInfo, found bool) {
	f.Helper()
	all, err := f.networks().ListNetworks(f.ctx)
	f.must(err)
	i := slices.IndexFunc(all, func(info core.NetworkInfo) bool { return info.ID == id })
	if i < 0 {
		return info, false
	}
	return all[i], true
}

func createdNetwork(f *fixture) {
	id := f.network(f.runID)
	info, found := f.listedNetwork(id)
	if !found || info.Name != f.runID {
		f.Errorf("the network %s is listed as %+v", id, info)
	}
	want(f, "its label "+core.LabelManaged, info.Labels[core.LabelManaged], "true")
	want(f, "its label "+core.LabelVersion, info.Labels[core.LabelVersion], core.Version)
	f.network("a-" + f.runID) // made later, and earlier in the list
	all, err := f.networks().ListNetworks(f.ctx)
	f.must(err)
	if !slices.IsSortedFunc(all, func(a, b core.NetworkInfo) int { return strings.Compare(a.Name, b.Name) }) {
		f.Errorf("the list of networks is not sorted by name: %+v", all)
	}
	for _, info := range all {
		if info.Labels[core.LabelManaged] != "true" {
			f.Errorf("the list of networks has one that is not managed: %+v", info)
		}
	}
}

func failedNetworks(f *fixture) {
	for wait := time.Millisecond; wait < time.Second; wait *= 2 { // at various steps of the creation
		ctx, cancel := context.WithTimeout(f.ctx, wait)
		if id, err := f.networks().CreateNetwork(ctx, f.runID+"-"+uniqueText()); err == nil {
			f.joined = append(f.joined, id)
		}
		cancel()
	}
	var networks []core.NetworkInfo
	if eventually(func() bool {
		var err error
		networks, err = f.networksOf(f.ctx, f.rt)
		f.must(err)
		return len(networks) == len(f.joined)
	}) {
		return
	}
	for _, info := range networks {
		if !slices.Contains(f.joined, info.ID) {
			f.Errorf("a call of CreateNetwork that failed has left the network %s", info.Name)
			f.joined = append(f.joined, info.ID)
		}
	}
}

func networkNames(f *fixture) {
	id := f.network(f.runID)
	again, err := f.networks().CreateNetwork(f.ctx, f.runID)
	f.wantClass("creating a network twice", err, core.ErrAlreadyExists)
	if again != "" {
		f.joined = append(f.joined, again)
		f.Errorf("a network that was not created has the ID %q", again)
	}
	for _, name := range []string{"", "-x", "a b", "bridge", "host", "none", "../x"} {
		_, err := f.networks().CreateNetwork(f.ctx, name)
		f.wantField(fmt.Sprintf("creating a network %q", name), err, "Name")
	}
	if _, found := f.listedNetwork(id); !found {
		f.Error("the first network is gone")
	}
}

func removedNetwork(f *fixture) {
	id := f.network(f.runID)
	f.must(f.networks().RemoveNetwork(f.ctx, id))
	if info, found := f.listedNetwork(id); found {
		f.Errorf("a removed network is listed: %+v", info)
	}
	f.must(f.networks().RemoveNetwork(f.ctx, id))
	f.must(f.networks().ForceRemoveNetwork(f.ctx, id))
	f.must(f.networks().RemoveNetwork(f.ctx, f.missing()))
	f.network(f.runID) // its name is free
}

// onNetwork is a container's configuration there.
func (f *fixture) onNetwork(cfg core.Config, id string) core.Config {
	cfg.NetworkMode = id
	return cfg
}

func networkInUse(f *fixture) {
	network := f.network(f.runID)
	id := f.started(f.onNetwork(f.idle(), network))
	f.wantClass("removing a network in use", f.networks().RemoveNetwork(f.ctx, network), core.ErrInUse)
	if _, found := f.listedNetwork(network); !found {
		f.Error("a network in use was removed")
	}
	f.must(f.rt.RemoveContainer(f.ctx, id))
	f.must(f.networks().RemoveNetwork(f.ctx, network))
}

func forcedNetwork(f *fixture) {
	network := f.network(f.runID)
	ids := []string{f.started(f.onNetwork(f.idle(), network)), f.started(f.onNetwork(f.idle(), network))}
	inspector, inspects := core.As[optional.Inspector](f.rt)
	address := func(id string) string {
		if !inspects {
			return ""
		}
		details, err := inspector.Inspect(f.ctx, id)
		f.must(err)
		return details.IPAddress
	}
	if inspects && optional.CapabilitiesOf(f.rt).NetworkPeers && address(ids[0]) == "" {
		f.Error("a container on a network has no address")
	}
	f.must(f.networks().ForceRemoveNetwork(f.ctx, network))
	if info, found := f.listedNetwork(network); found {
		f.Errorf("a removed network is listed: %+v", info)
	}
	for _, id := range ids {
		f.wantState(id, core.StateRunning)
		want(f, "the address of what was disconnected", address(id), "")
	}
}

// greetings is a command that asks the server of a name, and writes what it says, until it
// answers.
func greetings(name string) []string {
	return agentCommand(fmt.Sprintf("retry 100 ask %s %d", name, containerPort))
}

// wantHello lets a container on a network ask the server there that has a name.
func (f *fixture) wantHello(network, name, who string) {
	f.Helper()
	id := f.started(f.onNetwork(f.command(greetings(name)...), network))
	f.wantHeard(id, name, who)
}

// wantHeard waits for a container that runs greetings.
func (f *fixture) wantHeard(id, name, who string) {
	f.Helper()
	if code := f.wait(id); code != 0 {
		f.Errorf("%s does not reach the server named %q at port %d: looked up and asked, it was to say \"hello\" within a hundred tries; exit code %d, output %s",
			who, name, containerPort, code, excerpt(f.logs(id)))
		return
	}
	want(f, "what the server named "+name+" says to "+who, f.logs(id), "hello\n")
}

func peers(f *fixture) {
	network := f.network(f.runID)
	early := f.started(f.onNetwork(f.command(greetings("late-"+f.runID)...), network))
	cfg := f.onNetwork(f.server(), network)
	cfg.Name, cfg.NetworkAliases = "late-"+f.runID, []string{"alias-of-it", "db.internal"}
	id := f.started(cfg)
	f.wantHeard(early, cfg.Name, "a container that looked for it before it was created")
	asking := map[string]string{} // by the name that it asks for: all at once
	for _, name := range []string{cfg.Name, "alias-of-it", "db.internal", id[:12]} {
		asking[name] = f.started(f.onNetwork(f.command(greetings(name)...), network))
	}
	for name, id := range asking {
		f.wantHeard(id, name, "a container on its network")
	}

	// The address of what is started again may be another.
	f.must(f.rt.StopContainer(f.ctx, id))
	f.started(f.onNetwork(f.idle(), network))
	f.start(id)
	f.wantHello(network, cfg.Name, "a container that looks for it after its second start")
	f.start(early)
	if code := f.wait(early); code != 0 {
		f.Errorf("a container that is started again does not reach the server named %q any more: exit code %d, output %s", cfg.Name, code, excerpt(f.logs(early)))
	}
	f.wantHello(f.runID, cfg.Name, "a container that joined the network by its name")
}

func strangers(f *fixture) {
	here, there := f.network(f.runID), f.network(f.runID+"-2")
	cfg := f.onNetwork(f.server(), here)
	cfg.Name = "stranger-" + f.runID
	f.started(cfg)
	f.wantHello(here, cfg.Name, "a container on its own network")

	out := f.output(f.onNetwork(f.agent("try find "+cfg.Name), there))
	want(f, "what a name of another network is found to be", out, "failed\n")
	inspector, ok := core.As[optional.Inspector](f.rt)
	if !ok {
		return
	}
	details, err := inspector.Inspect(f.ctx, cfg.Name)
	f.must(err)
	want(f, "what an address of another network answers", f.output(f.onNetwork(f.agent(asksAddress(details.IPAddress)), there)), "failed\n")
}

// refusedNetwork is the unsupported call of a network's setting.
func refusedNetwork(cfg optional.NetworkConfig) func(*fixture, string) error {
	return func(f *fixture, _ string) error {
		creator, creates := f.rt.NetworkManager().(optional.NetworkCreator)
		if !creates {
			return core.ErrUnsupported
		}
		cfg.Name, f.networked = f.runID, true
		id, err := creator.CreateNetworkFrom(f.ctx, cfg)
		if err == nil {
			f.joined = append(f.joined, id)
		}
		return err
	}
}

// creator is the network manager, for cases that a runtime with a plain one has declared.
func (f *fixture) creator() optional.NetworkCreator {
	f.Helper()
	creator, creates := f.networks().(optional.NetworkCreator)
	if !creates {
		f.Fatal("the case is not declared unsupported, but the network manager is no optional.NetworkCreator")
	}
	return creator
}

func internalNetwork(f *fixture) {
	network, err := f.creator().CreateNetworkFrom(f.ctx, optional.NetworkConfig{Name: f.runID, Internal: true})
	f.must(err)
	f.joined = append(f.joined, network)
	info, _ := f.listedNetwork(network)
	want(f, "Internal of the network as it is listed", info.Internal, true)
	host := f.hostIP()
	if !optional.CapabilitiesOf(f.rt).PublishedPorts || host == "" {
		return
	}
	server := f.server()
	server.Ports = []core.PortMapping{{ContainerPort: containerPort, HostIP: host, HostPort: anyPort()}}
	f.started(server)
	asking := f.asksHost(host, server.Ports[0].HostPort, true)
	want(f, "what a container on the default network hears at the host's address "+host, f.output(asking), "hello\n")
	asking = f.asksHost(host, server.Ports[0].HostPort, false)
	want(f, "what a container on an internal network hears at the host's address "+host, f.output(f.onNetwork(asking, network)), "failed\n")
}

func isolatedNetwork(f *fixture) {
	creator := f.creator()
	inspector, ok := core.As[optional.Inspector](f.rt)
	if !ok {
		return
	}
	network, err := creator.CreateNetworkFrom(f.ctx, optional.NetworkConfig{Name: f.runID, Isolated: true})
	f.must(err)
	f.joined = append(f.joined, network)
	// A runtime whose name server would have to be on the network demands it.
	names := filepath.Join(f.TempDir(), "resolv.conf")
	f.must(os.WriteFile(names, nil, 0o644))
	on := func(steps ...string) core.Config {
		cfg := f.onNetwork(f.agent(steps...), network)
		cfg.Mounts = []core.MountConfig{{Source: names, Target: "/etc/resolv.conf", ReadOnly: true}}
		return cfg
	}
	server := f.ready(on("start "+serving(containerPort), fmt.Sprint("retry 100 ask 127.0.0.1 ", containerPort), "say ready", "sleep"))
	details, err := inspector.Inspect(f.ctx, server)
	f.must(err)
	want(f, "what another container on the network hears", f.output(on(asksAddress(details.IPAddress))), "failed\n")
}

// asksAddress is a step that writes what the server at an address says.
func asksAddress(address string) string { return fmt.Sprintf("try ask %s %d", address, containerPort) }

// manyAtOnce is more networks than the default pools of Docker have.
const manyAtOnce = 40

func manyNetworks(f *fixture) {
	networks := f.networks()
	ids := make([]string, manyAtOnce)
	errs := make([]error, manyAtOnce)
	var all sync.WaitGroup
	for i := range ids {
		all.Go(func() { ids[i], errs[i] = networks.CreateNetwork(f.ctx, fmt.Sprintf("%s-%d", f.runID, i)) })
	}
	all.Wait()
	for _, id := range ids {
		if id != "" {
			f.joined = append(f.joined, id)
		}
	}
	f.must(errors.Join(errs...))
	slices.Sort(ids)
	want(f, "the number of different networks", len(slices.Compact(ids)), manyAtOnce)
}

func measuredNetworks(f *fixture) {
	creator := f.networks().(optional.NetworkCreator)
	cfg := optional.NetworkConfig{Name: f.runID, RunID: f.runID, Labels: map[string]string{"team": "blue"}}
	id, err := creator.CreateNetworkFrom(f.ctx, cfg)
	f.must(err)
	f.joined = append(f.joined, id)
	info, _ := f.listedNetwork(id)
	want(f, "the label team", info.Labels["team"], "blue")
	want(f, "its label "+core.LabelRunID, info.Labels[core.LabelRunID], f.runID)

	_, err = creator.CreateNetworkFrom(f.ctx, optional.NetworkConfig{Name: f.runID + "-2", Subnet: info.Subnet})
	f.wantClass("a subnet that is taken", err, core.ErrInUse)
	want(f, "the field of a subnet that is taken", core.FieldOf(err), "Subnet")
	for _, subnet := range []string{"x", "192.0.2.1", "192.0.2.1/24", "192.0.2.0/30", "192.0.2.0/33", "2001:db8::/64", "0.0.0.0/24"} {
		_, err := creator.CreateNetworkFrom(f.ctx, optional.NetworkConfig{Name: f.runID + "-3", Subnet: subnet})
		f.wantField("the subnet "+subnet, err, "Subnet")
	}
	chosen := fmt.Sprintf("203.0.113.%d/29", 8*rand.IntN(32))
	id, err = creator.CreateNetworkFrom(f.ctx, optional.NetworkConfig{Name: f.runID + "-5", Subnet: chosen})
	f.must(err)
	f.joined = append(f.joined, id)
	info, _ = f.listedNetwork(id)
	want(f, "Subnet", info.Subnet, chosen)
	_, err = creator.CreateNetworkFrom(f.ctx, optional.NetworkConfig{Name: f.runID + "-4", Labels: map[string]string{"moat.managed": "false"}})
	f.wantField("a label of Moat's", err, "Labels")
}
