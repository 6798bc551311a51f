package docker

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/moatproject/moat/core"
)

// callTimeout bounds a request where the caller has set no deadline. Waits, streams
// and pulls have none.
const callTimeout = time.Minute

// Why a call's context has ended, where it was not the caller.
var (
	errRuntimeClosed = errors.New("the runtime has been closed")
	errStreamClosed  = errors.New("the stream has been closed")
	errCallTimeout   = errors.New("the engine did not answer in time")
)

// call is a method in progress: its context, and what an error has to tell.
type call struct {
	ctx    context.Context
	caller context.Context
	op     string
	object string

	logins  logins
	looksUp bool   // there are logins to be had
	step    string // of a build, which may name the registry

	cancel  context.CancelCauseFunc
	unlimit context.CancelFunc
	forget  func() bool // of the runtime's Close
}

// call begins a method that ends at the caller's deadline, or a usual one.
func (r *Runtime) call(ctx context.Context, op, object string) (*call, error) {
	return r.begin(ctx, r.timeout, op, object)
}

// on begins a method on a container, as [Runtime.begin] does.
func (r *Runtime) on(ctx context.Context, timeout time.Duration, op, id string) (*call, error) {
	c, err := r.begin(ctx, timeout, op, id)
	if err != nil {
		return nil, err
	}
	// The SDK makes a path of it, in which "../networks/x" would be another object.
	if id == "" || id == "." || id == ".." || strings.Contains(id, "/") {
		defer c.end()
		return nil, c.wrong(core.ErrInvalidConfig, "id", "it is no container's name or ID", "")
	}
	return c, nil
}

// ask makes one request with a deadline of its own, as a method or a part of one.
func ask[T any](ctx context.Context, r *Runtime, op, object string, request func(context.Context) (T, error)) (T, error) {
	c, err := r.call(ctx, op, object)
	if err != nil {
		var none T
		return none, err
	}
	defer c.end()
	answer, err := request(c.ctx)
	return answer, c.failed(err)
}

// inspect is ask for a container's description.
func (r *Runtime) inspect(ctx context.Context, op, id string) (container.InspectResponse, error) {
	c, err := r.on(ctx, r.timeout, op, id)
	if err != nil {
		return container.InspectResponse{}, err
	}
	defer c.end()
	found, err := r.inspectContainer(c.ctx, id)
	switch {
	case err == nil && found.ContainerJSONBase != nil:
		r.known.correct(id, found.ID)
	case errdefs.IsNotFound(err):
		r.known.forget(id)
	}
	return found, c.failed(err)
}

// inspectTries bounds how often an inspection is repeated.
const inspectTries = 10

// inspectContainer asks the engine for a container's details, and asks again where Podman's
// own inspection has failed because the container's process ended in the middle of it.
func (r *Runtime) inspectContainer(ctx context.Context, id string) (found container.InspectResponse, err error) {
	for range inspectTries {
		found, err = r.engine.ContainerInspect(ctx, id)
		if err == nil || !strings.Contains(err.Error(), podmanProcessGone) {
			break
		}
	}
	return found, err
}

// begin begins a method that ends at the caller's deadline, or after timeout. Without
// one (0) it lasts as long as the caller wants. Close ends it.
func (r *Runtime) begin(ctx context.Context, timeout time.Duration, op, object string) (*call, error) {
	c, err := r.open(ctx, op, object)
	if err != nil {
		return nil, err
	}
	c.limit(timeout)
	if _, err = r.negotiate(c.ctx); err == nil {
		err = c.ctx.Err() // nobody waits any more
	}
	if err != nil {
		defer c.end()
		return nil, c.failed(err)
	}
	return c, nil
}

// open begins a method that has not asked the engine for anything yet.
func (r *Runtime) open(ctx context.Context, op, object string) (*call, error) {
	c := &call{caller: ctx, op: op, object: object, looksUp: r.options.Logins != nil}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	c.forget = context.AfterFunc(r.closed, func() { c.cancel(errRuntimeClosed) })
	if r.closed.Err() != nil {
		c.cancel(errRuntimeClosed) // the function above may come later
		return nil, c.failed(errRuntimeClosed)
	}
	return c, nil
}

// limit gives the call a deadline, unless the caller has set one or timeout is 0.
func (c *call) limit(timeout time.Duration) {
	if _, limited := c.caller.Deadline(); !limited && timeout > 0 {
		c.ctx, c.unlimit = context.WithTimeoutCause(c.ctx, timeout, errCallTimeout)
	}
}

// end releases the call, and ends what of it is still in progress.
func (c *call) end() {
	c.forget()
	c.cancel(errStreamClosed)
	if c.unlimit != nil {
		c.unlimit()
	}
}

// wrong reports what is wrong with what the caller asked for.
func (c *call) wrong(class error, field, why, remedy string) error {
	return &core.Error{
		Op: c.op, Runtime: core.RuntimeDocker, Object: c.object,
		Field: field, Class: class, Err: errors.New(why), Remedy: remedy,
	}
}

// mutex is a lock whose waiters give up with their context.
type mutex chan struct{}

func (m mutex) lock(ctx context.Context) error {
	select {
	case m <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m mutex) unlock() { <-m }
