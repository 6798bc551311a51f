package docker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/moatproject/moat/core"
)

// The engine's host has no address on an internal network, but the bridge of the network is
// an interface of the host. Where the kernel does not check where packets come from
// (rp_filter 0), all UDP services of the host receive what a container sends there. So a
// helper, the guard, makes the host's kernel drop what the bridge hands it. Its source is
// programs/source/guard.c. Its exited container stays until the network is removed, and then
// runs once more, because kernels keep the rule of a bridge that is gone.

const guardProgram = "guard"

// guardPatience bounds the last run of a guard, which waits for nothing.
const guardPatience = 15 * time.Second

func guardName(networkID string) string { return "moat-guard-" + networkID[:12] }

// bridgeOf returns the interface of the engine's host that is a network's bridge.
func bridgeOf(found network.Inspect) string {
	if name := found.Options["com.docker.network.bridge.name"]; name != "" {
		return name
	}
	return "br-" + found.ID[:12]
}

// createGuard creates the guard of a network.
func (r *Runtime) createGuard(ctx context.Context, found network.Inspect) error {
	binary, err := r.program(ctx, guardProgram, "Use a network that is not internal")
	if err != nil {
		return err
	}
	return r.createHelper(ctx, helperSpec{
		name: guardName(found.ID), program: guardProgram, binary: binary,
		config: container.Config{Cmd: []string{bridgeOf(found)}, Labels: labelsOn(found)},
		hostConfig: container.HostConfig{
			NetworkMode: network.NetworkHost, UsernsMode: "host", CapAdd: []string{"NET_ADMIN"}, ReadonlyRootfs: true,
		},
	})
}

// labelsOn returns the labels of a helper that lives as long as its network: those of the
// network tell whose it is.
func labelsOn(found network.Inspect) map[string]string {
	labels := maps.Clone(found.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	run := labels[core.LabelRunID]
	maps.Copy(labels, core.AdapterLabels(found.ID, time.Now().Add(helperUnused)))
	labels[core.LabelRunID] = run
	return labels
}

// startGuard guards a network, and returns the port of the host at which the guard listens
// until it is discharged.
func (r *Runtime) startGuard(ctx context.Context, found network.Inspect) (port uint16, err error) {
	name := guardName(found.ID)
	if err := r.engine.ContainerStart(ctx, name, container.StartOptions{}); err != nil {
		return 0, err
	}
	running, err := r.inspectContainer(ctx, name)
	if err != nil {
		return 0, err
	}
	line, err := r.awaitLine(ctx, running, "ready")
	if err != nil {
		return 0, err
	}
	_, err = fmt.Sscanf(line, "ready %d", &port)
	return port, err
}

// dischargeGuard ends a guard, whose rule stays. It returns how many frames the rule has
// dropped and how much has arrived at the guard's port while it listened.
func (r *Runtime) dischargeGuard(ctx context.Context, networkID string, port uint16) (dropped, arrived int, err error) {
	name := guardName(networkID)
	running, err := r.inspectContainer(ctx, name)
	if err != nil {
		return 0, 0, err
	}
	if err = r.engine.ContainerKill(ctx, name, "TERM"); err != nil {
		return 0, 0, err
	}
	line, err := r.awaitLine(ctx, running, "dropped")
	if err == nil {
		var at uint16 // the log may have the line of an earlier run as well
		_, err = fmt.Sscanf(line, "dropped %d arrived %d at %d", &dropped, &arrived, &at)
		if err == nil && at != port {
			err = fmt.Errorf("it tells of port %d, not %d", at, port)
		}
	}
	if err == nil {
		_, err = receive(r.engine.ContainerWait(ctx, name, container.WaitConditionNotRunning))
	}
	return dropped, arrived, err
}

// unguarded reports that the host of a network could not be guarded.
func (c *call) unguarded(err error) error {
	if c.ctx.Err() != nil {
		return c.failed(c.ctx.Err())
	}
	return &core.Error{
		Op: c.op, Runtime: core.RuntimeDocker, Object: c.object, Class: core.ErrPolicyNotEnforced, Err: fmt.Errorf("guard the engine's host: %w", err),
		Remedy: "Use an engine whose kernel has nftables with the family netdev",
	}
}

// abandon removes a network that could not be completed.
func (r *Runtime) abandon(c *call, networkID string) error {
	networks := (*networks)(r)
	if c.ctx.Err() != nil {
		discard(c.ctx, func(ctx context.Context) { _ = networks.ForceRemoveNetwork(ctx, networkID) })
		return nil
	}
	return networks.ForceRemoveNetwork(c.ctx, networkID)
}

// removeGuard removes the guard of a network that is gone, its rule, and the proxy of a
// restricted network. Most networks have none.
func (r *Runtime) removeGuard(ctx context.Context, networkID string) error {
	name := guardName(networkID)
	err := r.engine.ContainerKill(ctx, name, "KILL") // it may run for a process that was killed
	_, restricted := r.restrictions.networks.LoadAndDelete(networkID)
	if errdefs.IsNotFound(err) && !restricted {
		return nil
	}
	if err = r.engine.ContainerStart(ctx, name, container.StartOptions{}); err == nil {
		bounded, cancel := context.WithTimeout(ctx, guardPatience)
		_, err = receive(r.engine.ContainerWait(bounded, name, container.WaitConditionNotRunning))
		cancel()
	}
	if errdefs.IsNotFound(err) || isBeingRemoved(err) {
		err = nil // others remove it
	}
	return errors.Join(err, r.remove(ctx, proxyName(networkID)), r.remove(ctx, name))
}
