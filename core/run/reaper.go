package run

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/moatproject/moat/core"
)

// Orphan is a container or network that belongs to no live run.
type Orphan struct {
	Kind   string `json:"kind"` // [KindContainer] or [KindNetwork]
	ID     string `json:"id"`
	Name   string `json:"name"`
	RunID  string `json:"runid"`
	Role   string `json:"role"`
	Status string `json:"status,omitempty"` // a container's
	Reason string `json:"reason"`
}

// The kinds of orphans.
const (
	KindContainer = "container"
	KindNetwork   = "network"
)

// Reaper finds and removes what the runs of one owner have left behind on a runtime,
// and the adapters' helpers that no container needs any more. It leaves alone what it
// cannot prove to be left behind: live runs, other owners' objects, and running
// containers of a run of which the store knows nothing.
type Reaper struct {
	Runtime core.Runtime
	Store   Store
	Clock   Clock // nil: [SystemClock]
}

// reapRounds is how often objects that have changed meanwhile are judged anew.
const reapRounds = 5

// Clean removes the orphans and returns those that it removed, also when it fails. If an
// object changes meanwhile, Clean looks again, up to five times in all. It makes the Store
// forget runs that have no objects left. unknown lists running containers whose run the
// Store does not know: they are not removed.
func (r Reaper) Clean(ctx context.Context) (removed []Orphan, unknown []string, err error) {
	for range reapRounds {
		var orphans []Orphan
		var findErr error
		if orphans, unknown, findErr = r.Find(ctx); findErr != nil {
			return removed, unknown, findErr
		}
		var changed bool
		var gone []Orphan
		if gone, changed, err = r.removeAll(ctx, orphans); len(gone) > 0 {
			removed = append(removed, gone...)
		}
		if !changed {
			break
		}
	}
	seen := map[string]bool{}
	for _, orphan := range removed {
		seen[orphan.RunID] = true
	}
	return removed, unknown, errors.Join(err, r.Forget(ctx, seen))
}

// CleanNetworks removes the networks of these runs that are over, unless something is still on
// them.
func (r Reaper) CleanNetworks(ctx context.Context, runs map[string]bool) error {
	orphans, _, err := r.Find(ctx)
	for _, orphan := range orphans {
		if orphan.Kind == KindNetwork && runs[orphan.RunID] {
			if _, failure := r.remove(ctx, orphan); !errors.Is(failure, core.ErrInUse) {
				err = errors.Join(err, failure)
			}
		}
	}
	return err
}

// Find lists the orphans, containers first, and the names of the containers that run
// although their run is unknown.
func (r Reaper) Find(ctx context.Context) (orphans []Orphan, unknown []string, err error) {
	owner, err := r.Store.Owner()
	if err != nil {
		return nil, nil, err
	}
	for range 2 { // a run may have ended, in order, since its containers were listed
		all, err := list(ctx, r.Runtime)
		if err != nil {
			return nil, nil, err
		}
		if orphans, unknown = newJudge(r, owner, all).judge(all); len(unknown) == 0 {
			break
		}
	}
	return orphans, unknown, nil
}

// Forget forgets the runs that have ended and of which nothing is left. seen are runs of
// which the caller has seen, or removed, something on this engine.
func (r Reaper) Forget(ctx context.Context, seen map[string]bool) error {
	ended := r.Store.Ended() // before the look at what is left
	if len(ended) == 0 {
		return nil
	}
	all, err := list(ctx, r.Runtime)
	if err != nil {
		return err
	}
	for _, run := range ended {
		if !all.hasRun(run) {
			r.Store.Forget(run, seen[run])
		}
	}
	return nil
}

// removeAll removes the containers and then the networks. changed tells that something
// was not as it had been listed.
func (r Reaper) removeAll(ctx context.Context, orphans []Orphan) (removed []Orphan, changed bool, err error) {
	networks := slices.IndexFunc(orphans, func(o Orphan) bool { return o.Kind == KindNetwork })
	if networks < 0 {
		networks = len(orphans)
	}
	for _, group := range [][]Orphan{orphans[:networks], orphans[networks:]} { // a network goes after what is on it
		done := make([]bool, len(group))
		failures := make([]error, len(group))
		forEach(len(group), func(i int) { done[i], failures[i] = r.remove(ctx, group[i]) })
		for i, failure := range failures {
			if done[i] {
				removed = append(removed, group[i])
			}
			changed = changed || (!done[i] && failure == nil) || errors.Is(failure, core.ErrInUse)
		}
		err = errors.Join(err, errors.Join(failures...))
	}
	return removed, changed, err
}

// maxRemovals is how many objects are removed at the same time.
const maxRemovals = 50

// forEach calls f for 0 to n-1, for up to maxRemovals at the same time.
func forEach(n int, f func(int)) {
	var calls sync.WaitGroup
	slots := make(chan struct{}, maxRemovals)
	for i := range n {
		slots <- struct{}{}
		calls.Go(func() { f(i); <-slots })
	}
	calls.Wait()
}

// remove removes an orphan that has not changed since it was judged.
func (r Reaper) remove(ctx context.Context, o Orphan) (done bool, err error) {
	if o.Kind == KindNetwork {
		err = r.Runtime.NetworkManager().RemoveNetwork(ctx, o.ID)
		return err == nil, err
	}
	status, err := r.Runtime.ContainerState(ctx, o.ID)
	if errors.Is(err, core.ErrNotFound) || (err == nil && status != o.Status) {
		return false, nil
	}
	if err == nil {
		err = r.Runtime.RemoveContainer(ctx, o.ID)
	}
	return err == nil, err
}

// managed are Moat's objects on an engine.
type managed struct {
	containers []core.Info
	networks   []core.NetworkInfo
}

func list(ctx context.Context, runtime core.Runtime) (all managed, err error) {
	// Networks first: what a run creates meanwhile is then not there to be judged.
	if manager, err := core.NetworkManagerOf(runtime); err == nil {
		if all.networks, err = manager.ListNetworks(ctx); err != nil {
			return all, err
		}
	}
	all.containers, err = runtime.ListContainers(ctx)
	return all, err
}

func (m managed) hasRun(id string) bool {
	return slices.ContainsFunc(m.containers, func(info core.Info) bool { return info.Labels[core.LabelRunID] == id }) ||
		slices.ContainsFunc(m.networks, func(info core.NetworkInfo) bool { return info.Labels[core.LabelRunID] == id })
}

// judge tells which objects are orphans.
type judge struct {
	store    Store
	owner    string
	now      time.Time
	mains    map[string]core.Info // by run
	running  map[string]bool      // runs of which anything runs
	served   map[string]bool      // objects for which an adapter must have a container
	liveness map[string]Liveness  // by run
}

func newJudge(r Reaper, owner string, all managed) judge {
	clock := r.Clock
	if clock == nil {
		clock = SystemClock{}
	}
	j := judge{
		store: r.Store, owner: owner, now: clock.Now(),
		mains: map[string]core.Info{}, running: map[string]bool{}, served: map[string]bool{}, liveness: map[string]Liveness{},
	}
	for _, info := range all.networks {
		j.served[info.ID] = true
	}
	for _, info := range all.containers {
		run, role := info.Labels[core.LabelRunID], info.Labels[core.LabelRole]
		if role != core.RoleAdapter {
			j.served[info.ID] = true
		}
		if role == core.RoleMain {
			j.mains[run] = info
		}
		if serves := info.Labels[core.LabelServes]; role != core.RoleAdapter && serves != "" {
			j.served[serves] = true
		}
		j.running[run] = j.running[run] || role != core.RoleAdapter && IsRunning(info.Status)
	}
	return j
}

func (j judge) judge(all managed) (orphans []Orphan, unknown []string) {
	for _, info := range all.containers {
		if reason := j.container(info); reason != "" {
			orphans = append(orphans, Orphan{
				Kind: KindContainer, ID: info.ID, Name: info.Name, RunID: info.Labels[core.LabelRunID],
				Role: info.Labels[core.LabelRole], Status: info.Status, Reason: reason,
			})
			delete(j.served, info.ID) // its network goes with it
		} else if j.isUnknown(info) {
			unknown = append(unknown, info.Name)
		}
	}
	for _, info := range all.networks {
		if reason := j.network(info); reason != "" {
			orphans = append(orphans, Orphan{
				Kind: KindNetwork, ID: info.ID, Name: info.Name, RunID: info.Labels[core.LabelRunID],
				Role: info.Labels[core.LabelRole], Reason: reason,
			})
		}
	}
	return orphans, unknown
}

// container returns why one is an orphan, or "".
func (j judge) container(info core.Info) string {
	if info.Labels[core.LabelRole] == core.RoleAdapter {
		return j.helper(info.Labels)
	}
	if !j.isOver(info.Labels) {
		return ""
	}
	switch {
	case info.Status == core.StateCreated:
		return "it was never started and its run is over"
	case !IsRunning(info.Status):
		return "it has exited and its run is over"
	case info.Labels[core.LabelRole] == core.RoleMain:
		return "it runs, but its `moat run` was killed"
	}
	return "it runs, but its run is over"
}

// network returns why one is an orphan, or "".
func (j judge) network(info core.NetworkInfo) string {
	if info.Labels[core.LabelServes] != "" {
		return j.helper(info.Labels)
	}
	if j.isOver(info.Labels) {
		return "its run is over"
	}
	return ""
}

// helper returns why an adapter's own object is an orphan, or "".
func (j judge) helper(labels map[string]string) string {
	expires, err := time.Parse(time.RFC3339, labels[core.LabelExpires])
	over := err == nil && j.now.After(expires) || j.isOver(labels)
	if over && !j.served[labels[core.LabelServes]] {
		return "nothing needs it any more"
	}
	return ""
}

// isOver judges a run of this owner by the store, and where that knows nothing by what
// runs. Only other owners' stores know which of their runs are live.
func (j judge) isOver(labels map[string]string) bool {
	run := labels[core.LabelRunID]
	if labels[LabelOwner] != j.owner || run == "" {
		return false
	}
	main, hasMain := j.mains[run]
	switch j.livenessOf(run) {
	case LivenessLive:
		return false
	case LivenessLeft:
		return !IsRunning(main.Status)
	case LivenessKilled:
		return !IsRunning(main.Status) || main.Labels[LabelForeground] == "true"
	}
	// A container that runs may run for a live process, unless the workload is over: then nothing needs it.
	return !j.running[run] || (hasMain && !IsRunning(main.Status) && main.Status != core.StateCreated)
}

func (j judge) livenessOf(run string) Liveness {
	found, known := j.liveness[run]
	if !known {
		found = j.store.Liveness(run)
		j.liveness[run] = found
	}
	return found
}

// isUnknown tells that a container runs for a process of which nothing is known.
func (j judge) isUnknown(info core.Info) bool {
	run := info.Labels[core.LabelRunID]
	if info.Labels[LabelOwner] != j.owner || run == "" || info.Labels[core.LabelRole] == core.RoleAdapter ||
		!IsRunning(info.Status) || j.livenessOf(run) != LivenessUnknown {
		return false
	}
	main, hasMain := j.mains[run]
	return !hasMain || !IsRunning(main.Status) || main.Labels[LabelForeground] == "true"
}

// IsRunning tells whether a container in this state has processes.
func IsRunning(status string) bool {
	return status == core.StateRunning || status == core.StatePaused || status == core.StateStopping
}
