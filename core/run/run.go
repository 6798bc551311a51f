package run

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"sync"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// Options are what a run needs from outside. The zero value is fit for a program that
// waits for its runs.
type Options struct {
	Store    Store       // nil: nothing remembers the run when this process is killed
	Clock    Clock       // nil: [SystemClock]
	Progress func(Event) // nil: discards. Calls do not overlap. It must not call methods of the run
	Random   io.Reader   // for IDs and passwords; nil: crypto/rand's Reader

	// Attached announces StartAttached instead of Start. The workload may then be
	// created and started while its services start.
	Attached bool
}

// Run is one run. Its methods are safe for concurrent use.
type Run struct {
	runtime core.Runtime
	spec    Spec
	options Options
	owner   string
	claim   Claim

	network  networkStep
	services servicesStep
	workload workloadStep
	limits   *limits

	confirm   sync.Once
	confirmed chan struct{} // closed when a restricted run may begin
	evidence  optional.EgressEvidence

	mu      sync.Mutex
	state   State
	begun   bool // nothing holds the program any more
	started bool // as far as is known
	exited  bool // as far as is known

	reporting sync.Mutex // of Progress
}

// Start prepares and starts a run, and returns when its program runs. If Start fails, it
// removes what it has made; if that fails too, the error says so. Otherwise the caller closes
// the run. Nothing finds the run if this process is killed: for that, use New with a Store.
func Start(ctx context.Context, runtime core.Runtime, spec Spec) (*Run, error) {
	r, err := New(runtime, spec, Options{})
	if err != nil {
		return nil, err
	}
	if err = r.Prepare(ctx); err == nil {
		err = r.Start(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, r.Close(context.WithoutCancel(ctx)))
	}
	return r, nil
}

// New returns a run of which nothing is made yet. A spec that no run could honour is
// [core.ErrInvalidConfig] with the field's name.
func New(runtime core.Runtime, spec Spec, options Options) (*Run, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	if spec.IdleTimeout > 0 && !options.Attached {
		return nil, core.Invalid("IdleTimeout", "only a run that is started attached is seen to be idle")
	}
	if options.Clock == nil {
		options.Clock = SystemClock{}
	}
	if options.Progress == nil {
		options.Progress = func(Event) {}
	}
	if options.Random == nil {
		options.Random = rand.Reader
	}
	if spec.Workload.RunID == "" {
		var id [4]byte
		if _, err := io.ReadFull(options.Random, id[:]); err != nil {
			return nil, &core.Error{Op: "make a run's ID", Err: err}
		}
		spec.Workload.RunID = hex.EncodeToString(id[:])
	}
	spec.Workload.Name = cmp.Or(spec.Workload.Name, spec.Workload.RunID)
	r := &Run{runtime: runtime, spec: spec, options: options, state: StatePreparing, confirmed: make(chan struct{})}
	r.network.run, r.services.run, r.workload.run = r, r, r
	r.services.cancel = func() {}
	r.limits = newLimits(r)
	for _, service := range spec.Services {
		config, err := service.Definition.Config(service.Version, r.ID(), service.Env, options.Random)
		if err != nil {
			return nil, fmt.Errorf("service %v: %w", service, err)
		}
		r.services.configs = append(r.services.configs, config)
	}
	return r, nil
}

// ID returns the run's ID.
func (r *Run) ID() string { return r.spec.Workload.RunID }

// Name returns the name of the workload's container.
func (r *Run) Name() string { return r.spec.Workload.Name }

// WorkloadID returns the ID of the workload's container, "" before it is created.
func (r *Run) WorkloadID() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.workload.id
}

// OwnNetwork tells whether the run has made a network for itself.
func (r *Run) OwnNetwork() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.network.id != ""
}

// publish sets the ID of a step's object, for which others may ask at the same time.
func (r *Run) publish(id *string, value string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*id = value
}

// State returns where the run is in its life, as far as this process knows.
func (r *Run) State() State {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

// Prepare creates the network, the services and the workload. The workload's program does
// not run yet. Prepare returns when the services are ready. With [Options].Attached or
// [Spec].Egress, if the runtime can hold the workload, it returns as soon as the workload is
// created, and the start waits for the services. If a part fails, the error is a [*StepError]. Call Close in any case: it removes the parts, also after a
// failed Prepare.
func (r *Run) Prepare(ctx context.Context) error {
	if err := r.claimIt(); err != nil {
		return err
	}
	starting := ctx
	if len(r.spec.Services) > 0 {
		// The services go on starting when this call has returned.
		starting, r.services.cancel = context.WithCancel(context.WithoutCancel(ctx))
		defer context.AfterFunc(ctx, r.services.cancel)()
		var err error
		if r.services.manager, err = core.ServiceManagerOf(r.runtime); err != nil {
			return &StepError{StepServices, err}
		}
	}
	if len(r.spec.Services) > 0 || r.spec.Egress != nil {
		if err := r.do(starting, &r.network); err != nil {
			return err
		}
	}
	if len(r.spec.Services) > 0 {
		if err := r.do(starting, &r.services); err != nil {
			return err
		}
	}
	if err := r.do(starting, &r.workload); err != nil {
		return r.services.abandon(err)
	}
	r.become(StateHeld)
	if r.workload.held {
		return nil
	}
	return r.servicesReady(ctx)
}

// claimIt tells the store that the run is alive, and labels what is made with its owner.
func (r *Run) claimIt() (err error) {
	if r.options.Store == nil {
		return nil
	}
	if r.owner, err = r.options.Store.Owner(); err != nil {
		return err
	}
	if r.claim, err = r.options.Store.Claim(r.ID()); err != nil {
		return err
	}
	labels := map[string]string{}
	maps.Copy(labels, r.spec.Workload.Labels)
	maps.Copy(labels, r.ownerLabels())
	labels[LabelForeground] = strconv.FormatBool(!r.spec.Detached)
	r.spec.Workload.Labels = labels
	return nil
}

func (r *Run) ownerLabels() map[string]string {
	labels := map[string]string{}
	if r.owner != "" {
		labels[LabelOwner] = r.owner
	}
	return labels
}

func (r *Run) do(ctx context.Context, s step) error {
	r.report(Event{Type: EventStepBegun, Step: s.name()})
	err := s.do(ctx)
	if err != nil {
		err = &StepError{s.name(), err}
	}
	if err != nil || s.name() != StepServices { // they are done when they are ready
		r.report(Event{Type: EventStepDone, Step: s.name(), Err: err})
	}
	return err
}

// servicesReady waits for the services as long as ctx lasts.
func (r *Run) servicesReady(ctx context.Context) error {
	if len(r.spec.Services) == 0 {
		return nil
	}
	err := r.services.ready(ctx)
	if err != nil {
		err = &StepError{StepServices, err}
	}
	r.report(Event{Type: EventStepDone, Step: StepServices, Err: err})
	return err
}

// Start starts the workload of a prepared run, without a connection to its streams, and
// returns when it runs. A program that cannot run is a [*StepError] that matches as
// [core.Lifecycle] says. A run that is [Spec.Detached] is then left.
func (r *Run) Start(ctx context.Context) error {
	if r.workload.held {
		if err := r.startHeld(ctx); err != nil {
			return err
		}
	} else {
		if err := r.runtime.StartContainer(ctx, r.workload.id); err != nil {
			return &StepError{StepWorkload, err}
		}
		_ = r.begin(nil)
	}
	r.mu.Lock()
	r.started = true
	r.mu.Unlock()
	if r.spec.Detached {
		r.Leave()
	}
	return nil
}

// startHeld is StartAttached without streams, and until the program begins.
func (r *Run) startHeld(ctx context.Context) error {
	attachment, leave := context.WithCancel(ctx)
	defer leave()
	ended := make(chan error, 1)
	go func() {
		defer leave()
		ended <- r.runtime.StartAttached(attachment, r.workload.id, core.AttachOptions{})
	}()
	err := r.releaseWorkload(attachment, nil)
	leave()
	failure := <-ended
	r.mu.Lock()
	exited := failure == nil && r.begun
	r.mu.Unlock()
	switch {
	case exited: // the release may not know that the program has been as quick
		return nil
	case failure != nil && (ctx.Err() != nil || !errors.Is(failure, context.Canceled)):
		return &StepError{StepWorkload, failure}
	}
	return err
}

// StartAttached connects streams to the workload of a prepared run, starts its program
// when its services are ready, and returns when it exits, or as [core.Attacher] says.
// ready, which may be nil, is called just before the program begins; where it fails, the
// program never begins and its error is returned.
func (r *Run) StartAttached(ctx context.Context, streams core.AttachOptions, ready func() error) error {
	attachment, stop := r.limits.bound(ctx)
	defer stop(nil)
	streams = r.limits.watch(streams)
	released := make(chan struct{})
	if r.workload.held {
		go func() {
			defer close(released)
			if err := r.releaseWorkload(attachment, ready); err != nil {
				stop(err)
			}
		}()
	} else {
		close(released)
		if err := r.begin(ready); err != nil {
			return err
		}
	}
	err := r.runtime.StartAttached(attachment, r.workload.id, streams)
	unready := context.Cause(attachment)
	stop(nil)
	<-released
	if err == nil {
		r.mu.Lock()
		r.started = r.begun // it may have been killed while it was held
		r.mu.Unlock()
		return nil
	}
	if unready != nil && ctx.Err() == nil {
		return unready
	}
	return &StepError{StepWorkload, err}
}

// releaseWorkload lets a held program begin when its services are ready.
func (r *Run) releaseWorkload(ctx context.Context, ready func() error) error {
	if err := r.confirmEgress(ctx); err != nil {
		return err
	}
	if err := r.servicesReady(ctx); err != nil {
		return err
	}
	if err := r.begin(ready); err != nil {
		return err
	}
	releaser, ok := core.As[optional.Releaser](r.runtime)
	if !ok {
		return &core.Error{Op: "release container", Runtime: r.runtime.Type(), Object: r.Name(), Class: core.ErrUnsupported}
	}
	err := releaser.ReleaseContainer(ctx, r.workload.id)
	if errors.Is(err, core.ErrNotRunning) || errors.Is(err, core.ErrNotFound) {
		return nil // StartAttached tells how it has ended
	}
	return err
}

// begin notes that the program begins, unless the caller is not ready.
func (r *Run) begin(ready func() error) error {
	if ready != nil {
		if err := ready(); err != nil {
			return err
		}
	}
	r.mu.Lock()
	r.begun = true
	r.mu.Unlock()
	r.become(StateRunning)
	r.limits.begin()
	return nil
}

// Wait waits until the workload has exited and returns its exit code. The end of ctx
// ends the wait, not the run. If Timeout or IdleTimeout of [Spec] ended the workload, Wait
// returns a [*LimitError] together with the exit code. If the workload could not be
// stopped, LimitError.Err says why, and the exit code is 0 and means nothing.
func (r *Run) Wait(ctx context.Context) (int64, error) {
	bounded, stop := r.limits.bound(ctx)
	defer stop(nil)
	code, err := r.runtime.WaitContainer(bounded, r.workload.id)
	if limit, ok := errors.AsType[*LimitError](context.Cause(bounded)); ok && err != nil {
		return 0, limit
	}
	if err != nil {
		return 0, err
	}
	if r.exit() && code == killed && r.spec.Workload.MemoryMB > 0 {
		r.tellOfMemory(ctx)
	}
	return code, r.limits.hit()
}

// killed is the exit code of a program that SIGKILL has ended.
const killed = 128 + 9

// tellOfMemory reports a workload that the kernel has killed at its memory limit, where
// the runtime knows.
func (r *Run) tellOfMemory(ctx context.Context) {
	manager, err := core.SidecarManagerOf(r.runtime)
	if err != nil {
		return
	}
	details, err := manager.InspectContainer(ctx, r.workload.id)
	if err == nil && details.State != nil && details.State.OOMKilled {
		r.report(Event{Type: EventLimit, Limit: LimitMemory})
	}
}

// exit notes that the workload has exited, and tells the one caller who is the first to
// know.
func (r *Run) exit() (first bool) {
	r.limits.end()
	r.mu.Lock()
	first = !r.exited
	r.exited = true
	r.mu.Unlock()
	if first {
		r.become(StateExited)
	}
	return first
}

// Kill kills the workload. Before its program has begun, Kill does nothing and returns nil.
// A runtime that is not an [optional.Signaler] returns [core.ErrUnsupported].
func (r *Run) Kill(ctx context.Context) error {
	r.mu.Lock()
	begun := r.begun
	r.mu.Unlock()
	if !begun {
		return nil
	}
	const kill = 9
	signaler, ok := core.As[optional.Signaler](r.runtime)
	if !ok {
		return &core.Error{Op: "kill the workload", Runtime: r.runtime.Type(), Object: r.Name(), Class: core.ErrUnsupported}
	}
	err := signaler.SignalContainer(ctx, r.workload.id, kill)
	if err != nil && !errors.Is(err, core.ErrNotRunning) && !errors.Is(err, core.ErrNotFound) {
		return err
	}
	r.exit()
	return nil
}

// Leave lets the run go on without this process, and without the time limits of [Spec].
// Close does nothing after that.
func (r *Run) Leave() {
	r.limits.end()
	how := EndingLeft
	if r.spec.Detached {
		how = EndingClean // it never depended on this process
	}
	r.release(how)
	r.become(StateLeft)
}

// Close removes the services, the network and the workload, which may still run. With
// [Spec.Keep], a workload that was started is kept; unless Wait or Kill has seen it end, Close
// calls Leave and removes nothing. After Leave, or a successful Close, it does nothing. If Close fails,
// it can be called again.
func (r *Run) Close(ctx context.Context) error {
	r.mu.Lock()
	over := r.state == StateLeft || r.state == StateGone
	exited := r.exited
	r.mu.Unlock()
	if over {
		return nil
	}
	keep := r.spec.Keep && r.hasStarted(ctx)
	if keep && !exited {
		r.Leave()
		return nil
	}
	r.limits.end()
	r.become(StateRemoving)
	removals := []func(context.Context) error{r.services.undo, r.network.removeProxy}
	if !keep {
		removals = append(removals, r.workload.undo)
	}
	// An engine takes its time for each: all at once, and then the network that they are on.
	err := atOnce(removals, func(remove func(context.Context) error) error { return remove(ctx) })
	if err = errors.Join(err, r.network.undo(ctx)); err != nil {
		r.release(EndingPartial)
		r.report(Event{Type: EventState, Err: err})
		return err
	}
	r.release(EndingClean)
	r.become(StateGone)
	return nil
}

// hasStarted tells whether the program has begun to run.
func (r *Run) hasStarted(ctx context.Context) bool {
	r.mu.Lock()
	begun, started := r.begun, r.started
	r.mu.Unlock()
	if started || !begun {
		return started
	}
	state, err := r.runtime.ContainerState(ctx, r.workload.id)
	return err != nil || state != core.StateCreated
}

func (r *Run) release(how Ending) {
	r.mu.Lock()
	claim := r.claim
	r.claim = nil
	r.mu.Unlock()
	if claim != nil {
		claim.Release(how)
	}
}

// become changes the state, unless the run is past it, and reports it.
func (r *Run) become(state State) {
	r.reporting.Lock()
	defer r.reporting.Unlock()
	r.mu.Lock()
	changes := slices.Contains(following[r.state], state)
	if changes {
		r.state = state
	}
	r.mu.Unlock()
	if changes {
		r.tell(Event{Type: EventState})
	}
}

func (r *Run) report(event Event) {
	r.reporting.Lock()
	defer r.reporting.Unlock()
	r.tell(event)
}

// tell completes an event and hands it out. The caller holds reporting.
func (r *Run) tell(event Event) {
	event.Time, event.RunID, event.State = r.options.Clock.Now(), r.ID(), r.State()
	r.options.Progress(event)
}
