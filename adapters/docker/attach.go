package docker

import (
	"context"
	"net/url"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/moatproject/moat/core"
)

// Attach connects to a running container.
func (r *Runtime) Attach(ctx context.Context, id string, opts core.AttachOptions) error {
	c, err := r.on(ctx, 0, "attach to container", id)
	if err != nil {
		return err
	}
	defer c.end()
	conn, err := r.attach(c, opts)
	if err != nil {
		return c.failed(err)
	}
	// Only now, because to one that does not run the engine would attach until its next exit.
	found, err := r.inspect(c.ctx, c.op, id)
	if err == nil && !found.State.Running {
		err = c.wrong(core.ErrNotRunning, "", "its state is "+stateOf(found.State.Status), "Start it attached instead")
	}
	if err != nil {
		_ = conn.Close()
		return err
	}
	return r.carry(c, &stream{conn: conn, tty: found.Config.Tty}, opts)
}

// StartAttached attaches, starts the container, and returns when it exits.
func (r *Runtime) StartAttached(ctx context.Context, id string, opts core.AttachOptions) error {
	c, err := r.on(ctx, 0, "start attached", id)
	if err != nil {
		return err
	}
	defer c.end()
	tty, err := r.hasTTY(c)
	if err != nil {
		return err
	}
	conn, err := r.attach(c, opts)
	if err != nil {
		return c.failed(err)
	}
	err = r.StartContainer(c.ctx, id)
	if err == nil && tty && opts.InitialHeight > 0 && opts.InitialWidth > 0 {
		err = r.ResizeTTY(c.ctx, id, opts.InitialHeight, opts.InitialWidth)
	}
	if err != nil {
		_ = conn.Close()
		return c.failed(err)
	}
	return r.carry(c, &stream{conn: conn, tty: tty}, opts)
}

// hasTTY asks the engine only about containers of others.
func (r *Runtime) hasTTY(c *call) (bool, error) {
	if known := r.known.get(c.object); known.phase != unknown {
		return known.tty, nil
	}
	found, err := r.inspect(c.ctx, c.op, c.object)
	if err != nil {
		return false, err
	}
	return found.Config.Tty, nil
}

// noDetachKeys are keys that nobody types. The engine watches a terminal's input for
// some, holds back what they may begin with, and has a default where none are given.
const noDetachKeys = "\xff,\xfe,\xff,\xfe,\xff,\xfe,\xff,\xfe"

func (r *Runtime) attach(c *call, opts core.AttachOptions) (hijacked, error) {
	query := url.Values{"stream": {"1"}, "stdout": {"1"}, "stderr": {"1"}, "detachKeys": {noDetachKeys}}
	if opts.Stdin != nil {
		query.Set("stdin", "1")
	}
	return r.hijack(c.ctx, "/containers/"+c.object+"/attach", query, nil)
}

// carry runs an attachment until the container's exit.
func (r *Runtime) carry(c *call, s *stream, opts core.AttachOptions) error {
	if err := s.run(c.ctx, opts); err != nil {
		return c.failed(err)
	}
	// The stream ends also with the engine, and where a program closes its output.
	_, err := receive(r.engine.ContainerWait(c.ctx, c.object, container.WaitConditionNotRunning))
	if errdefs.IsNotFound(err) {
		return nil // removed as soon as it had exited
	}
	return c.failed(err)
}

// ResizeTTY sets the size of the container's terminal.
func (r *Runtime) ResizeTTY(ctx context.Context, id string, height, width uint) error {
	if err := core.ValidateTerminalSize(height, width); err != nil {
		return err
	}
	c, err := r.on(ctx, r.timeout, "resize terminal", id)
	if err != nil {
		return err
	}
	defer c.end()
	tty, err := r.hasTTY(c)
	if err != nil {
		return err
	}
	if !tty {
		return c.wrong(core.ErrInvalidConfig, "TTY", "the container has no terminal", "Create it with one")
	}
	return c.failed(r.engine.ContainerResize(c.ctx, id, container.ResizeOptions{Height: height, Width: width}))
}
