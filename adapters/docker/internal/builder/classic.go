package builder

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"strconv"
	"strings"

	engine "github.com/docker/docker/api/types/build"
	"github.com/docker/docker/api/types/registry"
	"github.com/moatproject/moat/adapters/docker/internal/build"
	"github.com/moatproject/moat/adapters/docker/internal/builder/buildcontext"
	"github.com/moatproject/moat/adapters/docker/internal/builder/dockerfile"
	"github.com/moatproject/moat/adapters/docker/internal/message"
	"github.com/moatproject/moat/core"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/patternmatcher/ignorefile"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
)

// classicDockerfile is the Dockerfile's name in a context of the classic builder, which
// has no other place for it.
const classicDockerfile = ".moat.dockerfile"

// classicTries is how often a build may lose a step to a fault of the engine.
const classicTries = 5

// errTryAgain is a step that failed by a fault of the engine that the next try will
// hardly meet.
var errTryAgain = errors.New("the engine failed by a race of its own")

// classic builds with the engine's builder of before BuildKit.
func (r *run) classic() error {
	files, err := r.classicContext()
	if err == nil && r.Engine.LinksInside {
		err = vetLinks(r.ctx, files)
	}
	if err != nil {
		return err
	}
	logins, err := r.classicLogins()
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		progress := classicProgress{sink: r.Options.Progress, steps: dockerfile.Parse(r.Dockerfile).Steps, last: try == classicTries}
		if err := r.classicTry(files, logins, &progress); !errors.Is(err, errTryAgain) {
			return err
		}
	}
}

func (r *run) classicTry(files fsutil.FS, logins map[string]registry.AuthConfig, progress *classicProgress) error {
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	archive, writer := io.Pipe()
	defer func() { _ = archive.Close() }()
	packed := make(chan error, 1)
	go func() {
		err := fsutil.WriteTar(ctx, files, writer)
		writer.CloseWithError(err)
		packed <- err
	}()
	args := map[string]*string{}
	for name, value := range r.Options.Args {
		args[name] = &value
	}
	response, err := r.Engine.ImageBuild(ctx, archive, engine.ImageBuildOptions{
		Version: engine.BuilderV1, Dockerfile: classicDockerfile, Tags: []string{r.Tag},
		NoCache: r.Options.NoCache, BuildArgs: args, Labels: r.Options.ImageLabels(), AuthConfigs: logins,
		Remove: true, ForceRemove: true,
	})
	if err != nil {
		_ = archive.Close()
		if failure := <-packed; failure != nil && !errors.Is(failure, io.ErrClosedPipe) {
			return failure // what the engine has got of it ended too early, which tells nothing
		}
		return NewStepError(r.Dockerfile, err, 0, "", "")
	}
	defer response.Body.Close()
	if err := progress.read(response.Body); errors.Is(err, errTryAgain) {
		return err
	} else if err != nil {
		return NewStepError(r.Dockerfile, err, progress.line(), progress.name, tailOf(progress.output))
	}
	return nil
}

// classicLogins returns the logins at the registries of the images that are missing: this
// builder wants them beforehand.
func (r *run) classicLogins() (map[string]registry.AuthConfig, error) {
	found := map[string]registry.AuthConfig{}
	if r.Engine.Login == nil {
		return found, nil
	}
	for _, image := range dockerfile.Parse(r.Dockerfile).Images(r.Options.Args) {
		name, err := build.RegistryOf(image)
		if err != nil {
			continue // the builder says what is wrong with it
		}
		if !r.Engine.ImageMissing(r.ctx, image) {
			continue
		}
		login, err := r.Engine.Login(name)
		if err != nil {
			return nil, err
		}
		if login != (registry.AuthConfig{}) {
			found[build.RegistryKey(name)] = login
		}
	}
	return found, nil
}

// classicContext returns the context with the Dockerfile in it, out of the reach of COPY.
func (r *run) classicContext() (fsutil.FS, error) {
	all, ignored, err := r.context()
	if err != nil {
		return nil, err
	}
	patterns, err := ignorefile.ReadAll(bytes.NewReader(ignored))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", buildcontext.IgnoreFile, err)
	}
	if ignored == nil {
		ignored = []byte(buildcontext.IgnoreFile)
	}
	files := map[string][]byte{}
	maps.Copy(files, r.Options.ContextFiles)
	files[classicDockerfile] = []byte(r.Dockerfile)
	files[buildcontext.IgnoreFile] = fmt.Appendf(ignored, "\n%s\n", classicDockerfile)
	patterns = append(patterns, "!"+classicDockerfile, "!"+buildcontext.IgnoreFile)
	return fsutil.NewFilterFS(all.With(files), &fsutil.FilterOpt{ExcludePatterns: patterns})
}

// classicProgress tells a sink what the classic builder tells of its steps.
type classicProgress struct {
	sink   core.BuildSink
	steps  []*parser.Node // of the Dockerfile
	number int            // of the step in progress, from 1; 0: none yet
	name   string
	cached bool
	output []byte // its end
	last   bool   // there is no other try
}

// The builder's own words stand between what the steps write. A step that imitates them
// deceives nobody but who has sent it.
var (
	classicStep  = lazily(`^Step (\d+)/\d+ : (.*)`)
	podmanStep   = lazily(`^(?:\[(\d+)/\d+\] )?STEP (\d+)/\d+: (.*)`) // numbered in each stage
	classicWords = lazily(`^( ---> |Removing intermediate container |Successfully (built|tagged) |--> (Using cache )?[0-9a-f]+\n|(\[\d+/\d+\] )?COMMIT )`)
)

// classicRed and classicPlain are about what a step has written to stderr.
const (
	classicRed   = "\x1b[91m"
	classicPlain = "\x1b[0m"
)

// What builders say of a step whose result was there.
const (
	classicCached = " ---> Using cache"
	podmanCached  = "--> Using cache "
)

// read reads the answer to its end: an error in it is the step's.
func (p *classicProgress) read(body io.Reader) error {
	lines := json.NewDecoder(body)
	for {
		var line struct {
			Stream string
			message.Message
		}
		err := lines.Decode(&line)
		if errors.Is(err, io.EOF) {
			p.end(core.BuildDone)
			return nil
		}
		if failure := line.Failure(); failure != "" {
			err = errors.New(failure)
			if !p.last && isBuilderRace(failure) {
				return errTryAgain
			}
		}
		if err != nil {
			p.end(core.BuildFailed)
			return err
		}
		if line.Stream != "" {
			p.heard(line.Stream)
		} else if line.Status != "" {
			p.tell(core.BuildProgress{
				Status: core.BuildRunning, Detail: line.Layer(),
				Current: line.Progress.Current, Total: line.Progress.Total,
			})
		}
	}
}

func (p *classicProgress) heard(text string) {
	if begun := classicStep().FindStringSubmatch(text); begun != nil {
		number, _ := strconv.Atoi(begun[1])
		p.begin(number, begun[2])
		return
	}
	if begun := podmanStep().FindStringSubmatch(text); begun != nil {
		stage, _ := strconv.Atoi(cmp.Or(begun[1], "1"))
		number, _ := strconv.Atoi(begun[2])
		p.begin(p.before(stage)+number, begun[3])
		return
	}
	switch {
	case strings.HasPrefix(text, classicCached), strings.HasPrefix(text, podmanCached):
		p.cached = true
	case p.number == 0 || text == "\n" || classicWords().MatchString(text):
	default:
		text = strings.TrimSuffix(strings.TrimPrefix(text, classicRed), classicPlain)
		p.output = append(p.output, text...)
		p.output = p.output[max(0, len(p.output)-outputMax-1):]
		p.tell(core.BuildProgress{Status: core.BuildRunning, Output: []byte(text)})
	}
}

// begin notes that a step begins.
func (p *classicProgress) begin(number int, name string) {
	p.end(core.BuildDone)
	p.number, p.name, p.output = number, name, nil
	p.tell(core.BuildProgress{Status: core.BuildRunning})
}

// before returns how many instructions come before a stage, which is counted from 1.
func (p *classicProgress) before(stage int) int {
	for i, step := range p.steps {
		if strings.EqualFold(step.Value, "FROM") {
			if stage--; stage == 0 {
				return i
			}
		}
	}
	return len(p.steps)
}

// end tells how the step in progress has ended.
func (p *classicProgress) end(status core.BuildStatus) {
	if p.cached && status == core.BuildDone {
		status = core.BuildCached
	}
	p.cached = false
	p.tell(core.BuildProgress{Status: status})
}

func (p *classicProgress) tell(event core.BuildProgress) {
	// What comes after the Dockerfile's own steps is our labels.
	if p.sink != nil && p.number > 0 && p.number <= len(p.steps) {
		event.Step, event.Name = p.number, fmt.Sprintf("[%d/%d] %s", p.number, len(p.steps), p.name)
		p.sink(event)
	}
}

// line returns where in the Dockerfile the step in progress is, 0 where that is unknown.
func (p *classicProgress) line() int {
	if p.number < 1 || p.number > len(p.steps) {
		return 0
	}
	return p.steps[p.number-1].StartLine
}

// isBuilderRace tells a step that failed by a race of the engine's. A builder, the classic
// one or Podman's, looks at all images that have the same parent, for one to reuse, and
// another client has just removed one of them. Podman before 4.6 starts a step's runtime
// from a thread whose end, at any moment, kills it; a command that is killed is told in
// other words.
func isBuilderRace(failure string) bool {
	return strings.HasPrefix(failure, `unable to find image "sha256:`) ||
		strings.Contains(failure, "checking if cached image exists from a previous build: ") ||
		strings.HasSuffix(failure, ": while running runtime: signal: killed")
}

// vetLinks finds links that Podman refuses to unpack: its own error does not
// name them.
func vetLinks(ctx context.Context, files fsutil.FS) error {
	return files.Walk(ctx, "", func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		stat, ok := info.Sys().(*types.Stat)
		if !ok || info.Mode()&fs.ModeSymlink == 0 || path.IsAbs(stat.Linkname) {
			return nil
		}
		if target := path.Join(path.Dir(file), stat.Linkname); target == ".." || strings.HasPrefix(target, "../") {
			return &build.ContextError{
				Class: core.ErrUnsupported, Err: fmt.Errorf("a link that leads out of the context, which Podman does not take: %s -> %s", file, stat.Linkname),
				Remedy: "Name it in " + buildcontext.IgnoreFile + ", or build on Docker Engine",
			}
		}
		return nil
	})
}
