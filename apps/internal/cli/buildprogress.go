package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
	"golang.org/x/text/width"
)

// The values of --progress.
const (
	progressAuto  = "auto"
	progressPlain = "plain"
	progressTTY   = "tty"
)

// buildPrinter shows a build's steps. On a terminal, each finished step has a line, and the
// running ones are redrawn below. Elsewhere it prints plain lines with their step's number.
type buildPrinter struct {
	out     io.Writer
	size    func() optional.TerminalSize // nil: plain lines
	steps   map[int]*buildStep
	running []*buildStep
	drawn   []string // the rows that are rewritten
	told    bool     // the output of a step that failed has been printed
}

func (o *buildOptions) printer(env Env) (*buildPrinter, error) {
	p := &buildPrinter{out: env.Stderr, steps: map[int]*buildStep{}}
	switch {
	case o.progress == progressTTY && !env.Terminal:
		return nil, errors.New("--progress tty: standard error is not a terminal")
	case o.progress == progressTTY, o.progress == progressAuto && env.Terminal:
		p.size = env.Size
	case o.progress != progressAuto && o.progress != progressPlain:
		return nil, fmt.Errorf("--progress %q: want auto, plain or tty", o.progress)
	}
	return p, nil
}

// show is a [core.BuildSink].
func (p *buildPrinter) show(event core.BuildProgress) {
	step, known := p.steps[event.Step]
	if !known {
		step = &buildStep{transfers: map[string]core.BuildProgress{}}
		p.steps[event.Step] = step
		p.running = append(p.running, step)
	}
	news := step.update(event)
	if event.Status != core.BuildRunning {
		p.running = slices.DeleteFunc(p.running, func(s *buildStep) bool { return s == step })
	}
	if p.size != nil {
		p.redraw(step.ended())
		return
	}
	if !known {
		p.print(step, step.name)
	}
	for _, line := range news {
		p.print(step, "| "+line)
	}
	if event.Status != core.BuildRunning {
		p.print(step, string(event.Status))
		p.told = p.told || event.Status == core.BuildFailed && step.wrote
	}
}

func (p *buildPrinter) print(step *buildStep, text string) {
	fmt.Fprintln(p.out, strings.TrimRight(fmt.Sprintf("#%d %s", step.number, text), " "))
}

// redraw prints the lines of newly finished steps and redraws the running ones below them.
func (p *buildPrinter) redraw(ended string) {
	size := p.size()
	columns, rows := int(cmp.Or(size.Width, 80)), int(cmp.Or(size.Height, 24))
	var live []string
	for _, step := range p.running {
		live = append(live, step.rows()...)
	}
	// The cursor cannot return to lines above the top of the screen.
	live = live[:min(len(live), max(rows-1, 0))]
	for i, row := range live {
		live[i] = cut(row, columns-1)
	}
	if ended == "" && slices.Equal(live, p.drawn) {
		return
	}
	frame := p.top()
	if ended != "" {
		frame += cut(ended, columns-1) + clearLine
	}
	for _, row := range live {
		frame += row + clearLine
	}
	fmt.Fprint(p.out, frame+clearBelow)
	p.drawn = live
}

const (
	clearLine  = "\x1b[K\n"
	clearBelow = "\x1b[J"
)

// top moves the cursor to the first of the rows that are rewritten.
func (p *buildPrinter) top() string {
	if len(p.drawn) == 0 {
		return "\r"
	}
	return fmt.Sprintf("\r\x1b[%dA", len(p.drawn))
}

// finish ends an unfinished line.
func (p *buildPrinter) finish() {
	if len(p.drawn) > 0 {
		fmt.Fprint(p.out, p.top()+clearBelow)
		p.drawn = nil
	}
	for _, step := range p.running {
		if line := step.output.unended(); p.size == nil && line != "" {
			p.print(step, "| "+line)
		}
	}
}

// withoutRepetition removes from an error the output that plain lines have shown.
func (p *buildPrinter) withoutRepetition(err error) error {
	if failure, ok := errors.AsType[*core.BuildError](err); ok && p.told {
		failure.Output = ""
	}
	return err
}

type buildStep struct {
	number    int
	name      string
	status    core.BuildStatus
	output    lineBuffer
	wrote     bool   // output
	activity  string // its last line of output, or how far a transfer is
	transfers map[string]core.BuildProgress
}

// update applies an event, and returns the lines that it adds.
func (s *buildStep) update(event core.BuildProgress) (news []string) {
	s.number, s.status = event.Step, event.Status
	s.name = cmp.Or(cleanLine(strings.ReplaceAll(event.Name, "\n", " ")), s.name)
	news = s.output.add(event.Output)
	last := s.output.unended()
	if last != "" && s.status != core.BuildRunning {
		news, s.output = append(news, last), lineBuffer{}
	}
	s.wrote = s.wrote || len(news) > 0
	for _, line := range append(news, last) {
		s.activity = cmp.Or(line, s.activity)
	}
	if event.Detail == "" {
		return news
	}
	_, known := s.transfers[event.Detail]
	s.transfers[event.Detail] = event
	s.activity = s.transferred(event)
	if !known {
		news = append(news, sized(event.Detail, event.Total))
	}
	return news
}

// transferred sums all transfers of a known size: layers come in parallel.
func (s *buildStep) transferred(event core.BuildProgress) string {
	if event.Total <= 0 {
		return sized(event.Detail, event.Current)
	}
	var current, total int64
	for _, transfer := range s.transfers {
		if transfer.Total > 0 {
			current, total = current+transfer.Current, total+transfer.Total
		}
	}
	return fmt.Sprintf("%s of %s", units.HumanSize(float64(current)), units.HumanSize(float64(total)))
}

func sized(detail string, bytes int64) string {
	detail = strings.TrimSuffix(cleanLine(strings.ReplaceAll(detail, "\n", " ")), ":") // BuildKit's "transferring context:"
	if bytes <= 0 {
		return detail
	}
	return detail + ": " + units.HumanSize(float64(bytes))
}

// rows returns a running step's rows on a terminal.
func (s *buildStep) rows() []string {
	rows := []string{fmt.Sprintf("#%d %s", s.number, s.name)}
	if s.activity != "" {
		rows = append(rows, "   | "+s.activity)
	}
	return rows
}

// ended returns a finished step's line on a terminal, or "" before.
func (s *buildStep) ended() string {
	if s.status == core.BuildRunning {
		return ""
	}
	return fmt.Sprintf("#%d %-6s %s", s.number, s.status, s.name)
}

// cut shortens a line to a number of columns, for any terminal's idea of a character's
// width. A tab, whose width depends on its position, becomes a space.
func cut(line string, columns int) string {
	line = strings.ReplaceAll(line, "\t", " ")
	for i, r := range line {
		columns--
		switch width.LookupRune(r).Kind() {
		case width.EastAsianWide, width.EastAsianFullwidth, width.EastAsianAmbiguous:
			columns--
		}
		if columns < 0 {
			return line[:i]
		}
	}
	return line
}
