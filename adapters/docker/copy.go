package docker

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/moatproject/moat/core"
)

// onPath begins a method on a container's file.
func (r *Runtime) onPath(ctx context.Context, op, id, field, file string) (*call, error) {
	c, err := r.on(ctx, 0, op, id)
	if err == nil && !path.IsAbs(file) {
		defer c.end()
		return nil, c.wrong(core.ErrInvalidConfig, field, "it is not an absolute path", "")
	}
	return c, err
}

// CopyTo extracts an archive into a folder of a container. In a running sandbox that
// takes a program tar in the container.
func (r *Runtime) CopyTo(ctx context.Context, id, dir string, archive io.Reader) error {
	c, err := r.onPath(ctx, "copy to container", id, "dir", dir)
	if err != nil {
		return err
	}
	defer c.end()
	sandboxed, err := r.runsSandboxed(c)
	if err != nil {
		return err
	}
	vetted, writer := io.Pipe()
	defer func() { _ = vetted.Close() }()
	vetting := make(chan error, 1)
	go func() {
		err := core.VetArchive(writer, archive)
		vetting <- err
		_ = writer.CloseWithError(err)
	}()
	if sandboxed {
		err = r.untar(c, dir, vetted)
	} else {
		err = r.engine.CopyToContainer(c.ctx, id, dir, vetted, container.CopyToContainerOptions{})
	}
	select {
	case refused := <-vetting:
		if refused != nil && !errors.Is(refused, io.ErrClosedPipe) {
			return c.failed(&callerError{refused})
		}
	default: // the engine has not read it all
	}
	return c.failed(err)
}

// CopyFrom returns a container's file or folder as an archive. In a running sandbox that
// takes a program tar in the container.
func (r *Runtime) CopyFrom(ctx context.Context, id, file string) (io.ReadCloser, error) {
	c, err := r.onPath(ctx, "copy from container", id, "path", file)
	if err != nil {
		return nil, err
	}
	archive, err := r.openArchive(c, file)
	if err != nil {
		defer c.end()
		return nil, c.failed(err)
	}
	return &callReader{call: c, plain: archive}, nil
}

func (r *Runtime) openArchive(c *call, file string) (io.Reader, error) {
	sandboxed, err := r.runsSandboxed(c)
	if err != nil {
		return nil, err
	}
	if sandboxed {
		return r.tar(c, file)
	}
	if path.Clean(file) == "/" {
		file = "/." // else the engine has absolute names in the archive
	}
	archive, _, err := r.engine.CopyFromContainer(c.ctx, c.object, file)
	return archive, err
}

// StatPath describes a container's file.
func (r *Runtime) StatPath(ctx context.Context, id, file string) (core.PathStat, error) {
	c, err := r.onPath(ctx, "describe file in container", id, "path", file)
	if err != nil {
		return core.PathStat{}, err
	}
	defer c.end()
	sandboxed, err := r.runsSandboxed(c)
	if err != nil {
		return core.PathStat{}, err
	}
	if sandboxed {
		return r.statByTar(c, file)
	}
	found, err := r.engine.ContainerStatPath(c.ctx, id, file)
	if errdefs.IsNotFound(err) { // an answer without a text
		return core.PathStat{}, c.wrong(core.ErrNotFound, "", "there is no such container, or no "+file+" in it", "")
	}
	if err != nil {
		return core.PathStat{}, c.failed(err)
	}
	return core.PathStat{Name: found.Name, Size: found.Size, Mode: found.Mode, ModTime: found.Mtime, LinkTarget: found.LinkTarget}, nil
}

// runsSandboxed tells a container whose files only its own processes see: a sandbox
// keeps what is written in it to itself, and need not look again at what it has read.
func (r *Runtime) runsSandboxed(c *call) (bool, error) {
	if r.options.Sandbox == nil {
		return false, nil
	}
	found, err := r.inspect(c.ctx, c.op, c.object)
	if err != nil || !found.State.Running {
		return false, err
	}
	ociRuntime, err := r.ociRuntime(c.ctx)
	return err == nil && found.HostConfig.Runtime == ociRuntime, err
}

// untar extracts an archive by the container's own tar.
func (r *Runtime) untar(c *call, dir string, archive io.Reader) error {
	stat, err := r.statByTar(c, dir)
	if err != nil {
		return err
	}
	if !stat.Mode.IsDir() && stat.Mode&fs.ModeSymlink == 0 {
		return c.wrong(core.ErrInvalidConfig, "dir", dir+" is no folder", "")
	}
	return r.runTar(c, core.AttachOptions{Stdin: archive}, "-C", dir, "-xpf", "-")
}

// runTar runs the container's own tar.
func (r *Runtime) runTar(c *call, streams core.AttachOptions, args ...string) error {
	said := &beginning{}
	streams.Stderr = said
	if streams.Stdout == nil {
		streams.Stdout = said
	}
	opts := core.ExecOptions{Cmd: append([]string{"tar"}, args...), User: "0", AttachOptions: streams}
	code, err := r.Exec(c.ctx, c.object, opts)
	if err == nil && code != 0 {
		err = &tarError{said.String()}
	}
	return r.withoutTar(c, err)
}

// beginning keeps the first of what is written.
type beginning struct{ bytes.Buffer }

func (b *beginning) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), systemErrorMax-b.Len())])
	return len(p), nil
}

// tarError is what the container's tar said, before it exited with an error.
type tarError struct{ said string }

func (f *tarError) Error() string { return "tar in the container: " + f.said }

var errNoArchive = errors.New("what tar in the container sends is no archive")

// The blocks of an archive, and how many of them may come after its end.
const (
	tarBlock   = 512
	tarPadding = 128 * tarBlock
)

// tar archives a file by the container's own tar. The archive ends with the call.
func (r *Runtime) tar(c *call, file string, options ...string) (io.Reader, error) {
	dir, name := path.Dir(file), path.Base(file)
	if path.Clean(file) == "/" {
		name = "."
	}
	reader, writer := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := r.runTar(c, core.AttachOptions{Stdout: writer}, slices.Concat([]string{"-C", dir}, options, []string{"-cf", "-", "--", name})...)
		ended <- err
		_ = writer.CloseWithError(err)
	}()
	context.AfterFunc(c.ctx, func() { _ = reader.CloseWithError(context.Cause(c.ctx)) })
	// An archive of nothing begins with its end.
	archive := bufio.NewReader(reader)
	first, err := archive.Peek(tarBlock)
	if err == nil && !bytes.Equal(first, make([]byte, tarBlock)) {
		return archive, nil
	}
	_, _ = io.CopyN(io.Discard, archive, tarPadding)
	_ = reader.CloseWithError(errNoArchive)
	err = <-ended
	if _, own := errors.AsType[*tarError](err); own || err == nil {
		err = c.wrong(core.ErrNotFound, "", file+" does not exist in the container", "")
	}
	return nil, err
}

// linksMax is how many links in a row are followed, as many as Linux does.
const linksMax = 40

// statByTar describes a file by an archive of it.
func (r *Runtime) statByTar(c *call, file string) (core.PathStat, error) {
	stat, err := r.headerByTar(c, file)
	next := stat // a link may lead to another, whose place is not where they lead
	for range linksMax {
		if err != nil || next.Mode&fs.ModeSymlink == 0 {
			break
		}
		stat.LinkTarget = next.LinkTarget
		next, err = r.headerByTar(c, next.LinkTarget)
	}
	if errors.Is(err, core.ErrNotFound) && stat.LinkTarget != "" {
		return stat, nil
	}
	return stat, err
}

// headerByTar reads the first header of an archive.
func (r *Runtime) headerByTar(c *call, file string) (core.PathStat, error) {
	inner, err := r.on(c.ctx, 0, c.op, c.object)
	if err != nil {
		return core.PathStat{}, err
	}
	defer inner.end()
	archive, err := r.tar(inner, file, "--no-recursion")
	if err != nil {
		return core.PathStat{}, err
	}
	header, err := tar.NewReader(archive).Next()
	if err != nil {
		return core.PathStat{}, inner.failed(err)
	}
	stat := core.PathStat{Name: path.Base(file), Size: header.Size, Mode: header.FileInfo().Mode(), ModTime: header.ModTime}
	if stat.LinkTarget = header.Linkname; stat.LinkTarget != "" && !path.IsAbs(stat.LinkTarget) {
		stat.LinkTarget = path.Join(path.Dir(file), stat.LinkTarget)
	}
	return stat, nil
}

// withoutTar tells that an image has no tar, where that is why a copy failed.
func (r *Runtime) withoutTar(c *call, err error) error {
	if core.FieldOf(err) == "Cmd" && errors.Is(err, fs.ErrNotExist) {
		return c.wrong(core.ErrUnsupported, "", "files of a running sandbox are out of the engine's reach, and the image has no tar", "Copy before it is started, or use an image with tar")
	}
	return err
}
