package memory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/moatproject/moat/core/optional"
)

// run is a container's life from a start to its exit.
type run struct {
	done     chan struct{} // closed at its end
	status   int64         // set then
	released chan struct{} // closed when a program may begin that is held
	release  func()        // closes it; nil: the program is not held

	container *container
	stdin     io.WriteCloser // where what is attached writes to; nil: nothing does
	terminal  *terminal      // nil: none
	mu        sync.Mutex
	processes map[int]*process
	lastPID   int
}

func newRun() *run { return &run{done: make(chan struct{}), processes: map[int]*process{}} }

// start runs the container's program as process 1. The call of exited, from another
// goroutine, is the last thing that it does.
func (r *run) start(c *container, size optional.TerminalSize, exited func(status int)) error {
	r.container = c
	if c.cfg.TTY {
		r.terminal = &terminal{run: r, size: size}
	}
	first := r.newProcess(context.Background(), r.terminal)
	cmd := &command{process: first, ctx: first.ctx, args: c.argv, env: c.env, dir: c.dir}
	program, err := cmd.load()
	if err != nil {
		first.end()
		return err
	}
	stdin, open, err := os.Pipe()
	if err != nil {
		first.end()
		return err
	}
	streams := c.output.begin()
	cmd.stdin = stdin
	cmd.stdout, cmd.stderr = streamWriter{streams, false}, streamWriter{streams, true}
	r.stdin = open
	if c.cfg.TTY {
		r.stdin = cmd.connect(stdin, open, cmd.stdout)
	}
	if !c.cfg.Interactive {
		r.stdin.Close()
		r.stdin = nil
	}
	if c.cfg.Held {
		r.released = make(chan struct{})
		r.release = sync.OnceFunc(func() { close(r.released) })
	}
	go func() {
		r.awaitRelease(first.ctx)
		status := cmd.execute(program)
		first.end()
		stdin.Close()
		open.Close()
		exited(status)
	}()
	return nil
}

// awaitRelease returns when the program may begin, or ctx has ended before.
func (r *run) awaitRelease(ctx context.Context) {
	if r.release == nil {
		return
	}
	select {
	case <-r.released:
	case <-ctx.Done():
	}
}

// signal sends a signal to process 1.
func (r *run) signal(number int) {
	r.mu.Lock()
	first := r.processes[1]
	r.mu.Unlock()
	if first != nil {
		first.signal(number)
	}
}

// process is what signals go to.
type process struct {
	run      *run
	pid      int
	user     user
	terminal *terminal // that controls it; nil: none

	ctx    context.Context // its end has a cause of type killed
	cancel context.CancelCauseFunc

	mu       sync.Mutex
	notified map[int]chan<- int // signal → where a Process wants it
}

// killed is how a signal ends something.
type killed int

func (k killed) Error() string { return fmt.Sprintf("killed by signal %d", int(k)) }

func (k killed) status() int { return 128 + int(k) }

func (r *run) newProcess(parent context.Context, controlling *terminal) *process {
	p := &process{run: r, user: r.container.user, terminal: controlling, notified: map[int]chan<- int{}}
	p.ctx, p.cancel = context.WithCancelCause(parent)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lastPID++
	p.pid = r.lastPID
	r.processes[p.pid] = p
	return p
}

// end ends what the process has left in the background.
func (p *process) end() {
	p.cancel(killed(sigKILL))
	p.run.mu.Lock()
	defer p.run.mu.Unlock()
	delete(p.run.processes, p.pid)
}

// signal does what a signal does to a process.
func (p *process) signal(number int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	arrived, wanted := p.notified[number]
	switch {
	case number == sigKILL, !wanted && terminates(number):
		p.cancel(killed(number))
	case wanted:
		select {
		case arrived <- number:
		default:
		}
	}
}

// notify sends signals of a number to a channel, instead of what they do by default.
func (p *process) notify(arrived chan<- int, number int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.notified[number] = arrived
}

// command is a program in execution.
type command struct {
	*process
	ctx            context.Context // tells it to end
	args           []string        // with its name
	env            []string
	dir            string
	stdin          io.Reader // an *os.File, or nil
	stdout, stderr io.Writer
}

type program func(*command) int

// builtinMark begins the files of the built-in programs.
const builtinMark = "#!builtin "

// load finds the program that args name. That of a script is its interpreter, and args
// become the interpreter's.
func (c *command) load() (program, error) {
	found, err := c.find()
	switch {
	case errors.Is(err, syscall.ENOTDIR):
		err = &classedError{err, fs.ErrNotExist}
	case errors.Is(err, syscall.ENOEXEC), errors.Is(err, syscall.ELOOP):
		err = &classedError{err, fs.ErrPermission}
	}
	return found, err
}

// classedError is an error that also matches a class, with its own text only.
type classedError struct {
	error
	class error
}

func (e *classedError) Unwrap() []error { return []error{e.error, e.class} }

// find is load, with the errors that the kernel has for it.
func (c *command) find() (program, error) {
	name, err := c.lookPath(c.args[0])
	if err != nil {
		return nil, err
	}
	line, err := c.firstLine(name)
	if err != nil {
		return nil, err
	}
	if builtin, ok := strings.CutPrefix(line, builtinMark); ok {
		return c.builtin(name, builtin)
	}
	interpreter := strings.Fields(strings.TrimPrefix(line, "#!"))
	if !strings.HasPrefix(line, "#!") || len(interpreter) == 0 {
		return nil, pathError("exec", name, syscall.ENOEXEC)
	}
	c.args = slices.Concat(interpreter, []string{name}, c.args[1:])
	if line, err = c.firstLine(interpreter[0]); err != nil {
		return nil, err
	}
	builtin, ok := strings.CutPrefix(line, builtinMark)
	if !ok {
		return nil, pathError("exec", interpreter[0], syscall.ENOEXEC)
	}
	return c.builtin(interpreter[0], builtin)
}

// builtin returns the program that a file names.
func (c *command) builtin(file, name string) (program, error) {
	if found, ok := c.run.container.image.programs[name]; ok {
		return found, nil
	}
	return nil, pathError("exec", file, syscall.ENOEXEC)
}

func (c *command) firstLine(name string) (string, error) {
	file, err := c.files().open(name, os.O_RDONLY, 0)
	if err != nil {
		return "", err
	}
	defer file.Close()
	head := make([]byte, 256)
	n, err := io.ReadFull(file, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", pathError("read", name, err)
	}
	line, _, _ := strings.Cut(string(head[:n]), "\n")
	return line, nil
}

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// lookPath returns the path of a program, which matches fs.ErrNotExist or
// fs.ErrPermission where it cannot be run.
func (c *command) lookPath(name string) (string, error) {
	if strings.Contains(name, "/") {
		full := c.abs(name)
		return full, c.checkExecutable(full)
	}
	failure := pathError("exec", name, syscall.ENOENT)
	for _, folder := range strings.Split(cmp.Or(c.getenv("PATH"), defaultPath), ":") {
		full := c.abs(path.Join(folder, name))
		err := c.checkExecutable(full)
		if err == nil {
			return full, nil
		}
		if !os.IsNotExist(err) {
			failure = err
		}
	}
	return "", failure
}

func (c *command) checkExecutable(name string) error {
	info, err := c.files().stat(name)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return pathError("exec", name, syscall.EACCES)
	}
	return nil
}

// execute runs a loaded program to its end and returns its exit status.
func (c *command) execute(program program) int {
	if file, ok := c.stdin.(*os.File); ok {
		defer endReads(c.ctx, file)()
	}
	status := 0
	if c.ctx.Err() == nil {
		status = program(c)
	}
	if c.ctx.Err() != nil {
		return statusOf(c.ctx)
	}
	return status
}

// statusOf is the status of what a context has ended.
func statusOf(ctx context.Context) int {
	if cause, ok := errors.AsType[killed](context.Cause(ctx)); ok {
		return cause.status()
	}
	return 1
}

func (c *command) files() *filesystem { return c.run.container.files }

func (c *command) abs(name string) string { return absolute(c.dir, name) }

func absolute(dir, name string) string {
	if path.IsAbs(name) {
		return path.Clean(name)
	}
	return path.Join(dir, name)
}

func (c *command) getenv(key string) string {
	for _, entry := range slices.Backward(c.env) {
		if value, ok := strings.CutPrefix(entry, key+"="); ok {
			return value
		}
	}
	return ""
}

func joinEnv(env map[string]string) []string {
	list := make([]string, 0, len(env))
	for _, key := range slices.Sorted(maps.Keys(env)) {
		list = append(list, key+"="+env[key])
	}
	return list
}
