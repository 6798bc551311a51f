package cli

import (
	"context"
	"errors"

	"github.com/moatproject/moat/core"
	"github.com/spf13/cobra"
)

type orphan struct {
	core.Info
	Reason string `json:"reason"`
}

func (a *app) cleanCommand() *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "clean",
		Short: "Remove containers that Moat left behind",
		Long: "Remove the containers that runs of yours on this machine left behind: they do not run, and no live run owns them.\n" +
			"What runs, and what is others', is never touched.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return with(cmd, a, nil, func(ctx context.Context, containers core.Lifecycle) error {
				infos, err := containers.ListContainers(ctx)
				if err != nil {
					return err
				}
				orphans := a.orphans(infos)
				var errs error
				if !dryRun {
					orphans, errs = removeOrphans(ctx, containers, orphans)
				}
				return errors.Join(a.printOrphans(orphans), errs)
			})
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only show what would be removed")
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) orphans(infos []core.Info) []orphan {
	var orphans []orphan
	for _, info := range infos {
		// Which runs of others are live, their locks know alone.
		if info.Labels[labelOwner] != a.env.Owner || isLive(a.env.StateDir, info.Labels[core.LabelRunID]) {
			continue
		}
		switch info.Status {
		case core.StateExited, core.StateDead:
			orphans = append(orphans, orphan{info, "it has exited and its run is over"})
		case core.StateCreated:
			orphans = append(orphans, orphan{info, "it was never started and its run is over"})
		}
	}
	return orphans
}

func removeOrphans(ctx context.Context, containers core.Lifecycle, orphans []orphan) (removed []orphan, errs error) {
	for _, o := range orphans {
		// Its run may have started it, and ended, since it was listed.
		status, err := containers.ContainerState(ctx, o.ID)
		if errors.Is(err, core.ErrNotFound) || (err == nil && status != o.Status) {
			continue
		}
		if err == nil {
			err = containers.RemoveContainer(ctx, o.ID)
		}
		if err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		removed = append(removed, o)
	}
	return removed, errs
}

func (a *app) printOrphans(orphans []orphan) error {
	if a.json {
		return printJSON(a.env.Stdout, orphans)
	}
	rows := make([][]string, len(orphans))
	for i, o := range orphans {
		rows[i] = []string{shortID(o.ID), o.Name, o.Reason}
	}
	return printTable(a.env.Stdout, []string{"CONTAINER ID", "NAME", "REASON"}, rows)
}
