package docker

import (
	"archive/tar"
	"bufio"
	"cmp"
	"context"
	"errors"
	"io"
	"strings"

	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/moatproject/moat/adapters/docker/internal/buildcontext"
	"github.com/moatproject/moat/adapters/docker/internal/dockerfile"
	"github.com/moatproject/moat/core"
)

// BuildManager returns the runtime's one build manager. It builds with the BuildKit that
// [Options.BuildKit] names, else with the engine's own, else with the engine's classic
// builder. Another one is tried only where there is no BuildKit, never after a failure.
func (r *Runtime) BuildManager() core.BuildManager { return (*builds)(r) }

// builds is a runtime as a build manager.
type builds Runtime

// build is one build in progress.
type build struct {
	*call
	runtime    *Runtime
	dockerfile string
	tag        string // with its registry and version
	opts       core.BuildOptions
	unread     *buildcontext.Failure
}

func (m *builds) BuildImage(ctx context.Context, dockerfile string, tag string, opts core.BuildOptions) error {
	if err := core.ValidateTag(tag); err != nil {
		return err
	}
	if err := opts.Validate(); err != nil {
		return err
	}
	const op = "build image"
	if err := core.ValidateDockerfile(dockerfile); err != nil {
		refused, _ := errors.AsType[*core.Error](err)
		refused.Op, refused.Runtime, refused.Object = op, core.RuntimeDocker, tag
		return refused
	}
	r := (*Runtime)(m)
	c, err := r.begin(ctx, 0, op, tag)
	if err != nil {
		return err
	}
	defer c.end()
	named, err := reference.ParseNormalizedNamed(tag)
	if err != nil {
		return c.failed(err)
	}
	if len(opts.DNS) > 0 {
		return c.wrong(core.ErrUnsupported, "DNS", "builders take their DNS servers from their own settings",
			"Set dns in the engine's daemon.json, or in BuildKit's buildkitd.toml")
	}
	asked := c.ctx
	building, stop := context.WithCancel(asked)
	defer stop()
	c.ctx = building
	b := &build{call: c, runtime: r, dockerfile: dockerfile, tag: reference.TagNameOnly(named).String(), opts: opts, unread: buildcontext.NewFailure(stop)}
	err = b.run()
	if why := b.unread.Err(); why != nil && asked.Err() == nil {
		failure := &core.Error{
			Op: c.op, Runtime: core.RuntimeDocker, Object: c.object, Field: "Context", Class: core.ErrInvalidConfig,
			Err: why, Remedy: "Make it readable, or name it in " + buildcontext.IgnoreFile,
		}
		if _, ok := errors.AsType[*buildcontext.EncodingError](why); ok {
			failure.Remedy = "Rename it, or exclude it in " + buildcontext.IgnoreFile + " (? stands for any one byte that is not UTF-8)"
		}
		return failure
	}
	if why := c.logins.failure(); why != nil && asked.Err() == nil {
		return c.failed(why)
	}
	return c.failed(err)
}

func (b *build) run() error {
	options := b.runtime.options
	if options.BuildKit != "" {
		return b.onBuildKit(options.BuildKit)
	}
	if options.ClassicBuilder {
		return b.classic()
	}
	err := b.onEngine()
	if errors.Is(err, errNoBuildKit) {
		return b.classic()
	}
	return err
}

// failure makes a builder's error one of the step on a line of the Dockerfile. Where the
// builder does not tell the line (Docker 20.10's BuildKit), it is the line of the step
// that the builder has named, or of the one with what the error is about.
func (b *build) failure(err error, line int, step, output string) error {
	err = withoutPrefixes(err)
	b.step = step
	failed, _ := errors.AsType[*core.Error](b.failed(err))
	if failed == nil || b.ctx.Err() != nil {
		return failed
	}
	if failed.Remedy == startEngine && b.runtime.options.BuildKit != "" {
		failed.Remedy = startBuildKit
	}
	if errors.Is(failed.Class, core.ErrInvalidConfig) && failed.Field != "ContextFiles" {
		failed.Field, failed.Remedy = "Dockerfile", mendDockerfile
	}
	file := dockerfile.Parse(b.dockerfile)
	line = cmp.Or(line, lineIn(err), file.LineOf(step), file.LineAbout(err.Error()))
	if at := file.StepAt(line); at != "" {
		step = at
	}
	if line > 0 || step != "" {
		failed.Err = &core.BuildError{Step: step, Line: line, Output: output, Err: failed.Err}
	}
	return failed
}

// context returns the build's files and the patterns that exclude some of them.
func (b *build) context() (buildcontext.Files, []byte, error) {
	files, patterns, err := buildcontext.New(b.opts.Context, b.opts.ContextFiles, b.unread)
	if err != nil {
		err = b.wrong(core.ErrInvalidConfig, "Context", buildcontext.IgnoreFile+": "+err.Error(), "Make it a file of patterns, or leave it out")
	}
	return files, patterns, err
}

// outputMax bounds what of a step's output its error carries.
const outputMax = 2000

// tailOf returns the end of a step's output, whole lines where there are several.
func tailOf(output []byte) string {
	if len(output) <= outputMax {
		return string(output)
	}
	output = output[len(output)-outputMax:]
	if _, rest, several := strings.Cut(string(output), "\n"); several && rest != "" {
		return rest
	}
	return strings.ToValidUTF8(string(output), "")
}

func (m *builds) ImageExists(ctx context.Context, tag string) (bool, error) {
	_, err := (*Runtime)(m).findImage(ctx, tag)
	if errors.Is(err, core.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// findImage describes an image that is there.
func (r *Runtime) findImage(ctx context.Context, name string) (image.InspectResponse, error) {
	c, err := r.call(ctx, "find image", name)
	if err != nil {
		return image.InspectResponse{}, err
	}
	defer c.end()
	// The SDK makes a path of it, in which "../containers/x" would be another object.
	if _, err := reference.ParseAnyReference(name); err != nil {
		return image.InspectResponse{}, c.failed(err)
	}
	found, err := r.engine.ImageInspect(c.ctx, name)
	return found, c.failed(err)
}

// rootHome is the home in doubt.
const rootHome = "/root"

func (m *builds) GetImageHomeDir(ctx context.Context, imageName string) string {
	r := (*Runtime)(m)
	found, err := r.findImage(ctx, imageName)
	if err != nil || found.Config == nil {
		return rootHome
	}
	for _, variable := range found.Config.Env {
		if home, ok := strings.CutPrefix(variable, "HOME="); ok && home != "" {
			return home
		}
	}
	user, _, _ := strings.Cut(found.Config.User, ":")
	if user == "" || user == "root" || user == "0" {
		return rootHome
	}
	return cmp.Or(r.homeIn(ctx, found.ID, user), rootHome)
}

// passwdMax bounds what is read of an image's /etc/passwd.
const passwdMax = 1 << 20

// homeIn looks a user up in an image's /etc/passwd, out of a container that never starts.
func (r *Runtime) homeIn(ctx context.Context, imageID, user string) string {
	c, err := r.call(ctx, "read passwd", imageID)
	if err != nil {
		return ""
	}
	defer c.end()
	graced, cancel := withGrace(c.ctx)
	defer cancel()
	config := &container.Config{Image: imageID, Cmd: []string{"none"}, Labels: core.ObjectLabels("", core.RoleProbe)}
	created, err := r.engine.ContainerCreate(graced, config, nil, nil, nil, "")
	if err != nil {
		return ""
	}
	defer r.drop(c.ctx, created.ID)
	archive, _, err := r.engine.CopyFromContainer(c.ctx, created.ID, "/etc/passwd")
	if err != nil {
		return ""
	}
	defer archive.Close()
	passwd := tar.NewReader(io.LimitReader(archive, passwdMax))
	if _, err := passwd.Next(); err != nil {
		return ""
	}
	lines := bufio.NewScanner(passwd)
	for lines.Scan() {
		// name:password:uid:gid:comment:home:shell
		if fields := strings.Split(lines.Text(), ":"); len(fields) == 7 && (fields[0] == user || fields[2] == user) {
			return fields[5]
		}
	}
	return ""
}
