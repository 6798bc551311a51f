package selftest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing/iotest"
	"time"

	"github.com/moatproject/moat/adapters/memory"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// portImitations are of ports that the memory runtime has not got.
var portImitations = []imitation{
	{"RT-140", "modes are lost", copying(sound), copying(func(s *shelf) { s.keep = func(f *shelved) { f.Mode = 0o644 } })},
	{"RT-140", "owners are lost", copying(sound), copying(func(s *shelf) { s.keep = func(f *shelved) { f.Uid, f.Gid = 0, 0 } })},
	{"RT-140", "links are lost", copying(sound), copying(func(s *shelf) {
		s.keep = func(f *shelved) {
			if f.Typeflag == tar.TypeSymlink {
				f.Typeflag = tar.TypeReg
			}
		}
	})},
	{"RT-140", "large owners are lost", copying(sound), copying(func(s *shelf) {
		s.keep = func(f *shelved) { f.Uid &= 1<<21 - 1 }
	})},
	{"RT-140", "times are rounded", copying(sound), copying(func(s *shelf) {
		s.keep = func(f *shelved) { f.ModTime = f.ModTime.Round(time.Second) }
	})},
	{"RT-141", "missing folders are made", copying(sound), copying(func(s *shelf) { s.folder = func(string) error { return nil } })},
	{"RT-142", "everything is taken", copying(sound), copying(func(s *shelf) {
		s.vet = func(w io.Writer, r io.Reader) error { _, err := io.Copy(w, r); return err }
	})},
	{"RT-143", "links are followed", copying(sound), copying(func(s *shelf) {
		s.send = func(f *shelved) { f.Typeflag = tar.TypeReg }
	})},
	{"RT-143", "owners are lost", copying(sound), copying(func(s *shelf) { s.send = func(f *shelved) { f.Uid = 0 } })},
	{"RT-143", "the root folder's name is absolute", copying(sound), copying(func(s *shelf) {
		s.send = func(f *shelved) {
			if f.Name == "." {
				f.Name = "/"
			}
		}
	})},
	{"RT-144", "what is missing is empty", copying(sound), copying(func(s *shelf) { s.missing = nil })},
	{"RT-145", "sizes are lost", copying(sound), copying(func(s *shelf) { s.told = func(stat *optional.PathStat) { stat.Size = 0 } })},
	{"RT-145", "a link's target is relative", copying(sound), copying(func(s *shelf) {
		s.told = func(stat *optional.PathStat) { stat.LinkTarget = path.Base(stat.LinkTarget) }
	})},
	{"RT-145", "a link to a link is followed once", copying(sound), copying(func(s *shelf) { s.hops = 1 })},

	{"RT-146", "the stream's failure is lost", copying(sound), copying(func(s *shelf) { s.shrunk = io.EOF })},
	{"RT-146", "the archive's end comes before its failure", copying(sound), copying(func(s *shelf) {
		s.whole = func(src io.Reader) io.Reader { return src }
	})},
	{"RT-147", "the image's files are copied", copying(sound), copying(func(s *shelf) { s.send = func(f *shelved) { f.content = "image" } })},
	{"RT-147", "the image's files are described", copying(sound), copying(func(s *shelf) { s.told = func(stat *optional.PathStat) { stat.Size = 5 } })},
	{"RT-148", "the archive is read on", copying(sound), copying(func(s *shelf) { s.live = func(_ context.Context, src io.Reader) io.Reader { return src } })},
	{"RT-148", "the context's error is lost", copying(sound), copying(func(s *shelf) { s.cancelled = func(error) error { return nil } })},

	{"RT-160", "nothing is counted", measuring(time.Second, nil), measuring(0, nil)},
	{"RT-160", "there is no limit", measuring(time.Second, nil), measuring(time.Second, func(stats *optional.Stats, _ *error) { stats.MemoryLimit = 0 })},
	{"RT-161", "what has exited is measured", measuring(time.Second, nil), measuring(time.Second, func(_ *optional.Stats, err *error) {
		if errors.Is(*err, core.ErrNotRunning) {
			*err = nil
		}
	})},
}

func sound(*shelf) {}

// shelf imitates the files of containers, which the memory runtime's own do not see.
// What is wrong with it is replaced.
type shelf struct {
	*hooks

	mu      sync.Mutex
	scripts map[string]string              // by container
	files   map[string]map[string]*shelved // by container and path

	keep, send func(*shelved)
	told       func(*optional.PathStat)
	folder     func(dir string) error
	vet        func(io.Writer, io.Reader) error
	missing    error
	hops       int // how many links are followed

	shrunk    error // what ends the archive of a file that shrinks
	whole     func(io.Reader) io.Reader
	live      func(context.Context, io.Reader) io.Reader
	cancelled func(error) error
}

type shelved struct {
	tar.Header
	content string
}

func copying(change func(*shelf)) func(*world) {
	return func(w *world) {
		s := &shelf{
			hooks: w.hooks, scripts: map[string]string{}, files: map[string]map[string]*shelved{},
			keep: func(*shelved) {}, send: func(*shelved) {}, told: func(*optional.PathStat) {},
			folder: folder, vet: func(dst io.Writer, src io.Reader) error { return optional.VetArchive(dst, src) }, missing: core.ErrNotFound, hops: 9,
			shrunk:    errors.New("it has shrunk"),
			whole:     func(src io.Reader) io.Reader { return optional.WholeArchive(src, nil) },
			live:      func(ctx context.Context, src io.Reader) io.Reader { return liveReader{ctx, src} },
			cancelled: func(err error) error { return err },
		}
		change(s)
		w.more = struct {
			core.Runtime
			optional.Copier
		}{w.full, s}
		w.create = s.create
		w.wait = func(context.Context, string) (int64, error) { return 0, nil }
		w.logsAll = s.output
	}
}

// liveReader begins no Read after its context has ended.
type liveReader struct {
	ctx context.Context
	io.Reader
}

func (r liveReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

func folder(dir string) error {
	switch {
	case !path.IsAbs(dir), dir == "/etc/passwd":
		return wrong("dir")
	case dir != "/tmp":
		return core.ErrNotFound
	}
	return nil
}

func wrong(field string) error {
	return &core.Error{Op: "copy", Runtime: memory.Type, Field: field, Class: core.ErrInvalidConfig}
}

// create makes a container that goes on, with the files that its script would make.
func (s *shelf) create(ctx context.Context, cfg core.Config) (string, error) {
	script := "echo ready; sleep 1000"
	if len(cfg.Mounts) > 0 { // of a file that is to shrink
		script = "echo ready; while ! test -e /host/go; do sleep 0.1; done; echo >/host/done; sleep 1000"
	}
	id, err := s.full.CreateContainer(ctx, core.Config{Image: cfg.Image, Cmd: []string{"sh", "-c", script}, RunID: cfg.RunID, Mounts: cfg.Mounts})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scripts[id] = cfg.Cmd[len(cfg.Cmd)-1]
	files := map[string]*shelved{
		"/":           {Header: tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}},
		"/etc/passwd": {Header: tar.Header{Typeflag: tar.TypeReg, Mode: 0o644}},
	}
	if strings.Contains(s.scripts[id], "mkdir /tmp/sub") {
		files["/tmp/sub"] = &shelved{Header: tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}}
		files["/tmp/sub/text"] = &shelved{tar.Header{Typeflag: tar.TypeReg, Mode: 0o640, Uid: 1000, Gid: 1000}, "the content\n"}
		files["/tmp/sub/link"] = &shelved{Header: tar.Header{Typeflag: tar.TypeSymlink, Linkname: "text"}}
	}
	if strings.Contains(s.scripts[id], "of=/tmp/large") {
		files["/tmp/large"] = &shelved{tar.Header{Typeflag: tar.TypeReg, Size: 1}, "x"}
	}
	if strings.Contains(s.scripts[id], "echo changed") {
		files["/tmp/made"] = &shelved{tar.Header{Typeflag: tar.TypeReg, Size: 5}, "made\n"}
		files["/etc/passwd"] = &shelved{tar.Header{Typeflag: tar.TypeReg, Size: 8}, "changed\n"}
	}
	s.files[id] = files
	return id, err
}

// output is what a container writes that shows /tmp/sub.
func (s *shelf) output(_ context.Context, id string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all bytes.Buffer
	if strings.HasPrefix(s.scripts[id], "echo ready") {
		fmt.Fprintln(&all, "ready")
	}
	text, link := s.files[id]["/tmp/sub/text"], s.files[id]["/tmp/sub/link"]
	content := link.content
	if link.Typeflag == tar.TypeSymlink {
		content = text.content
	}
	fmt.Fprintf(&all, "%s%s%o %d %d\n", text.content, content, text.Mode, text.Uid, text.Gid)
	for name, file := range s.files[id] {
		if strings.HasPrefix(name, "/tmp/nnn") {
			fmt.Fprintln(&all, file.Uid, file.Gid, file.ModTime.Unix())
		}
	}
	return all.Bytes(), nil
}

// of returns a container's files.
func (s *shelf) of(ctx context.Context, id string) (map[string]*shelved, error) {
	if _, err := s.full.ContainerState(ctx, id); err != nil {
		return nil, err
	}
	return s.files[id], nil
}

func (s *shelf) CopyTo(ctx context.Context, id, dir string, archive io.Reader) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	files, err := s.of(ctx, id)
	if err == nil {
		err = s.folder(dir)
	}
	if err != nil {
		return err
	}
	var vetted bytes.Buffer
	vetting := make(chan error, 1)
	go func() { vetting <- s.vet(&vetted, s.live(ctx, archive)) }()
	select {
	case err := <-vetting:
		if err != nil {
			return err
		}
	case <-ctx.Done():
		return s.cancelled(ctx.Err())
	}
	for in := tar.NewReader(&vetted); ; {
		header, err := in.Next()
		if err != nil {
			return nil
		}
		content, err := io.ReadAll(in)
		if err != nil {
			return err
		}
		file := &shelved{*header, string(content)}
		s.keep(file)
		files[path.Join(dir, header.Name)] = file
	}
}

func (s *shelf) CopyFrom(ctx context.Context, id, file string) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	files, err := s.of(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case !path.IsAbs(file):
		return nil, wrong("path")
	case files[file] == nil && s.missing != nil:
		return nil, s.missing
	}
	var packed bytes.Buffer
	out := tar.NewWriter(&packed)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if name != file && !strings.HasPrefix(name, strings.TrimSuffix(file, "/")+"/") {
			continue
		}
		sent := *files[name]
		sent.Name = path.Join(path.Base(file), strings.TrimPrefix(name, file))
		if file == "/" {
			sent.Name = path.Join(".", strings.TrimPrefix(name, "/"))
		}
		sent.Size = int64(len(sent.content))
		s.send(&sent)
		if err := out.WriteHeader(&sent.Header); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(out, sent.content); err != nil {
			return nil, err
		}
	}
	if file == "/tmp/large" {
		return io.NopCloser(s.whole(io.MultiReader(&packed, iotest.ErrReader(s.shrunk)))), out.Close()
	}
	return io.NopCloser(&packed), out.Close()
}

func (s *shelf) StatPath(ctx context.Context, id, file string) (optional.PathStat, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	files, err := s.of(ctx, id)
	switch {
	case err != nil:
		return optional.PathStat{}, err
	case files[file] == nil:
		return optional.PathStat{}, core.ErrNotFound
	}
	info := files[file].FileInfo()
	stat := optional.PathStat{Name: path.Base(file), Size: info.Size(), Mode: info.Mode(), ModTime: info.ModTime()}
	for at, hops := file, s.hops; hops > 0 && files[at] != nil && files[at].Typeflag == tar.TypeSymlink; hops-- {
		at = path.Join(path.Dir(at), files[at].Linkname)
		stat.LinkTarget = at
	}
	s.told(&stat)
	return stat, nil
}

// meter imitates what an engine counts.
type meter struct {
	*hooks
	step   time.Duration // of CPU time, from one measurement to the next
	passed atomic.Int64
	change func(*optional.Stats, *error)
}

func measuring(step time.Duration, change func(*optional.Stats, *error)) func(*world) {
	return func(w *world) {
		m := &meter{hooks: w.hooks, step: step, change: change}
		w.more = struct {
			core.Runtime
			optional.StatsReader
		}{w.full, m}
	}
}

func (m *meter) Stats(ctx context.Context, id string) (optional.Stats, error) {
	state, err := m.full.ContainerState(ctx, id)
	if err == nil && state != core.StateRunning {
		err = core.ErrNotRunning
	}
	passed := m.passed.Add(1)
	stats := optional.Stats{Time: time.Unix(passed, 0), CPU: time.Duration(passed) * m.step, Memory: 1, MemoryLimit: 2, PIDs: 1}
	if m.change != nil {
		m.change(&stats, &err)
	}
	return stats, err
}
