package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/moatproject/moat/apps/internal/wiring"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
	"github.com/spf13/cobra"
)

var errCopySides = errors.New("one side must be CONTAINER:PATH, the other a path of this machine, or - for a tar archive")

func (a *app) cpCommand() *cobra.Command {
	var followLink bool
	cmd := &cobra.Command{
		Use:   "cp SRC DEST",
		Short: "Copy files into a container (SRC CONTAINER:DEST) or out of it (CONTAINER:SRC DEST); - is a tar archive, on stdin also compressed",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, fromPath, inside := splitContainerPath(args[0])
			to, toPath, into := splitContainerPath(args[1])
			if inside == into {
				return errCopySides
			}
			return with(cmd, a, func(ctx context.Context, engine *wiring.Engine) error {
				copier, ok := core.As[optional.Copier](engine)
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
	cmd.Flags().BoolVarP(&followLink, "follow-link", "L", false, "copy the target of a link in SRC")
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

// rooted makes a container's path absolute and keeps a trailing slash, which has a meaning.
func rooted(path string) string {
	if strings.HasPrefix(path, "/") {
		return path
	}
	return "/" + path
}

// copyIn copies as `docker cp` does: into an existing directory, or to a new name.
func (a *app) copyIn(ctx context.Context, copier optional.Copier, id, source, dest string, followLink bool) error {
	stat := func(file string) (optional.PathStat, error) {
		found, err := copier.StatPath(ctx, id, file)
		if errors.Is(err, core.ErrNotRunning) {
			return statByCopy(ctx, copier, id, file)
		}
		return found, err
	}
	target, err := findDestination(path.Clean(dest), stat)
	if err != nil {
		return err
	}
	if source == "-" {
		return copier.CopyTo(ctx, id, target.path, &decompressor{source: bufio.NewReader(a.env.Stdin)})
	}
	whole, err := a.env.Abs(source)
	if err != nil {
		return err
	}
	file, isDir, err := localSource(whole, followLink, assertsFolder(source))
	if err != nil {
		return err
	}
	dir, name, err := target.place(nameOf(source, whole), isDir, assertsFolder(dest))
	if err != nil {
		return fmt.Errorf("copy %s to %s: %w", source, dest, err)
	}
	packed, writer := io.Pipe()
	defer func() { _ = packed.Close() }()
	go func() { _ = writer.CloseWithError(a.pack(writer, file, name)) }()
	return copier.CopyTo(ctx, id, dir, packed)
}

// statByCopy tells a directory from a file by copying an empty archive into it, in an ended
// container whose files cannot be described.
func statByCopy(ctx context.Context, copier optional.Copier, id, file string) (optional.PathStat, error) {
	switch err := copier.CopyTo(ctx, id, file, bytes.NewReader(make([]byte, 1024))); {
	case core.FieldOf(err) == "dir":
		return optional.PathStat{}, nil
	default:
		return optional.PathStat{Mode: fs.ModeDir}, err
	}
}

// copyOut copies as copyIn does, and does not trust the container's archive.
func (a *app) copyOut(ctx context.Context, copier optional.Copier, id, source, dest string, followLink bool) error {
	stat := func(file string) (optional.PathStat, error) { return copier.StatPath(ctx, id, file) }
	file := path.Clean(source)
	name := nameOf(source, file)
	if name == "." && file != "/" {
		file += "/."
	}
	found, err := stat(file)
	if err == nil && (followLink || assertsFolder(source)) {
		file, found, err = follow(file, stat)
	}
	if err != nil {
		return err
	}
	if dest == "-" {
		return a.copyArchive(ctx, copier, id, file)
	}
	failed := func(err error) error { return fmt.Errorf("copy %s to %s: %w", source, dest, err) }
	isDir := found.Mode.IsDir()
	if assertsFolder(source) && !isDir {
		return failed(errNoFolder)
	}
	into, name, err := openDestination(dest, name, isDir)
	if err != nil {
		return failed(err)
	}
	defer func() { _ = into.Close() }()
	packed, err := copier.CopyFrom(ctx, id, file)
	if err != nil {
		return err
	}
	defer func() { _ = packed.Close() }()
	if err := unpack(packed, nameOf(file, file), isDir, into, name); err != nil {
		return fmt.Errorf("the copy in %s is incomplete: %w", dest, err)
	}
	return nil
}

// openDestination opens the directory of this machine that a copy goes into.
func openDestination(dest, name string, isDir bool) (into *os.Root, as string, err error) {
	target, err := findDestination(path.Clean(dest), localStat)
	if err != nil {
		return nil, "", err
	}
	dir, as, err := target.place(name, isDir, assertsFolder(dest))
	if err != nil {
		return nil, "", err
	}
	into, err = os.OpenRoot(dir)
	return into, as, err
}

func (a *app) copyArchive(ctx context.Context, copier optional.Copier, id, file string) error {
	packed, err := copier.CopyFrom(ctx, id, file)
	if err != nil {
		return err
	}
	defer func() { _ = packed.Close() }()
	_, err = io.Copy(a.env.Stdout, packed)
	return err
}

var (
	errNoFolder    = errors.New("there is no such directory")
	errFileThere   = errors.New("a directory cannot replace the file that is there")
	errFolderThere = errors.New("a file cannot replace the directory that is there")
	errOtherThere  = errors.New("the existing path is not a file or a directory")
	errManyLinks   = errors.New("too many links lead to each other")
)

// A destination is where the second path of a copy leads.
type destination struct {
	path   string // clean
	exists bool
	mode   fs.FileMode
}

// findDestination follows the links at the path's end, also to a path that does not exist.
func findDestination(file string, stat func(string) (optional.PathStat, error)) (destination, error) {
	file, found, err := follow(file, stat)
	if errors.Is(err, core.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return destination{path: file}, nil
	}
	return destination{file, err == nil, found.Mode}, err
}

// follow returns the target of the links at a path's end.
func follow(file string, stat func(string) (optional.PathStat, error)) (string, optional.PathStat, error) {
	const linksMax = 40 // as in the kernel
	for range linksMax {
		found, err := stat(file)
		if err != nil || found.Mode&fs.ModeSymlink == 0 {
			return file, found, err
		}
		file = path.Clean(found.LinkTarget)
	}
	return file, optional.PathStat{}, fmt.Errorf("%s: %w", file, errManyLinks)
}

// localStat describes a file of this machine as [optional.Copier] does a container's.
func localStat(file string) (optional.PathStat, error) {
	info, err := os.Lstat(file)
	if err != nil {
		return optional.PathStat{}, err
	}
	if info.Mode()&fs.ModeSymlink == 0 {
		return optional.PathStat{Mode: info.Mode()}, nil
	}
	target, err := os.Readlink(file)
	if err != nil {
		return optional.PathStat{}, err
	}
	dir := "/"
	if !filepath.IsAbs(target) {
		dir, err = filepath.EvalSymlinks(filepath.Dir(file))
	}
	return optional.PathStat{Mode: info.Mode(), LinkTarget: filepath.Join(dir, target)}, err
}

// place returns the directory that a copy goes into, and its name there, which is "." for a
// directory's contents.
func (d destination) place(name string, isDir, asFolder bool) (dir, as string, err error) {
	switch {
	case d.exists && d.mode.IsDir():
		return d.path, name, nil
	case d.exists && !d.mode.IsRegular():
		return "", "", errOtherThere
	case d.exists && isDir:
		return "", "", errFileThere
	case asFolder && !isDir:
		return "", "", errNoFolder
	}
	return path.Dir(d.path), path.Base(d.path), nil
}

// assertsFolder reports whether only a directory can have this path.
func assertsFolder(file string) bool { return strings.HasSuffix(file, "/") || path.Base(file) == "." }

// nameOf returns the last element of a path whose absolute form is whole, or "." for a
// directory's contents.
func nameOf(file, whole string) string {
	if path.Base(whole) == "/" || file == "." || strings.HasSuffix(file, "/.") {
		return "."
	}
	return path.Base(whole)
}

// localSource finds the file or directory to pack. A trailing slash follows a link.
func localSource(file string, followLink, asFolder bool) (resolved string, isDir bool, err error) {
	if followLink || asFolder {
		if file, err = filepath.EvalSymlinks(file); err != nil {
			return "", false, err
		}
	}
	info, err := os.Lstat(file)
	if err == nil && asFolder && !info.IsDir() {
		err = &fs.PathError{Op: "copy", Path: file, Err: syscall.ENOTDIR}
	}
	return file, err == nil && info.IsDir(), err
}
