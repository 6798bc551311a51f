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
	"sync"

	"github.com/moatproject/moat/core"
)

// Attach connects to a running container. One without Interactive reads no Stdin.
func (r *Runtime) Attach(ctx context.Context, id string, opts core.AttachOptions) error {
	const op = "attach to container"
	r.mu.Lock()
	c, err := r.find(ctx, op, id)
	if err == nil && c.state != core.StateRunning {
		err = failure(op, id, core.ErrNotRunning, nil)
	}
	if err != nil {
		r.mu.Unlock()
		return err
	}
	stream, stdin := r.streamOf(ctx, op, c, c.output.now()), c.run.stdin
	r.mu.Unlock()
	return stream.carry(stdin, opts)
}

// StartAttached starts a container, whose output it copies from the first byte on.
func (r *Runtime) StartAttached(ctx context.Context, id string, opts core.AttachOptions) error {
	const op = "start attached"
	size, err := initialSize(opts)
	if err != nil {
		return refused(op, id, err)
	}
	stream, stdin, err := r.startToAttach(ctx, op, id, size)
	if err != nil {
		return err
	}
	return stream.carry(stdin, opts)
}

func (r *Runtime) startToAttach(ctx context.Context, op, id string, size core.TerminalSize) (*logStream, io.WriteCloser, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, err := r.find(ctx, op, id)
	if err != nil {
		return nil, nil, err
	}
	before := c.output.now()
	if err := r.start(op, id, c, size); err != nil {
		return nil, nil, err
	}
	return r.streamOf(ctx, op, c, before), c.run.stdin, nil
}

// carry copies input and output until the run ends, a writer fails, or ctx ends.
func (s *logStream) carry(stdin io.WriteCloser, opts core.AttachOptions) error {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	if opts.Stdin != nil && stdin != nil {
		go send(ctx, opts.Stdin, stdin)
	}
	live := liveWriters(ctx)
	copied := make(chan error, 1)
	go func() {
		copied <- s.copyTo(core.LogOptions{Follow: true, Stdout: live(opts.Stdout), Stderr: live(opts.Stderr)})
	}()
	select {
	case err := <-copied:
		return err
	case <-ctx.Done():
		return failure(s.op, s.id, nil, ctx.Err())
	}
}

// send copies input and its end, until ctx has ended.
func send(ctx context.Context, from io.Reader, to io.WriteCloser) {
	_, _ = io.Copy(to, readerFunc(func(p []byte) (int, error) {
		n, err := from.Read(p)
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		return n, err
	}))
	if ctx.Err() == nil {
		to.Close()
	}
}

// liveWriters makes writers that take turns, and of which no Write begins once ctx has
// ended. nil discards.
func liveWriters(ctx context.Context) func(io.Writer) io.Writer {
	var turn sync.Mutex
	return func(w io.Writer) io.Writer {
		if w == nil {
			w = io.Discard
		}
		return writerFunc(func(p []byte) (int, error) {
			turn.Lock()
			defer turn.Unlock()
			if err := ctx.Err(); err != nil {
				return 0, err
			}
			return w.Write(p)
		})
	}
}

// Exec runs a further program beside the container's own, which ends with that one.
func (r *Runtime) Exec(ctx context.Context, id string, opts core.ExecOptions) (int64, error) {
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
	attached, cancel := context.WithCancel(ctx)
	live := liveWriters(attached)
	cmd.stdin, cmd.stdout, cmd.stderr = stdin, live(opts.Stdout), live(opts.Stderr)
	var input io.WriteCloser = open
	if opts.TTY {
		input = cmd.connect(stdin, open, cmd.stdout)
		go cmd.terminal.follow(attached, opts.Resize)
	}
	if opts.Stdin == nil {
		input.Close()
	} else {
		go send(attached, opts.Stdin, input)
	}
	ended := make(chan int, 1)
	go func() {
		status := cmd.execute(program)
		cmd.end()
		stdin.Close()
		open.Close()
		cancel()
		_, _ = live(nil).Write(nil) // takes its turn after a write of others
		ended <- status
	}()
	if opts.Detach {
		return 0, nil
	}
	select {
	case status := <-ended:
		return int64(status), nil
	case <-ctx.Done():
		cancel()
		return 0, failure(op, id, nil, ctx.Err())
	case <-r.closed:
		cancel()
		return 0, closedError(op, id)
	}
}

// furtherProcess prepares a process of a running container.
func (r *Runtime) furtherProcess(ctx context.Context, op, id string, opts core.ExecOptions, size core.TerminalSize) (*command, error) {
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
