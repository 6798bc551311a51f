package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/moatproject/moat/apps/internal/wiring"
	"github.com/moatproject/moat/core"
	"github.com/spf13/cobra"
)

// orphan is what belongs to no live run.
type orphan struct {
	Kind   string `json:"kind"` // container or network
	ID     string `json:"id"`
	Name   string `json:"name"`
	RunID  string `json:"runid"`
	Role   string `json:"role"`
	Status string `json:"status,omitempty"` // a container's
	Reason string `json:"reason"`
}

func (a *app) cleanCommand() *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "clean",
		Short: "Remove what runs left behind",
		Long: "Remove the containers and networks that runs of yours left behind, and the helpers that no run needs any more.\n" +
			"A run is live while its `moat run` is, or, where that was left (-d, detach keys), while its workload runs.\n" +
			"What is live, and what is others', is never touched; nor is what runs, where $XDG_STATE_HOME/moat\n" +
			"(~/.local/state/moat) knows nothing of its run.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			owner, err := a.state().owner()
			if err != nil {
				return err
			}
			return with(cmd, a, nil, func(ctx context.Context, engine *wiring.Engine) error {
				cleaner := &cleaner{engine: engine, state: a.state(), owner: owner, now: a.env.Now}
				clean := cleaner.clean
				if dryRun {
					clean = cleaner.orphans
				}
				orphans, err := clean(ctx)
				for _, name := range cleaner.doubtful {
					fmt.Fprintf(a.env.Stderr, "moat: %s runs, and what its `moat run` does is not known: `moat rm -f %[1]s` removes it\n", name)
				}
				return errors.Join(a.printOrphans(orphans), err)
			})
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only show what would be removed")
	a.jsonFlag(cmd)
	return cmd
}

// cleaner judges what is on an engine by the state of a user.
type cleaner struct {
	engine   *wiring.Engine
	state    state
	owner    string
	now      func() time.Time
	doubtful []string // names of what runs, without a lock that tells about its run
}

// cleanRounds is how often what has changed meanwhile is judged anew.
const cleanRounds = 5

// clean removes the orphans. What is started, ends, or is removed by others beside it,
// is judged once more.
func (c *cleaner) clean(ctx context.Context) (removed []orphan, err error) {
	for range cleanRounds {
		orphans, listErr := c.orphans(ctx)
		if listErr != nil {
			return removed, listErr
		}
		changed := false
		err = nil
		for _, o := range orphans {
			done, failure := c.remove(ctx, o)
			if done {
				removed = append(removed, o)
			}
			changed = changed || (!done && failure == nil) || errors.Is(failure, core.ErrInUse)
			err = errors.Join(err, failure)
		}
		if !changed {
			break
		}
	}
	seen := map[string]bool{}
	for _, o := range removed {
		seen[o.RunID] = true
	}
	return removed, errors.Join(err, c.forgetRuns(ctx, seen))
}

// orphans lists what belongs to no live run.
func (c *cleaner) orphans(ctx context.Context) (orphans []orphan, err error) {
	for range 2 { // a run may have ended, in order, since its containers were listed
		all, err := list(ctx, c.engine)
		if err != nil {
			return nil, err
		}
		if orphans = c.judge(all); len(c.doubtful) == 0 {
			break
		}
	}
	return orphans, nil
}

func (c *cleaner) judge(all managed) (orphans []orphan) {
	j := newJudge(c, all)
	c.doubtful = nil
	for _, info := range all.containers {
		if reason := j.container(info); reason != "" {
			orphans = append(orphans, orphan{
				Kind: "container", ID: info.ID, Name: info.Name, RunID: info.Labels[core.LabelRunID],
				Role: info.Labels[core.LabelRole], Status: info.Status, Reason: reason,
			})
		} else if j.isDoubtful(info) {
			c.doubtful = append(c.doubtful, info.Name)
		}
	}
	for _, info := range all.networks {
		if j.isOver(info.Labels) {
			orphans = append(orphans, orphan{
				Kind: "network", ID: info.ID, Name: info.Name, RunID: info.Labels[core.LabelRunID],
				Role: info.Labels[core.LabelRole], Reason: "its run is over",
			})
		}
	}
	return orphans
}

// remove removes what has not changed since it was judged.
func (c *cleaner) remove(ctx context.Context, o orphan) (done bool, err error) {
	if o.Kind == "network" {
		err = c.engine.NetworkManager().RemoveNetwork(ctx, o.ID)
		return err == nil, err
	}
	status, err := c.engine.ContainerState(ctx, o.ID)
	if errors.Is(err, core.ErrNotFound) || (err == nil && status != o.Status) {
		return false, nil
	}
	if err == nil {
		err = c.engine.RemoveContainer(ctx, o.ID)
	}
	return err == nil, err
}

// forgetRuns removes what is kept of runs that have ended and of which nothing is left.
// What was seen of some was on this engine.
func (c *cleaner) forgetRuns(ctx context.Context, seen map[string]bool) error {
	ended := c.state.ended() // before the look at what is left
	if len(ended) == 0 {
		return nil
	}
	all, err := list(ctx, c.engine)
	if err != nil {
		return err
	}
	for _, run := range ended {
		if !all.hasRun(run) {
			c.state.forget(run, c.engine.Endpoint, seen[run])
		}
	}
	return nil
}

// managed is what of Moat's is on an engine.
type managed struct {
	containers []core.Info
	networks   []core.NetworkInfo
}

func list(ctx context.Context, engine core.Runtime) (all managed, err error) {
	// First what is used: what a run creates meanwhile is not there to be judged.
	if manager, err := core.NetworkManagerOf(engine); err == nil {
		if all.networks, err = manager.ListNetworks(ctx); err != nil {
			return all, err
		}
	}
	all.containers, err = engine.ListContainers(ctx)
	return all, err
}

func (m managed) hasRun(id string) bool {
	return slices.ContainsFunc(m.containers, func(info core.Info) bool { return info.Labels[core.LabelRunID] == id }) ||
		slices.ContainsFunc(m.networks, func(info core.NetworkInfo) bool { return info.Labels[core.LabelRunID] == id })
}

// judge tells what is an orphan.
type judge struct {
	*cleaner
	mains   map[string]core.Info // by run
	running map[string]bool      // runs of which anything runs
	served  map[string]bool      // networks whose helper is needed
	states  map[string]runState
}

func newJudge(c *cleaner, all managed) judge {
	j := judge{c, map[string]core.Info{}, map[string]bool{}, map[string]bool{}, map[string]runState{}}
	for _, info := range all.containers {
		run, role := info.Labels[core.LabelRunID], info.Labels[core.LabelRole]
		if role == core.RoleMain {
			j.mains[run] = info
		}
		if role != core.RoleHelper {
			j.served[info.Labels[core.LabelNetwork]] = true
		}
		j.running[run] = j.running[run] || isRunning(info.Status)
	}
	return j
}

// How old is what belongs to no run before it counts as left behind: a helper comes
// just before the first container that needs it.
const (
	helperAge = 2 * time.Minute
	probeAge  = 10 * time.Minute
)

// container returns why one is an orphan, or "".
func (j judge) container(info core.Info) string {
	age := j.now().Sub(info.Created)
	switch network := info.Labels[core.LabelNetwork]; info.Labels[core.LabelRole] {
	case core.RoleHelper:
		if network != "" && !j.served[network] && age > helperAge {
			return "nothing needs it any more"
		}
		return ""
	case core.RoleProbe:
		if age > probeAge {
			return "the check that it was made for was killed"
		}
		return ""
	}
	if !j.isOver(info.Labels) {
		return ""
	}
	switch {
	case info.Status == core.StateCreated:
		return "it was never started and its run is over"
	case !isRunning(info.Status):
		return "it has exited and its run is over"
	case info.Labels[core.LabelRole] == core.RoleMain:
		return "it runs, but its `moat run` was killed"
	}
	return "it runs, but its run is over"
}

// isOver judges a run of ours by its lock, and where that says nothing by what runs.
// Which runs of others are live, their locks know alone.
func (j judge) isOver(labels map[string]string) bool {
	run := labels[core.LabelRunID]
	if labels[labelOwner] != j.owner || run == "" {
		return false
	}
	main, hasMain := j.mains[run]
	switch j.stateOf(run) {
	case runLive:
		return false
	case runLeft:
		return !isRunning(main.Status)
	case runKilled:
		return !isRunning(main.Status) || main.Labels[labelForeground] == "true"
	}
	// What runs may run for a live `moat run`, unless the workload is over: then nobody needs it.
	return !j.running[run] || (hasMain && !isRunning(main.Status) && main.Status != core.StateCreated)
}

func (j judge) stateOf(run string) runState {
	found, known := j.states[run]
	if !known {
		found = j.state.ofRun(run)
		j.states[run] = found
	}
	return found
}

// isDoubtful tells of what runs for a `moat run` of which nothing is known.
func (j judge) isDoubtful(info core.Info) bool {
	run := info.Labels[core.LabelRunID]
	if info.Labels[labelOwner] != j.owner || run == "" || !isRunning(info.Status) || j.stateOf(run) != runUnknown {
		return false
	}
	main, hasMain := j.mains[run]
	return !hasMain || !isRunning(main.Status) || main.Labels[labelForeground] == "true"
}

func isRunning(status string) bool {
	return status == core.StateRunning || status == core.StatePaused || status == core.StateStopping
}

func (a *app) printOrphans(orphans []orphan) error {
	if a.json {
		return printJSON(a.env.Stdout, orphans)
	}
	rows := make([][]string, len(orphans))
	for i, o := range orphans {
		rows[i] = []string{shortID(o.ID), o.Kind, o.Name, o.Reason}
	}
	return printTable(a.env.Stdout, []string{"ID", "KIND", "NAME", "REASON"}, rows)
}
