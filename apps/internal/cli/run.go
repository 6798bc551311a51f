package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/moatproject/moat/apps/internal/runstore"
	"github.com/moatproject/moat/apps/internal/wiring"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
	"github.com/moatproject/moat/core/run"
	"github.com/spf13/cobra"
)

// Docker's exit statuses for what is not the workload's own.
const (
	statusLimitReached  = 124 // as timeout(1) has it
	statusMoatFailed    = 125
	statusNotExecutable = 126
	statusNotFound      = 127
)

func (a *app) runCommand() *cobra.Command {
	var options runOptions
	cmd := &cobra.Command{
		Use:   "run [OPTIONS] IMAGE [COMMAND [ARG...]]",
		Short: "Run a command in a new sandboxed container",
		Long: "Run a command in a new sandboxed container and exit with its status.\n" +
			"124: --timeout or --idle-timeout stopped it; 125: Moat or the engine failed; 126: the command cannot be executed; 127: it, or its interpreter, does not exist;\n" +
			"128+n: signal n ended it; 141: nobody reads the output any more.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, err := options.spec(a.env, args)
			if err != nil {
				return err
			}
			if options.interactive && options.tty && !options.detach && a.env.Console == nil {
				return errNoneForTTY
			}
			if a.json && !options.detach {
				return errors.New("--json needs -d: in the foreground, standard output is the workload's")
			}
			if spec.Workload.Privileged && a.settings().Options.Sandbox {
				return errPrivileged
			}
			a.warnOf(spec, options)
			return a.run(cmd.Context(), spec, options)
		},
	}
	options.register(cmd.Flags())
	a.jsonFlag(cmd)
	return cmd
}

var errPrivileged = errors.New("--privileged lifts what keeps a workload inside its container, the check of its mounts included: " +
	"with a workload that you trust, run it with --no-sandbox")

// warnOf tells what a run gives away because its user has asked for it.
func (a *app) warnOf(spec run.Spec, options runOptions) {
	logger := wiring.NewLogger(a.settings())
	if flag := options.opens(); flag != "" {
		logger.Warn("the network is open: the workload can send anything to any host that this machine reaches", "by", flag)
	}
	for _, mount := range spec.Workload.Mounts {
		gives := ""
		switch source := mount.Source; {
		case isWithin(source, a.env.HomeDir):
			gives = "your whole home directory: keys, passwords, and what your shell executes"
		case isWithin(source, a.env.StateDir) || isWithin(a.env.StateDir, source):
			gives = "what Moat knows of your runs"
		default:
			continue
		}
		logger.Warn("a mount gives the workload "+gives, "mount", mount.Source)
	}
}

// isWithin tells whether a directory has a path in it, or is it, symbolic links resolved.
// Nothing is within an empty path, and it is within nothing.
func isWithin(directory, path string) bool {
	if directory == "" || path == "" {
		return false
	}
	for _, p := range []*string{&directory, &path} {
		if resolved, err := filepath.EvalSymlinks(*p); err == nil {
			*p = resolved
		}
	}
	relative, err := filepath.Rel(directory, path)
	return err == nil && filepath.IsLocal(relative)
}

func (a *app) run(ctx context.Context, spec run.Spec, options runOptions) error {
	printer := newPullPrinter(a.env)
	defer printer.finish()
	a.creates = true
	ctx = optional.WithPullProgress(ctx, printer.show)
	return a.relayed(ctx, func(ctx context.Context, engine *wiring.Engine, relay *relay) (err error) {
		var atMemoryLimit atomic.Bool
		began, store := false, a.store(engine)
		r, err := run.New(engine, spec, run.Options{
			Store: store, Attached: !spec.Detached,
			Progress: func(event run.Event) {
				switch {
				case event.Limit == run.LimitMemory:
					atMemoryLimit.Store(true)
				case event.Type == run.EventEvidence && event.Err == nil:
					if err := store.KeepEvidence(event.RunID, event.Evidence); err != nil {
						a.printError(err)
					}
				case event.State == run.StateRunning:
					began = true
				case event.State == run.StateRemoving && (!spec.Keep || !began): // not later: a killed process leaves nothing that leads to it
					store.ForgetEvidence(event.RunID)
				}
			},
		})
		if err != nil {
			return err
		}
		// The context may be what ended the run: what is to be removed must go all the same.
		defer func() {
			if failure := r.Close(context.WithoutCancel(ctx)); failure != nil {
				a.printError(failure) // now: err may be silent, or give way to a signal
				if err == nil {
					err = &exitError{status: statusMoatFailed}
				}
			}
		}()
		if err := r.Prepare(ctx); err != nil {
			return err
		}
		if spec.Detached {
			printer.finish()
			if err := r.Start(ctx); err != nil {
				return startFailure(err)
			}
			return a.printStarted(r)
		}
		err = a.attachRun(ctx, engine, relay, r, options, printer.finish)
		if atMemoryLimit.Load() {
			fmt.Fprintf(a.env.Stderr, "moat: the kernel killed the workload at its memory limit of %d MB (-m)\n", spec.Workload.MemoryMB)
		}
		return err
	})
}

// attachRun connects the process to a run, from before it begins until it has exited.
// created is called when nothing is pulled any more.
func (a *app) attachRun(
	ctx context.Context, engine *wiring.Engine, relay *relay, r *run.Run, options runOptions, created func(),
) error {
	c := &connection{
		app: a, engine: engine, relay: relay, id: r.WorkloadID(), kill: r.Kill,
		wait: func(ctx context.Context) (int64, error) {
			code, err := r.Wait(ctx)
			if _, ok := errors.AsType[*run.LimitError](err); ok {
				err = &exitError{status: statusLimitReached, err: err}
			}
			return code, err
		},
		// Not by the logs: engines may end following those before a last line that nothing ends.
		attach: func(ctx context.Context, streams core.AttachOptions, begin func() error) error {
			return r.StartAttached(ctx, streams, func() error {
				created()
				return begin()
			})
		},
	}
	err := c.run(ctx, options.interactive, options.tty, options.detachKeys)
	if c.detached {
		r.Leave()
		fmt.Fprintf(a.env.Stderr, "\r\nmoat: detached; %s runs on: `moat attach %[1]s`, or `moat rm -f %[1]s`%s\n", r.Name(), leftHint(options, r))
	}
	return err
}

// leftHint tells what else becomes of a run that is left.
func leftHint(options runOptions, r *run.Run) (hint string) {
	switch {
	case len(options.services) == 0:
	case !r.OwnNetwork():
		hint = ", and `moat clean` for its services"
	default:
		hint = ", and `moat clean` for its services and network"
	}
	if options.timeout > 0 || options.idleTimeout > 0 {
		hint += ". Its time limits no longer apply"
	}
	return hint
}

// store knows this user's runs on an engine.
func (a *app) store(engine *wiring.Engine) runstore.Store {
	return runstore.New(a.env.StateDir, engine.Endpoint)
}

// relayed opens the runtime for f, whose signals are its own: they cancel its context
// until it forwards them.
func (a *app) relayed(ctx context.Context, f func(context.Context, *wiring.Engine, *relay) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	relay := a.newRelay(cancel)
	defer func() {
		relay.stop()
		cancel(context.Canceled) // of a signal that is on its way to the engine
		relay.loops.Wait()
	}()
	err := wiring.With(ctx, a.settings(), func(ctx context.Context, engine *wiring.Engine) error {
		return f(ctx, engine, relay)
	})
	if interrupted, ok := errors.AsType[*interruptedError](context.Cause(ctx)); ok && err != nil {
		return interrupted
	}
	return err
}

// startFailure is programFailure for the workload of a run.
func startFailure(err error) error {
	step, ok := errors.AsType[*run.StepError](err)
	if ok && step.Step != run.StepWorkload { // its command is another one
		return err
	}
	return programFailure(err)
}

// programFailure gives a program that cannot run the status that shells give it.
func programFailure(err error) error {
	switch reason := core.ProgramFailure(err); {
	case errors.Is(reason, fs.ErrNotExist):
		return &exitError{status: statusNotFound, err: err}
	case errors.Is(reason, fs.ErrPermission):
		return &exitError{status: statusNotExecutable, err: err}
	}
	return err
}

func (a *app) printStarted(r *run.Run) error {
	if a.json {
		return printJSON(a.env.Stdout, []startedRow{{ID: r.WorkloadID(), Name: r.Name(), RunID: r.ID()}})
	}
	_, err := fmt.Fprintln(a.env.Stdout, r.WorkloadID())
	return err
}

type startedRow struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	RunID string `json:"runid"`
}

// relay is what becomes of the process's signals: first they cancel, and once the
// workload runs they go to it.
type relay struct {
	notify func(...os.Signal) (<-chan os.Signal, func())
	cancel context.CancelCauseFunc
	target atomic.Pointer[func(syscall.Signal, int)]
	loops  sync.WaitGroup

	mu    sync.Mutex // of what follows
	stops []func()
	ended bool
}

func (a *app) newRelay(cancel context.CancelCauseFunc) *relay {
	r := &relay{notify: a.env.Notify, cancel: cancel}
	r.receive(endingSignals())
	return r
}

// receive takes signals of the process until the relay is stopped.
func (r *relay) receive(which []os.Signal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return
	}
	signals, stopNotify := r.notify(which...)
	done := make(chan struct{})
	r.stops = append(r.stops, func() { stopNotify(); close(done) })
	r.loops.Go(func() { r.loop(signals, done) })
}

func (r *relay) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	for _, stop := range r.stops {
		stop()
	}
}

func (r *relay) loop(signals <-chan os.Signal, done <-chan struct{}) {
	counts := map[syscall.Signal]int{}
	for {
		select {
		case <-done:
			return
		case received := <-signals:
			sig := received.(syscall.Signal)
			target := r.target.Load()
			if target == nil {
				r.cancel(&interruptedError{signal: sig})
				continue
			}
			counts[sig]++
			(*target)(sig, counts[sig])
		}
	}
}

// forward hands the signals on from now, those as well that end no process by themselves.
func (r *relay) forward(beside []os.Signal, target func(syscall.Signal, int)) {
	r.target.Store(&target)
	r.receive(beside)
}
