package docker

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/moatproject/moat/core"
)

// How many times as long as other requests some may take.
const (
	startFactor = 5  // a sandbox on a busy machine takes its time
	stopFactor  = 10 // the container's own timeout need not be known here
)

// StartContainer starts a created or exited container.
func (r *Runtime) StartContainer(ctx context.Context, id string) error {
	streams := r.known.get(id).stdio
	if isHeld(streams.gate) {
		c := call{op: "start container", object: id}
		return c.wrong(core.ErrInvalidConfig, "Held", "nothing would release it", "Start it attached")
	}
	return r.start(ctx, id, streams.tty, usualHeight, usualWidth)
}

// start also gives a container's terminal its size, which opens the gate.
func (r *Runtime) start(ctx context.Context, id string, tty bool, height, width uint) error {
	c, err := r.on(ctx, startFactor*r.timeout, "start container", id)
	if err != nil {
		return err
	}
	defer c.end()
	if known, _ := r.known.find(id); known.restricted != nil && !isHeld(known.stdio.gate) {
		if err := known.restricted.await(c.ctx); err != nil {
			return c.failed(err)
		}
	}
	if err := r.vetFirewall(c, id); err != nil {
		return err
	}
	r.known.move(id, starting)
	if err := r.engine.ContainerStart(c.ctx, id, container.StartOptions{}); err != nil {
		r.known.move(id, created)
		return r.sandboxed(c, err)
	}
	r.known.move(id, started)
	if !tty {
		return nil
	}
	err = c.failed(r.engine.ContainerResize(c.ctx, id, container.ResizeOptions{Height: height, Width: width}))
	if errors.Is(err, core.ErrNotRunning) {
		return nil // it has exited by now
	}
	return err
}

// StopContainer sends SIGTERM, then SIGKILL after the container's stop timeout. Where
// the context has no deadline it gives up after ten minutes.
func (r *Runtime) StopContainer(ctx context.Context, id string) error {
	return r.stop(ctx, id, stopFactor*r.timeout, container.StopOptions{})
}

// StopContainerTimeout sends SIGTERM, then SIGKILL after timeout.
func (r *Runtime) StopContainerTimeout(ctx context.Context, id string, timeout time.Duration) error {
	if timeout < 0 || timeout%time.Second != 0 {
		c := call{op: "stop container", object: id}
		return c.wrong(core.ErrInvalidConfig, "timeout", timeout.String()+" is not a whole number of seconds", "")
	}
	seconds := int(timeout.Seconds())
	return r.stop(ctx, id, timeout+r.timeout, container.StopOptions{Timeout: &seconds})
}

func (r *Runtime) stop(ctx context.Context, id string, deadline time.Duration, options container.StopOptions) error {
	c, err := r.on(ctx, deadline, "stop container", id)
	if err != nil {
		return err
	}
	defer c.end()
	return c.failed(r.engine.ContainerStop(c.ctx, id, options))
}

// lastSignal is the highest signal that Linux has.
const lastSignal = 64

// SignalContainer sends a signal, by number, to the container's first process.
func (r *Runtime) SignalContainer(ctx context.Context, id string, signal int) error {
	c, err := r.on(ctx, r.timeout, "signal container", id)
	if err != nil {
		return err
	}
	defer c.end()
	if signal < 1 || signal > lastSignal { // the engine knows which others there are
		return c.wrong(core.ErrInvalidConfig, "signal", strconv.Itoa(signal)+" is no signal", "")
	}
	return c.failed(r.engine.ContainerKill(c.ctx, id, strconv.Itoa(signal)))
}

// RemoveContainer kills and removes a container with its anonymous volumes.
func (r *Runtime) RemoveContainer(ctx context.Context, id string) error {
	c, err := r.on(ctx, r.timeout, "remove container", id)
	if err != nil {
		return err
	}
	defer c.end()
	found, err := r.inspectUnlessKnown(c.ctx, id)
	if err != nil {
		return c.failed(err)
	}
	visited := r.visited(c.ctx, id, found)
	firewall, err := r.firewallOf(c.ctx, found)
	if err == nil {
		err = r.remove(c.ctx, id)
	}
	if err != nil {
		return c.failed(err)
	}
	r.known.forget(id)
	r.leaveNetwork(c.ctx, visited)
	if firewall != "" {
		return r.removeFirewall(c.ctx, found.ID, firewall)
	}
	return nil
}

// remove returns when a container is gone.
func (r *Runtime) remove(ctx context.Context, id string) error {
	err := r.kind().destroy(ctx, r, id)
	if errdefs.IsConflict(err) {
		// Somebody else removes it just now: its name is free only when that is done.
		_, err = receive(r.engine.ContainerWait(ctx, id, container.WaitConditionRemoved))
	}
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// ContainerState returns one of core's State constants.
func (r *Runtime) ContainerState(ctx context.Context, id string) (string, error) {
	found, err := r.inspect(ctx, "inspect container", id)
	if err != nil {
		return "", err
	}
	return stateOf(found.State.Status), nil
}

// stateOf maps the engine's states to core's.
func stateOf(status container.ContainerState) string {
	switch status {
	case container.StateRestarting:
		return core.StateRunning
	case container.StateRemoving:
		return core.StateStopping
	case "configured", "initialized": // the last ones are Podman's
		return core.StateCreated
	case "stopped":
		return core.StateExited
	}
	return status
}

// ListContainers returns the managed containers, newest first.
func (r *Runtime) ListContainers(ctx context.Context) ([]core.Info, error) {
	// The engine joins filters with "and", so that "our label or a run's name" would
	// take two requests there; it takes one, and a look at each row here.
	all, err := ask(ctx, r, "list containers", r.options.Host, func(ctx context.Context) ([]container.Summary, error) {
		return r.kind().list(ctx, r)
	})
	if err != nil {
		return nil, err
	}
	infos := []core.Info{}
	for _, summary := range all {
		if name := nameOf(summary.Names); core.IsManaged(name, summary.Labels) {
			infos = append(infos, core.Info{
				ID: summary.ID, Name: name, Image: r.kind().familiar(summary.Image), Status: stateOf(summary.State),
				Created: time.Unix(summary.Created, 0).UTC(), Labels: summary.Labels, Published: publishedIn(all, summary),
			})
		}
	}
	// Stable, because engines know the order within a second.
	slices.SortStableFunc(infos, func(a, b core.Info) int { return cmp.Compare(b.Created.Unix(), a.Created.Unix()) })
	return infos, nil
}

// nameOf returns the container's own name among those that links gave it.
func nameOf(names []string) string {
	for _, name := range names {
		if own := strings.TrimPrefix(name, "/"); !strings.Contains(own, "/") {
			return own
		}
	}
	return ""
}
