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
	"time"

	"github.com/moatproject/moat/core"
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
	return stream.carry(stdin, opts, func(context.Context) error { return nil })
}

// StartAttached starts a container, whose output it copies from the first byte on.
func (r *Runtime) StartAttached(ctx context.Context, id string, opts core.AttachOptions) error {
	const op = "start attached"
	begin := func(context.Context) error { return nil }
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
		begin = func(ctx context.Context) error {
			open, err := r.holds.Await(ctx, hold)
			if open {
				run.release()
			}
			return err
		}
	}
	r.mu.Unlock()
	return stream.carry(run.stdin, opts, begin)
}

// ReleaseContainer lets the program of a held container begin.
func (r *Runtime) ReleaseContainer(ctx context.Context, id string) error {
	const op = "release container"
	r.mu.Lock()
	defer r.mu.Unlock()
	c, err := r.find(ctx, op, id)
	switch {
	case err != nil:
		return err
	case !c.cfg.Held:
		return invalid(op, id, "Held", errors.New("the container is not held"))
	case !r.holds.Release(c.info.ID, c.state == core.StateCreated):
		return failure(op, id, core.ErrNotRunning, errors.New("nothing attached waits for the release"))
	}
	return nil
}

// writeGrace is how long a Write in progress is waited for when a method is to return,
// which it must do within a second.
const writeGrace = 500 * time.Millisecond

// carry copies input and output until the run ends, a writer fails, or ctx ends. The
// input is read once begin has returned nil.
func (s *logStream) carry(stdin io.WriteCloser, opts core.AttachOptions, begin func(context.Context) error) error {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	input, refused := &sender{ended: make(chan error, 1)}, make(chan error, 1)
	go func() {
		if err := begin(ctx); err != nil {
			refused <- err
		} else if opts.Stdin != nil && stdin != nil {
			input.send(ctx, opts.Stdin, stdin)
		}
	}()
	live := newLiveWriters(ctx)
	copied := make(chan error, 1)
	go func() {
		copied <- s.copyTo(optional.LogOptions{Follow: true, Stdout: live.writer(opts.Stdout), Stderr: live.writer(opts.Stderr)})
	}()
	select {
	case err := <-copied:
		return errors.Join(err, input.failure(s.op, s.id))
	case err := <-refused:
		return failure(s.op, s.id, nil, err)
	case <-ctx.Done():
		live.await()
		return failure(s.op, s.id, nil, ctx.Err())
	}
}

// sender copies a caller's input.
type sender struct{ ended chan error } // the caller's failure to read

// send copies input and its end, until ctx has ended.
func (s *sender) send(ctx context.Context, from io.Reader, to io.WriteCloser) {
	var failed error
	_, _ = io.Copy(to, readerFunc(func(p []byte) (int, error) {
		n, err := from.Read(p)
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if !errors.Is(err, io.EOF) {
			failed = err
		}
		return n, err
	}))
	s.ended <- failed // before what the program may end at
	if ctx.Err() == nil {
		to.Close()
	}
}

// failure is that of the input, nil where it has not ended.
func (s *sender) failure(op, id string) error {
	select {
	case err := <-s.ended:
		if err != nil {
			return failure(op, id, nil, err)
		}
	default:
	}
	return nil
}

// liveWriters make writers that take turns, and of which no Write begins once ctx has
// ended.
type liveWriters struct {
	ctx    context.Context
	turn   sync.Mutex
	failed chan error // the first failure of a Write
}

func newLiveWriters(ctx context.Context) *liveWriters {
	return &liveWriters{ctx: ctx, failed: make(chan error, 1)}
}

// writer makes one of w. nil discards.
func (l *liveWriters) writer(w io.Writer) io.Writer {
	if w == nil {
		w = io.Discard
	}
	return writerFunc(func(p []byte) (int, error) {
		l.turn.Lock()
		defer l.turn.Unlock()
		if err := l.ctx.Err(); err != nil {
			return 0, err
		}
		n, err := w.Write(p)
		if err != nil {
			select {
			case l.failed <- err:
			default:
			}
		}
		return n, err
	})
}

// await returns when no Write is in progress, once ctx has ended, or after writeGrace.
func (l *liveWriters) await() {
	quiet := make(chan struct{})
	go func() {
		defer close(quiet)
		_, _ = l.writer(nil).Write(nil)
	}()
	select {
	case <-quiet:
	case <-time.After(writeGrace):
	}
}

// Exec runs a further program beside the container's own, which ends with that one.
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
	attached, cancel := context.WithCancel(ctx)
	live := newLiveWriters(attached)
	cmd.stdin, cmd.stdout, cmd.stderr = stdin, live.writer(opts.Stdout), live.writer(opts.Stderr)
	var input io.WriteCloser = open
	if opts.TTY {
		input = cmd.connect(stdin, open, cmd.stdout)
		go cmd.terminal.follow(attached, opts.Resize)
	}
	sent := &sender{ended: make(chan error, 1)}
	if opts.Stdin == nil {
		input.Close()
	} else {
		go sent.send(attached, opts.Stdin, input)
	}
	ended := make(chan int, 1)
	go func() {
		status := cmd.execute(program)
		cmd.end()
		stdin.Close()
		open.Close()
		cancel()
		_, _ = live.writer(nil).Write(nil) // takes its turn after a write of others
		ended <- status
	}()
	if opts.Detach {
		return 0, nil
	}
	select {
	case status := <-ended:
		select {
		case err := <-live.failed:
			return 0, failure(op, id, nil, err)
		default:
			return int64(status), sent.failure(op, id)
		}
	case err := <-live.failed:
		cancel()
		return 0, failure(op, id, nil, err)
	case <-ctx.Done():
		cancel()
		live.await()
		return 0, failure(op, id, nil, ctx.Err())
	case <-r.closed:
		cancel()
		live.await()
		return 0, closedError(op, id)
	}
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
