package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/moatproject/moat/apps/internal/wiring"
	"github.com/moatproject/moat/core"
	archive "github.com/moby/go-archive"
	"github.com/spf13/cobra"
)

var errCopySides = errors.New("one side must be CONTAINER:PATH, the other a path of this machine, or - for a tar archive")

func (a *app) cpCommand() *cobra.Command {
	var followLink bool
	cmd := &cobra.Command{
		Use:   "cp SRC DEST",
		Short: "Copy files into a container (SRC CONTAINER:DEST) or out of it (CONTAINER:SRC DEST); - is a tar archive",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, fromPath, inside := splitContainerPath(args[0])
			to, toPath, into := splitContainerPath(args[1])
			if inside == into {
				return errCopySides
			}
			return with(cmd, a, nil, func(ctx context.Context, engine *wiring.Engine) error {
				copier, ok := core.As[core.Copier](engine)
				if !ok {
					return &core.Error{Op: "copy files", Runtime: engine.Type(), Class: core.ErrUnsupported}
				}
				info, err := resolveOne(ctx, engine, from+to)
				if err != nil {
					return err
				}
				if inside {
					return a.copyOut(ctx, copier, info.ID, rooted(fromPath), args[1], followLink)
				}
				return a.copyIn(ctx, copier, info.ID, args[0], rooted(toPath), followLink)
			})
		},
	}
	cmd.Flags().BoolVarP(&followLink, "follow-link", "L", false, "copy what a link in SRC leads to")
	return cmd
}

// splitContainerPath splits CONTAINER:PATH. A path of this machine that has a colon
// begins with / or with a dot.
func splitContainerPath(arg string) (container, path string, ok bool) {
	if filepath.IsAbs(arg) || strings.HasPrefix(arg, ".") {
		return "", arg, false
	}
	container, path, ok = strings.Cut(arg, ":")
	if !ok {
		return "", arg, false
	}
	return container, path, true
}

// rooted makes a container's path absolute; it keeps its end, which means something.
func rooted(path string) string {
	if strings.HasPrefix(path, "/") {
		return path
	}
	return "/" + path
}

// copyIn copies as `docker cp` does: into a folder that exists, under the name of one
// that does not.
func (a *app) copyIn(ctx context.Context, copier core.Copier, id, source, dest string, followLink bool) error {
	target := archive.CopyInfo{Path: dest}
	stat, err := copier.StatPath(ctx, id, strings.TrimSuffix(dest, "/."))
	if err == nil && stat.Mode&fs.ModeSymlink != 0 {
		target.Path = stat.LinkTarget
		stat, err = copier.StatPath(ctx, id, target.Path)
	}
	switch {
	case err == nil:
		target.Exists, target.IsDir = true, stat.Mode.IsDir()
	case !errors.Is(err, core.ErrNotFound):
		return err
	}
	if source == "-" {
		return copier.CopyTo(ctx, id, target.Path, a.env.Stdin)
	}
	info, err := archive.CopyInfoSourcePath(source, followLink)
	if err != nil {
		return err
	}
	packed, err := archive.TarResource(info)
	if err != nil {
		return err
	}
	defer packed.Close()
	dir, prepared, err := archive.PrepareArchiveCopy(packed, info, target)
	if err != nil {
		return fmt.Errorf("copy %s to %s: %w", source, dest, err)
	}
	defer prepared.Close()
	return copier.CopyTo(ctx, id, dir, prepared)
}

// copyOut never trusts the archive: what a container calls a device is not made one here.
func (a *app) copyOut(ctx context.Context, copier core.Copier, id, source, dest string, followLink bool) error {
	stat, err := copier.StatPath(ctx, id, source)
	if err == nil && followLink && stat.Mode&fs.ModeSymlink != 0 {
		source = stat.LinkTarget
		stat, err = copier.StatPath(ctx, id, source)
	}
	if err != nil {
		return err
	}
	packed, err := copier.CopyFrom(ctx, id, source)
	if err != nil {
		return err
	}
	defer packed.Close()
	if dest == "-" {
		_, err = io.Copy(a.env.Stdout, packed)
		return err
	}
	vetted, writer := io.Pipe()
	defer func() { _ = vetted.Close() }()
	go func() { _ = writer.CloseWithError(core.VetArchive(writer, packed)) }()
	info := archive.CopyInfo{Path: source, Exists: true, IsDir: stat.Mode.IsDir()}
	if err := archive.CopyTo(vetted, info, dest); err != nil {
		return fmt.Errorf("copy %s to %s: %w", source, dest, err)
	}
	return nil
}
