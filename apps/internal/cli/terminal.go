package cli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"

	"github.com/moatproject/moat/core"
	"github.com/moby/term"
	"github.com/spf13/pflag"
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

// detachKeys are a sequence of keys, as a flag: `ctrl-x,q`.
type detachKeys struct {
	text  string
	bytes []byte
}

// defaultDetachKeys are Docker's.
func defaultDetachKeys() detachKeys {
	var keys detachKeys
	_ = keys.Set("")
	return keys
}

// Set takes an empty text for the default, as Docker does.
func (k *detachKeys) Set(text string) (err error) {
	k.text = cmp.Or(text, "ctrl-p,ctrl-q")
	k.bytes, err = term.ToBytes(k.text)
	return err
}

func (k *detachKeys) String() string { return k.text }
func (k *detachKeys) Type() string   { return "keys" }

// register adds the flag.
func (k *detachKeys) register(flags *pflag.FlagSet) {
	*k = defaultDetachKeys()
	flags.Var(k, "detach-keys", "`keys` that detach from a terminal")
}

var (
	errNoTerminal = errors.New("the input device is not a terminal")
	errNoneForTTY = fmt.Errorf("%w: leave -t out, or run it in one", errNoTerminal)
	errNoneToJoin = fmt.Errorf("%w, and the container's is one: add --no-stdin, or run it in a terminal", errNoTerminal)
	errDetached   = errors.New("detached")
)

// session is the caller's end of an attachment.
type session struct {
	stdin   io.Reader
	stdout  io.Writer
	size    core.TerminalSize
	console Console          // nil: there is no terminal
	changes <-chan os.Signal // of its size, from before size was taken
	live    chan struct{}    // closed when the attachment begins to carry bytes

	interactive bool // the terminal's keys are the container's

	mu       sync.Mutex
	over     bool           // restored
	stop     func()         // changes
	asItWas  func() error   // the terminal, which is raw; nil: it is not
	watching sync.WaitGroup // of what begin has started
}

// openSession connects the process's streams, with a terminal where there is one on both
// sides. detach is called when the detach keys are typed. The caller restores it.
func (a *app) openSession(interactive, tty bool, keys detachKeys, detach context.CancelCauseFunc) *session {
	s := &session{stdout: a.env.Stdout}
	if interactive {
		s.stdin = a.env.Stdin
	}
	if s.console = a.env.Console; !tty || s.console == nil {
		s.console = nil
		return s
	}
	s.changes, s.stop = s.console.Resized()
	s.size = s.console.Size()
	s.live = make(chan struct{})
	begin := sync.OnceFunc(func() { close(s.live) })
	s.stdout = &beginningWriter{s.stdout, begin}
	if s.interactive = interactive; interactive {
		s.stdin = &detaching{Reader: s.stdin, keys: keys.bytes, begin: begin, detach: detach}
	}
	return s
}

var errSessionOver = errors.New("the attachment has ended")

// begin gives the terminal's keys to the container, and runs watch, which wait waits for.
func (s *session) begin(watch func()) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return errSessionOver
	}
	if s.interactive {
		if s.asItWas, err = s.console.Raw(); err != nil {
			return err
		}
	}
	if watch != nil {
		s.watching.Add(1)
		s.guard(func() {
			defer s.watching.Done()
			watch()
		})
	}
	return nil
}

func (s *session) wait() { s.watching.Wait() }

// restore makes the terminal what it was. Nothing begins any more.
func (s *session) restore() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return nil
	}
	s.over = true
	if s.stop != nil {
		s.stop()
	}
	if s.asItWas == nil {
		return nil
	}
	return s.asItWas()
}

// guard runs f beside the session. A panic of it would pass by those who restore the
// terminal.
func (s *session) guard(f func()) {
	go func() {
		defer func() {
			if cause := recover(); cause != nil {
				_ = s.restore()
				panic(cause)
			}
		}()
		f()
	}()
}

// beginningWriter tells its first Write.
type beginningWriter struct {
	io.Writer
	begin func()
}

func (w *beginningWriter) Write(p []byte) (int, error) {
	w.begin()
	return w.Writer.Write(p)
}

// detaching reads until the detach keys are typed, and holds back what they may begin with.
type detaching struct {
	io.Reader
	keys   []byte
	begin  func() // told of the first Read
	detach context.CancelCauseFunc

	held, ready []byte // what may be keys; what is none
	err         error  // after ready
}

func (d *detaching) Read(p []byte) (int, error) {
	d.begin()
	for len(d.ready) == 0 && d.err == nil {
		n, err := d.Reader.Read(p)
		d.sort(append(d.held, p[:n]...), err)
	}
	if n := copy(p, d.ready); n > 0 {
		d.ready = d.ready[n:]
		return n, nil
	}
	if errors.Is(d.err, errDetached) {
		d.detach(errDetached)
		return 0, io.EOF
	}
	return 0, d.err
}

// sort tells keys from other input, which ends with err.
func (d *detaching) sort(typed []byte, err error) {
	if before, _, found := bytes.Cut(typed, d.keys); found {
		d.ready, d.err = before, errDetached
		return
	}
	d.ready, d.held, d.err = typed, nil, err
	if err != nil {
		return
	}
	for begun := min(len(typed), len(d.keys)-1); begun > 0; begun-- {
		if rest := len(typed) - begun; bytes.HasPrefix(d.keys, typed[rest:]) {
			d.ready, d.held = typed[:rest], typed[rest:]
			return
		}
	}
}

// sizes tells the terminal's later sizes until ctx ends; nil where there is none.
func (s *session) sizes(ctx context.Context) <-chan core.TerminalSize {
	if s.console == nil {
		return nil
	}
	sizes := make(chan core.TerminalSize)
	s.guard(func() {
		for range receive(ctx, s.changes) {
			select {
			case sizes <- s.console.Size():
			case <-ctx.Done():
				return
			}
		}
	})
	return sizes
}

// attachOptions are for a core.Attacher or a core.Execer.
func (s *session) attachOptions(env Env, tty bool) core.AttachOptions {
	return core.AttachOptions{
		Stdin: s.stdin, Stdout: s.stdout, Stderr: env.Stderr,
		TTY: tty, InitialHeight: s.size.Height, InitialWidth: s.size.Width,
	}
}
