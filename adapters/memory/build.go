package memory

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	lex "github.com/moby/buildkit/frontend/dockerfile/shell"
)

const (
	buildOp = "build image"

	// outputTail is how much of a failed step's output its error has.
	outputTail = 16 << 10
)

// builder is a runtime as a build manager.
type builder Runtime

// BuildManager returns the runtime's one build manager.
func (r *Runtime) BuildManager() core.BuildManager { return (*builder)(r) }

// ImageExists looks for an image without pulling it.
func (b *builder) ImageExists(ctx context.Context, tag string) (bool, error) {
	r := (*Runtime)(b)
	if err := r.check(ctx, "look for image", tag); err != nil {
		return false, err
	}
	return r.present(tag) != nil, nil
}

func (r *Runtime) present(ref string) *image {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.images[normalRef(ref)]
}

// GetImageHomeDir returns HOME of an image's environment, else the home of its user.
func (b *builder) GetImageHomeDir(ctx context.Context, imageName string) string {
	const op, otherwise = "find home folder", "/root"
	r := (*Runtime)(b)
	image := r.present(imageName)
	if r.check(ctx, op, imageName) != nil || image == nil {
		return otherwise
	}
	c, err := newContainer(op, imageName, core.Config{Image: imageName, Cmd: []string{"true"}}, image, 0)
	if err != nil {
		return otherwise
	}
	home := (&command{env: image.Env}).getenv("HOME")
	if home == "" && c.user.name != "" && c.user.uid != 0 {
		home = c.user.home
	}
	if !path.IsAbs(home) {
		return otherwise
	}
	return home
}

// BuildImage carries out a Dockerfile, instruction by instruction.
func (b *builder) BuildImage(ctx context.Context, dockerfile, tag string, opts core.BuildOptions) error {
	r := (*Runtime)(b)
	if err := cmp.Or(core.ValidateTag(tag), opts.Validate()); err != nil {
		return refused(buildOp, tag, err)
	}
	if err := r.check(ctx, buildOp, tag); err != nil {
		return err
	}
	stages, globals, err := parseDockerfile(dockerfile)
	if err != nil {
		return invalid(buildOp, tag, "Dockerfile", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-r.closed:
			cancel()
		case <-ctx.Done():
		}
	}()
	built, err := (&build{Runtime: r, ctx: ctx, tag: tag, opts: opts}).run(stages, globals)
	r.mu.Lock()
	defer r.mu.Unlock()
	if ended := r.check(ctx, buildOp, tag); ended != nil {
		if r.isClosed() { // which is why ctx has ended
			return closedError(buildOp, tag)
		}
		return ended
	}
	if err != nil {
		return err
	}
	r.images[built.Ref] = built
	return nil
}

func parseDockerfile(dockerfile string) ([]instructions.Stage, []instructions.ArgCommand, error) {
	result, err := parser.Parse(strings.NewReader(dockerfile))
	if err == nil {
		var stages []instructions.Stage
		var globals []instructions.ArgCommand
		if stages, globals, err = instructions.Parse(result.AST, nil); err == nil && len(stages) > 0 {
			return stages, globals, nil
		}
	}
	if err == nil {
		err = errors.New("it has no FROM")
	}
	failed := &core.BuildError{Err: err}
	if e, ok := errors.AsType[*parser.LocationError](err); ok && len(e.Locations) > 0 {
		failed.Line = lineOf(e.Locations[0])
	}
	return nil, nil, failed
}

func lineOf(location []parser.Range) int {
	if len(location) == 0 {
		return 0
	}
	return location[0].Start.Line
}

// build is one in progress.
type build struct {
	*Runtime
	ctx     context.Context
	tag     string
	opts    core.BuildOptions
	sources *filesystem // the build context; nil: not read yet

	done    map[string]*image // the stages so far, by name and by number
	image   *image            // the stage in progress so far: never changed, but replaced
	ownCmd  bool              // it has had a CMD
	args    []string          // the values of its ARGs, as KEY=value
	globals []string          // of those before the first FROM

	step    core.BuildProgress // the one in progress
	steps   int                // of all stages
	output  []byte             // the end of the step's
	reached instruction
}

// instruction is what a Dockerfile says in a place.
type instruction struct {
	text string
	line int
}

func (b *build) run(stages []instructions.Stage, globals []instructions.ArgCommand) (*image, error) {
	b.done = map[string]*image{"scratch": {whole: true, id: "scratch"}}
	for _, stage := range stages {
		b.steps += 1 + len(stage.Commands)
	}
	for _, global := range globals {
		if err := b.declare(&global); err != nil {
			return nil, b.failure(err)
		}
	}
	b.globals = b.args
	for i, stage := range stages {
		b.args = b.globals
		if err := b.do(stage.SourceCode, stage.Location, func() (bool, error) { return false, b.from(stage) }); err != nil {
			return nil, err
		}
		b.args, b.ownCmd = nil, false
		for _, cmd := range stage.Commands {
			if err := b.do(fmt.Sprint(cmd), cmd.Location(), func() (bool, error) { return b.command(cmd) }); err != nil {
				return nil, err
			}
		}
		b.done[fmt.Sprint(i)] = b.image
		if stage.Name != "" {
			b.done[strings.ToLower(stage.Name)] = b.image
		}
	}
	return b.finished(), nil
}

// finished is the last stage's image with its tag and labels.
func (b *build) finished() *image {
	built := *b.image
	built.Ref = normalRef(b.tag)
	built.labels = maps.Clone(built.labels)
	if built.labels == nil {
		built.labels = map[string]string{}
	}
	maps.Copy(built.labels, b.opts.ImageLabels())
	built.id = digest(built.id, fmt.Sprint(built.labels))
	return &built
}

func digest(parts ...string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", parts))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// do carries out one step and tells of it.
func (b *build) do(text string, location []parser.Range, work func() (cached bool, err error)) error {
	b.reached, b.output = instruction{text, lineOf(location)}, nil
	b.step.Step++
	b.step.Name = fmt.Sprintf("[%d/%d] %s", b.step.Step, b.steps, text)
	b.tell(core.BuildRunning, nil)
	cached, err := false, b.ctx.Err()
	if err == nil {
		cached, err = work()
	}
	switch {
	case err != nil:
		b.tell(core.BuildFailed, nil)
		return b.failure(err)
	case cached:
		b.tell(core.BuildCached, nil)
	default:
		b.tell(core.BuildDone, nil)
	}
	return nil
}

func (b *build) tell(status core.BuildStatus, output []byte) {
	b.output = append(b.output, output...)
	b.output = b.output[max(0, len(b.output)-outputTail):]
	if b.opts.Progress != nil {
		event := b.step
		event.Status, event.Output = status, slices.Clone(output)
		b.opts.Progress(event)
	}
}

// failure tells where the build has got to.
func (b *build) failure(err error) error {
	failed := &core.Error{Op: buildOp, Runtime: core.RuntimeMemory, Object: b.tag, Err: err}
	if e, ok := errors.AsType[*core.Error](err); ok {
		*failed = *e
	}
	failed.Err = &core.BuildError{Step: b.reached.text, Line: b.reached.line, Output: string(b.output), Err: failed.Err}
	return failed
}

// expand replaces variables as Dockerfiles have them.
func (b *build) expand(word string) (string, error) {
	env := b.args
	if b.image != nil {
		env = slices.Concat(env, b.image.Env)
	}
	expanded, _, err := lex.NewLex('\\').ProcessWord(word, lex.EnvsFromSlice(env))
	return expanded, err
}

// from begins a stage.
func (b *build) from(stage instructions.Stage) error {
	b.image = nil
	base, err := b.expand(stage.BaseName)
	switch {
	case err != nil:
		return err
	case stage.Platform != "":
		return unsupported(buildOp, b.tag, "FROM --platform: this process is its only platform")
	}
	b.image, err = b.stageOrImage(base)
	return err
}

func (b *build) stageOrImage(name string) (*image, error) {
	if stage := b.done[strings.ToLower(name)]; stage != nil {
		return stage, nil
	}
	return b.imageFor(buildOp, core.Config{Image: name})
}

// declare gives an ARG its value, where it has one.
func (b *build) declare(arg *instructions.ArgCommand) error {
	for _, declared := range arg.Args {
		value, given := b.opts.Args[declared.Key]
		if !given && declared.Value != nil {
			var err error
			if value, err = b.expand(*declared.Value); err != nil {
				return err
			}
			given = true
		}
		if !given {
			at := slices.IndexFunc(b.globals, func(entry string) bool { return strings.HasPrefix(entry, declared.Key+"=") })
			if at < 0 {
				continue
			}
			_, value, _ = strings.Cut(b.globals[at], "=")
		}
		b.args = setEnv(b.args, declared.Key, value)
	}
	return nil
}

func setEnv(env []string, key, value string) []string {
	others := slices.DeleteFunc(slices.Clone(env), func(entry string) bool { return strings.HasPrefix(entry, key+"=") })
	return append(others, key+"="+value)
}

// command replaces the image by what an instruction makes of it, or made of it before.
func (b *build) command(cmd instructions.Command) (cached bool, err error) {
	if arg, ok := cmd.(*instructions.ArgCommand); ok {
		return false, b.declare(arg)
	}
	if words, ok := cmd.(instructions.SupportsSingleWordExpansion); ok {
		if err := words.Expand(b.expand); err != nil {
			return false, err
		}
	}
	files, err := b.copiedBy(cmd)
	if err != nil {
		return false, err
	}
	if _, ok := cmd.(*instructions.CmdCommand); ok {
		b.ownCmd = true
	}
	key := digest(b.image.id, b.reached.text, fmt.Sprintf("%q %q %t", b.args, b.opts.DNS, b.ownCmd), files.digest())
	b.mu.Lock()
	before := b.built[key]
	b.mu.Unlock()
	if before != nil && !b.opts.NoCache {
		b.image = before
		return true, nil
	}
	next := *b.image
	if err := b.apply(cmd, files, &next); err != nil {
		return false, err
	}
	next.id, next.size, next.created = digest(rand.Text()), sizeOf(&next), time.Now()
	b.image = &next
	b.mu.Lock()
	defer b.mu.Unlock()
	b.built[key] = &next
	return false, nil
}

// apply carries an instruction out on a copy of the image.
func (b *build) apply(cmd instructions.Command, files *copied, next *image) error {
	switch c := cmd.(type) {
	case *instructions.RunCommand:
		return b.runStep(c, next)
	case *instructions.CopyCommand, *instructions.AddCommand:
		return next.change(files.putInto)
	case *instructions.WorkdirCommand:
		next.WorkingDir = absolute(path.Join("/", next.WorkingDir), c.Path)
		return next.change(func(tree *filesystem) error { return tree.mkdirAll(next.WorkingDir) })
	case *instructions.EnvCommand:
		for _, pair := range c.Env {
			next.Env = setEnv(next.Env, pair.Key, pair.Value)
		}
	case *instructions.LabelCommand:
		next.labels = maps.Clone(next.labels)
		if next.labels == nil {
			next.labels = map[string]string{}
		}
		for _, pair := range c.Labels {
			next.labels[pair.Key] = pair.Value
		}
	case *instructions.UserCommand:
		next.User = c.User
	case *instructions.CmdCommand:
		next.Cmd = argvOf(c.ShellDependantCmdLine)
	case *instructions.EntrypointCommand:
		next.Entrypoint = argvOf(c.ShellDependantCmdLine)
		if !b.ownCmd { // the base's is for another entrypoint
			next.Cmd = nil
		}
	case *instructions.VolumeCommand:
		next.Volumes = slices.Concat(next.Volumes, c.Volumes)
	case *instructions.ExposeCommand: // nobody could reach a port
	default:
		return unsupported(buildOp, b.tag, strings.ToUpper(cmd.Name())+": an image has no place for it")
	}
	return nil
}

func argvOf(line instructions.ShellDependantCmdLine) []string {
	if line.PrependShell {
		return slices.Concat([]string{"/bin/sh", "-c"}, line.CmdLine)
	}
	return line.CmdLine
}

// change replaces the image's files by a changed copy.
func (i *image) change(change func(*filesystem) error) error {
	tree := newFilesystem()
	if err := i.unpack(tree); err != nil {
		return err
	}
	if err := change(tree); err != nil {
		return err
	}
	i.Files, i.whole = tree.snapshot(), true
	return nil
}

// runStep runs a program in a container that nobody else knows of.
func (b *build) runStep(cmd *instructions.RunCommand, next *image) error {
	if len(cmd.FlagsUsed) > 0 || len(cmd.Files) > 0 {
		return unsupported(buildOp, b.tag, "RUN: it has neither options nor files of its own")
	}
	base := *next
	base.Entrypoint, base.Volumes = nil, nil
	args := slices.DeleteFunc(slices.Clone(b.args), func(entry string) bool {
		key, _, _ := strings.Cut(entry, "=")
		return slices.ContainsFunc(next.Env, func(own string) bool { return strings.HasPrefix(own, key+"=") })
	})
	c, err := newContainer(buildOp, b.tag, core.Config{Env: args, DNS: b.opts.DNS, Cmd: argvOf(cmd.ShellDependantCmdLine)}, &base, b.logLimit)
	if err != nil {
		e, _ := errors.AsType[*core.Error](err) // that it is the user's fault holds for a configuration only
		return fmt.Errorf("%s: %w", e.Field, e.Err)
	}
	exited := make(chan int, 1)
	err = c.run.start(c, core.TerminalSize{}, func(status int) {
		c.output.end()
		exited <- status
	})
	if err != nil {
		return err
	}
	stream := b.streamOf(b.ctx, buildOp, c, &cursor{output: c.output})
	err = stream.copyTo(core.LogOptions{Follow: true, Stdout: writerFunc(b.write), Stderr: writerFunc(b.write)})
	c.run.signal(sigKILL) // where the build has been cancelled
	if status := <-exited; err == nil && status != 0 {
		err = fmt.Errorf("exit code %d", status)
	}
	next.Files, next.whole = c.files.snapshot(), true
	return err
}

// write tells what a step has written.
func (b *build) write(p []byte) (int, error) {
	b.tell(core.BuildRunning, p)
	return len(p), nil
}
