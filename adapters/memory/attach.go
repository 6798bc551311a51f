package memory

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/driver"
	"github.com/moatproject/moat/core/optional"
)

// Attach connects to a running container. One without Interactive reads no Stdin.
func (r *Runtime) Attach(ctx context.Context, id string, opts core.AttachOptions) error {
	const op = "attach to container"
	size, err := initialSize(opts)
	if err != nil {
		return refused(op, id, err)
	}
	r.mu.Lock()
	c, err := r.find(ctx, op, id)
	switch {
	case err != nil:
	case c.state != core.StateRunning:
		err = failure(op, id, core.ErrNotRunning, nil)
	}
	if err != nil {
		r.mu.Unlock()
		return err
	}
	stream, stdin := r.streamOf(ctx, op, c, c.output.now()), c.run.stdin
	if c.cfg.TTY && opts.InitialHeight > 0 && opts.InitialWidth > 0 {
		c.run.terminal.resize(size)
	}
	r.mu.Unlock()
	return stream.carry(stdin, opts, nil)
}

// StartAttached starts a container, whose output it copies from the first byte on.
func (r *Runtime) StartAttached(ctx context.Context, id string, opts core.AttachOptions) error {
	const op = "start attached"
	var ready func(context.Context) error
	size, err := initialSize(opts)
	if err != nil {
		return refused(op, id, err)
	}
	r.mu.Lock()
	c, err := r.find(ctx, op, id)
	if err != nil {
		r.mu.Unlock()
		return err
	}
	before := c.output.now()
	if err := r.start(op, id, c, size); err != nil {
		r.mu.Unlock()
		return err
	}
	stream, run := r.streamOf(ctx, op, c, before), c.run
	if c.cfg.Held {
		hold := r.holds.Begin(c.info.ID)
		defer r.holds.End(c.info.ID, hold)
		ready = func(ctx context.Context) error {
			open, err := r.holds.Await(ctx, hold)
			if open {
				run.release()
				hold.Decide(true)
			}
			return err
		}
	}
	r.mu.Unlock()
	return stream.carry(run.stdin, opts, ready)
}

// ReleaseContainer lets the program of a held container begin.
func (r *Runtime) ReleaseContainer(ctx context.Context, id string) error {
	const op = "release container"
	hold, err := r.release(ctx, op, id)
	if err != nil || hold == nil {
		return err
	}
	begun, err := hold.AwaitBegun(ctx)
	switch {
	case err != nil:
		return failure(op, id, nil, err)
	case !begun:
		return notWaiting(op, id)
	}
	return nil
}

// release is ReleaseContainer until StartAttached knows. The result is what is released, nil
// where the start is still to come.
func (r *Runtime) release(ctx context.Context, op, id string) (*driver.Hold, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, err := r.find(ctx, op, id)
	if err != nil {
		return nil, err
	}
	if !c.cfg.Held {
		return nil, invalid(op, id, "Held", errors.New("the container is not held"))
	}
	hold, ok := r.holds.Release(c.info.ID, c.state == core.StateCreated)
	if !ok {
		return nil, notWaiting(op, id)
	}
	return hold, nil
}

func notWaiting(op, id string) error {
	return failure(op, id, core.ErrNotRunning, errors.New("nothing attached waits for the release"))
}

// carry copies input and output until the run ends, a writer fails, or the stream's
// context ends. The input is read once ready has returned nil.
func (s *logStream) carry(stdin io.WriteCloser, opts core.AttachOptions, ready func(context.Context) error) error {
	carrier := driver.Carrier{Caller: opts, Input: stdin, Ready: ready}
	carrier.Copy = func(ctx context.Context, stdout, stderr io.Writer) (int64, error) {
		defer context.AfterFunc(ctx, func() { _ = s.Close() })()
		return 0, s.copyTo(optional.LogOptions{Follow: true, Stdout: stdout, Stderr: stderr})
	}
	_, err := carrier.Run(s.ctx)
	return streamFailure(s.op, s.id, err)
}

// streamFailure is failure for what a carrier returned, which may be an error of ours.
func streamFailure(op, id string, err error) error {
	if _, ours := errors.AsType[*core.Error](err); ours || err == nil {
		return err
	}
	if caller, ok := errors.AsType[*driver.CallerError](err); ok {
		err = caller.Err
	}
	return failure(op, id, nil, err)
}

// Exec runs another program in a running container. It is killed when the container exits.
func (r *Runtime) Exec(ctx context.Context, id string, opts optional.ExecOptions) (int64, error) {
	const op = "exec in container"
	if err := opts.Validate(); err != nil {
		return 0, refused(op, id, err)
	}
	size, err := initialSize(opts.AttachOptions)
	if err != nil {
		return 0, refused(op, id, err)
	}
	cmd, err := r.furtherProcess(ctx, op, id, opts, size)
	if err != nil {
		return 0, err
	}
	program, err := cmd.load()
	if err != nil {
		cmd.end()
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			return 0, invalid(op, id, "Cmd", err)
		}
		return 0, failure(op, id, nil, err)
	}
	stdin, open, err := os.Pipe()
	if err != nil {
		cmd.end()
		return 0, failure(op, id, nil, err)
	}
	input := io.WriteCloser(open)
	if opts.TTY {
		input = keyboard{cmd.terminal}
	}
	if opts.Stdin == nil {
		input.Close()
	}
	run := func() int64 {
		defer stdin.Close()
		defer open.Close()
		defer cmd.end()
		return int64(cmd.execute(program))
	}
	connect := func(ctx context.Context, stdout, stderr io.Writer) {
		cmd.stdin, cmd.stdout, cmd.stderr = stdin, unfailing(stdout), unfailing(stderr)
		if opts.TTY {
			cmd.connect(stdin, open, cmd.stdout)
			go cmd.terminal.follow(ctx, opts.Resize)
		}
	}
	if opts.Detach {
		detached, cancel := context.WithCancel(ctx)
		connect(detached, io.Discard, io.Discard)
		go func() {
			defer cancel()
			run()
		}()
		return 0, nil
	}
	connected := make(chan struct{})
	carrier := driver.Carrier{Caller: opts.AttachOptions, Input: input}
	carrier.Ready = func(ctx context.Context) error {
		select {
		case <-connected:
		case <-ctx.Done():
		}
		return ctx.Err()
	}
	carrier.Copy = func(ctx context.Context, stdout, stderr io.Writer) (int64, error) {
		connect(ctx, stdout, stderr)
		close(connected)
		ended := make(chan int64, 1)
		go func() { ended <- run() }()
		select {
		case status := <-ended:
			return status, nil
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-r.closed:
			return 0, closedError(op, id)
		}
	}
	status, err := carrier.Run(ctx)
	return status, streamFailure(op, id, err)
}

// unfailing makes a writer for a program, which goes on when its reader has gone.
func unfailing(w io.Writer) io.Writer {
	return writerFunc(func(p []byte) (int, error) {
		_, _ = w.Write(p)
		return len(p), nil
	})
}

// furtherProcess prepares a process of a running container.
func (r *Runtime) furtherProcess(ctx context.Context, op, id string, opts optional.ExecOptions, size optional.TerminalSize) (*command, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, err := r.find(ctx, op, id)
	switch {
	case err != nil:
		return nil, err
	case c.state != core.StateRunning:
		return nil, failure(op, id, core.ErrNotRunning, nil)
	}
	owner := c.user
	if opts.User != "" {
		if owner, err = c.files.lookUpUser(opts.User); err != nil {
			return nil, invalid(op, id, "User", err)
		}
	}
	dir := c.dir
	if opts.WorkingDir != "" {
		dir = path.Clean(opts.WorkingDir)
		if info, err := c.files.stat(dir); err != nil || !info.IsDir() {
			return nil, invalid(op, id, "WorkingDir", fmt.Errorf("%s is no folder of the container", dir))
		}
	}
	env := map[string]string{}
	var controlling *terminal
	if opts.TTY {
		env["TERM"] = terminalType
		controlling = &terminal{run: c.run, size: size}
	}
	for _, entry := range append(c.env[:len(c.env):len(c.env)], opts.Env...) {
		key, value, _ := strings.Cut(entry, "=")
		env[key] = value
	}
	process := c.run.newProcess(c.run.first(), controlling)
	process.user = owner
	return &command{process: process, ctx: process.ctx, args: opts.Cmd, env: joinEnv(env), dir: dir}, nil
}

// first is the context of process 1, which ends with it.
func (r *run) first() context.Context {
	r.mu.Lock()
	defer r.mu.Unlock()
	if first := r.processes[1]; first != nil {
		return first.ctx
	}
	ended, cancel := context.WithCancelCause(context.Background())
	cancel(killed(sigKILL))
	return ended
}
