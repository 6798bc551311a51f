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
	"github.com/moatproject/moat/core/optional"
	"github.com/moby/term"
	"github.com/spf13/pflag"
)

// Console is the terminal of this process's standard input and output.
type Console interface {
	// Raw turns on raw mode until restore is called.
	Raw() (restore func() error, err error)

	// Size is in characters; zero where it is unknown.
	Size() optional.TerminalSize

	// Resized signals each change of the size until stop is called.
	Resized() (changes <-chan os.Signal, stop func())
}

type processConsole struct {
	in  *os.File
	out uintptr
}

// findConsole returns nil if standard input is not a terminal.
func findConsole(stdin, stdout *os.File) Console {
	if !term.IsTerminal(stdin.Fd()) {
		return nil
	}
	console := processConsole{stdin, stdin.Fd()}
	if term.IsTerminal(stdout.Fd()) {
		console.out = stdout.Fd()
	}
	return console
}

// Raw starts a guard for the terminal. A failure to start one is ignored: the terminal
// works without it.
func (c processConsole) Raw() (func() error, error) {
	guard, unguarded := startGuard(c.in)
	dismiss := func() {
		if unguarded == nil {
			guard.dismiss()
		}
	}
	state, err := term.SetRawTerminal(c.in.Fd())
	if err != nil {
		dismiss()
		return nil, fmt.Errorf("set the terminal to raw mode: %w", err)
	}
	return func() error {
		defer dismiss()
		return term.RestoreTerminal(c.in.Fd(), state)
	}, nil
}

func (c processConsole) Size() optional.TerminalSize {
	size, err := term.GetWinsize(c.out)
	if err != nil {
		return optional.TerminalSize{}
	}
	return optional.TerminalSize{Height: uint(size.Height), Width: uint(size.Width)}
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

// Set accepts an empty text as the default, as Docker does.
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
	errNoneForTTY = fmt.Errorf("%w: leave out -t, or run moat in a terminal", errNoTerminal)
	errNoneToJoin = fmt.Errorf("%w, and the container's is one: add --no-stdin, or run it in a terminal", errNoTerminal)
	errDetached   = errors.New("detached")
)

// session is the caller's end of an attachment.
type session struct {
	stdin   io.Reader
	stdout  io.Writer
	stderr  io.Writer
	size    optional.TerminalSize
	console Console          // nil: there is no terminal
	changes <-chan os.Signal // of its size, from before size was taken
	live    chan struct{}    // closed when the attachment begins to carry bytes

	interactive bool // the terminal's keys are the container's

	mu       sync.Mutex
	over     bool           // restored
	stop     func()         // changes
	asItWas  func() error   // the terminal, which is raw; nil: it is not
	untold   error          // a failure to read, until the terminal can show it
	watching sync.WaitGroup // of what begin has started
}

// openSession connects the process's streams, with a terminal where there is one on both
// sides. detach is called when the detach keys are typed. The caller restores it.
func (a *app) openSession(interactive, tty bool, keys detachKeys, detach context.CancelCauseFunc) *session {
	s := &session{stdout: a.env.Stdout, stderr: a.env.Stderr}
	if interactive {
		s.stdin = &input{a.env.Stdin, s.inputFailed}
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

// input reads standard input. A failure to read ends the input, not the session: the exit
// status is the workload's.
type input struct {
	io.Reader
	failed func(error)
}

func (i *input) Read(p []byte) (int, error) {
	n, err := i.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		i.failed(err)
		err = io.EOF
	}
	return n, err
}

// inputFailed reports a failure to read, at once or after raw mode.
func (s *session) inputFailed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asItWas != nil && !s.over {
		s.untold = err
		return
	}
	s.tell(err)
}

func (s *session) tell(err error) {
	fmt.Fprintf(s.stderr, "moat: standard input ends here for the workload: %v\n", err)
}

var errSessionOver = errors.New("the attachment has ended")

// begin gives the terminal's keys to the container and starts watch, for which wait waits.
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
		go func() {
			defer s.watching.Done()
			watch()
		}()
	}
	return nil
}

func (s *session) wait() { s.watching.Wait() }

// restore restores the terminal. After it, begin does nothing.
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
	err := s.asItWas()
	if s.untold != nil {
		s.tell(s.untold)
	}
	return err
}

// beginningWriter calls begin before its first Write.
type beginningWriter struct {
	io.Writer
	begin func()
}

func (w *beginningWriter) Write(p []byte) (int, error) {
	w.begin()
	return w.Writer.Write(p)
}

// detaching reads until the detach keys are typed, and holds back a possible beginning of
// them.
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

// sort separates the detach keys from other input, which ends with err.
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

// sizes returns a channel of the terminal's later sizes until ctx ends, or nil without a
// terminal.
func (s *session) sizes(ctx context.Context) <-chan optional.TerminalSize {
	if s.console == nil {
		return nil
	}
	sizes := make(chan optional.TerminalSize)
	go func() {
		for range receive(ctx, s.changes) {
			select {
			case sizes <- s.console.Size():
			case <-ctx.Done():
				return
			}
		}
	}()
	return sizes
}

// attachOptions returns options for a core.Attacher or a optional.Execer.
func (s *session) attachOptions(env Env, tty bool) core.AttachOptions {
	return core.AttachOptions{
		Stdin: s.stdin, Stdout: s.stdout, Stderr: env.Stderr,
		TTY: tty, InitialHeight: s.size.Height, InitialWidth: s.size.Width,
	}
}
