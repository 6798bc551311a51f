package memory

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// container is guarded by its runtime's mutex where it changes after its creation.
type container struct {
	info   core.Info // but Status, which is state
	cfg    core.Config
	image  *image
	argv   []string
	env    []string
	dir    string
	user   user
	files  *filesystem
	output *output

	network             string // the ID of the named one that it is on
	state               string
	run                 *run // the last one, or the one to come
	exitCode            int
	startedAt, finished time.Time
	removed             chan struct{} // closed when it is
}

// find is the beginning of each call on a container. The caller holds the mutex.
func (r *Runtime) find(ctx context.Context, op, id string) (*container, error) {
	if err := r.check(ctx, op, id); err != nil {
		return nil, err
	}
	for _, c := range r.containers {
		if c.info.ID == id || c.info.Name == id {
			return c, nil
		}
	}
	return nil, failure(op, id, core.ErrNotFound, nil)
}

// StartContainer starts a container.
func (r *Runtime) StartContainer(ctx context.Context, id string) error {
	const op = "start container"
	r.mu.Lock()
	defer r.mu.Unlock()
	c, err := r.find(ctx, op, id)
	if err != nil {
		return err
	}
	if c.cfg.Held {
		return invalid(op, id, "Held", errors.New("nothing would release it: start it attached"))
	}
	return r.start(op, id, c, optional.TerminalSize{Height: usualHeight, Width: usualWidth})
}

// start starts what does not run yet. The caller holds the mutex.
func (r *Runtime) start(op, id string, c *container, size optional.TerminalSize) error {
	if c.state == core.StateRunning {
		return nil
	}
	run := c.run
	if c.state == core.StateExited {
		run = newRun()
	}
	if err := run.start(c, size, func(status int) { r.exited(c, status) }); err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			return invalid(op, id, "Cmd", err)
		}
		return failure(op, id, nil, err)
	}
	c.run, c.state, c.startedAt, c.finished = run, core.StateRunning, time.Now(), time.Time{}
	r.tell(c, optional.EventStarted, c.startedAt)
	return nil
}

// exited is called once at the end of each run.
func (r *Runtime) exited(c *container, status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.state, c.exitCode, c.finished = core.StateExited, status, time.Now()
	c.run.status = int64(status)
	r.tell(c, optional.EventDied, c.finished)
	c.output.end()
	close(c.run.done)
	if c.cfg.AutoRemove {
		r.drop(c)
	}
}

// drop forgets a container. The caller holds the mutex.
func (r *Runtime) drop(c *container) {
	if i := slices.Index(r.containers, c); i >= 0 {
		r.containers = slices.Delete(r.containers, i, i+1)
		r.tell(c, optional.EventRemoved, time.Now())
		r.holds.Forget(c.info.ID)
		close(c.removed)
	}
}

// kill ends the container's processes. The caller holds the mutex.
func (c *container) kill() {
	if c.state == core.StateRunning {
		c.run.signal(sigKILL)
	}
}

// StopContainer stops a container.
func (r *Runtime) StopContainer(ctx context.Context, id string) error {
	return r.stop(ctx, id, core.Config.StopTimeoutOrDefault)
}

// StopContainerTimeout stops a container with a timeout of the caller's.
func (r *Runtime) StopContainerTimeout(ctx context.Context, id string, timeout time.Duration) error {
	return r.stop(ctx, id, func(core.Config) time.Duration { return timeout })
}

func (r *Runtime) stop(ctx context.Context, id string, timeoutOf func(core.Config) time.Duration) error {
	const op = "stop container"
	r.mu.Lock()
	c, err := r.find(ctx, op, id)
	if err != nil || c.state != core.StateRunning {
		r.mu.Unlock()
		return err
	}
	run, timeout := c.run, timeoutOf(c.cfg)
	r.mu.Unlock()
	if timeout < 0 || timeout%time.Second != 0 {
		return invalid(op, id, "timeout", fmt.Errorf("%s is not a whole number of seconds", timeout))
	}
	if timeout > 0 {
		run.signal(sigTERM)
		timer := time.NewTimer(timeout)
		defer timer.Stop()
		select {
		case <-run.done:
			return nil
		case <-ctx.Done():
			return failure(op, id, nil, ctx.Err())
		case <-timer.C:
		}
	}
	run.signal(sigKILL)
	return r.await(ctx, op, id, run)
}

// await waits for the end of a run that is being killed.
func (r *Runtime) await(ctx context.Context, op, id string, run *run) error {
	select {
	case <-run.done:
		return nil
	case <-ctx.Done():
		return failure(op, id, nil, ctx.Err())
	}
}

// SignalContainer sends a signal to the first process.
func (r *Runtime) SignalContainer(ctx context.Context, id string, signal int) error {
	const op = "signal container"
	r.mu.Lock()
	defer r.mu.Unlock()
	c, err := r.find(ctx, op, id)
	switch {
	case err != nil:
		return err
	case signal < 1 || signal > lastSignal:
		return invalid(op, id, "signal", fmt.Errorf("there is no signal %d", signal))
	case stops(signal):
		return unsupported(op, id, fmt.Sprintf("signal %d: its processes cannot be suspended", signal))
	case c.state != core.StateRunning:
		return failure(op, id, core.ErrNotRunning, nil)
	}
	c.run.signal(signal)
	return nil
}

// WaitContainer waits for a container's end.
func (r *Runtime) WaitContainer(ctx context.Context, id string) (int64, error) {
	const op = "wait for container"
	r.mu.Lock()
	c, err := r.find(ctx, op, id)
	if err != nil {
		r.mu.Unlock()
		return 0, err
	}
	run := c.run
	r.mu.Unlock()
	select {
	case <-run.done:
	case <-ctx.Done():
		return 0, failure(op, id, nil, ctx.Err())
	case <-r.closed:
		return 0, closedError(op, id)
	case <-c.removed: // after its end, if it ever ran
		select {
		case <-run.done:
		default:
			return 0, failure(op, id, core.ErrNotFound, errors.New("it has been removed"))
		}
	}
	if r.isClosed() { // which may be what ended it
		return 0, closedError(op, id)
	}
	return run.status, nil
}

// RemoveContainer kills and removes a container.
func (r *Runtime) RemoveContainer(ctx context.Context, id string) error {
	const op = "remove container"
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		c, err := r.find(ctx, op, id)
		if errors.Is(err, core.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if c.state != core.StateRunning {
			r.drop(c)
			return nil
		}
		c.kill()
		run := c.run
		r.mu.Unlock()
		err = r.await(ctx, op, id, run)
		r.mu.Lock()
		if err != nil {
			return err
		}
	}
}

// ContainerState returns a container's state.
func (r *Runtime) ContainerState(ctx context.Context, id string) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, err := r.find(ctx, "get container state", id)
	if err != nil {
		return "", err
	}
	return c.state, nil
}

// ListContainers returns all containers, newest first: each is managed.
func (r *Runtime) ListContainers(ctx context.Context) ([]core.Info, error) {
	if err := r.check(ctx, "list containers", ""); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]core.Info, 0, len(r.containers))
	for _, c := range slices.Backward(r.containers) {
		list = append(list, c.describe())
	}
	return list, nil
}

func (c *container) describe() core.Info {
	info := c.info
	info.Status = c.state
	info.Labels = maps.Clone(info.Labels)
	return info
}

// Inspect returns a container's details.
func (r *Runtime) Inspect(ctx context.Context, id string) (optional.Details, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, err := r.find(ctx, "inspect container", id)
	if err != nil {
		return optional.Details{}, err
	}
	details := optional.Details{
		Info: c.describe(),
		State: core.State{
			Running: c.state == core.StateRunning, Status: c.state, ExitCode: c.exitCode,
			StartedAt: c.startedAt, FinishedAt: c.finished,
		},
		Cmd:       slices.Clone(c.argv),
		User:      c.user.spec,
		Mounts:    slices.Clone(c.cfg.Mounts),
		Network:   c.cfg.NetworkMode,
		Ports:     map[int]int{},
		TTY:       c.cfg.TTY,
		Isolation: optional.IsolationNone,
	}
	if details.Network == "" {
		details.Network = "bridge"
	}
	return details, nil
}
