package docker

import (
	"context"
	"errors"
	"net/url"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/driver"
)

// Attach connects to a running container. If the container is not Interactive, Stdin is
// not read. A writer that is more than 64 MiB behind delays the container and everyone who
// is attached to it.
func (r *Runtime) Attach(ctx context.Context, id string, opts core.AttachOptions) error {
	if err := validateInitialSize(opts); err != nil {
		return err
	}
	c, err := r.on(ctx, 0, "attach to container", id)
	if err != nil {
		return err
	}
	defer c.end()
	stream, err := r.attachRunning(c, opts)
	if err != nil {
		return c.failed(err)
	}
	// Only now: to a container that does not run the engine attaches until its next exit.
	found, err := r.inspect(c.ctx, c.op, id)
	if err == nil && !found.State.Running {
		err = c.wrong(core.ErrNotRunning, "", "its state is "+stateOf(found.State.Status), "Start it attached instead")
	}
	if err == nil {
		stream.setUp(r.stdioIn(found.Config))
		err = r.resizeAttached(c, stream)
	}
	if err != nil {
		_ = stream.conn.Close()
		return c.failed(err)
	}
	_, err = stream.run(c.ctx, func(ctx context.Context) (int64, error) { return r.exitCode(ctx, c) })
	return c.failed(err)
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
	if end.gate == gateCall && !end.created {
		return c.wrong(core.ErrPolicyNotEnforced, "", "its own program may have replaced those that hold and check it", "Create a new container")
	}
	var hold *driver.Hold
	if isHeld(end.gate) {
		hold = r.known.holds.Begin(end.id)
		defer r.known.holds.End(end.id, hold)
	}
	attach := r.attach
	if end.gate == noGate && !end.fleeting && r.needsLog(opts, end) {
		attach = r.attachToLog
	}
	stream, err := attach(c, opts, end.gate)
	if err != nil {
		return c.failed(err)
	}
	stream.setUp(end)
	if err = r.startAttached(c, stream, end.id, hold); err != nil {
		_ = stream.conn.Close()
		return c.failed(err)
	}
	first := &opening{gate: gatesWords(end.mark)}
	if end.gate == noGate {
		first.others = isInitRefusal
		first.prove = func(said string) bool { return r.isUnexecuted(c.ctx, c, said) }
	}
	if stream.tty {
		stream.stdout = first
	} else {
		stream.stderr = first
	}
	_, err = stream.run(c.ctx, func(ctx context.Context) (int64, error) {
		code, err := r.exitCode(ctx, c)
		if err != nil {
			return 0, err
		}
		if code != unknownCode {
			r.known.ended(c.object, code)
		}
		return code, r.opened(ctx, c, first, code)
	})
	return c.failed(err)
}

// opened returns why a program has not begun, after the exit of what was to become it,
// or writes what is held back.
func (r *Runtime) opened(ctx context.Context, c *call, first *opening, code int64) error {
	err := first.failure()
	if said := first.words(); err == nil && isExitOfInit(code) && (first.proven.Load() || r.isUnexecuted(ctx, c, said)) {
		err = errors.New(said)
	}
	if err == nil {
		err = first.release()
	}
	return err
}

// attachRunning attaches to a container that has been started.
func (r *Runtime) attachRunning(c *call, opts core.AttachOptions) (*stream, error) {
	if opts.Stdin == nil && r.kind().attachToLog != nil {
		end, err := r.stdioOf(c)
		if err != nil {
			return nil, err
		}
		if r.needsLog(opts, end) {
			return r.attachToLog(c, opts, noGate)
		}
	}
	return r.attach(c, opts, noGate)
}

// needsLog reports whether the end of an attachment would close the stdin that it leaves to others.
func (r *Runtime) needsLog(opts core.AttachOptions, end stdio) bool {
	return opts.Stdin == nil && end.once && r.kind().attachToLog != nil
}

// attachToLog is attach by means of the container's log.
func (r *Runtime) attachToLog(c *call, opts core.AttachOptions, _ string) (*stream, error) {
	conn, err := r.kind().attachToLog(r, c)
	return newStream(conn, opts), err
}

// ReleaseContainer lets the program of a held container begin. The container must be
// started by the same Runtime value.
func (r *Runtime) ReleaseContainer(ctx context.Context, id string) error {
	c, err := r.on(ctx, startFactor*r.timeout, "release container", id)
	if err != nil {
		return err
	}
	defer c.end()
	end, err := r.stdioOf(c)
	switch {
	case err != nil:
		return err
	case !isHeld(end.gate):
		return c.wrong(core.ErrInvalidConfig, "Held", "the container is not held", "Create it with Held, and start it attached")
	}
	hold, ok := r.known.holds.Release(end.id, end.created)
	if ok && hold != nil {
		ok, err = hold.AwaitBegun(c.ctx)
	}
	switch {
	case err == nil && !ok && hold != nil:
		return c.wrong(core.ErrNotRunning, "", "its program was not let begin: the error of StartAttached says why", "")
	case err == nil && !ok:
		return c.wrong(core.ErrNotRunning, "", "nothing attached waits for the release", "Start it attached")
	}
	return c.failed(err)
}

// stdioOf returns what the streams of the call's container are.
func (r *Runtime) stdioOf(c *call) (stdio, error) {
	if known := r.known.get(c.object); known.phase != unknown {
		known.stdio.id, known.stdio.fleeting, known.stdio.created = c.object, known.autoRemove, known.phase == created
		return known.stdio, nil
	}
	found, err := r.inspect(c.ctx, c.op, c.object)
	if err != nil {
		return stdio{}, err
	}
	streams := r.stdioIn(found.Config)
	streams.id, streams.created = found.ID, found.State != nil && found.State.Status == core.StateCreated
	streams.fleeting = found.HostConfig != nil && found.HostConfig.AutoRemove
	return streams, nil
}

// stdioIn is stdioOf for a container of the runtime's engine.
func (r *Runtime) stdioIn(config *container.Config) stdio {
	streams := stdioOf(config)
	streams.once = streams.once || r.kind().halfCloses && config.OpenStdin && !config.Tty
	return streams
}

// startAttached starts the container. hold is nil where nothing holds its program.
func (r *Runtime) startAttached(c *call, s *stream, id string, hold *driver.Hold) error {
	height, width := s.opts.InitialHeight, s.opts.InitialWidth
	if height == 0 || width == 0 {
		height, width = usualHeight, usualWidth
	}
	if hold == nil {
		return r.start(c.ctx, c.object, s.tty, height, width)
	}
	s.ready = func(ctx context.Context) error {
		open, err := r.known.holds.Await(ctx, hold)
		if err != nil || !open {
			return err
		}
		err = r.letBegin(ctx, c, s, id, height, width)
		hold.Decide(err == nil)
		return err
	}
	err := r.start(c.ctx, c.object, false, 0, 0)
	if err == nil {
		hold.Started()
	}
	return err
}

// letBegin has the gate of a released container become its program. Where the container has
// ended instead, the stream tells how.
func (r *Runtime) letBegin(ctx context.Context, c *call, s *stream, id string, height, width uint) error {
	if err := r.vetRelease(c, id, s.gate); err != nil {
		return err
	}
	var err error
	if s.tty {
		err = r.resize(ctx, c.op, c.object, height, width)
	}
	switch {
	case err != nil:
	case s.gate == gateCall:
		err = r.callGate(ctx, id, s.mark)
	case !s.tty:
		_, _ = s.conn.Write(gateKey(s.mark)) // where it fails the container has ended, and the stream with it
	}
	if ctx.Err() != nil && c.caller.Err() == nil {
		return nil // the stream has ended meanwhile
	}
	return err
}

// noDetachKeys are keys that nobody types. The engine watches a terminal's input for
// some, holds back what they may begin with, and has a default where none are given.
const noDetachKeys = "\xff,\xfe,\xff,\xfe,\xff,\xfe,\xff,\xfe"

func (r *Runtime) attach(c *call, opts core.AttachOptions, gate string) (*stream, error) {
	query := url.Values{"stream": {"1"}, "stdout": {"1"}, "stderr": {"1"}, "detachKeys": {noDetachKeys}}
	if opts.Stdin != nil || gate == gateLine || gate == gateLastLine {
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

// exitCode waits for the exit of the call's container once its output has ended: a stream
// ends also with the engine, and where a program closes its output.
func (r *Runtime) exitCode(ctx context.Context, c *call) (int64, error) {
	code, err := r.kind().awaitExit(ctx, r, c.object)
	if errdefs.IsNotFound(err) {
		return unknownCode, nil
	}
	return code, err
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
	end, err := r.stdioOf(c) // which also finds out whose the name is
	if err != nil {
		return err
	}
	if r.known.holds.Holding(end.id) {
		return c.wrong(core.ErrNotRunning, "", "its program is held", "Wait for its release")
	}
	if !end.tty {
		return c.wrong(core.ErrInvalidConfig, "TTY", "the container has no terminal", "Create it with one")
	}
	return c.failed(r.sendSize(c.ctx, func() error {
		return r.engine.ContainerResize(c.ctx, id, container.ResizeOptions{Height: height, Width: width})
	}))
}

// sendSize sends a terminal's size, and once more after a pause to an engine that may have
// dropped it. That the program has ended meanwhile is no failure.
func (r *Runtime) sendSize(ctx context.Context, send func() error) error {
	if err := send(); err != nil || !r.kind().dropsSizes {
		return err
	}
	select {
	case <-time.After(firstPause):
		_ = send()
	case <-ctx.Done():
	}
	return nil
}
