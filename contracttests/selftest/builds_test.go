package selftest

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"testing/fstest"
	"unicode/utf8"

	"github.com/moatproject/moat/adapters/memory"
	"github.com/moatproject/moat/core"
)

// buildHooks is a build manager whose methods can be replaced one by one.
type buildHooks struct {
	core.BuildManager
	build  func(ctx context.Context, dockerfile, tag string, opts core.BuildOptions) error
	exists func(context.Context, string) (bool, error)
	home   func(context.Context, string) string
}

func (b *buildHooks) BuildImage(ctx context.Context, dockerfile, tag string, opts core.BuildOptions) error {
	return b.build(ctx, dockerfile, tag, opts)
}
func (b *buildHooks) ImageExists(ctx context.Context, tag string) (bool, error) {
	return b.exists(ctx, tag)
}
func (b *buildHooks) GetImageHomeDir(ctx context.Context, image string) string {
	return b.home(ctx, image)
}

// building breaks the build manager.
func building(change func(*hooks, *buildHooks)) func(*hooks) {
	return func(h *hooks) {
		sound := h.full.BuildManager()
		b := &buildHooks{BuildManager: sound, build: sound.BuildImage, exists: sound.ImageExists, home: sound.GetImageHomeDir}
		change(h, b)
		h.buildManager = func() core.BuildManager { return b }
	}
}

// buildOf changes what is built, where that is valid.
func buildOf(change func(*core.BuildOptions)) func(*hooks) {
	return building(func(_ *hooks, b *buildHooks) {
		b.build = func(ctx context.Context, dockerfile, tag string, opts core.BuildOptions) error {
			if opts.Validate() == nil {
				change(&opts)
			}
			return b.BuildManager.BuildImage(ctx, dockerfile, tag, opts)
		}
	})
}

// contextOf changes the files of Context.
func contextOf(change func(fstest.MapFS)) func(*hooks) {
	return buildOf(func(opts *core.BuildOptions) {
		files, ok := opts.Context.(fstest.MapFS)
		if !ok {
			return
		}
		changed := fstest.MapFS{}
		for name, file := range files {
			copied := *file
			changed[name] = &copied
		}
		change(changed)
		opts.Context = changed
	})
}

// built changes what becomes of a build that fails.
func built(change func(h *hooks, tag string, err error) error) func(*hooks) {
	return building(func(h *hooks, b *buildHooks) {
		b.build = func(ctx context.Context, dockerfile, tag string, opts core.BuildOptions) error {
			err := b.BuildManager.BuildImage(ctx, dockerfile, tag, opts)
			if err != nil {
				err = change(h, tag, err)
			}
			return err
		}
	})
}

// told changes what is told of a step.
func told(change func(*core.BuildProgress)) func(*hooks) {
	return buildOf(func(opts *core.BuildOptions) {
		if sink := opts.Progress; sink != nil {
			opts.Progress = func(step core.BuildProgress) {
				change(&step)
				sink(step)
			}
		}
	})
}

// failedStep tells a step's failure from others of a build.
func failedStep(err error) (*core.BuildError, bool) {
	failed, ok := errors.AsType[*core.BuildError](err)
	return failed, ok && strings.HasPrefix(failed.Step, "RUN") && !errors.Is(err, core.ErrUnsupported)
}

var buildBreakages = []breakage{
	{number: "BM-01", how: "the labels are dropped", do: buildOf(func(opts *core.BuildOptions) { opts.Labels = nil })},
	{number: "BM-01", how: "what is built is not listed", also: []string{"BM-12"}, do: func(h *hooks) {
		h.images = func(ctx context.Context) ([]core.ImageInfo, error) {
			all, err := h.full.ListImages(ctx)
			return slices.DeleteFunc(all, func(info core.ImageInfo) bool { return strings.HasPrefix(info.Tag, core.ImagePrefix+"contract-") }), err
		}
	}},
	{number: "BM-02", how: "Context hides ContextFiles", do: buildOf(func(opts *core.BuildOptions) {
		opts.ContextFiles = maps.Clone(opts.ContextFiles)
		maps.DeleteFunc(opts.ContextFiles, func(name string, _ []byte) bool {
			if opts.Context == nil {
				return false
			}
			_, err := fs.Stat(opts.Context, name)
			return err == nil
		})
	})},
	{number: "BM-02", how: ".dockerignore is for all files", do: buildOf(func(opts *core.BuildOptions) {
		opts.ContextFiles = maps.Clone(opts.ContextFiles)
		delete(opts.ContextFiles, "ignored")
	})},
	{number: "BM-03", how: "nothing can be executed", do: contextOf(func(files fstest.MapFS) {
		for _, file := range files {
			file.Mode &^= 0o111
		}
	})},
	{number: "BM-03", how: "nothing is ignored", also: []string{"BM-17"}, do: contextOf(func(files fstest.MapFS) { delete(files, ".dockerignore") })},
	{number: "BM-03", how: "empty folders are dropped", do: contextOf(func(files fstest.MapFS) { delete(files, "folder") })},
	{number: "BM-04", how: "the Dockerfile is to blame", do: built(func(_ *hooks, tag string, err error) error {
		if failed, ok := failedStep(err); ok {
			return &core.Error{Op: "build image", Runtime: memory.Type, Object: tag, Class: core.ErrInvalidConfig, Err: failed}
		}
		return err
	})},
	{number: "BM-04", how: "the output is lost", do: built(func(_ *hooks, _ string, err error) error {
		if failed, ok := failedStep(err); ok {
			failed.Output = ""
		}
		return err
	})},
	{number: "BM-04", how: "the line is lost", do: built(func(_ *hooks, _ string, err error) error {
		if failed, ok := failedStep(err); ok {
			failed.Line = 0
		}
		return err
	})},
	{number: "BM-04", how: "the image before is removed", also: []string{"BM-10"}, do: built(func(h *hooks, tag string, err error) error {
		return errors.Join(err, h.full.RemoveImage(h.t.Context(), tag))
	})},
	{number: "BM-04", how: "a second builder tries again", do: building(func(_ *hooks, b *buildHooks) {
		b.build = func(ctx context.Context, dockerfile, tag string, opts core.BuildOptions) error {
			err := b.BuildManager.BuildImage(ctx, dockerfile, tag, opts)
			if _, ok := failedStep(err); ok && ctx.Err() == nil {
				return b.BuildManager.BuildImage(ctx, dockerfile, tag, opts)
			}
			return err
		}
	})},
	{number: "BM-05", how: "the field is not named", do: built(func(_ *hooks, _ string, err error) error {
		if e, ok := errors.AsType[*core.Error](err); ok && e.Field == "Dockerfile" {
			e.Field = ""
		}
		return err
	})},
	{number: "BM-05", how: "bytes of a command are replaced", do: building(func(_ *hooks, b *buildHooks) {
		b.build = func(ctx context.Context, dockerfile, tag string, opts core.BuildOptions) error {
			return b.BuildManager.BuildImage(ctx, inJSON(dockerfile), tag, opts)
		}
	})},
	{number: "BM-06", how: "all that is missing is not found", do: built(func(_ *hooks, _ string, err error) error {
		if e, ok := errors.AsType[*core.Error](err); ok && e.Field == "ContextFiles" && strings.Contains(err.Error(), "no-such-file") {
			e.Class, e.Field = core.ErrNotFound, ""
		}
		return err
	})},
	{number: "BM-06", how: "a registry without the base is out of reach", do: built(func(_ *hooks, _ string, err error) error {
		if e, ok := errors.AsType[*core.Error](err); ok && errors.Is(err, core.ErrNotFound) {
			e.Class = core.ErrUnavailable
		}
		return err
	})},
	{number: "BM-07", how: "NoCache is dropped", do: buildOf(func(opts *core.BuildOptions) { opts.NoCache = false })},
	{number: "BM-07", how: "nothing is reused", also: []string{"BM-09"}, do: buildOf(func(opts *core.BuildOptions) { opts.NoCache = true })},
	{number: "BM-08", how: "values are trimmed", do: buildOf(func(opts *core.BuildOptions) {
		opts.Args = maps.Clone(opts.Args)
		for name, value := range opts.Args {
			opts.Args[name] = strings.TrimSpace(value)
		}
	})},
	{number: "BM-08", how: "an empty value is none", do: buildOf(func(opts *core.BuildOptions) {
		opts.Args = maps.Clone(opts.Args)
		maps.DeleteFunc(opts.Args, func(_, value string) bool { return value == "" })
	})},
	{number: "BM-09", how: "a step counts from 0", do: told(func(step *core.BuildProgress) { step.Step-- })},
	{number: "BM-09", how: "what is reused is done", do: told(func(step *core.BuildProgress) {
		if step.Status == core.BuildCached {
			step.Status = core.BuildDone
		}
	})},
	{number: "BM-09", how: "a step never ends", do: told(func(step *core.BuildProgress) {
		if step.Status == core.BuildDone {
			step.Status = core.BuildRunning
		}
	})},
	{number: "BM-10", how: "what is not done is tagged", do: building(func(_ *hooks, b *buildHooks) {
		b.build = func(ctx context.Context, dockerfile, tag string, opts core.BuildOptions) error {
			err := b.BuildManager.BuildImage(ctx, dockerfile, tag, opts)
			if errors.Is(err, context.Canceled) {
				_ = b.BuildManager.BuildImage(context.WithoutCancel(ctx), "FROM "+memory.BaseImage, tag, core.BuildOptions{})
			}
			return err
		}
	})},
	{number: "BM-11", how: "paths are made clean", do: building(func(_ *hooks, b *buildHooks) {
		b.build = func(ctx context.Context, dockerfile, tag string, opts core.BuildOptions) error {
			cleaned := map[string][]byte{}
			for name, content := range opts.ContextFiles {
				cleaned[strings.TrimPrefix(path.Clean("/"+name), "/")] = content
			}
			opts.ContextFiles = cleaned
			return b.BuildManager.BuildImage(ctx, dockerfile, tag, opts)
		}
	})},
	{number: "BM-12", how: "what could be pulled exists", also: []string{"BM-13"}, do: building(func(_ *hooks, b *buildHooks) {
		b.exists = func(ctx context.Context, tag string) (bool, error) {
			found, err := b.BuildManager.ImageExists(ctx, tag)
			return found || err == nil && tag == pullImage, err
		}
	})},
	{number: "BM-12", how: "an engine that does not answer has no images", down: building(func(_ *hooks, b *buildHooks) {
		b.exists = func(context.Context, string) (bool, error) { return false, nil }
	})},
	{number: "BM-12", how: "an image is not removed by its ID", do: func(h *hooks) {
		h.removeImage = func(ctx context.Context, ref string) error {
			if !strings.Contains(ref, "/") {
				return ctx.Err()
			}
			return h.full.RemoveImage(ctx, ref)
		}
	}},
	{number: "BM-13", how: "a user's home is guessed", do: building(func(_ *hooks, b *buildHooks) {
		b.home = func(ctx context.Context, image string) string {
			if home := b.BuildManager.GetImageHomeDir(ctx, image); home != "/home/of-the-builder" {
				return home
			}
			return "/home/builder"
		}
	})},
	{number: "BM-15", how: "dropped", do: buildOf(func(opts *core.BuildOptions) { opts.DNS = nil })},
	{number: "BM-16", how: "nothing is pulled", also: []string{"BM-06"}, do: building(func(_ *hooks, b *buildHooks) {
		b.build = func(ctx context.Context, dockerfile, tag string, opts core.BuildOptions) error {
			base, _, _ := strings.Cut(strings.TrimPrefix(dockerfile, "FROM "), "\n")
			if found, _ := b.BuildManager.ImageExists(ctx, base); !found && strings.Contains(base, "example/") {
				return core.ErrNotFound
			}
			return b.BuildManager.BuildImage(ctx, dockerfile, tag, opts)
		}
	})},
	{number: "BM-17", how: "what cannot be opened is empty", do: opened(func(name string, file fs.File, err error) (fs.File, error) {
		if errors.Is(err, fs.ErrPermission) {
			return fstest.MapFS{name: {}}.Open(name)
		}
		return file, err
	})},
	{number: "BM-17", how: "what has an impossible name is left out", do: contextOf(func(files fstest.MapFS) {
		maps.DeleteFunc(files, func(name string, _ *fstest.MapFile) bool { return !utf8.ValidString(name) })
	})},
	{number: "BM-17", how: "what is ignored is read", also: []string{"BM-02", "BM-03"}, do: opened(func(name string, file fs.File, err error) (fs.File, error) {
		if name == ".dockerignore" {
			return nil, fs.ErrNotExist
		}
		return file, err
	})},
}

// opened changes what opening the files of Context comes to.
func opened(change func(name string, file fs.File, err error) (fs.File, error)) func(*hooks) {
	return buildOf(func(opts *core.BuildOptions) {
		if opts.Context != nil {
			opts.Context = openedContext{opts.Context, change}
		}
	})
}

type openedContext struct {
	files  fs.FS
	change func(name string, file fs.File, err error) (fs.File, error)
}

func (o openedContext) Open(name string) (fs.File, error) {
	file, err := o.files.Open(name)
	return o.change(name, file, err)
}

var buildImitations = []imitation{
	{"BM-14", "links are followed", copied("it is linked\nfile\n/no/such/file\n../../etc\n"), copied("it is linked\n")},
}

// copying imitates an image by what a container of it would write.
func copied(text string) func(*world) {
	return func(w *world) {
		w.buildManager = func() core.BuildManager {
			return &buildHooks{build: func(context.Context, string, string, core.BuildOptions) error { return nil }}
		}
		w.create = func(ctx context.Context, cfg core.Config) (string, error) {
			return w.full.CreateContainer(ctx, core.Config{Image: memory.BaseImage, Cmd: []string{"true"}, RunID: cfg.RunID})
		}
		w.logsAll = func(context.Context, string) ([]byte, error) { return []byte(text), nil }
	}
}
