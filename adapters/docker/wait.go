package docker

import (
	"context"
	"errors"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
)

// WaitContainer blocks until the container exits and returns its exit code. For a
// container that this process has started it is one request, for others two; after
// [Runtime.StartAttached] it is none, also where the container is gone by then.
func (r *Runtime) WaitContainer(ctx context.Context, id string) (int64, error) {
	c, err := r.on(ctx, 0, "wait for container", id)
	if err != nil {
		return 0, err
	}
	defer c.end()
	if exit := r.known.get(id).exit; exit != nil {
		return *exit, nil
	}
	code, err := r.wait(c.ctx, id)
	if found := r.known.get(id); errdefs.IsNotFound(err) || (err == nil && found.autoRemove && found.visits == "") {
		r.known.forget(id)
	}
	return code, c.failed(err)
}

func (r *Runtime) wait(ctx context.Context, id string) (int64, error) {
	if r.known.phase(id) == started {
		return r.kind().awaitExit(ctx, r, id)
	}
	return r.kind().awaitFirstExit(ctx, r, id)
}

// awaitNextExit also finds out whether the container has exited already.
func awaitNextExit(ctx context.Context, r *Runtime, id string) (int64, error) {
	// A container that has never been started counts as "not running": the engine
	// would answer at once, with 0. So it is its next exit that is waited for,
	// registered before a look at its state: it may be over by then.
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	results, failures := r.engine.ContainerWait(waiting, id, container.WaitConditionNextExit)
	found, err := r.inspectContainer(ctx, id)
	over := err == nil && hasRun(found.State) && !found.State.Running
	if over || (err != nil && !errdefs.IsNotFound(err)) {
		cancel()
		_, _ = receive(results, failures) // the SDK waits for a receiver
		if err != nil {
			return 0, err
		}
		return int64(found.State.ExitCode), nil
	}
	code, waitErr := receive(results, failures)
	if waitErr != nil || code != 0 || (err == nil && found.State.Running) {
		return code, waitErr
	}
	if err == nil {
		id = found.ID
	}
	return 0, r.confirmRun(ctx, id)
}

// confirmRun returns nil if a container has been started. Of one that is removed
// before that the engine says that it exited with 0.
func (r *Runtime) confirmRun(ctx context.Context, id string) error {
	if r.known.phase(id) >= starting {
		return nil
	}
	found, err := r.inspectContainer(ctx, id)
	if err == nil && !hasRun(found.State) {
		err = errors.New("the wait ended, but it has not run")
	}
	return err
}

func hasRun(state *container.State) bool { return !parseTime(state.StartedAt).IsZero() }

// receive returns what ContainerWait's channels bring. They end with its context.
func receive(results <-chan container.WaitResponse, failures <-chan error) (int64, error) {
	select {
	case result := <-results:
		if result.Error != nil {
			return 0, errors.New(result.Error.Message)
		}
		return result.StatusCode, nil
	case err := <-failures:
		return 0, err
	}
}
