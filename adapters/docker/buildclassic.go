package docker

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"strconv"
	"strings"

	engine "github.com/docker/docker/api/types/build"
	"github.com/docker/docker/api/types/registry"
	"github.com/moatproject/moat/adapters/docker/internal/buildcontext"
	"github.com/moatproject/moat/adapters/docker/internal/dockerfile"
	"github.com/moatproject/moat/core"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/patternmatcher/ignorefile"
	"github.com/tonistiigi/fsutil"
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
func (b *build) classic() error {
	files, err := b.classicContext()
	if err == nil {
		err = b.runtime.kind().vetContext(b, files)
	}
	if err != nil {
		return err
	}
	logins, err := b.classicLogins()
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		progress := classicProgress{sink: b.opts.Progress, steps: dockerfile.Parse(b.dockerfile).Steps, last: try == classicTries}
		if err := b.classicTry(files, logins, &progress); !errors.Is(err, errTryAgain) {
			return err
		}
	}
}

func (b *build) classicTry(files fsutil.FS, logins map[string]registry.AuthConfig, progress *classicProgress) error {
	ctx, cancel := context.WithCancel(b.ctx)
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
	for name, value := range b.opts.Args {
		args[name] = &value
	}
	response, err := b.runtime.engine.ImageBuild(ctx, archive, engine.ImageBuildOptions{
		Version: engine.BuilderV1, Dockerfile: classicDockerfile, Tags: []string{b.tag},
		NoCache: b.opts.NoCache, BuildArgs: args, Labels: b.opts.ImageLabels(), AuthConfigs: logins,
		Remove: true, ForceRemove: true,
	})
	if err != nil {
		_ = archive.Close()
		if failure := <-packed; failure != nil && !errors.Is(failure, io.ErrClosedPipe) {
			return failure // what the engine has got of it ended too early, which tells nothing
		}
		return b.failure(err, 0, "", "")
	}
	defer response.Body.Close()
	if err := progress.read(response.Body); errors.Is(err, errTryAgain) {
		return err
	} else if err != nil {
		return b.failure(err, progress.line(), progress.name, tailOf(progress.output))
	}
	return nil
}

// classicLogins returns the logins at the registries of the images that are missing: this
// builder wants them beforehand.
func (b *build) classicLogins() (map[string]registry.AuthConfig, error) {
	found := map[string]registry.AuthConfig{}
	if b.runtime.options.Logins == nil {
		return found, nil
	}
	for _, image := range dockerfile.Parse(b.dockerfile).Images(b.opts.Args) {
		name, err := registryOf(image)
		if err != nil {
			continue // the builder says what is wrong with it
		}
		if _, err := b.runtime.findImage(b.ctx, image); !errors.Is(err, core.ErrNotFound) {
			continue
		}
		login, err := b.runtime.login(b.call, name)
		if err != nil {
			return nil, err
		}
		if login != (Login{}) {
			found[registryKey(name)] = login.config()
		}
	}
	return found, nil
}

// classicContext returns the context with the Dockerfile in it, out of the reach of COPY.
func (b *build) classicContext() (fsutil.FS, error) {
	all, ignored, err := b.context()
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
	maps.Copy(files, b.opts.ContextFiles)
	files[classicDockerfile] = []byte(b.dockerfile)
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
		var message struct {
			Stream string
			pullMessage
		}
		err := lines.Decode(&message)
		if errors.Is(err, io.EOF) {
			p.end(core.BuildDone)
			return nil
		}
		if failure := cmp.Or(message.ErrorDetail.Message, message.Error); failure != "" {
			err = errors.New(failure)
			if !p.last && isBuilderRace(failure) {
				return errTryAgain
			}
		}
		if err != nil {
			p.end(core.BuildFailed)
			return err
		}
		if message.Stream != "" {
			p.heard(message.Stream)
		} else if message.Status != "" {
			p.tell(core.BuildProgress{
				Status: core.BuildRunning, Detail: layerOf(message.pullMessage),
				Current: message.Progress.Current, Total: message.Progress.Total,
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
