package driver

import (
	"context"
	"io"
	"reflect"
	"sync"
	"time"

	"github.com/moatproject/moat/core"
)

// Carrier carries the streams of one attachment or exec between a caller and an engine,
// as [core.Attacher] promises: no two Writes at the same time, none after the return,
// a return within a second of the context's end, and Stdin's failure told at the end.
type Carrier struct {
	// Caller has the streams. Only Stdin, Stdout and Stderr are used; nil writers discard.
	Caller core.AttachOptions

	// Input is where Stdin is copied to. Close tells the program that its input has ended;
	// it is called once, at Stdin's end or failure. nil: Stdin is not read.
	Input io.WriteCloser

	// Ready returns when the program may be given input. Stdin is not read before. Its
	// failure ends the attachment. nil: at once.
	Ready func(context.Context) error

	// Copy writes the program's output to stdout and stderr. It returns the program's exit
	// code when there is no more output, or an error as soon as ctx ends. It may write from
	// several goroutines. If the caller's Stdout and Stderr are the same writer, so are
	// stdout and stderr. Copy can then use one pipe for both, which keeps their order.
	Copy func(ctx context.Context, stdout, stderr io.Writer) (int64, error)
}

// Run copies the streams until Copy returns, Ready fails, a writer fails, or ctx ends. It
// returns Copy's exit code and the error that ended it; the error of ctx wins over others.
// A failure of a caller's stream is a [*CallerError]. If only Stdin failed, the exit code
// is valid.
//
// Run does not wait for a Read of Stdin that is in progress. It waits for Copy, and for a
// Write in progress, until half a second after ctx ends.
func (c *Carrier) Run(ctx context.Context) (int64, error) {
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	output := &turns{ctx: running, failed: make(chan error, 1)}
	type result struct {
		code int64
		err  error
	}
	copied := make(chan result, 1)
	stdout := output.writer(c.Caller.Stdout)
	stderr := stdout
	if !equal(c.Caller.Stdout, c.Caller.Stderr) {
		stderr = output.writer(c.Caller.Stderr)
	}
	go func() {
		code, err := c.Copy(running, stdout, stderr)
		copied <- result{code, err}
	}()
	input, refused := make(chan error, 1), make(chan error, 1)
	go func() {
		if c.Ready != nil {
			if err := c.Ready(running); err != nil {
				refused <- err
				return
			}
		}
		if c.Caller.Stdin != nil && c.Input != nil {
			c.send(running, input)
		}
	}()

	var end result
	ending := running // the context whose end limits the wait for Writes in progress
	select {
	case end = <-copied:
		ending = ctx
		close(copied)
	case end.err = <-refused:
	case end.err = <-output.failed:
	case <-ctx.Done():
		end.err = ctx.Err()
	}
	cancel()
	quiet := make(chan struct{})
	go func() {
		defer close(quiet)
		<-copied
		output.await()
	}()
	await(ending, quiet)
	if failure := failureIn(output.failed); failure != nil {
		end.err = failure // also where the program went on
	}
	switch {
	case end.err != nil && ctx.Err() != nil:
		return 0, ctx.Err()
	case end.err == nil:
		end.err = failureIn(input)
	}
	return end.code, end.err
}

// equal tells whether two writers are the same one. Writers of some types cannot be
// compared.
func equal(a, b io.Writer) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return reflect.ValueOf(a).Comparable() && reflect.ValueOf(b).Comparable() && a == b
}

// grace is how long Copy and Writes in progress may outlast the context: a method
// returns within a second of it.
const grace = 500 * time.Millisecond

// await returns when quiet is closed, or grace after the end of ctx.
func await(ctx context.Context, quiet <-chan struct{}) {
	select {
	case <-quiet:
		return
	case <-ctx.Done():
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-quiet:
	case <-timer.C:
	}
}

// failureIn returns the failure that has been sent, or nil.
func failureIn(sent <-chan error) error {
	select {
	case err := <-sent:
		return err
	default:
		return nil
	}
}

// send copies Stdin to Input, and its end. That the program reads no more is no failure.
func (c *Carrier) send(ctx context.Context, failed chan<- error) {
	from := &CallerReader{Context: ctx, Reader: c.Caller.Stdin}
	_, _ = io.Copy(c.Input, from)
	if ctx.Err() == nil {
		failed <- from.Failure // before the program can exit because of the end
		_ = c.Input.Close()
	}
}

// turns lets the caller's writers take turns, and begins no Write after ctx has ended.
type turns struct {
	ctx    context.Context
	turn   sync.Mutex
	failed chan error // the first failure of a Write
}

// await returns when no Write is in progress, after the end of ctx.
func (t *turns) await() {
	t.turn.Lock()
	defer t.turn.Unlock()
}

func (t *turns) writer(to io.Writer) io.Writer { return &turnWriter{t, CallerWriter(to)} }

type turnWriter struct {
	*turns
	to io.Writer
}

func (w *turnWriter) Write(p []byte) (int, error) {
	w.turn.Lock()
	defer w.turn.Unlock()
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := w.to.Write(p)
	if err != nil {
		select {
		case w.failed <- err:
		default:
		}
	}
	return n, err
}
