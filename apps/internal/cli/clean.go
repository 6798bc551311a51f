package cli

import (
	"context"
	"errors"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/spf13/cobra"
)

// startGrace is how long a container that was never started may still be about to
// be, by a moat process that this one cannot see.
const startGrace = time.Hour

type orphan struct {
	core.Info
	Reason string `json:"reason"`
}

func (a *app) cleanCommand() *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "clean",
		Short: "Remove containers that Moat left behind",
		Long: "Remove the containers that carry Moat's label, do not run, and belong to no live run.\n" +
			"What runs, and what is not Moat's, is never touched.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return with(cmd, a, nil, func(ctx context.Context, containers core.Lifecycle) error {
				infos, err := containers.ListContainers(ctx)
				if err != nil {
					return err
				}
				orphans := a.orphans(infos, time.Now())
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

func (a *app) orphans(infos []core.Info, now time.Time) []orphan {
	var orphans []orphan
	for _, info := range infos {
		if info.Labels[core.LabelManaged] != "true" || isLive(a.env.StateDir, info.Labels[core.LabelRunID]) {
			continue
		}
		switch info.Status {
		case core.StateExited, core.StateDead:
			orphans = append(orphans, orphan{info, "it has exited and its run is over"})
		case core.StateCreated:
			if now.Sub(info.Created) > startGrace {
				orphans = append(orphans, orphan{info, "it was never started and its run is over"})
			}
		}
	}
	return orphans
}

func removeOrphans(ctx context.Context, containers core.Lifecycle, orphans []orphan) (removed []orphan, errs error) {
	for _, o := range orphans {
		if err := containers.RemoveContainer(ctx, o.ID); err != nil {
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
