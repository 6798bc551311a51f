package cli

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/docker/go-units"
	"github.com/moatproject/moat/apps/internal/wiring"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
	"github.com/spf13/cobra"
)

// statsInterval lies between two measurements: processor time is counted, not its rate.
const statsInterval = time.Second

func (a *app) statsCommand() *cobra.Command {
	var once bool
	cmd := &cobra.Command{
		Use:   "stats [CONTAINER...]",
		Short: "Show the resource use of running containers, each second until interrupted",
		RunE: func(cmd *cobra.Command, args []string) error {
			err := with(cmd, a, func(ctx context.Context, engine *wiring.Engine) error {
				return a.stats(ctx, engine, args, once || a.json)
			})
			if _, interrupted := errors.AsType[*interruptedError](err); interrupted {
				return nil // the usual way to end it
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&once, "no-stream", false, "measure once")
	cmd.Flags().BoolVar(&a.json, "json", false, "measure once, and print one JSON array of objects")
	return cmd
}

type statsRow struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	optional.Stats
	CPUPercent float64 `json:"cpupercent"` // of one processor
}

func (a *app) stats(ctx context.Context, engine *wiring.Engine, names []string, once bool) error {
	reader, ok := core.As[optional.StatsReader](engine)
	if !ok {
		return &core.Error{Op: "measure container", Runtime: engine.Type(), Class: core.ErrUnsupported}
	}
	last := map[string]optional.Stats{}
	tick := time.NewTicker(statsInterval)
	defer tick.Stop()
	for round := 0; ; round++ {
		infos, err := measurable(ctx, engine, names)
		if err != nil {
			return err
		}
		rows, err := measure(ctx, reader, infos, last, len(names) > 0)
		if err != nil {
			return err
		}
		if round > 0 {
			if err := a.printStats(rows, once); err != nil || once {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// measurable returns the containers that were named, or all that run.
func measurable(ctx context.Context, engine *wiring.Engine, names []string) ([]core.Info, error) {
	if len(names) > 0 {
		return resolve(ctx, engine, names)
	}
	infos, err := engine.ListContainers(ctx)
	return selectShown(infos, false), err
}

// measure asks for all at once. What has ended meanwhile is left out, unless it was named.
func measure(ctx context.Context, reader optional.StatsReader, infos []core.Info, last map[string]optional.Stats, named bool) (rows []statsRow, failures error) {
	measured, errs := make([]optional.Stats, len(infos)), make([]error, len(infos))
	var all sync.WaitGroup
	for i, info := range infos {
		all.Go(func() { measured[i], errs[i] = reader.Stats(ctx, info.ID) })
	}
	all.Wait()
	for i, stats := range measured {
		ended := errors.Is(errs[i], core.ErrNotRunning) || errors.Is(errs[i], core.ErrNotFound)
		if ended && !named {
			continue
		}
		if errs[i] != nil {
			failures = errors.Join(failures, fmt.Errorf("%s: %w", infos[i].Name, errs[i]))
			continue
		}
		row := statsRow{ID: infos[i].ID, Name: infos[i].Name, Stats: stats}
		if before, ok := last[row.ID]; ok && stats.Time.After(before.Time) {
			row.CPUPercent = 100 * float64(stats.CPU-before.CPU) / float64(stats.Time.Sub(before.Time))
		}
		last[row.ID] = stats
		rows = append(rows, row)
	}
	return rows, failures
}

func (a *app) printStats(rows []statsRow, once bool) error {
	if a.json {
		return printJSON(a.env.Stdout, rows)
	}
	if !once && a.env.Console != nil {
		if _, err := fmt.Fprint(a.env.Stdout, "\x1b[H\x1b[2J"); err != nil { // home, and clear the screen
			return err
		}
	}
	size := func(bytes uint64) string { return units.BytesSize(float64(bytes)) }
	cells := make([][]string, len(rows))
	for i, row := range rows {
		cells[i] = []string{
			shortID(row.ID), row.Name, fmt.Sprintf("%.2f%%", row.CPUPercent), size(row.Memory) + " / " + size(row.MemoryLimit),
			size(row.NetworkIn) + " / " + size(row.NetworkOut), size(row.BlockRead) + " / " + size(row.BlockWrite), fmt.Sprint(row.PIDs),
		}
	}
	return printTable(a.env.Stdout, []string{"CONTAINER ID", "NAME", "CPU", "MEMORY / LIMIT", "NETWORK IN / OUT", "BLOCK READ / WRITE", "PIDS"}, cells)
}
