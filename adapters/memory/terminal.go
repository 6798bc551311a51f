package memory

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"sync"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// The size of a terminal that nobody has given one.
const (
	usualHeight = 24
	usualWidth  = 80
)

// terminalType is what TERM says where there is one, as engines choose it.
const terminalType = "xterm"

// terminal does what a kernel does between a program and whoever types.
type terminal struct {
	run    *run
	stdin  *os.File // the programs' end of input
	input  *os.File
	output io.Writer

	mu      sync.Mutex // guards what follows
	size    optional.TerminalSize
	midLine bool // a line has been begun
}

func initialSize(opts core.AttachOptions) (optional.TerminalSize, error) {
	if opts.InitialHeight == 0 || opts.InitialWidth == 0 {
		return optional.TerminalSize{Height: usualHeight, Width: usualWidth}, nil
	}
	return optional.TerminalSize{Height: opts.InitialHeight, Width: opts.InitialWidth},
		core.ValidateTerminalSize(opts.InitialHeight, opts.InitialWidth)
}

// connect puts the command's terminal between it and its streams.
func (c *command) connect(stdin, input *os.File, output io.Writer) keyboard {
	t := c.terminal
	t.stdin, t.input, t.output = stdin, input, output
	c.stdin, c.stdout, c.stderr = stdin, t, t
	return keyboard{t}
}

func (p *process) isTerminal(stream any) bool {
	return p.terminal != nil && (stream == any(p.terminal) || stream == any(p.terminal.stdin))
}

func (t *terminal) Write(p []byte) (int, error) {
	_, err := t.output.Write(bytes.ReplaceAll(p, []byte("\n"), []byte("\r\n")))
	return len(p), err
}

// keyboard is where typed keys go. Who stops typing has not closed the terminal.
type keyboard struct{ *terminal }

func (keyboard) Close() error { return nil }

func (k keyboard) Write(keys []byte) (int, error) {
	const ctrlC, ctrlD = "\x03", "\x04"
	for rest := bytes.ReplaceAll(keys, []byte("\r"), []byte("\n")); len(rest) > 0; {
		at := bytes.IndexAny(rest, ctrlC+ctrlD)
		if at < 0 {
			_, err := k.enter(rest)
			return len(keys), err
		}
		midLine, err := k.enter(rest[:at])
		switch control := string(rest[at]); {
		case err != nil:
			return 0, err
		case control == ctrlC:
			k.signal(sigINT)
		case !midLine:
			k.input.Close()
		}
		rest = rest[at+1:]
	}
	return len(keys), nil
}

// enter passes text on. It shows it first: a program's answer comes after it.
func (k keyboard) enter(text []byte) (midLine bool, err error) {
	k.mu.Lock()
	if len(text) > 0 {
		k.midLine = !bytes.HasSuffix(text, []byte("\n"))
	}
	midLine = k.midLine
	k.mu.Unlock()
	if len(text) > 0 {
		_, _ = k.terminal.Write(text)
	}
	_, err = k.input.Write(text)
	return midLine, err
}

// signal sends a signal to all that the terminal controls.
func (t *terminal) signal(number int) {
	t.run.mu.Lock()
	defer t.run.mu.Unlock()
	for _, p := range t.run.processes {
		if p.terminal == t {
			p.signal(number)
		}
	}
}

func (t *terminal) resize(size optional.TerminalSize) {
	t.mu.Lock()
	changed := t.size != size
	t.size = size
	t.mu.Unlock()
	if changed {
		t.signal(sigWINCH)
	}
}

// follow gives the terminal its later sizes, but those that no terminal can have.
func (t *terminal) follow(ctx context.Context, sizes <-chan optional.TerminalSize) {
	for {
		select {
		case size, open := <-sizes:
			if !open {
				return
			}
			if core.ValidateTerminalSize(size.Height, size.Width) == nil {
				t.resize(size)
			}
		case <-ctx.Done():
			return
		}
	}
}

func (t *terminal) currentSize() optional.TerminalSize {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.size
}

// ResizeTTY sets the size of the container's terminal.
func (r *Runtime) ResizeTTY(ctx context.Context, id string, height, width uint) error {
	const op = "resize terminal"
	if err := core.ValidateTerminalSize(height, width); err != nil {
		return refused(op, id, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c, err := r.find(ctx, op, id)
	switch {
	case err != nil:
		return err
	case !c.cfg.TTY:
		return invalid(op, id, "TTY", errors.New("the container has no terminal"))
	case c.state != core.StateRunning || r.holds.Holding(c.info.ID):
		return failure(op, id, core.ErrNotRunning, nil)
	}
	c.run.terminal.resize(optional.TerminalSize{Height: height, Width: width})
	return nil
}
