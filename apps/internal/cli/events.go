package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/moatproject/moat/apps/internal/wiring"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
	"github.com/spf13/cobra"
)

func (a *app) eventsCommand() *cobra.Command {
	var since string
	cmd := &cobra.Command{
		Use:   "events [CONTAINER]",
		Short: "Show events of containers, until interrupted",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			var opts optional.EventOptions
			if opts.Since, err = parseSince(since, time.Now()); err != nil {
				return err
			}
			err = with(cmd, a, func(ctx context.Context, engine *wiring.Engine) error {
				if len(args) == 1 {
					info, err := resolveOne(ctx, engine, args[0])
					if err != nil {
						return err
					}
					opts.Container = info.ID
				}
				return errors.Join(a.events(ctx, engine, opts), context.Cause(ctx))
			})
			if _, interrupted := errors.AsType[*interruptedError](err); interrupted {
				return nil // the usual way to end it
			}
			return err
		},
	}
	cmd.Flags().StringVar(&since, "since", "", "begin with events since a `time` (RFC 3339) or duration ago (10m)")
	a.jsonFlag(cmd)
	return cmd
}

func parseSince(value string, now time.Time) (time.Time, error) {
	if value == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(value); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	at, err := time.Parse(time.RFC3339Nano, value)
	if err != nil {
		return at, fmt.Errorf("--since %q: want a time such as 2026-01-31T12:00:00Z, or 10m", value)
	}
	return at, nil
}

func (a *app) events(ctx context.Context, engine *wiring.Engine, opts optional.EventOptions) error {
	source, ok := core.As[optional.EventSource](engine)
	if !ok {
		return &core.Error{Op: "watch events", Runtime: engine.Type(), Class: core.ErrUnsupported}
	}
	events, err := source.Events(ctx, opts)
	if err != nil {
		return err
	}
	rows := &jsonRows{out: a.env.Stdout}
	for event, err := range events {
		if err == nil {
			err = a.printEvent(rows, event)
		}
		if err != nil {
			return err
		}
	}
	if a.json {
		return rows.finish()
	}
	return nil
}

func (a *app) printEvent(rows *jsonRows, event optional.Event) error {
	if a.json {
		return rows.add(event)
	}
	line := fmt.Sprintf("%s %s %s %s %s", event.Time.Format(time.RFC3339Nano), event.Type, shortID(event.ID), event.Name, event.Image)
	if event.Type == optional.EventDied {
		line += fmt.Sprintf(" exit %d", event.ExitCode)
	}
	_, err := io.WriteString(a.env.Stdout, line+"\n")
	return err
}
