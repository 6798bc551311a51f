package docker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/moatproject/moat/core"
)

// The engine's host has no address on an internal network, but the bridge of the network is
// an interface of the host. Where the kernel does not check where packets come from
// (rp_filter 0), all UDP services of the host receive what a container sends there. So a
// helper, the guard, makes the host's kernel drop what the bridge hands it, for as long as
// the network is there. Its source is programs/source/guard.c.

const guardProgram = "guard"

// guardPatience bounds how long a guard may take to see that its bridge is gone.
const guardPatience = 15 * time.Second

func guardName(networkID string) string { return "moat-guard-" + networkID[:shortLength] }

// bridgeOf returns the interface of the engine's host that is a network's bridge.
func bridgeOf(found network.Inspect) string {
	if name := found.Options["com.docker.network.bridge.name"]; name != "" {
		return name
	}
	return "br-" + found.ID[:shortLength]
}

// createGuard creates the guard of a network. It drops all but TCP to the exceptions, of
// which there can be one.
func (r *Runtime) createGuard(ctx context.Context, found network.Inspect, exceptions ...netip.AddrPort) error {
	binary, err := r.program(ctx, guardProgram, "Use a network that is not internal")
	if err != nil {
		return err
	}
	words := []string{bridgeOf(found)}
	for _, exception := range exceptions {
		words = append(words, exception.String())
	}
	return r.createHelper(ctx, helperSpec{
		name: guardName(found.ID), program: guardProgram, binary: binary,
		config: container.Config{Cmd: words, Labels: labelsOn(found)},
		hostConfig: container.HostConfig{
			NetworkMode: network.NetworkHost, UsernsMode: "host", CapAdd: []string{"NET_ADMIN"}, ReadonlyRootfs: true,
			RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyAlways}, // as when the host starts again
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

// startGuard has the guard of a network begin, and returns when the host is closed.
func (r *Runtime) startGuard(ctx context.Context, networkID string) error {
	if err := r.engine.ContainerStart(ctx, guardName(networkID), container.StartOptions{}); err != nil {
		return err
	}
	_, err := r.guardSays(ctx, networkID, time.Time{}, "ready")
	return err
}

// listenOnHost has the guard of a network listen on the host for the of.listened-th time, and
// returns the port.
func (r *Runtime) listenOnHost(ctx context.Context, of *restriction) (port uint16, err error) {
	if err := r.engine.ContainerKill(ctx, guardName(of.network.ID), "USR1"); err != nil {
		return 0, err
	}
	line, err := r.guardSays(ctx, of.network.ID, of.guardEnded, fmt.Sprintf("listening %d", of.listened))
	if err != nil {
		return 0, err
	}
	var times int
	_, err = fmt.Sscanf(line, "listening %d %d", &times, &port)
	return port, err
}

// heardOnHost ends the listening that listenOnHost began. It returns how many frames the host has
// dropped meanwhile, and how many datagrams of the check have arrived there.
func (r *Runtime) heardOnHost(ctx context.Context, of *restriction) (dropped, arrived int, err error) {
	if err := r.engine.ContainerKill(ctx, guardName(of.network.ID), "USR2"); err != nil {
		return 0, 0, err
	}
	line, err := r.guardSays(ctx, of.network.ID, of.guardEnded, fmt.Sprintf("heard %d", of.listened))
	if err != nil {
		return 0, 0, err
	}
	var times int
	_, err = fmt.Sscanf(line, "heard %d dropped %d arrived %d", &times, &dropped, &arrived)
	return dropped, arrived, err
}

// guardSays waits until the guard of a network has said a line that begins with these
// words, later than after. A guard that fails ends.
func (r *Runtime) guardSays(ctx context.Context, networkID string, after time.Time, words string) (string, error) {
	return r.awaitLine(ctx, guardName(networkID), after, func(line string) (bool, error) {
		if line == words || strings.HasPrefix(line, words+" ") {
			return true, nil
		}
		if line == "gone" {
			return false, errors.New("its bridge is gone")
		}
		return false, nil
	})
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

// removeGuard removes the guard of a network that is gone, when the host is as before, and
// the proxy of a restricted network. Most networks have none.
func (r *Runtime) removeGuard(ctx context.Context, networkID string) error {
	name := guardName(networkID)
	bounded, cancel := context.WithTimeout(ctx, guardPatience)
	defer cancel()
	_, err := r.guardSays(bounded, networkID, time.Time{}, "gone")
	_, restricted := r.restrictions.networks.LoadAndDelete(networkID)
	if errdefs.IsNotFound(err) && !restricted {
		return nil
	}
	if err != nil { // it was killed, or never ran
		if err = r.engine.ContainerStart(bounded, name, container.StartOptions{}); err == nil {
			_, err = r.guardSays(bounded, networkID, time.Time{}, "gone")
		}
	}
	if errdefs.IsNotFound(err) || isBeingRemoved(err) {
		err = nil // others remove it
	}
	return errors.Join(err, r.remove(ctx, proxyName(networkID)), r.remove(ctx, name))
}
