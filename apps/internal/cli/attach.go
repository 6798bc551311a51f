package cli

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/moatproject/moat/apps/internal/wiring"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
	"github.com/spf13/cobra"
)

func (a *app) attachCommand() *cobra.Command {
	var noStdin bool
	var keys detachKeys
	cmd := &cobra.Command{
		Use:   "attach CONTAINER",
		Short: "Connect to a running container, and exit with its status",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.relayed(cmd.Context(), func(ctx context.Context, engine *wiring.Engine, relay *relay) error {
				info, err := resolveOne(ctx, engine, args[0])
				if err != nil {
					return err
				}
				details, err := inspect(ctx, engine, info)
				if err != nil {
					return err
				}
				if details.TTY && !noStdin && a.env.Console == nil {
					return errNoneToJoin
				}
				c := &connection{
					app: a, engine: engine, relay: relay, id: info.ID, foreign: true, wait: waitFor(ctx, engine, info.ID),
					attach: func(ctx context.Context, streams core.AttachOptions, begin func() error) error {
						if err := begin(); err != nil {
							return err
						}
						return engine.Attach(ctx, info.ID, streams)
					},
				}
				return c.run(ctx, !noStdin, details.TTY, keys)
			})
		},
	}
	cmd.Flags().BoolVar(&noStdin, "no-stdin", false, "do not forward standard input")
	keys.register(cmd.Flags())
	return cmd
}

func inspect(ctx context.Context, engine *wiring.Engine, info core.Info) (optional.Details, error) {
	inspector, ok := core.As[optional.Inspector](engine)
	if !ok {
		return optional.Details{}, &core.Error{Op: "inspect container", Runtime: engine.Type(), Class: core.ErrUnsupported}
	}
	return inspector.Inspect(ctx, info.ID)
}

// waitFor begins to wait for a container's end, after which it may be removed at once.
func waitFor(ctx context.Context, engine core.Lifecycle, id string) func(context.Context) (int64, error) {
	type exit struct {
		code int64
		err  error
	}
	exited := make(chan exit, 1)
	go func() {
		code, err := engine.WaitContainer(ctx, id)
		exited <- exit{code, err}
	}()
	return func(ctx context.Context) (int64, error) {
		select {
		case end := <-exited:
			return end.code, end.err
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// connection is this process's connection to a container: terminal, streams and signals.
type connection struct {
	app     *app
	engine  *wiring.Engine
	relay   *relay
	id      string
	foreign bool // another process has started it: it outlives this one

	// attach connects the streams and returns when the container exits. It calls begin
	// when the container's program runs, or is just about to.
	attach func(ctx context.Context, streams core.AttachOptions, begin func() error) error

	wait func(context.Context) (int64, error) // returns the container's exit code
	kill func(context.Context) error          // nil where it is foreign

	begun    atomic.Bool // keys and signals are the container's
	detached bool        // by the detach keys
}

// run connects the process to the container until that exits, and returns its exit
// status. Keys and signals are this process's until the program begins.
func (c *connection) run(ctx context.Context, interactive, tty bool, keys detachKeys) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	session := c.app.openSession(interactive, tty, keys, cancel)
	var failure error // to keep the terminal's size
	lost := false
	defer func() {
		err = errors.Join(err, session.restore())
		cancel(context.Canceled)
		if session.wait(); failure != nil && !lost {
			fmt.Fprintf(c.app.env.Stderr, "moat: the terminal's size is not the container's: %v\n", failure)
		}
	}()
	err = c.attach(ctx, session.attachOptions(c.app.env, tty), func() error {
		if err := session.begin(func() { failure = c.resize(ctx, session) }); err != nil {
			return err
		}
		c.begun.Store(true)
		// A terminal in raw mode has keys for the workload: signals are for this process.
		if !session.interactive {
			c.forwardSignals(ctx, cancel, session)
		}
		return nil
	})
	lost = err != nil
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errDetached):
		c.detached = true
		return nil
	case errors.Is(cause, errReaderGone):
		if c.foreign {
			return cause
		}
		return errors.Join(cause, c.kill(context.WithoutCancel(ctx)))
	case err != nil && cause != nil:
		return cause
	case err != nil:
		return startFailure(err)
	}
	return c.exitStatus(ctx)
}

// exitStatus returns the container's, once it has exited.
func (c *connection) exitStatus(ctx context.Context) error {
	code, err := c.wait(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	if err != nil || code == 0 {
		return err
	}
	return &exitError{status: int(code)}
}

// forwardSignals hands the process's signals to the container from now on.
func (c *connection) forwardSignals(ctx context.Context, cancel context.CancelCauseFunc, session *session) {
	c.relay.forward(session.forwardedBeside(c.app.env.Console), func(sig syscall.Signal, nth int) {
		interrupted := &interruptedError{signal: sig}
		switch fate := c.signal(ctx, sig, nth); {
		case !ends(sig):
		case fate == signalNotTaken:
			cancel(interrupted)
		case fate == signalTooLate: // what it has written is on its way, unless the engine hangs
			time.AfterFunc(drainGrace, func() { cancel(interrupted) })
		}
	})
}

// drainGrace is how long an interrupted process waits for the end of a container that
// has exited.
const drainGrace = 2 * time.Second

// signalFate tells what has become of a signal.
type signalFate int

const (
	signalTaken    signalFate = iota // by the container
	signalNotTaken                   // its program has not begun, or it is another process's
	signalTooLate                    // it has exited
)

// forceAfter is how many times a user has to interrupt a workload that goes on
// regardless before it is killed.
const forceAfter = 3

// signal hands a signal to the container; one that is sent again and again kills it,
// unless it is foreign.
func (c *connection) signal(ctx context.Context, sig syscall.Signal, nth int) signalFate {
	if nth >= forceAfter && (sig == syscall.SIGINT || sig == syscall.SIGTERM) {
		if c.foreign {
			fmt.Fprintf(c.app.env.Stderr, "moat: the workload goes on after %d signals: leaving it\n", nth)
			return signalNotTaken
		}
		fmt.Fprintf(c.app.env.Stderr, "moat: the workload goes on after %d signals: killing it\n", nth)
		sig = syscall.SIGKILL
	}
	err := c.signalContainer(ctx, sig)
	switch {
	case errors.Is(err, core.ErrNotRunning):
		if state, err := c.engine.ContainerState(ctx, c.id); err == nil && state == core.StateCreated {
			return signalNotTaken
		}
		return signalTooLate
	case err != nil && !errors.Is(err, core.ErrNotFound):
		fmt.Fprintf(c.app.env.Stderr, "moat: %v\n", err)
	}
	return signalTaken
}

func (c *connection) signalContainer(ctx context.Context, sig syscall.Signal) error {
	signaler, ok := core.As[optional.Signaler](c.engine)
	if !ok {
		return &core.Error{Op: "signal container", Runtime: c.engine.Type(), Object: c.id, Class: core.ErrUnsupported}
	}
	return signaler.SignalContainer(ctx, c.id, int(sig))
}

// resize gives the container's terminal the size of the process's until ctx ends, and
// returns the last failure.
func (c *connection) resize(ctx context.Context, s *session) (failure error) {
	set := func(size optional.TerminalSize) {
		err := c.engine.ResizeTTY(ctx, c.id, size.Height, size.Width)
		over := errors.Is(err, core.ErrNotRunning) || errors.Is(err, core.ErrNotFound)
		if err != nil && !over && ctx.Err() == nil {
			failure = err
		}
	}
	live := s.live
	for {
		begun := false
		select {
		case <-s.changes:
		case <-live:
			live, begun = nil, true
		case <-ctx.Done():
			return failure
		}
		switch size := s.console.Size(); {
		case size.Height == 0 || size.Width == 0: // unknown
		case begun && c.foreign:
			set(optional.TerminalSize{Height: size.Height + 1, Width: size.Width}) // a change makes programs draw again
			set(size)
		case !begun || size != s.size: // before, there may have been no terminal to set the size of
			set(size)
		}
	}
}

// receive yields what a channel brings until ctx ends.
func receive[T any](ctx context.Context, channel <-chan T) func(func(T) bool) {
	return func(yield func(T) bool) {
		for {
			select {
			case value, open := <-channel:
				if !open || !yield(value) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}
