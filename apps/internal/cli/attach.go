package cli

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/moatproject/moat/apps/internal/wiring"
	"github.com/moatproject/moat/core"
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
				w := &workload{app: a, engine: engine, relay: relay, id: info.ID, name: info.Name, foreign: true}
				w.beginWait(ctx)
				return w.attached(ctx, !noStdin, details.TTY, keys, engine.Attach, nil)
			})
		},
	}
	cmd.Flags().BoolVar(&noStdin, "no-stdin", false, "do not pass standard input on")
	keys.register(cmd.Flags())
	return cmd
}

func inspect(ctx context.Context, engine *wiring.Engine, info core.Info) (core.Details, error) {
	inspector, ok := core.As[core.Inspector](engine)
	if !ok {
		return core.Details{}, &core.Error{Op: "inspect container", Runtime: engine.Type(), Class: core.ErrUnsupported}
	}
	return inspector.Inspect(ctx, info.ID)
}

// attached connects the process to the workload by an attachment of core.Attacher's,
// and returns the workload's exit status. One that is held begins when ready returns
// nil; nil: it is not held. Until then keys and signals are for this process.
func (w *workload) attached(
	ctx context.Context, interactive, tty bool, keys detachKeys,
	attach func(context.Context, string, core.AttachOptions) error, ready func(context.Context) error,
) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	session := w.app.openSession(interactive, tty, keys, cancel)
	var failure error // to keep the terminal's size
	lost := false
	defer func() {
		err = errors.Join(err, session.restore())
		cancel(context.Canceled)
		if session.wait(); failure != nil && !lost {
			fmt.Fprintf(w.app.env.Stderr, "moat: the terminal's size is not the container's: %v\n", failure)
		}
	}()
	begin := func() error {
		if err := session.begin(func() { failure = w.resize(ctx, session) }); err != nil {
			return err
		}
		w.begun.Store(true)
		// A terminal in raw mode has keys for the workload: signals are for this process.
		if !session.interactive {
			w.relay.forward(func(sig syscall.Signal, nth int) {
				interrupted := &interruptedError{signal: sig}
				switch w.signal(ctx, sig, nth) {
				case takenByNobody:
					cancel(interrupted)
				case takenTooLate: // what it has written is on its way, unless the engine hangs
					time.AfterFunc(drainGrace, func() { cancel(interrupted) })
				}
			})
		}
		return nil
	}
	opts := session.attachOptions(w.app.env, tty)
	unready := make(chan error, 1) // in its own words
	if ready == nil {
		err = begin()
	} else {
		opts.Release = func(ctx context.Context) error {
			err := ready(ctx)
			if err == nil {
				err = begin()
			}
			unready <- err
			return err
		}
	}
	if err != nil {
		return err
	}
	err = attach(ctx, w.id, opts)
	lost = err != nil
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errDetached):
		w.detached = true
		return nil
	case err != nil && cause != nil:
		return cause
	case err != nil && !w.begun.Load():
		select {
		case failure := <-unready:
			return failure
		default:
			return startFailure(err)
		}
	case err != nil:
		return w.outputLost(ctx, startFailure(err))
	}
	return w.exitStatus(ctx)
}

// resize gives the container's terminal the size of the process's until ctx ends, and
// returns the last failure.
func (w *workload) resize(ctx context.Context, s *session) (failure error) {
	set := func(size core.TerminalSize) {
		err := w.engine.ResizeTTY(ctx, w.id, size.Height, size.Width)
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
		case begun && w.foreign:
			set(core.TerminalSize{Height: size.Height + 1, Width: size.Width}) // a change makes programs draw again
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
