// Package builder builds images: with a BuildKit beside the engine, with the one within it,
// or with the engine's classic builder.
package builder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/moatproject/moat/adapters/docker/internal/build"
	"github.com/moatproject/moat/adapters/docker/internal/builder/buildcontext"
	"github.com/moatproject/moat/adapters/docker/internal/builder/dockerfile"
	"github.com/moatproject/moat/core"
)

// run is one build in progress.
type run struct {
	build.Request
	ctx    context.Context
	unread *buildcontext.Failure
}

// Run builds an image. It is a [build.Run].
func Run(ctx context.Context, request build.Request) error {
	building, stop := context.WithCancel(ctx)
	defer stop()
	r := &run{Request: request, ctx: building, unread: buildcontext.NewFailure(stop)}
	err := r.run()
	if why := r.unread.Err(); why != nil && ctx.Err() == nil {
		remedy := "Make it readable, or name it in " + buildcontext.IgnoreFile
		if _, ok := errors.AsType[*buildcontext.EncodingError](why); ok {
			remedy = "Rename it, or exclude it in " + buildcontext.IgnoreFile + " (? stands for any one byte that is not UTF-8)"
		}
		return &build.ContextError{Class: core.ErrInvalidConfig, Err: why, Remedy: remedy}
	}
	return err
}

func (r *run) run() error {
	if r.BuildKit != "" {
		return r.onBuildKit(r.BuildKit)
	}
	if r.Classic {
		return r.classic()
	}
	err := r.onEngine()
	if errors.Is(err, errNoBuildKit) {
		return r.classic()
	}
	return err
}

// prefixes are how far a builder had come, which says nothing.
var prefixes = []string{"failed to solve: ", "failed to solve with frontend dockerfile.v0: ", "failed to create LLB definition: "}

var parseErrorLine = lazily(`dockerfile parse error (?:on )?line (\d+)`)

// lazily compiles an expression when it is first needed, and not at the start of each process.
func lazily(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}

// NewStepError makes a builder's error one of the step on a line of the Dockerfile. Where
// the builder does not tell the line (Docker 20.10's BuildKit), it is the line of the step
// that the builder has named, or of the one with what the error is about.
func NewStepError(dockerfileText string, err error, line int, step, output string) *build.StepError {
	words := err.Error()
	for _, prefix := range prefixes {
		words = strings.TrimPrefix(words, prefix)
	}
	failed := &build.StepError{Err: err, Text: words, Name: step, Step: step, Output: output}
	named := 0
	if match := parseErrorLine().FindStringSubmatch(words); match != nil {
		named, _ = strconv.Atoi(match[1])
	}
	file := dockerfile.Parse(dockerfileText)
	failed.Line = cmp.Or(line, named, file.LineOf(step), file.LineAbout(words))
	if at := file.StepAt(failed.Line); at != "" {
		failed.Step = at
	}
	return failed
}

// context returns the build's files and the patterns that exclude some of them.
func (r *run) context() (buildcontext.Files, []byte, error) {
	files, patterns, err := buildcontext.New(r.Options.Context, r.Options.ContextFiles, r.unread)
	if err != nil {
		err = &build.ContextError{
			Class: core.ErrInvalidConfig, Err: fmt.Errorf("%s: %w", buildcontext.IgnoreFile, err),
			Remedy: "Make it a file of patterns, or leave it out",
		}
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
