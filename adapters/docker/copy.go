package docker

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/driver"
	"github.com/moatproject/moat/core/optional"
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

// CopyTo extracts an archive into a directory of a container. In a running sandbox it needs
// the program tar in the container, and drops extended attributes. In a sandbox that has
// exited, the files appear at its next start.
func (r *Runtime) CopyTo(ctx context.Context, id, dir string, archive io.Reader) error {
	c, err := r.onPath(ctx, "copy to container", id, "dir", dir)
	if err != nil {
		return err
	}
	defer c.end()
	place, err := r.placeOf(c, "dir", dir)
	if err != nil {
		return err
	}
	if place.inSandbox {
		return r.untar(c, dir, archive)
	}
	if err := r.kind().vetTarget(r, c, dir); err != nil {
		return err
	}
	vetted := vet(c.ctx, archive, r.kind().headers...)
	err = r.engine.CopyToContainer(c.ctx, id, dir, vetted, container.CopyToContainerOptions{})
	return c.failed(cmp.Or(vetted.end(), throughFile(c, dir, err)))
}

// vetting is a caller's archive as it may go on.
type vetting struct {
	*io.PipeReader
	source *driver.CallerReader
	cancel context.CancelFunc
	result chan error
}

func vet(ctx context.Context, archive io.Reader, rewrite ...func(*tar.Header)) *vetting {
	reader, writer := io.Pipe()
	v := &vetting{PipeReader: reader, result: make(chan error, 1)}
	ctx, v.cancel = context.WithCancel(ctx)
	// The HTTP client waits for a Read of its body, also after ctx has ended.
	context.AfterFunc(ctx, func() { _ = writer.CloseWithError(context.Cause(ctx)) })
	v.source = &driver.CallerReader{Context: ctx, Reader: archive}
	go func() {
		err := optional.VetArchive(writer, v.source, rewrite...)
		v.result <- err
		_ = writer.CloseWithError(err)
	}()
	return v
}

// readGrace is within the second in which a method returns after the end of its context.
const readGrace = 500 * time.Millisecond

// end begins no more Read of the caller's archive, and returns why that cannot go on, or
// nil. A Read in progress is waited for until readGrace has passed.
func (v *vetting) end() error {
	v.cancel()
	_ = v.Close()
	select {
	case err := <-v.result:
		if _, refused := errors.AsType[*core.Error](err); refused || v.source.Failure != nil {
			return &driver.CallerError{Err: err}
		}
	case <-time.After(readGrace):
	}
	return nil
}

// CopyFrom returns a container's file or directory as an archive. In a running sandbox
// that takes a program tar in the container.
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
	place, err := r.readable(c, file)
	if err != nil {
		return nil, err
	}
	if place.inSandbox {
		empty := &emptyFiles{runtime: r, call: c, dir: path.Dir(file)}
		archive, err := r.tar(c, file, empty)
		if err == nil && empty.alone {
			err = empty.check() // before who copies it has made a file of that name
		}
		return archive, err
	}
	archive, err := r.kind().openArchive(r, c, place, file)
	if err != nil {
		return nil, throughFile(c, file, err)
	}
	return optional.WholeArchive(archive, nil), nil
}

// StatPath describes a container's file.
func (r *Runtime) StatPath(ctx context.Context, id, file string) (optional.PathStat, error) {
	c, err := r.onPath(ctx, "describe file in container", id, "path", file)
	if err != nil {
		return optional.PathStat{}, err
	}
	defer c.end()
	place, err := r.readable(c, file)
	if err != nil {
		return optional.PathStat{}, err
	}
	if place.inSandbox {
		stat, err := r.statByTar(c, file)
		return stat, c.failed(err)
	}
	found, err := ask(c.ctx, r, c.op, id, func(ctx context.Context) (container.PathStat, error) {
		found, err := r.engine.ContainerStatPath(ctx, id, file)
		switch { // the answer has no text
		case errdefs.IsNotFound(err):
			err = c.wrong(core.ErrNotFound, "", "there is no such container, or no "+file+" in it", "")
		case errdefs.IsInternal(err):
			err = cmp.Or(r.whyUnreadable(ctx, id, file), err)
		}
		return found, throughFile(c, file, err)
	})
	stat := optional.PathStat{Name: found.Name, Size: found.Size, Mode: found.Mode, ModTime: found.Mtime, LinkTarget: found.LinkTarget}
	return r.kind().statOf(file, stat), err
}

// whyUnreadable returns the engine's words for a file that it could not describe.
func (r *Runtime) whyUnreadable(ctx context.Context, id, file string) error {
	archive, _, err := r.engine.CopyFromContainer(ctx, id, file)
	if err == nil {
		_ = archive.Close()
	}
	return err
}

// throughFile tells a path that leads through a file, which engines report as a failure of theirs.
func throughFile(c *call, file string, err error) error {
	if err != nil && strings.HasSuffix(err.Error(), ": not a directory") {
		return c.missing(file)
	}
	return err
}

// missing reports a path that leads to no file.
func (c *call) missing(file string) error {
	return c.wrong(core.ErrNotFound, "", file+" does not exist in the container", "")
}

// place is where a container's files are: the engine's to read and write, or in the
// sandbox, and known to its own processes only.
type place struct {
	container.InspectResponse
	sandboxed bool
	inSandbox bool
}

// placeOf tells where a file is that a method's argument names.
func (r *Runtime) placeOf(c *call, argument, file string) (place, error) {
	found, err := r.inspect(c.ctx, c.op, c.object)
	if err != nil {
		return place{}, err
	}
	p := place{InspectResponse: found}
	if p.sandboxed, err = r.isGVisor(c, found.HostConfig.Runtime); !p.sandboxed || err != nil {
		return p, err
	}
	if found.State.Paused {
		return p, c.wrong(core.ErrNotRunning, "", "it is paused, and only its own processes see the files of a sandbox", "Unpause it first")
	}
	p.inSandbox = found.State.Running
	if p.inSandbox && !utf8.ValidString(file) { // a program in the sandbox would be asked for another file
		return p, c.wrong(core.ErrInvalidConfig, argument, strconv.Quote(file)+" is not UTF-8", "Copy the directory that holds it")
	}
	return p, nil
}

// isGVisor tells an OCI runtime that is gVisor, by its name on the engine. It need not
// work any more.
func (r *Runtime) isGVisor(c *call, ociRuntime string) (bool, error) {
	switch ociRuntime {
	case "", "runc", "crun", "io.containerd.runc.v2", "oci": // the last is whatever Podman uses
		return false, nil
	}
	if strings.Contains(ociRuntime, "runsc") {
		return true, nil
	}
	info, err := ask(c.ctx, r, c.op, c.object, r.engine.Info)
	listed := info.Runtimes[ociRuntime]
	return strings.Contains(path.Base(listed.Path)+" "+listed.Type, "runsc"), err
}

// readable is placeOf for a file that is to be read: what a sandbox has written to its
// root file system is gone once it has ended, and the image's file in its place is another.
func (r *Runtime) readable(c *call, file string) (place, error) {
	p, err := r.placeOf(c, "path", file)
	if err != nil || !p.sandboxed || p.inSandbox || parseTime(p.State.StartedAt).IsZero() || isMounted(p.Mounts, file) {
		return p, err
	}
	kept, err := r.keepsFiles(c.ctx, p.HostConfig.Runtime)
	if kept || c.ctx.Err() != nil {
		return p, c.failed(err)
	}
	return p, c.wrong(core.ErrNotRunning, "",
		"gVisor keeps the changes of a root file system in memory, and they were gone when the container ended",
		"Copy while it runs, mount a directory for what has to stay, or have the engine start runsc with --overlay2=none")
}

// isMounted tells a path in a directory of the engine's host, which outlives a container.
func isMounted(mounts []container.MountPoint, file string) bool {
	var longest container.MountPoint
	for _, m := range mounts {
		below, ok := strings.CutPrefix(path.Clean(file), m.Destination)
		if ok && (below == "" || below[0] == '/') && len(m.Destination) > len(longest.Destination) {
			longest = m
		}
	}
	return longest.Type == mount.TypeBind || longest.Type == mount.TypeVolume
}

// untar extracts an archive by the container's own tar.
func (r *Runtime) untar(c *call, dir string, archive io.Reader) error {
	stat, err := r.statByTar(c, dir)
	if err != nil {
		return c.failed(err)
	}
	if !stat.Mode.IsDir() && stat.Mode&fs.ModeSymlink == 0 {
		return c.wrong(core.ErrInvalidConfig, "dir", dir+" is not a directory", "")
	}
	vetted := vet(c.ctx, archive, optional.GNUHeader)
	err = r.runTar(c, core.AttachOptions{Stdin: vetted}, "-C", dir, "-xpf", "-")
	return c.failed(cmp.Or(vetted.end(), err))
}

// runTar runs the container's own tar. A complaint that makes no copy a wrong one is no failure.
func (r *Runtime) runTar(c *call, streams core.AttachOptions, args ...string) error {
	said := &complaints{}
	streams.Stderr = &lineWriter{take: said.take}
	if streams.Stdout == nil {
		streams.Stdout = streams.Stderr
	}
	code, err := r.execTool(c, streams, append([]string{"tar"}, args...))
	if err == nil && code != 0 && (code != 1 || !said.harmless || said.kept.Len() > 0) {
		err = r.tarFailed(c, &tarError{code, strings.TrimSpace(said.kept.String())})
	}
	return r.withoutTar(c, err)
}

// tarFailed tells a tar that has ended with its container from one that complains.
func (r *Runtime) tarFailed(c *call, failure *tarError) error {
	if failure.said != "" {
		return failure
	}
	found, err := r.inspect(c.ctx, c.op, c.object)
	if err == nil && !found.State.Running {
		err = c.wrong(core.ErrNotRunning, "", "the container ended during the copy", "")
	}
	return cmp.Or[error](err, failure)
}

// execTool runs a program of the container's for a copy.
func (r *Runtime) execTool(c *call, streams core.AttachOptions, cmd []string) (int64, error) {
	// GNU's tar takes more options from the environment, and all speak its language.
	env := []string{"LC_ALL=C", "TAR_OPTIONS="}
	return r.Exec(c.ctx, c.object, optional.ExecOptions{Cmd: cmd, Env: env, User: "0", AttachOptions: streams})
}

// lineWriter hands on what is written by lines, and very long ones in pieces.
type lineWriter struct {
	take func(line string)
	line []byte
}

func (w *lineWriter) Write(p []byte) (int, error) {
	for part := range bytes.Lines(p) {
		w.line = append(w.line, part...)
		if len(w.line) > lineMax || part[len(part)-1] == '\n' {
			w.take(string(w.line))
			w.line = w.line[:0]
		}
	}
	return len(p), nil
}

// lineMax is longer than a line that names a file.
const lineMax = 8 << 10

// complaints keeps the first of what tar says, but not what makes no copy a wrong one: the
// growth of a file, and sockets, which no archive holds.
type complaints struct {
	kept     strings.Builder
	harmless bool // something is not kept
}

func (s *complaints) take(line string) {
	for _, harmless := range []string{": file changed as we read it\n", ": socket ignored\n", ": unknown file type\n", "tar: error exit delayed from previous errors\n"} {
		if strings.HasSuffix(line, harmless) {
			s.harmless = true
			return
		}
	}
	s.kept.WriteString(line[:min(len(line), systemErrorMax-s.kept.Len())])
}

// tarError is what the container's tar said before it exited with an error.
type tarError struct {
	code int64
	said string
}

func (f *tarError) Error() string {
	if f.said == "" {
		return fmt.Sprintf("tar in the container exited with %d and said nothing", f.code)
	}
	return "tar in the container: " + f.said
}

// tar archives a file by the container's own tar. The archive ends with the call; empty
// sees its headers; it may be nil.
func (r *Runtime) tar(c *call, file string, empty *emptyFiles, options ...string) (io.Reader, error) {
	dir, name := path.Dir(file), path.Base(file)
	if path.Clean(file) == "/" {
		name = "."
	}
	reader, writer := io.Pipe()
	go func() {
		err := r.runTar(c, core.AttachOptions{Stdout: writer}, slices.Concat([]string{"-C", dir}, options, []string{"-cf", "-", "--", name})...)
		_ = writer.CloseWithError(err)
	}()
	context.AfterFunc(c.ctx, func() { _ = reader.CloseWithError(context.Cause(c.ctx)) })
	entries := 0
	archive := bufio.NewReader(optional.WholeArchive(io.MultiReader(reader, empty), func(header *tar.Header) error {
		entries++
		return empty.see(header)
	}))
	_, err := archive.Peek(1)
	said, failed := errors.AsType[*tarError](err)
	switch {
	case entries > 0:
	case failed && said.missing():
		err = c.missing(file)
	case err == nil:
		err = c.wrong(core.ErrUnsupported, "", file+" is neither a file, a directory nor a link", "")
	}
	return archive, err
}

// missing tells whether there was nothing to archive.
func (f *tarError) missing() bool {
	first, _, _ := strings.Cut(f.said, "\n")
	return strings.HasSuffix(first, ": No such file or directory") || strings.HasSuffix(first, ": Not a directory")
}

// emptyFiles are the empty files of an archive. The kernel's own tell no size, and tar
// takes them for such.
type emptyFiles struct {
	runtime *Runtime
	call    *call
	dir     string // that the archive's names begin in
	alone   bool   // it is the archive's only entry
	seen    bool   // an entry
	names   []string
	length  int // of names
}

// see notes an entry. It fails at one of the kernel's own files.
func (e *emptyFiles) see(header *tar.Header) error {
	if e == nil {
		return nil
	}
	first := !e.seen
	e.seen = true
	if header.Typeflag != tar.TypeReg || header.Size > 0 {
		return nil
	}
	e.alone = first
	name := path.Join(e.dir, header.Name)
	if strings.HasPrefix(name, "/proc/") || strings.HasPrefix(name, "/sys/") {
		return e.madeOnRead(name)
	}
	e.names, e.length = append(e.names, name), e.length+len(name)
	if e.length > emptyFilesMax {
		return e.check()
	}
	return nil
}

// emptyFilesMax is how many bytes of names go into one command.
const emptyFilesMax = 32 << 10

// Read looks at the files that are left to be looked at, and ends.
func (e *emptyFiles) Read([]byte) (int, error) {
	if e != nil {
		if err := e.check(); err != nil {
			return 0, err
		}
	}
	return 0, io.EOF
}

// check asks the container for the file systems that files are on: a link may lead to
// the kernel's. Where the image has no program for that, they are taken for others.
func (e *emptyFiles) check() error {
	if len(e.names) == 0 {
		return nil
	}
	var found error
	output := &lineWriter{take: func(line string) {
		if number, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " "); found == nil && slices.Contains(generated, number) {
			found = e.madeOnRead(name)
		}
	}}
	_, err := e.runtime.execTool(e.call, core.AttachOptions{Stdout: output}, append([]string{"stat", "-f", "-c", "%t %n", "--"}, e.names...))
	e.names, e.length = nil, 0
	if core.ProgramFailure(err) != nil {
		return nil
	}
	return cmp.Or(err, found)
}

// generated are the file systems, by Linux's numbers, whose content is made on reading:
// proc, sysfs, and cgroups of either version.
var generated = []string{"9fa0", "62656572", "27e0eb", "63677270"}

// madeOnRead refuses one of the kernel's own files.
func (e *emptyFiles) madeOnRead(name string) error {
	return e.call.wrong(core.ErrUnsupported, "", "the kernel makes the content of "+name+" when it is read, and an archive would have it empty",
		"Read it by a program in the container, such as cat")
}

// linksMax is how many links in a row are followed, as many as Linux does.
const linksMax = 40

// statByTar describes a file by an archive of it.
func (r *Runtime) statByTar(c *call, file string) (optional.PathStat, error) {
	stat, err := r.headerByTar(c, file)
	next := stat // a link may lead to another, whose place is not where they lead
	for range linksMax {
		if err != nil || next.Mode&fs.ModeSymlink == 0 {
			break
		}
		stat.LinkTarget = next.LinkTarget
		next, err = r.headerByTar(c, next.LinkTarget)
	}
	_, unreadable := errors.AsType[*tarError](err)
	if stat.LinkTarget != "" && (unreadable || errors.Is(err, core.ErrNotFound) || errors.Is(err, core.ErrUnsupported)) {
		return stat, nil // the link itself is known
	}
	return stat, err
}

// headerByTar reads the first header of an archive.
func (r *Runtime) headerByTar(c *call, file string) (optional.PathStat, error) {
	inner, err := r.on(c.ctx, 0, c.op, c.object)
	if err != nil {
		return optional.PathStat{}, err
	}
	defer inner.end()
	archive, err := r.tar(inner, file, nil, "--no-recursion")
	if err != nil {
		return optional.PathStat{}, err
	}
	header, err := tar.NewReader(archive).Next()
	if err != nil {
		return optional.PathStat{}, inner.failed(err)
	}
	stat := optional.PathStat{Name: path.Base(file), Size: header.Size, Mode: header.FileInfo().Mode(), ModTime: header.ModTime}
	if stat.LinkTarget = header.Linkname; stat.LinkTarget != "" && !path.IsAbs(stat.LinkTarget) {
		stat.LinkTarget = path.Join(path.Dir(file), stat.LinkTarget)
	}
	return stat, nil
}

// withoutTar tells that an image has no tar, where that is why a copy failed.
func (r *Runtime) withoutTar(c *call, err error) error {
	if errors.Is(core.ProgramFailure(err), fs.ErrNotExist) {
		return c.wrong(core.ErrUnsupported, "", "files of a running sandbox are out of the engine's reach, and the image has no tar", "Copy before it is started, or use an image with tar")
	}
	return err
}
