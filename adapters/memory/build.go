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
	"github.com/moatproject/moat/core/optional"
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

func (b *builder) ImageExists(ctx context.Context, tag string) (bool, error) {
	r := (*Runtime)(b)
	if err := r.check(ctx, "look for image", tag); err != nil {
		return false, err
	}
	return r.present(tag) != nil, nil
}

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
	home, ok := envValue(image.Env, "HOME")
	if !ok && c.user.name != "" && c.user.uid != 0 {
		home = c.user.home
	}
	if !path.IsAbs(home) {
		return otherwise
	}
	return home
}

func (b *builder) BuildImage(ctx context.Context, dockerfile, tag string, opts core.BuildOptions) error {
	r := (*Runtime)(b)
	if err := cmp.Or(core.ValidateTag(tag), opts.Validate(), core.ValidateDockerfile(dockerfile)); err != nil {
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
	image, err := (&build{Runtime: r, ctx: ctx, tag: tag, opts: opts}).run(stages, globals)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch ended := r.check(ctx, buildOp, tag); {
	case r.isClosed(): // which has ended ctx, too
		return closedError(buildOp, tag)
	case ended != nil:
		return ended
	case err != nil:
		return err
	}
	r.images[image.Ref] = image
	return nil
}

func parseDockerfile(dockerfile string) (stages []instructions.Stage, globals []instructions.ArgCommand, err error) {
	result, err := parser.Parse(strings.NewReader(dockerfile))
	if err == nil {
		stages, globals, err = instructions.Parse(result.AST, nil)
	}
	if err == nil && len(stages) == 0 {
		err = errors.New("it has no FROM")
	}
	if err == nil {
		return stages, globals, nil
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
	sources *filesystem       // the build context; nil: not read yet
	done    map[string]*image // the stages so far, by name and by number

	image   *image   // the stage in progress: replaced by each of its steps
	args    []string // the values of its ARGs, as KEY=value
	globals []string // of those before the first FROM
	ownCmd  bool     // it has a CMD that is not its base's

	step  core.BuildProgress
	steps int             // of all stages
	at    core.BuildError // where the build is, and the end of what was written there
}

func (b *build) run(stages []instructions.Stage, globals []instructions.ArgCommand) (*image, error) {
	b.done = map[string]*image{"scratch": {whole: true, id: "scratch", programs: b.programs}}
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
		if err := b.do(stage.SourceCode, stage.Location, func() (bool, error) { return false, b.begin(stage.BaseName) }); err != nil {
			return nil, err
		}
		for _, cmd := range stage.Commands {
			if err := b.do(fmt.Sprint(cmd), cmd.Location(), func() (bool, error) { return b.carryOut(cmd) }); err != nil {
				return nil, err
			}
		}
		b.done[fmt.Sprint(i)] = b.image
		if stage.Name != "" {
			b.done[stage.Name] = b.image
		}
	}
	built := *b.image
	built.Ref = normalRef(b.tag)
	built.label(b.opts.ImageLabels())
	built.id = digest(built.id, fmt.Sprint(built.labels))
	return &built, nil
}

func digest(parts ...string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", parts))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// do does the work of one step and tells of it.
func (b *build) do(text string, location []parser.Range, work func() (cached bool, err error)) error {
	b.at = core.BuildError{Step: text, Line: lineOf(location)}
	b.step.Step++
	b.step.Name = fmt.Sprintf("[%d/%d] %s", b.step.Step, b.steps, text)
	b.tell(core.BuildRunning, nil)
	err := b.ctx.Err()
	if option := unknownOption(text); err == nil && option != "" {
		err = unsupported(buildOp, b.tag, "there is no option "+option)
	}
	status := core.BuildDone
	if err == nil {
		var cached bool
		if cached, err = work(); cached {
			status = core.BuildCached
		}
	}
	if err != nil {
		b.tell(core.BuildFailed, nil)
		return b.failure(err)
	}
	b.tell(status, nil)
	return nil
}

func (b *build) tell(status core.BuildStatus, output []byte) {
	b.at.Output += string(output)
	b.at.Output = b.at.Output[max(0, len(b.at.Output)-outputTail):]
	if b.opts.Progress != nil {
		b.step.Status, b.step.Output = status, slices.Clone(output)
		b.opts.Progress(b.step)
	}
}

// unknownOption returns an option of an instruction's that has no meaning here, or "".
func unknownOption(text string) string {
	for _, word := range strings.Fields(text)[1:] {
		if !strings.HasPrefix(word, "--") {
			break
		}
		if !strings.HasPrefix(word, "--from=") {
			return word
		}
	}
	return ""
}

// failure tells where the build has got to.
func (b *build) failure(err error) error {
	failed := &core.Error{Op: buildOp, Runtime: Type, Object: b.tag, Err: err}
	if e, ok := errors.AsType[*core.Error](err); ok {
		*failed = *e
	}
	at := b.at
	at.Err = failed.Err
	failed.Err = &at
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

// begin begins a stage.
func (b *build) begin(base string) error {
	b.image, b.args = nil, b.globals
	name, err := b.expand(base)
	if err == nil {
		b.image, err = b.stageOrImage(name)
	}
	b.args, b.ownCmd = nil, false
	return err
}

func (b *build) stageOrImage(name string) (*image, error) {
	if stage := b.done[strings.ToLower(name)]; stage != nil {
		return stage, nil
	}
	return b.imageFor(b.ctx, buildOp, core.Config{Image: name})
}

// declare gives an ARG its value, where it has one.
func (b *build) declare(arg *instructions.ArgCommand) (err error) {
	for _, declared := range arg.Args {
		value, ok := b.opts.Args[declared.Key]
		switch {
		case !ok && declared.Value != nil:
			if value, err = b.expand(*declared.Value); err != nil {
				return err
			}
		case !ok:
			if value, ok = envValue(b.globals, declared.Key); !ok {
				continue
			}
		}
		b.args = withEnv(b.args, declared.Key, value)
	}
	return nil
}

func envValue(env []string, key string) (value string, ok bool) {
	for _, entry := range env {
		if value, ok := strings.CutPrefix(entry, key+"="); ok {
			return value, true
		}
	}
	return "", false
}

func withEnv(env []string, key, value string) []string {
	others := slices.DeleteFunc(slices.Clone(env), func(entry string) bool { return strings.HasPrefix(entry, key+"=") })
	return append(others, key+"="+value)
}

// carryOut replaces the image by what an instruction makes of it, or made of it before.
func (b *build) carryOut(cmd instructions.Command) (cached bool, err error) {
	if words, ok := cmd.(instructions.SupportsSingleWordExpansion); ok {
		if err := words.Expand(b.expand); err != nil {
			return false, err
		}
	}
	switch c := cmd.(type) {
	case *instructions.ArgCommand:
		return false, b.declare(c)
	case *instructions.CmdCommand:
		b.ownCmd = true
	}
	files, err := b.copiedBy(cmd)
	if err != nil {
		return false, err
	}
	key := digest(b.image.id, b.at.Step, fmt.Sprintf("%q %q %t", b.args, b.opts.DNS, b.ownCmd), files.contents)
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
func (b *build) apply(cmd instructions.Command, files copied, next *image) error {
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
			next.Env = withEnv(next.Env, pair.Key, pair.Value)
		}
	case *instructions.LabelCommand:
		for _, pair := range c.Labels {
			next.label(map[string]string{pair.Key: pair.Value})
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
		return unsupported(buildOp, b.tag, "there is no instruction "+strings.ToUpper(cmd.Name()))
	}
	return nil
}

func argvOf(line instructions.ShellDependantCmdLine) []string {
	if line.PrependShell {
		return slices.Concat([]string{"/bin/sh", "-c"}, line.CmdLine)
	}
	return line.CmdLine
}

// label adds to a copy of the image's labels.
func (i *image) label(labels map[string]string) {
	all := maps.Clone(i.labels)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, labels)
	i.labels = all
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
	if len(cmd.Files) > 0 {
		return errHeredoc(b.tag)
	}
	base := *next
	base.Entrypoint = nil
	args := slices.DeleteFunc(slices.Clone(b.args), func(entry string) bool {
		key, _, _ := strings.Cut(entry, "=")
		_, own := envValue(next.Env, key)
		return own
	})
	c, err := newContainer(buildOp, b.tag, core.Config{Env: args, DNS: b.opts.DNS, Cmd: argvOf(cmd.ShellDependantCmdLine)}, &base, b.logLimit)
	if err != nil {
		e, _ := errors.AsType[*core.Error](err) // the Dockerfile is to blame, and no field
		return e.Err
	}
	exited := make(chan int, 1)
	err = c.run.start(c, optional.TerminalSize{}, func(status int) {
		c.output.end()
		exited <- status
	})
	if err != nil {
		return err
	}
	told := writerFunc(func(p []byte) (int, error) {
		b.tell(core.BuildRunning, p)
		return len(p), nil
	})
	err = b.streamOf(b.ctx, buildOp, c, &cursor{output: c.output}).copyTo(optional.LogOptions{Follow: true, Stdout: told, Stderr: told})
	c.run.signal(sigKILL) // where the build was cancelled
	if status := <-exited; err == nil && status != 0 {
		err = fmt.Errorf("exit code %d", status)
	}
	next.Files, next.whole = c.files.snapshot(), true
	return err
}

func errHeredoc(tag string) error {
	return unsupported(buildOp, tag, "there are no files inside a Dockerfile")
}
