package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/moatproject/moat/core"
	"github.com/moby/term"
)

// Console is the terminal of this process's standard input and output.
type Console interface {
	// Raw passes keys on as they are typed, until restore is called.
	Raw() (restore func() error, err error)

	// Size is in characters; zero where it is unknown.
	Size() core.TerminalSize

	// Resized tells each change of the size until stop is called.
	Resized() (changes <-chan os.Signal, stop func())
}

type processConsole struct{ in, out uintptr }

// findConsole returns nil where standard input is no terminal.
func findConsole(stdin, stdout *os.File) Console {
	if !term.IsTerminal(stdin.Fd()) {
		return nil
	}
	console := processConsole{stdin.Fd(), stdin.Fd()}
	if term.IsTerminal(stdout.Fd()) {
		console.out = stdout.Fd()
	}
	return console
}

func (c processConsole) Raw() (func() error, error) {
	state, err := term.SetRawTerminal(c.in)
	if err != nil {
		return nil, fmt.Errorf("set the terminal to raw mode: %w", err)
	}
	return func() error { return term.RestoreTerminal(c.in, state) }, nil
}

func (c processConsole) Size() core.TerminalSize {
	size, err := term.GetWinsize(c.out)
	if err != nil {
		return core.TerminalSize{}
	}
	return core.TerminalSize{Height: uint(size.Height), Width: uint(size.Width)}
}

func (c processConsole) Resized() (<-chan os.Signal, func()) {
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, resizeSignals...)
	return changes, func() { signal.Stop(changes) }
}

// detachKeys is Docker's default.
const detachKeys = "ctrl-p,ctrl-q"

var (
	errNoTerminal = errors.New("the input device is not a terminal; leave -t out, or run it in one")
	errDetached   = errors.New("detached")
)

// session is the caller's end of an attachment.
type session struct {
	stdin   io.Reader
	size    core.TerminalSize
	console Console // nil: no terminal on both sides
	raw     bool
	restore func() error
}

// openSession connects the process's streams, raw where there is a terminal on both
// sides. detach is called when the detach keys are typed. The caller closes it.
func (a *app) openSession(interactive, tty bool, keys string, detach context.CancelCauseFunc) (*session, error) {
	s := &session{restore: func() error { return nil }}
	if interactive {
		s.stdin = a.env.Stdin
	}
	if !tty {
		return s, nil
	}
	if s.console = a.env.Console; s.console == nil {
		if interactive {
			return nil, errNoTerminal
		}
		return s, nil
	}
	sequence, err := term.ToBytes(keys)
	if err != nil {
		return nil, fmt.Errorf("--detach-keys %q: %w", keys, err)
	}
	s.size = s.console.Size()
	if !interactive {
		return s, nil
	}
	s.stdin = &detaching{term.NewEscapeProxy(s.stdin, sequence), detach}
	if s.restore, err = s.console.Raw(); err != nil {
		return nil, err
	}
	s.raw = true
	return s, nil
}

// detaching reads until the detach keys are typed.
type detaching struct {
	io.Reader
	detach context.CancelCauseFunc
}

func (d *detaching) Read(p []byte) (int, error) {
	n, err := d.Reader.Read(p)
	if _, typed := errors.AsType[term.EscapeError](err); typed {
		d.detach(errDetached)
		return n, io.EOF
	}
	return n, err
}

// sizes tells the terminal's later sizes until ctx ends; nil where there is none.
func (s *session) sizes(ctx context.Context) <-chan core.TerminalSize {
	if s.console == nil {
		return nil
	}
	sizes := make(chan core.TerminalSize)
	changes, stop := s.console.Resized()
	go func() {
		defer stop()
		for {
			select {
			case <-changes:
			case <-ctx.Done():
				return
			}
			select {
			case sizes <- s.console.Size():
			case <-ctx.Done():
				return
			}
		}
	}()
	return sizes
}

// attachOptions are for a core.Attacher or a core.Execer.
func (s *session) attachOptions(env Env, tty bool) core.AttachOptions {
	return core.AttachOptions{
		Stdin: s.stdin, Stdout: env.Stdout, Stderr: env.Stderr,
		TTY: tty, InitialHeight: s.size.Height, InitialWidth: s.size.Width,
	}
}
