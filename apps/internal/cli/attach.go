package cli

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/moatproject/moat/apps/internal/wiring"
	"github.com/moatproject/moat/core"
	"github.com/spf13/cobra"
)

func (a *app) attachCommand() *cobra.Command {
	var noStdin bool
	var keys string
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
				w := &workload{app: a, engine: engine, relay: relay, id: info.ID, name: info.Name}
				return w.attached(ctx, !noStdin, details.TTY, keys, engine.Attach)
			})
		},
	}
	cmd.Flags().BoolVar(&noStdin, "no-stdin", false, "do not pass standard input on")
	cmd.Flags().StringVar(&keys, "detach-keys", detachKeys, "`keys` that detach from a terminal")
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
// and returns the workload's exit status.
func (w *workload) attached(
	ctx context.Context, interactive, tty bool, keys string,
	attach func(context.Context, string, core.AttachOptions) error,
) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(context.Canceled)
	session, err := w.app.openSession(interactive, tty, keys, cancel)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, session.restore()) }()
	go w.resize(ctx, session)
	// A terminal in raw mode has keys for the workload: signals are for this process.
	if !session.raw {
		w.relay.forward(func(sig syscall.Signal, nth int) {
			if !w.signal(ctx, sig, nth) {
				cancel(&interruptedError{signal: sig}) // there is no workload yet
			}
		})
	}
	err = attach(ctx, w.id, session.attachOptions(w.app.env, tty))
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errDetached):
		w.detached = true
		return nil
	case err != nil && cause != nil:
		return cause
	case err != nil:
		return w.outputLost(ctx, startFailure(err))
	}
	return w.exitStatus(ctx)
}

// resize follows the size of the process's terminal.
func (w *workload) resize(ctx context.Context, session *session) {
	for size := range receive(ctx, session.sizes(ctx)) {
		err := w.engine.ResizeTTY(ctx, w.id, size.Height, size.Width)
		if err != nil && !errors.Is(err, core.ErrNotRunning) && ctx.Err() == nil {
			fmt.Fprintf(w.app.env.Stderr, "moat: %v\r\n", err)
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
