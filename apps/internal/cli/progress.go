package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/docker/go-units"
	"github.com/moatproject/moat/core/optional"
)

// pullPrinter shows a pull: one line that is rewritten on a terminal, plain lines
// elsewhere, one for each change of a layer's status.
type pullPrinter struct {
	out      io.Writer
	terminal bool
	layers   map[string]optional.PullProgress
	order    []string
	drawn    bool
}

func newPullPrinter(env Env) *pullPrinter {
	return &pullPrinter{out: env.Stderr, terminal: env.Terminal, layers: map[string]optional.PullProgress{}}
}

// show is a [optional.PullSink].
func (p *pullPrinter) show(step optional.PullProgress) {
	last, known := p.layers[step.Layer]
	if !known {
		p.order = append(p.order, step.Layer)
	}
	p.layers[step.Layer] = step
	switch {
	case p.terminal:
		p.redraw(step.Image)
	case step.Layer == "":
		fmt.Fprintf(p.out, "%s: %s\n", step.Image, step.Status)
	case last.Status != step.Status:
		fmt.Fprintf(p.out, "%s: %s: %s\n", step.Image, step.Layer, step.Status)
	}
}

func (p *pullPrinter) redraw(image string) {
	var current, total int64
	layers, done := 0, 0
	for _, id := range p.order {
		if id == "" {
			continue
		}
		layer := p.layers[id]
		layers++
		if strings.Contains(layer.Status, "complete") || layer.Status == "Already exists" {
			done++
		}
		if layer.Total > 0 {
			current += layer.Current
			total += layer.Total
		}
	}
	line := fmt.Sprintf("Pulling %s: %d of %d layers", image, done, layers)
	if total > 0 {
		line += fmt.Sprintf(", %s of %s", units.HumanSize(float64(current)), units.HumanSize(float64(total)))
	}
	fmt.Fprintf(p.out, "\r\x1b[K%s", line)
	p.drawn = true
}

// finish ends the rewritten line.
func (p *pullPrinter) finish() {
	if p.drawn {
		fmt.Fprint(p.out, "\r\x1b[K")
		p.drawn = false
	}
}
