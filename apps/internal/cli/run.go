package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/moatproject/moat/apps/internal/wiring"
	"github.com/moatproject/moat/core"
	"github.com/spf13/cobra"
)

// Docker's exit statuses for what is not the workload's own.
const (
	statusMoatFailed    = 125
	statusNotExecutable = 126
	statusNotFound      = 127
)

// forceAfter is how many times a user has to interrupt a workload that goes on
// regardless before it is killed.
const forceAfter = 3

func (a *app) runCommand() *cobra.Command {
	var options runOptions
	cmd := &cobra.Command{
		Use:   "run [OPTIONS] IMAGE [COMMAND [ARG...]]",
		Short: "Run a command in a new sandboxed container",
		Long: "Run a command in a new sandboxed container and exit with its status.\n" +
			"125: Moat or the runtime failed; 126: the command cannot be executed; 127: it does not exist.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			config, err := options.config(a.env, args)
			if err != nil {
				return err
			}
			if options.interactive && options.tty && !options.detach && a.env.Console == nil {
				return errNoneForTTY
			}
			if a.json && !options.detach {
				return errors.New("--json needs -d: in the foreground, standard output is the workload's")
			}
			if config.Labels[labelOwner], err = a.state().owner(); err != nil {
				return err
			}
			asked, err := options.servicesOf(config)
			if err != nil {
				return err
			}
			return a.run(cmd.Context(), config, options, asked)
		},
	}
	options.register(cmd.Flags())
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) run(ctx context.Context, config core.Config, options runOptions, asked []service) error {
	lock, err := a.state().lockRun(config.RunID)
	if err != nil {
		return err
	}
	end := inOrder
	defer func() { lock.release(end) }()
	if !options.detach {
		config.Labels[labelForeground] = "true"
	}
	printer := newPullPrinter(a.env)
	defer printer.finish()
	a.pullProgress = printer.show
	return a.relayed(ctx, func(ctx context.Context, engine *wiring.Engine, relay *relay) error {
		if err := lock.onEngine(engine.Endpoint); err != nil {
			return err
		}
		workload := &workload{app: a, engine: engine, relay: relay, name: config.Name}
		err := workload.run(ctx, config, options, asked, printer.finish)
		end = workload.end
		return err
	})
}

// relayed opens the runtime for f, whose signals are its own: they cancel its context
// until it forwards them.
func (a *app) relayed(ctx context.Context, f func(context.Context, *wiring.Engine, *relay) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(context.Canceled)
	relay := a.newRelay(cancel)
	defer relay.stop()
	err := wiring.With(ctx, a.settings(a.pullProgress), func(ctx context.Context, engine *wiring.Engine) error {
		return f(ctx, engine, relay)
	})
	if interrupted, ok := errors.AsType[*interruptedError](context.Cause(ctx)); ok && err != nil {
		return interrupted
	}
	return err
}

// workload is one container from its creation to its end.
type workload struct {
	app      *app
	engine   *wiring.Engine
	relay    *relay
	id, name string
	foreign  bool // somebody else has started it: it outlives this process
	detached bool // by the detach keys
	started  bool
	exited   bool // as far as is known
	end      ending

	begun atomic.Bool // nothing holds the program any more

	exit chan exit // nil: its end is not waited for yet
}

type exit struct {
	code int64
	err  error
}

// beginWait waits for the workload's end, after which it may be removed at once.
func (w *workload) beginWait(ctx context.Context) {
	w.exit = make(chan exit, 1)
	go func() {
		code, err := w.engine.WaitContainer(ctx, w.id)
		w.exit <- exit{code, err}
	}()
}

func (w *workload) run(ctx context.Context, config core.Config, options runOptions, asked []service, created func()) (err error) {
	config.AutoRemove = options.detach && options.remove
	// The context may be what ended the run: what is to be removed must go all the same.
	cleanUp := context.WithoutCancel(ctx)
	services, starting, err := w.provide(ctx, &config, asked, options.serviceTimeout)
	defer func() { err = errors.Join(err, w.tidyUp(cleanUp, services, options)) }()
	if err != nil {
		return err
	}
	ready, err := w.create(starting, config, services, created)
	if err != nil {
		return err
	}
	if options.detach {
		if err := w.engine.StartContainer(ctx, w.id); err != nil {
			return startFailure(err)
		}
		w.started = true
		return w.app.printStarted(w.id, config)
	}
	// Not by the logs: engines may end following those before a last line that nothing ends.
	err = w.attached(ctx, options.interactive, options.tty, options.detachKeys, w.engine.StartAttached, ready)
	w.started = err == nil || (w.begun.Load() && w.hasStarted(cleanUp))
	if w.detached {
		fmt.Fprintf(w.app.env.Stderr, "\r\nmoat: detached; %s runs on: `moat attach %[1]s`, or `moat rm -f %[1]s`%s\n", w.name, services.leftHint())
	}
	return err
}

// create creates the workload's container while its services start. Where the runtime
// can hold it until they are ready, which takes the start out of the way as well, it
// returns how that is waited for. created is called when nothing is pulled any more.
func (w *workload) create(
	ctx context.Context, config core.Config, services *provision, created func(),
) (ready func(context.Context) error, err error) {
	config.Held = len(services.infos) > 0 && core.CapabilitiesOf(w.engine).HeldStart
	w.id, err = w.engine.CreateContainer(ctx, config)
	if config.Held && core.FieldOf(err) == "Held" { // not with this image
		config.Held = false
		w.id, err = w.engine.CreateContainer(ctx, config)
	}
	if err == nil && config.Held {
		return func(ctx context.Context) error {
			defer created()
			return services.await(ctx)
		}, nil
	}
	defer created()
	return nil, services.ready(err)
}

// tidyUp removes what the run does not leave, and notes how it ends.
func (w *workload) tidyUp(ctx context.Context, services *provision, options runOptions) error {
	remove := []string{}
	switch {
	case w.id == "":
	case !w.started || (options.remove && !options.detach && !w.detached):
		remove = append(remove, w.id)
	case !w.exited && !options.detach:
		w.end = leaving
		return nil
	}
	err := services.stop(ctx, remove...)
	if err != nil {
		w.end = uncleaned
	}
	return err
}

func (w *workload) hasStarted(ctx context.Context) bool {
	state, err := w.engine.ContainerState(ctx, w.id)
	return err != nil || state != core.StateCreated
}

// startFailure gives a command that cannot run the status that shells give it.
func startFailure(err error) error {
	switch {
	case core.FieldOf(err) != "Cmd":
		return err
	case errors.Is(err, fs.ErrNotExist):
		return &exitError{status: statusNotFound, err: err}
	case errors.Is(err, fs.ErrPermission):
		return &exitError{status: statusNotExecutable, err: err}
	}
	return err
}

// exitStatus returns the workload's, once it has exited.
func (w *workload) exitStatus(ctx context.Context) error {
	if w.exit == nil {
		w.beginWait(ctx)
	}
	var end exit
	select {
	case end = <-w.exit:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	w.exited = end.err == nil
	if end.err != nil || end.code == 0 {
		return end.err
	}
	return &exitError{status: int(end.code)}
}

// outputLost ends a workload of this process whose output nobody can read any more, as
// SIGPIPE would end a process of this machine.
func (w *workload) outputLost(ctx context.Context, err error) error {
	if !errors.Is(err, syscall.EPIPE) {
		return err
	}
	if !w.foreign {
		if err := w.signalContainer(ctx, syscall.SIGKILL); err != nil && !errors.Is(err, core.ErrNotRunning) {
			return err
		}
	}
	return &exitError{status: 128 + int(syscall.SIGPIPE)}
}

// drainGrace is how long an interrupted process waits for the end of a workload that
// has exited.
const drainGrace = 2 * time.Second

// taken tells what has become of a signal.
type taken int

const (
	takenByWorkload taken = iota
	takenByNobody         // there is no workload yet, or it is somebody else's
	takenTooLate          // the workload has exited
)

// signal hands a signal to the workload; one that is sent again and again kills it,
// unless it is somebody else's.
func (w *workload) signal(ctx context.Context, sig syscall.Signal, nth int) taken {
	if nth >= forceAfter && (sig == syscall.SIGINT || sig == syscall.SIGTERM) {
		if w.foreign {
			fmt.Fprintf(w.app.env.Stderr, "moat: the workload goes on after %d signals: leaving it\n", nth)
			return takenByNobody
		}
		fmt.Fprintf(w.app.env.Stderr, "moat: the workload goes on after %d signals: killing it\n", nth)
		sig = syscall.SIGKILL
	}
	err := w.signalContainer(ctx, sig)
	switch {
	case errors.Is(err, core.ErrNotRunning):
		if state, err := w.engine.ContainerState(ctx, w.id); err == nil && state == core.StateCreated {
			return takenByNobody
		}
		return takenTooLate
	case err != nil && !errors.Is(err, core.ErrNotFound):
		fmt.Fprintf(w.app.env.Stderr, "moat: %v\n", err)
	}
	return takenByWorkload
}

func (w *workload) signalContainer(ctx context.Context, sig syscall.Signal) error {
	signaler, ok := core.As[core.Signaler](w.engine)
	if !ok {
		return &core.Error{Op: "signal container", Runtime: w.engine.Type(), Object: w.id, Class: core.ErrUnsupported}
	}
	return signaler.SignalContainer(ctx, w.id, int(sig))
}

func (a *app) printStarted(id string, config core.Config) error {
	if a.json {
		return printJSON(a.env.Stdout, []startedRow{{ID: id, Name: config.Name, RunID: config.RunID}})
	}
	_, err := fmt.Fprintln(a.env.Stdout, id)
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
	target atomic.Pointer[func(syscall.Signal, int)]
	stop   func()
}

func (a *app) newRelay(cancel context.CancelCauseFunc) *relay {
	r := &relay{}
	signals, stopNotify := a.env.Notify()
	done := make(chan struct{})
	r.stop = func() { stopNotify(); close(done) }
	go r.loop(signals, done, cancel)
	return r
}

func (r *relay) loop(signals <-chan os.Signal, done <-chan struct{}, cancel context.CancelCauseFunc) {
	counts := map[syscall.Signal]int{}
	for {
		select {
		case <-done:
			return
		case received := <-signals:
			sig := received.(syscall.Signal)
			target := r.target.Load()
			if target == nil {
				cancel(&interruptedError{signal: sig})
				continue
			}
			counts[sig]++
			(*target)(sig, counts[sig])
		}
	}
}

func (r *relay) forward(target func(syscall.Signal, int)) { r.target.Store(&target) }
