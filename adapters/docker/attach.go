package docker

import (
	"context"
	"errors"
	"net/url"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/moatproject/moat/core"
)

// Attach connects to a running container. One without Interactive reads no Stdin. A
// writer that is more than 64 MiB behind delays the container, and with it all others.
func (r *Runtime) Attach(ctx context.Context, id string, opts core.AttachOptions) error {
	if err := validateInitialSize(opts); err != nil {
		return err
	}
	c, err := r.on(ctx, 0, "attach to container", id)
	if err != nil {
		return err
	}
	defer c.end()
	if opts.Release != nil {
		return c.notHeld("it has been started")
	}
	stream, err := r.attach(c, opts, noGate)
	if err != nil {
		return c.failed(err)
	}
	// Only now: to a container that does not run the engine attaches until its next exit.
	found, err := r.inspect(c.ctx, c.op, id)
	if err == nil && !found.State.Running {
		err = c.wrong(core.ErrNotRunning, "", "its state is "+stateOf(found.State.Status), "Start it attached instead")
	}
	if err == nil {
		stream.setUp(stdioOf(found.Config))
		err = r.resizeAttached(c, stream)
	}
	if err != nil {
		_ = stream.conn.Close()
		return c.failed(err)
	}
	_, err = r.carry(c, stream)
	return err
}

// validateInitialSize reports a size that no terminal can have. None is none to set.
func validateInitialSize(opts core.AttachOptions) error {
	if opts.InitialHeight == 0 || opts.InitialWidth == 0 {
		return nil
	}
	return core.ValidateTerminalSize(opts.InitialHeight, opts.InitialWidth)
}

// resizeAttached gives a terminal the size of the one that is now before it.
func (r *Runtime) resizeAttached(c *call, s *stream) error {
	if !s.tty || s.opts.InitialHeight == 0 || s.opts.InitialWidth == 0 {
		return nil
	}
	return r.resize(c.ctx, c.op, c.object, s.opts.InitialHeight, s.opts.InitialWidth)
}

// resize sets the size of a terminal whose program may have exited by now.
func (r *Runtime) resize(ctx context.Context, op, id string, height, width uint) error {
	_, err := ask(ctx, r, op, id, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, r.engine.ContainerResize(ctx, id, container.ResizeOptions{Height: height, Width: width})
	})
	if errors.Is(err, core.ErrNotRunning) {
		return nil // it has exited by now
	}
	return err
}

// StartAttached attaches, starts the container, and returns when it exits. A writer is
// waited for as in Attach.
func (r *Runtime) StartAttached(ctx context.Context, id string, opts core.AttachOptions) error {
	if err := validateInitialSize(opts); err != nil {
		return err
	}
	c, err := r.on(ctx, 0, "start attached", id)
	if err != nil {
		return err
	}
	defer c.end()
	end, err := r.stdioOf(c)
	if err != nil {
		return err
	}
	if opts.Release != nil && !isHeld(end.gate) {
		return c.notHeld("its program begins with its start")
	}
	stream, err := r.attach(c, opts, end.gate)
	if err != nil {
		return c.failed(err)
	}
	stream.setUp(end)
	if err = r.startAttached(c, stream, end.gate); err != nil {
		_ = stream.conn.Close()
		return c.failed(err)
	}
	output := &startFailure{}
	switch {
	case stream.tty:
		output.to, stream.opts.Stdout = stream.opts.Stdout, output
	case end.gate != noGate:
		output.to, stream.opts.Stderr = stream.opts.Stderr, output
	}
	code, err := r.carry(c, stream)
	if err == nil && code != unknownCode {
		r.known.ended(c.object, code)
	}
	if err == nil {
		err = c.failed(output.gates(code))
	}
	return err
}

// notHeld refuses a Release that nothing waits for.
func (c *call) notHeld(why string) error {
	return c.wrong(core.ErrInvalidConfig, "Release", "the container is not held: "+why, "Create it with Held, and start it attached")
}

// stdioOf returns what the streams of the call's container are.
func (r *Runtime) stdioOf(c *call) (stdio, error) {
	if known := r.known.get(c.object); known.phase != unknown {
		return known.stdio, nil
	}
	found, err := r.inspect(c.ctx, c.op, c.object)
	if err != nil {
		return stdio{}, err
	}
	return stdioOf(found.Config), nil
}

func (r *Runtime) startAttached(c *call, s *stream, gate string) error {
	height, width := s.opts.InitialHeight, s.opts.InitialWidth
	if height == 0 || width == 0 {
		height, width = usualHeight, usualWidth
	}
	if !isHeld(gate) {
		return r.start(c.ctx, c.object, s.tty, height, width)
	}
	r.known.hold(c.object)
	s.release = func(ctx context.Context) error {
		switch {
		case !r.known.release(c.object):
			return nil
		case s.tty:
			return r.resize(ctx, c.op, c.object, height, width)
		}
		_, _ = s.conn.Write([]byte{gateKey}) // where it fails the container has ended, and the stream with it
		return nil
	}
	return r.start(c.ctx, c.object, false, 0, 0)
}

// noDetachKeys are keys that nobody types. The engine watches a terminal's input for
// some, holds back what they may begin with, and has a default where none are given.
const noDetachKeys = "\xff,\xfe,\xff,\xfe,\xff,\xfe,\xff,\xfe"

func (r *Runtime) attach(c *call, opts core.AttachOptions, gate string) (*stream, error) {
	query := url.Values{"stream": {"1"}, "stdout": {"1"}, "stderr": {"1"}, "detachKeys": {noDetachKeys}}
	if opts.Stdin != nil || gate == gateByte || gate == gateLastByte {
		query.Set("stdin", "1")
	}
	conn, err := r.hijack(c.ctx, "/containers/"+c.object+"/attach", query, nil)
	if err != nil {
		return nil, err
	}
	return newStream(conn, opts), nil
}

// unknownCode is that of a container which was removed as soon as it had exited.
const unknownCode = -1

// carry runs an attachment until the container's exit, and returns its code.
func (r *Runtime) carry(c *call, s *stream) (int64, error) {
	if err := s.run(c.ctx); err != nil {
		return 0, c.failed(err)
	}
	// The stream ends also with the engine, and where a program closes its output.
	code, err := receive(r.engine.ContainerWait(c.ctx, c.object, container.WaitConditionNotRunning))
	if errdefs.IsNotFound(err) {
		return unknownCode, nil
	}
	return code, c.failed(err)
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
	if known, _ := r.known.find(id); known.held {
		return c.wrong(core.ErrNotRunning, "", "its program is held", "Wait for its release")
	}
	end, err := r.stdioOf(c)
	if err != nil {
		return err
	}
	if !end.tty {
		return c.wrong(core.ErrInvalidConfig, "TTY", "the container has no terminal", "Create it with one")
	}
	return c.failed(r.engine.ContainerResize(c.ctx, id, container.ResizeOptions{Height: height, Width: width}))
}
