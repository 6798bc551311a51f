package docker

import (
	"archive/tar"
	"bufio"
	"cmp"
	"context"
	"errors"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/moatproject/moat/core"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
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
	unread     unread
}

func (m *builds) BuildImage(ctx context.Context, dockerfile string, tag string, opts core.BuildOptions) error {
	if err := core.ValidateTag(tag); err != nil {
		return err
	}
	if err := opts.Validate(); err != nil {
		return err
	}
	r := (*Runtime)(m)
	c, err := r.begin(ctx, 0, "build image", tag)
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
	b := &build{call: c, runtime: r, dockerfile: dockerfile, tag: reference.TagNameOnly(named).String(), opts: opts, unread: unread{stop: stop}}
	err = b.run()
	if why := b.unread.reason(); why != nil && asked.Err() == nil {
		return &core.Error{
			Op: c.op, Runtime: core.RuntimeDocker, Object: c.object, Field: "Context", Class: core.ErrInvalidConfig,
			Err: why, Remedy: "Make it readable, or name it in " + ignoreFile,
		}
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
	steps := steps(b.dockerfile)
	line = cmp.Or(line, lineIn(err), lineOfStep(steps, step), lineAbout(steps, err.Error()))
	if at := stepAt(steps, b.dockerfile, line); at != "" {
		step = at
	}
	if line > 0 || step != "" {
		failed.Err = &core.BuildError{Step: step, Line: line, Output: output, Err: failed.Err}
	}
	return failed
}

// steps returns a Dockerfile's instructions: nil where it is none.
func steps(dockerfile string) []*parser.Node {
	parsed, err := parser.Parse(strings.NewReader(dockerfile))
	if err != nil {
		return nil
	}
	return parsed.AST.Children
}

// stepAt returns the instruction on a line of a Dockerfile, or what else is there.
func stepAt(steps []*parser.Node, dockerfile string, line int) string {
	for _, step := range steps {
		if step.StartLine <= line && line <= step.EndLine {
			return step.Original
		}
	}
	lines := strings.Split(dockerfile, "\n")
	if line < 1 || line > len(lines) {
		return ""
	}
	return strings.TrimSpace(lines[line-1])
}

// numberedStep is BuildKit's name for a step: its stage where there are several, its
// number among those of the stage that change files, and its instruction.
var numberedStep = lazily(`^\[(?:(?:stage-)?(\S+) +)?(\d+)/\d+\] (\w+)`)

// imageStep is BuildKit's name for the look at an image that a stage begins with.
const imageStep = "[internal] load metadata for "

// lineOfStep returns the line of the step that BuildKit calls so, or 0.
func lineOfStep(steps []*parser.Node, name string) int {
	if image, ok := strings.CutPrefix(name, imageStep); ok {
		return lineAbout(steps, image)
	}
	match := numberedStep().FindStringSubmatch(name)
	if match == nil {
		return 0
	}
	stage, number := -1, 0
	for _, step := range steps {
		switch instruction := strings.ToUpper(step.Value); {
		case instruction == "FROM":
			stage, number = stage+1, 1
		case stage >= 0 && slices.Contains([]string{"RUN", "COPY", "ADD", "WORKDIR"}, instruction):
			number++
		default:
			continue
		}
		inStage := match[1] == "" || match[1] == strconv.Itoa(stage) || strings.EqualFold(match[1], stageName(steps, stage))
		if inStage && match[2] == strconv.Itoa(number) && strings.EqualFold(match[3], step.Value) {
			return step.StartLine
		}
	}
	return 0
}

// stageName returns the name that a stage, counted from 0, is given by "FROM image AS name".
func stageName(steps []*parser.Node, stage int) string {
	for _, step := range steps {
		if !strings.EqualFold(step.Value, "FROM") {
			continue
		}
		if words := arguments(step); stage == 0 {
			if len(words) == 3 {
				return words[2]
			}
			return ""
		}
		stage--
	}
	return ""
}

func arguments(step *parser.Node) (words []string) {
	for word := step.Next; word != nil; word = word.Next {
		words = append(words, word.Value)
	}
	return words
}

// lineAbout returns the line of the instruction whose image or source an error names, or 0.
func lineAbout(steps []*parser.Node, text string) int {
	for _, step := range steps {
		words := arguments(step)
		switch strings.ToUpper(step.Value) {
		case "FROM":
			words = words[:min(1, len(words))]
		case "COPY", "ADD":
			words = words[:max(0, len(words)-1)]
			for i, source := range words {
				words[i] = strconv.Quote(path.Clean("/" + source))
			}
		default:
			continue
		}
		if slices.ContainsFunc(words, func(word string) bool { return strings.Contains(text, word) }) {
			return step.StartLine
		}
	}
	return 0
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
