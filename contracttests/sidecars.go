package contracttests

import (
	"fmt"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

func sidecarCases() []Case {
	one := func(number, title string, check func(*fixture)) Case {
		return Case{
			Number: number, Title: title, check: check, ability: capability("SidecarManager"),
			unsupported: func(f *fixture, _ string) error {
				_, err := core.SidecarManagerOf(f.rt)
				return err
			},
		}
	}
	return []Case{
		one("SM-01", "what a sidecar lacks is named", incompleteSidecars),
		one("SM-02", "a sidecar runs as configured", configuredSidecar),
		one("SM-03", "a sidecar is labelled", labelledSidecar),
		one("SM-04", "a sidecar that fails leaves nothing behind", failedSidecar),
		one("SM-05", "a sidecar is isolated like its run", isolatedSidecar),
		one("SM-06", "a sidecar's state", sidecarState),
		serially(one("SM-07", "Pull says when a sidecar's image is pulled", pulledSidecar)),
	}
}

func pulledSidecar(f *fixture) {
	cfg := f.sidecar(f.network(f.runID), "sleep")
	f.pullPolicies(func(image string, policy core.PullPolicy) error {
		cfg.Image, cfg.Pull = image, policy
		id, err := f.sidecars().StartSidecar(f.ctx, cfg)
		if err == nil {
			f.remove(id)
		}
		return err
	})
}

func (f *fixture) sidecars() core.SidecarManager {
	f.Helper()
	manager, err := core.SidecarManagerOf(f.rt)
	f.must(err)
	return manager
}

// sidecar is a configuration of one that runs the agent.
func (f *fixture) sidecar(network string, steps ...string) core.SidecarConfig {
	return core.SidecarConfig{
		Image: f.h.Image, Name: "sidecar-" + f.runID, Hostname: "helper", NetworkID: network, RunID: f.runID,
		Cmd: agentCommand(steps...),
	}
}

func (f *fixture) startSidecar(cfg core.SidecarConfig) string {
	f.Helper()
	id, err := f.sidecars().StartSidecar(f.ctx, cfg)
	f.must(err)
	f.created = append(f.created, id)
	return id
}

func incompleteSidecars(f *fixture) {
	cfg := f.sidecar(f.network(f.runID), "sleep")
	for field, spoil := range map[string]func(*core.SidecarConfig){
		"Image":     func(c *core.SidecarConfig) { c.Image = "" },
		"NetworkID": func(c *core.SidecarConfig) { c.NetworkID = "" },
		"Name":      func(c *core.SidecarConfig) { c.Name = "" },
		"Hostname":  func(c *core.SidecarConfig) { c.Hostname = "two words" },
		"Env":       func(c *core.SidecarConfig) { c.Env = []string{"no value"} },
		"Labels":    func(c *core.SidecarConfig) { c.Labels = map[string]string{"": "x"} },
	} {
		spoiled := cfg
		spoil(&spoiled)
		_, err := f.sidecars().StartSidecar(f.ctx, spoiled)
		f.wantField("a sidecar with a wrong "+field, err, field)
	}
	elsewhere, unknown := cfg, cfg
	elsewhere.NetworkID = f.missing()
	_, err := f.sidecars().StartSidecar(f.ctx, elsewhere)
	f.wantClass("a sidecar on a network that does not exist", err, core.ErrNotFound)
	unknown.Image = f.missingImage()
	_, err = f.sidecars().StartSidecar(f.ctx, unknown)
	f.wantClass("a sidecar of an image that does not exist", err, core.ErrNotFound)
}

func configuredSidecar(f *fixture) {
	cfg := f.sidecar(f.network(f.runID), "env GREETING", "hostname", "sleep")
	cfg.Env = []string{"GREETING=the greeting"}
	id := f.startSidecar(cfg)
	f.awaitOutput(id, "the greeting\nhelper\n")
	f.awaitOutput(cfg.Name, "the greeting\nhelper\n")
	if !optional.CapabilitiesOf(f.rt).Mounts {
		return
	}
	mounted, _ := f.mounted(true)
	cfg.Name, cfg.Mounts, cfg.Cmd = cfg.Name+"-2", mounted.Mounts, agentCommand("cat /mnt/shared/in", "sleep")
	f.awaitOutput(f.startSidecar(cfg), "from the host\n")
}

func labelledSidecar(f *fixture) {
	cfg := f.sidecar(f.network(f.runID), "sleep")
	f.startSidecar(cfg)
	f.wantLabels(cfg.Name, map[string]string{
		core.LabelManaged: "true", core.LabelRunID: f.runID, core.LabelRole: core.RoleSidecar, core.LabelVersion: core.Version,
	})
	cfg.Name += "-2"
	cfg.Labels = map[string]string{"team": "blue", core.LabelRole: "buildkit", core.LabelVersion: "of theirs", core.LabelManaged: "false"}
	f.startSidecar(cfg)
	f.wantLabels(cfg.Name, map[string]string{
		"team": "blue", core.LabelManaged: "true", core.LabelRunID: f.runID, core.LabelRole: "buildkit", core.LabelVersion: "of theirs",
	})
}

// wantLabels checks for labels among those of a container.
func (f *fixture) wantLabels(name string, labels map[string]string) {
	f.Helper()
	for _, info := range f.list() {
		if info.Name != name {
			continue
		}
		for key, value := range labels {
			want(f, fmt.Sprintf("the label %s of %s", key, name), info.Labels[key], value)
		}
		return
	}
	f.Errorf("%s is not listed", name)
}

func failedSidecar(f *fixture) {
	cfg := f.sidecar(f.network(f.runID))
	cfg.Cmd = []string{"/no-such-program"}
	id, err := f.sidecars().StartSidecar(f.ctx, cfg)
	f.wantField("a sidecar whose program does not exist", err, "Cmd")
	want(f, "the ID of a sidecar that failed", id, "")
	for _, info := range ofRun(f.runID, f.list()) {
		if info.Labels[core.LabelRole] == core.RoleSidecar {
			f.Errorf("a sidecar that failed is left behind: %+v", info)
		}
	}
	cfg.Cmd = agentCommand("sleep")
	f.startSidecar(cfg) // its name is free
}

func isolatedSidecar(f *fixture) {
	inspector, ok := core.As[optional.Inspector](f.rt)
	if !ok {
		return
	}
	isolation := func(id string) optional.Isolation {
		details, err := inspector.Inspect(f.ctx, id)
		f.must(err)
		return details.Isolation
	}
	cfg := f.sidecar(f.network(f.runID), "sleep")
	want(f, "a sidecar's isolation", isolation(f.startSidecar(cfg)), optional.CapabilitiesOf(f.rt).Isolation)
	if !optional.CapabilitiesOf(f.rt).Privileged || f.unprivileged() {
		return
	}
	// What is not in the sandbox hears and is heard by what is.
	cfg.Name, cfg.Hostname, cfg.Privileged = cfg.Name+"-2", "privileged", true
	cfg.Cmd = f.server().Cmd
	id := f.startSidecar(cfg)
	if isolation(id) == optional.IsolationSandbox {
		f.Error("a privileged sidecar is sandboxed")
	}
	f.wantHello(cfg.NetworkID, "privileged", "a container beside the privileged sidecar")
	server := f.onNetwork(f.server(), cfg.NetworkID)
	server.NetworkAliases = []string{"main"}
	f.started(server)
	cfg.Name, cfg.Hostname, cfg.Cmd = cfg.Name+"-3", "client", greetings("main")
	id = f.startSidecar(cfg)
	f.wantHeard(id, "main", "a privileged sidecar")
}

func sidecarState(f *fixture) {
	cfg := f.sidecar(f.network(f.runID))
	cfg.Cmd = agentCommand("sleep")
	id := f.startSidecar(cfg)
	found, err := f.sidecars().InspectContainer(f.ctx, id)
	f.must(err)
	if found.State == nil || !found.State.Running || found.State.Status != core.StateRunning || found.State.StartedAt.IsZero() {
		f.Errorf("a running sidecar's state is %+v", found.State)
	}
	cfg.Name, cfg.Cmd = cfg.Name+"-2", agentCommand("exit 7")
	id = f.startSidecar(cfg)
	want(f, "the exit code", f.wait(id), 7)
	found, err = f.sidecars().InspectContainer(f.ctx, id)
	f.must(err)
	if found.State == nil || found.State.Running || found.State.ExitCode != 7 || found.State.FinishedAt.IsZero() {
		f.Errorf("an exited sidecar's state is %+v", found.State)
	}
	_, err = f.sidecars().InspectContainer(f.ctx, f.missing())
	f.wantClass("the state of what is missing", err, core.ErrNotFound)
}
