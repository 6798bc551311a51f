package docker

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// Inspect returns a container's details. With a Sandbox, the first call for a container
// with an OCI runtime of its own may verify the sandbox, which can start a container.
func (r *Runtime) Inspect(ctx context.Context, id string) (optional.Details, error) {
	found, err := r.inspect(ctx, "inspect container", id)
	if err != nil {
		return optional.Details{}, err
	}
	details := detailsOf(found)
	settings, err := r.publishing(ctx, found)
	if err != nil {
		return optional.Details{}, err
	}
	details.Published, details.Ports = publishedOf(settings), portsOf(settings)
	details.Image = r.kind().familiar(details.Image)
	if r.options.Sandbox != nil && !isPlain(found.HostConfig.Runtime) {
		ociRuntime, err := ask(ctx, r, "inspect container", id, r.ociRuntime)
		if err == nil && ociRuntime == found.HostConfig.Runtime {
			details.Isolation = optional.IsolationSandbox
		}
	}
	return details, nil
}

func detailsOf(found container.InspectResponse) optional.Details {
	details := optional.Details{
		Info: core.Info{
			ID: found.ID, Name: nameOf([]string{found.Name}), Image: found.Config.Image,
			Status: stateOf(found.State.Status), Created: parseTime(found.Created), Labels: found.Config.Labels,
		},
		State:     detailedState(found.State),
		Cmd:       commandOf(found.Config),
		User:      found.Config.User,
		Mounts:    []core.MountConfig{},
		Network:   string(found.HostConfig.NetworkMode),
		MemoryMB:  int(found.HostConfig.Memory >> 20),
		NanoCPUs:  found.HostConfig.NanoCPUs,
		TTY:       found.Config.Tty,
		Isolation: optional.IsolationContainer,

		MemorySwapMB: swapLimitOf(found.HostConfig),
		PidsLimit:    pidsLimitOf(found.HostConfig),
	}
	for _, m := range found.Mounts {
		if m.Type == mount.TypeBind {
			details.Mounts = append(details.Mounts, core.MountConfig{Source: m.Source, Target: m.Destination, ReadOnly: !m.RW})
		}
	}
	if found.NetworkSettings != nil {
		for _, endpoint := range found.NetworkSettings.Networks {
			details.IPAddress = endpoint.IPAddress
		}
	}
	return details
}

// swapLimitOf returns the limit of memory and swap together, -1 for none.
func swapLimitOf(config *container.HostConfig) int {
	if config.MemorySwap <= 0 {
		return -1
	}
	return int(config.MemorySwap >> 20)
}

// pidsLimitOf returns the limit of processes, -1 for none.
func pidsLimitOf(config *container.HostConfig) int64 {
	if config.PidsLimit == nil || *config.PidsLimit <= 0 {
		return -1
	}
	return *config.PidsLimit
}

// commandOf returns what a container runs, without the gate.
func commandOf(config *container.Config) []string {
	command := slices.Concat(config.Entrypoint, config.Cmd)
	if gate, _ := gateOf(config); gate != noGate {
		return command[2:]
	}
	return command
}

func detailedState(state *container.State) core.State {
	detailed := core.State{
		Running:    state.Running,
		Status:     stateOf(state.Status),
		ExitCode:   state.ExitCode,
		StartedAt:  parseTime(state.StartedAt),
		FinishedAt: parseTime(state.FinishedAt),
		OOMKilled:  state.OOMKilled,
	}
	if state.Health != nil {
		detailed.Health = state.Health.Status
	}
	return detailed
}

// parseTime reads the engine's times; those that have not come are zero.
func parseTime(text string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return time.Time{}
	}
	return t
}

// Describe asks the engine what it is, and its sandbox if it has one.
func (r *Runtime) Describe(ctx context.Context) (optional.Description, error) {
	c, err := r.begin(ctx, 0, "describe engine", r.options.Host)
	if err != nil {
		return optional.Description{}, err
	}
	defer c.end()
	version, err := ask(c.ctx, r, c.op, c.object, r.engine.ServerVersion)
	if err != nil {
		return optional.Description{}, err
	}
	description := optional.Description{
		Engine:   fmt.Sprintf("%s %s (API %s)", r.kind().name, version.Version, version.APIVersion),
		Endpoint: r.options.Host,
		Platform: version.Os + "/" + version.Arch,
		Kernel:   version.KernelVersion,
	}
	if r.options.Sandbox != nil {
		err = r.describeSandbox(c, &description)
	}
	return description, c.failed(err)
}

// What becomes of what a container writes, for people.
const (
	filesKept = "a container's own are kept when it ends"
	filesGone = "a container's own are in memory, and gone when it ends (runsc --overlay2=none keeps them)"
)

func (r *Runtime) describeSandbox(c *call, description *optional.Description) (err error) {
	if description.Sandbox, description.Kernel, err = r.options.Sandbox.Describe(c.ctx, r.engine); err != nil {
		return err
	}
	ociRuntime, err := r.ociRuntime(c.ctx)
	if err != nil {
		return err
	}
	kept, err := r.keepsFiles(c.ctx, ociRuntime)
	description.Files = filesGone
	if kept {
		description.Files = filesKept
	}
	return err
}
