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
	"github.com/moatproject/moat/core"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/patternmatcher/ignorefile"
	"github.com/tonistiigi/fsutil"
)

// classicDockerfile is the Dockerfile's name in a context of the classic builder, which
// has no other place for it.
const classicDockerfile = ".moat.dockerfile"

// classicTries is how often a build may lose its step to a removal.
const classicTries = 5

// errSiblingGone is a step that failed only because somebody removed another image
// meanwhile: the builder looks at all that have the same parent, for one to reuse.
var errSiblingGone = errors.New("an image was removed meanwhile")

// classic builds with the engine's builder of before BuildKit.
func (b *build) classic() error {
	files, err := b.classicContext()
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		progress := classicProgress{sink: b.opts.Progress, steps: steps(b.dockerfile), last: try == classicTries}
		if err := b.classicTry(files, &progress); !errors.Is(err, errSiblingGone) {
			return err
		}
	}
}

func (b *build) classicTry(files fsutil.FS, progress *classicProgress) error {
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
		NoCache: b.opts.NoCache, BuildArgs: args, Labels: b.opts.ImageLabels(),
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
	if err := progress.read(response.Body); errors.Is(err, errSiblingGone) {
		return err
	} else if err != nil {
		return b.failure(err, progress.line(), progress.name, tailOf(progress.output))
	}
	return nil
}

// classicContext returns the context with the Dockerfile in it, out of the reach of COPY.
func (b *build) classicContext() (fsutil.FS, error) {
	all, ignored, err := b.context()
	if err != nil {
		return nil, err
	}
	patterns, err := ignorefile.ReadAll(bytes.NewReader(ignored))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ignoreFile, err)
	}
	if ignored == nil {
		ignored = []byte(ignoreFile)
	}
	files := map[string][]byte{}
	maps.Copy(files, b.opts.ContextFiles)
	files[classicDockerfile] = []byte(b.dockerfile)
	files[ignoreFile] = fmt.Appendf(ignored, "\n%s\n", classicDockerfile)
	all.files = files
	patterns = append(patterns, "!"+classicDockerfile, "!"+ignoreFile)
	return fsutil.NewFilterFS(all, &fsutil.FilterOpt{ExcludePatterns: patterns})
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
	classicWords = lazily(`^( ---> |Removing intermediate container |Successfully (built|tagged) )`)
)

// classicRed and classicPlain are about what a step has written to stderr.
const (
	classicRed   = "\x1b[91m"
	classicPlain = "\x1b[0m"
)

// classicCached is what the builder says of a step whose result was there.
const classicCached = " ---> Using cache"

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
			if !p.last && isSiblingGone(failure) {
				return errSiblingGone
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
		p.end(core.BuildDone)
		p.number, _ = strconv.Atoi(begun[1])
		p.name, p.output = begun[2], nil
		p.tell(core.BuildProgress{Status: core.BuildRunning})
		return
	}
	switch {
	case strings.HasPrefix(text, classicCached):
		p.cached = true
	case p.number == 0 || text == "\n" || classicWords().MatchString(text):
	default:
		text = strings.TrimSuffix(strings.TrimPrefix(text, classicRed), classicPlain)
		p.output = append(p.output, text...)
		p.output = p.output[max(0, len(p.output)-outputMax-1):]
		p.tell(core.BuildProgress{Status: core.BuildRunning, Output: []byte(text)})
	}
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
