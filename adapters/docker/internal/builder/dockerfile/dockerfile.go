// Package dockerfile reads a Dockerfile: the images that it needs, and the line that a
// builder's message is about.
package dockerfile

import (
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// File is a Dockerfile.
type File struct {
	Steps []*parser.Node // its instructions; nil where the text is not a Dockerfile
	text  string
}

// Parse reads a Dockerfile. A builder says what is wrong with one that cannot be parsed:
// it has no steps and no images here.
func Parse(text string) File {
	parsed, err := parser.Parse(strings.NewReader(text))
	if err != nil {
		return File{text: text}
	}
	return File{parsed.AST.Children, text}
}

// StepAt returns the instruction on a line, counted from 1, or that line's text where no
// instruction covers it. It is empty for a line that does not exist.
func (f File) StepAt(line int) string {
	for _, step := range f.Steps {
		if step.StartLine <= line && line <= step.EndLine {
			return step.Original
		}
	}
	lines := strings.Split(f.text, "\n")
	if line < 1 || line > len(lines) {
		return ""
	}
	return strings.TrimSpace(lines[line-1])
}

// numberedStep is BuildKit's name for a step: its stage where there are several, its
// number among those of the stage that change files, and its instruction.
var numberedStep = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^\[(?:(?:stage-)?(\S+) +)?(\d+)/\d+\] (\w+)`) })

// ImageStep begins BuildKit's name for the lookup of an image that a stage begins with.
const ImageStep = "[internal] load metadata for "

// LineOf returns the line of the step with this BuildKit name, or 0.
func (f File) LineOf(name string) int {
	if image, ok := strings.CutPrefix(name, ImageStep); ok {
		return f.LineAbout(image)
	}
	match := numberedStep().FindStringSubmatch(name)
	if match == nil {
		return 0
	}
	stage, number := -1, 0
	for _, step := range f.Steps {
		switch instruction := strings.ToUpper(step.Value); {
		case instruction == "FROM":
			stage, number = stage+1, 1
		case stage >= 0 && slices.Contains([]string{"RUN", "COPY", "ADD", "WORKDIR"}, instruction):
			number++
		default:
			continue
		}
		inStage := match[1] == "" || match[1] == strconv.Itoa(stage) || strings.EqualFold(match[1], f.stageName(stage))
		if inStage && match[2] == strconv.Itoa(number) && strings.EqualFold(match[3], step.Value) {
			return step.StartLine
		}
	}
	return 0
}

// stageName returns the name that a stage, counted from 0, is given by "FROM image AS name".
func (f File) stageName(stage int) string {
	for _, step := range f.Steps {
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

// LineAbout returns the line of the instruction whose image or source a text names, or 0.
func (f File) LineAbout(text string) int {
	for _, step := range f.Steps {
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

// Images returns the images that the stages begin with or copy from, as far as the text
// tells. The values are those of the build's arguments.
func (f File) Images(values map[string]string) (images []string) {
	parsed, err := parser.Parse(strings.NewReader(f.text))
	if err != nil {
		return nil
	}
	stages, args, err := instructions.Parse(parsed.AST, nil)
	if err != nil {
		return nil
	}
	var known []string // NAME=value
	lex := shell.NewLex(parsed.EscapeToken)
	expand := func(word string) string {
		expanded, err := lex.ProcessWordWithMatches(word, shell.EnvsFromSlice(known))
		if err != nil {
			return ""
		}
		return expanded.Result
	}
	for _, arg := range args {
		for _, pair := range arg.Args {
			if value, given := values[pair.Key]; given {
				known = append(known, pair.Key+"="+value)
			} else if pair.Value != nil {
				known = append(known, pair.Key+"="+expand(*pair.Value))
			}
		}
	}
	names := []string{"scratch"} // of no image, and of the stages so far
	add := func(name string) {
		if name != "" && !slices.Contains(names, strings.ToLower(name)) && !slices.Contains(images, name) {
			images = append(images, name)
		}
	}
	for number, stage := range stages {
		add(expand(stage.BaseName))
		for _, command := range stage.Commands {
			if copying, ok := command.(*instructions.CopyCommand); ok {
				add(copying.From)
			}
		}
		names = append(names, strings.ToLower(stage.Name), strconv.Itoa(number))
	}
	return images
}
