package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/moatproject/moat/apps/internal/wiring"
	"github.com/moatproject/moat/core/run"
	"github.com/spf13/cobra"
)

func (a *app) cleanCommand() *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "clean",
		Short: "Remove what runs left behind",
		Long: "Remove the containers and networks that your runs left behind, and Moat's own containers that nothing needs any more.\n" +
			"A run is live while its `moat run` process is. After -d or the detach keys it is live while its workload runs.\n" +
			"Live runs and other users' containers are never touched. A running container whose run is not known in\n" +
			"$XDG_STATE_HOME/moat (~/.local/state/moat) is reported, not removed.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return with(cmd, a, func(ctx context.Context, engine *wiring.Engine) error {
				reaper := run.Reaper{Runtime: engine, Store: a.store(engine), Clock: a.env.Clock}
				clean := reaper.Clean
				if dryRun {
					clean = reaper.Find
				}
				orphans, unknown, err := clean(ctx)
				for _, orphan := range orphans {
					if !dryRun {
						a.store(engine).ForgetEvidence(orphan.RunID)
					}
				}
				for _, name := range unknown {
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

func (a *app) printOrphans(orphans []run.Orphan) error {
	if a.json {
		return printJSON(a.env.Stdout, orphans)
	}
	rows := make([][]string, len(orphans))
	for i, o := range orphans {
		rows[i] = []string{shortID(o.ID), o.Kind, o.Name, o.Reason}
	}
	return printTable(a.env.Stdout, []string{"ID", "KIND", "NAME", "REASON"}, rows)
}
