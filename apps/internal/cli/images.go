package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/docker/go-units"
	"github.com/moatproject/moat/apps/internal/wiring"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
	"github.com/spf13/cobra"
)

func (a *app) imagesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "images",
		Short: "List the images whose names begin with " + core.ImagePrefix,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return with(cmd, a, func(ctx context.Context, images core.Images) error {
				infos, err := images.ListImages(ctx)
				if err != nil {
					return err
				}
				return a.printImages(infos)
			})
		},
	}
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) printImages(infos []core.ImageInfo) error {
	if a.json {
		return printJSON(a.env.Stdout, infos)
	}
	rows := make([][]string, len(infos))
	for i, info := range infos {
		rows[i] = []string{info.Tag, shortID(info.ID), ago(info.Created), units.HumanSize(float64(info.Size))}
	}
	return printTable(a.env.Stdout, []string{"IMAGE", "ID", "CREATED", "SIZE"}, rows)
}

type imageRow struct {
	Image string `json:"image"`
}

func (a *app) pullCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pull IMAGE",
		Short: "Pull an image from its registry",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			printer := newPullPrinter(a.env)
			err := with(cmd, a, func(ctx context.Context, engine *wiring.Engine) error {
				puller, ok := core.As[optional.ImagePuller](engine)
				if !ok {
					return &core.Error{Op: "pull image", Runtime: engine.Type(), Class: core.ErrUnsupported}
				}
				return puller.PullImage(ctx, args[0], printer.show)
			})
			printer.finish()
			if err != nil {
				return err
			}
			return a.printImageNames(args)
		},
	}
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) rmiCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rmi IMAGE...",
		Short: "Remove images by tag or ID; a missing image counts as removed",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return with(cmd, a, func(ctx context.Context, images core.Images) error {
				var done []string
				var errs error
				for _, image := range args { // in order: an image can be removed only after its children
					if err := images.RemoveImage(ctx, image); err != nil {
						errs = errors.Join(errs, err)
						continue
					}
					done = append(done, image)
				}
				return errors.Join(a.printImageNames(done), errs)
			})
		},
	}
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) printImageNames(names []string) error {
	if a.json {
		rows := make([]imageRow, len(names))
		for i, name := range names {
			rows[i] = imageRow{name}
		}
		return printJSON(a.env.Stdout, rows)
	}
	for _, name := range names {
		if _, err := fmt.Fprintln(a.env.Stdout, name); err != nil {
			return err
		}
	}
	return nil
}
