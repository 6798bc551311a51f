package memory

import (
	"io"
	"io/fs"
	"slices"
	"syscall"
)

// Process is a process of a container, as a program of [Options.Programs] sees it.
type Process struct{ command *command }

// inProcess makes a program of a function of the caller's.
func inProcess(function func(*Process) int) program {
	return func(c *command) int { return function(&Process{command: c}) }
}

// Args returns the program's name and its arguments.
func (p *Process) Args() []string { return slices.Clone(p.command.args) }

// Environ returns the environment, as KEY=value.
func (p *Process) Environ() []string { return slices.Clone(p.command.env) }

// Stdin returns the standard input. A blocked Read returns when Done is closed.
func (p *Process) Stdin() io.Reader { return p.command.input() }

// Stdout returns the standard output.
func (p *Process) Stdout() io.Writer { return p.command.stdout }

// Stderr returns the standard error output.
func (p *Process) Stderr() io.Writer { return p.command.stderr }

// Done is closed when a signal, or the end of the container, has ended the process. The
// function must return then: nothing can stop it from outside, and a container does not
// end before its first process.
func (p *Process) Done() <-chan struct{} { return p.command.ctx.Done() }

// Notify sends the numbers of signals that arrive from now on to a channel, and they no
// longer end the process. As that of [os/signal], it does not wait for room in the channel.
// SIGKILL ends the process all the same.
func (p *Process) Notify(arrived chan<- int, signals ...int) {
	for _, number := range signals {
		p.command.notify(arrived, number)
	}
}

// Kill sends the process a signal, with its number in Linux.
func (p *Process) Kill(signal int) error {
	if signal < 1 || signal > lastSignal || stops(signal) {
		return syscall.EINVAL
	}
	p.command.signal(signal)
	return nil
}

// Start starts a child process. args has its program and arguments. It inherits the
// environment, the directory and the outputs, and has no input. It is killed when this
// process ends. The channel delivers its exit status once.
func (p *Process) Start(args ...string) (<-chan int, error) {
	parent := p.command
	child := parent.run.newProcess(parent.ctx, parent.terminal)
	child.user = parent.user
	started := &command{
		process: child, ctx: child.ctx, args: args, env: parent.env, dir: parent.dir,
		stdout: parent.stdout, stderr: parent.stderr,
	}
	found, err := started.load()
	if err != nil {
		child.end()
		return nil, err
	}
	ended := make(chan int, 1)
	go func() {
		status := started.execute(found)
		child.end()
		ended <- status
	}()
	return ended, nil
}

// Dir returns the working directory.
func (p *Process) Dir() (string, error) { return p.command.dir, nil }

// Hostname returns the container's.
func (p *Process) Hostname() (string, error) { return p.command.run.container.hostname(), nil }

// User returns the numbers of the user, its group and all its groups.
func (p *Process) User() (uid, gid int, groups []int, err error) {
	user := p.command.user
	return user.uid, user.gid, slices.Clone(user.groups), nil
}

// TerminalSize returns the size of the terminal that a stream is connected to: 0 is stdin,
// 1 is stdout, and 2 is stderr. The error for one that is not matches [syscall.ENOTTY].
func (p *Process) TerminalSize(stream int) (height, width int, err error) {
	streams := []any{p.command.stdin, p.command.stdout, p.command.stderr}
	if stream < 0 || stream >= len(streams) || !p.command.isTerminal(streams[stream]) {
		return 0, 0, syscall.ENOTTY
	}
	size := p.command.terminal.currentSize()
	return int(size.Height), int(size.Width), nil
}

// OpenFile opens a file of the container, as [os.OpenFile] does.
func (p *Process) OpenFile(name string, flag int, mode fs.FileMode) (io.ReadWriteCloser, error) {
	file, err := p.command.files().open(p.command.abs(name), flag, mode)
	if err != nil {
		return nil, err
	}
	return file, nil
}
