package cli

import (
	"context"
	"errors"

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
		Long: "Remove the containers and networks that runs of yours on this machine left behind.\n" +
			"A run is live while its `moat run` is, or, where that was left (-d, detach keys), while its workload runs.\n" +
			"What is live, and what is others', is never touched.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return with(cmd, a, nil, func(ctx context.Context, engine *wiring.Engine) error {
				orphans, err := a.findOrphans(ctx, engine)
				if err != nil {
					return err
				}
				var errs error
				if !dryRun {
					orphans, errs = a.removeOrphans(ctx, engine, orphans)
				}
				return errors.Join(a.printOrphans(orphans), errs)
			})
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only show what would be removed")
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) findOrphans(ctx context.Context, engine core.Runtime) ([]orphan, error) {
	// First what is used: what a run creates meanwhile is not there to be judged.
	var networks []core.NetworkInfo
	if manager, err := core.NetworkManagerOf(engine); err == nil {
		if networks, err = manager.ListNetworks(ctx); err != nil {
			return nil, err
		}
	}
	infos, err := engine.ListContainers(ctx)
	if err != nil {
		return nil, err
	}
	return a.orphans(infos, networks), nil
}

// orphans judges by the locks, and by what runs.
func (a *app) orphans(infos []core.Info, networks []core.NetworkInfo) (orphans []orphan) {
	mains := map[string]core.Info{}
	for _, info := range infos {
		if info.Labels[core.LabelRole] == core.RoleMain {
			mains[info.Labels[core.LabelRunID]] = info
		}
	}
	states := map[string]runState{}
	isOver := func(labels map[string]string) bool {
		run := labels[core.LabelRunID]
		// Which runs of others are live, their locks know alone.
		if labels[labelOwner] != a.env.Owner || run == "" {
			return false
		}
		state, known := states[run]
		if !known {
			state = stateOfRun(a.env.StateDir, run)
			states[run] = state
		}
		main := mains[run]
		abandoned := state == runOver && main.Labels[labelForeground] == "true"
		return state != runLive && (abandoned || !isRunning(main.Status))
	}
	for _, info := range infos {
		if isOver(info.Labels) {
			orphans = append(orphans, orphan{
				Kind: "container", ID: info.ID, Name: info.Name, RunID: info.Labels[core.LabelRunID],
				Role: info.Labels[core.LabelRole], Status: info.Status, Reason: reasonFor(info),
			})
		}
	}
	for _, info := range networks {
		if isOver(info.Labels) {
			orphans = append(orphans, orphan{
				Kind: "network", ID: info.ID, Name: info.Name, RunID: info.Labels[core.LabelRunID],
				Role: info.Labels[core.LabelRole], Reason: "its run is over",
			})
		}
	}
	return orphans
}

func isRunning(status string) bool {
	return status == core.StateRunning || status == core.StatePaused || status == core.StateStopping
}

func reasonFor(info core.Info) string {
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

func (a *app) removeOrphans(ctx context.Context, engine core.Runtime, orphans []orphan) (removed []orphan, errs error) {
	for _, o := range orphans {
		done, err := a.removeOrphan(ctx, engine, o)
		if err != nil {
			errs = errors.Join(errs, err)
		} else if done {
			removed = append(removed, o)
			forgetRun(a.env.StateDir, o.RunID)
		}
	}
	return removed, errs
}

func (a *app) removeOrphan(ctx context.Context, engine core.Runtime, o orphan) (done bool, err error) {
	if o.Kind == "network" {
		return true, engine.NetworkManager().RemoveNetwork(ctx, o.ID)
	}
	// It may have been started, or have ended, since it was listed.
	status, err := engine.ContainerState(ctx, o.ID)
	if errors.Is(err, core.ErrNotFound) || (err == nil && status != o.Status) {
		return false, nil
	}
	if err == nil {
		err = engine.RemoveContainer(ctx, o.ID)
	}
	return err == nil, err
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
