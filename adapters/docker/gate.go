package docker

import (
	"context"
	"crypto/rand"
	"slices"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/moatproject/moat/adapters/docker/programs"
	"github.com/moatproject/moat/core"
)

// A container with a terminal, or one that is held, begins with the gate: a program of
// ours that waits, for the terminal's size or for a line of its input, and then becomes
// the container's own. Without it the size always comes too late for a program that asks
// at once: engines set it after the start. And they start no container without its
// program, which is what a held one is. programs/source/gate.c is its source.
const gatePath = "/.moat-gate"

// What the gate waits for, as its source has it: the letter before its mark.
const (
	noGate       = ""
	gateSize     = "s" // a terminal's size, for a while
	gateHeldSize = "S" // a terminal's size
	gateLine     = "l" // its mark as a line of the input
	gateLastLine = "L" // the same, after which the program finds no more
	gateCall     = "x" // a call of the check's, which tells when the program begins: on a restricted network
)

// gateKey is what opens a gate that waits for a line: it ends what others may have typed
// before. No other attachment knows the mark.
func gateKey(mark string) []byte { return []byte("\n" + mark + "\n") }

// gateFor returns what the gate of a container is to wait for.
func gateFor(cfg core.Config) string {
	switch {
	case cfg.TTY && cfg.Held:
		return gateHeldSize
	case cfg.TTY:
		return gateSize
	case cfg.Held && cfg.Interactive:
		return gateLine
	case cfg.Held:
		return gateLastLine
	}
	return noGate
}

// gateOf returns what the gate of a container waits for, and its mark.
func gateOf(config *container.Config) (gate, mark string) {
	if len(config.Entrypoint) > 1 && config.Entrypoint[0] == gatePath && config.Entrypoint[1] != "" {
		return config.Entrypoint[1][:1], config.Entrypoint[1][1:]
	}
	return noGate, ""
}

// newMark makes one that no program can guess. It is in the gate's arguments, which the
// program's replace before that begins.
func newMark() string { return rand.Text()[:markLength] }

const markLength = 12 // letters, of five bits each

// gatesWords returns what the words of a gate with a mark begin with. Gates of earlier
// versions have none, and what they say is output like any other.
func gatesWords(mark string) string {
	if mark == "" {
		return ""
	}
	return "moat-" + mark + ": "
}

// isHeld tells a container whose gate Release opens.
func isHeld(gate string) bool { return gate != noGate && gate != gateSize }

// The size of a terminal that nobody has given one, in characters.
const (
	usualHeight = 24
	usualWidth  = 80
)

// gateIn returns the gate for an image, nil where we have none for its architecture.
func (r *Runtime) gateIn(ctx context.Context, name string) (program []byte, of image.InspectResponse, err error) {
	of, err = r.engine.ImageInspect(ctx, name)
	if err == nil && of.Os == "linux" {
		program, _ = programs.Read("gate", of.Architecture)
	}
	return program, of, err
}

// gateBefore puts the gate before the command of a configuration that needs one, and
// returns its program: nil where it needs none, or where a terminal has to do without.
func (r *Runtime) gateBefore(ctx context.Context, c *call, asked request) ([]byte, error) {
	if asked.gate == noGate {
		return nil, nil
	}
	config := asked.config
	program, image, err := r.gateIn(ctx, config.Image)
	if err == nil && program == nil && isHeld(asked.gate) {
		err = c.wrong(core.ErrUnsupported, "Held", "there is no gate for "+image.Os+"/"+image.Architecture, "Start it when what it needs is there")
	}
	if err != nil || program == nil {
		return nil, err
	}
	// Who gives the engine an entrypoint has to give it the command as well.
	config.Entrypoint = []string{gatePath, asked.gate + newMark()}
	if image.Config != nil {
		config.Entrypoint = slices.Concat(config.Entrypoint, image.Config.Entrypoint)
		if len(config.Cmd) == 0 {
			config.Cmd = image.Config.Cmd
		}
	}
	if len(config.Entrypoint)+len(config.Cmd) == 2 {
		config.Entrypoint = nil // nothing to run, which is the engine's to tell
	}
	return program, nil
}

// putPrograms copies the gate, and the check where egress is restricted, into a created
// container.
func (r *Runtime) putPrograms(ctx context.Context, asked request, gate []byte, id string) error {
	put := func(path string, program []byte) error {
		layer, err := programLayer(path[1:], program)
		if err != nil {
			return err
		}
		return r.engine.CopyToContainer(ctx, id, "/", layer, container.CopyToContainerOptions{})
	}
	if err := put(gatePath, gate); err != nil || asked.restricted == nil {
		return err
	}
	check, err := r.program(ctx, "check", "")
	if err != nil {
		return err
	}
	return put(checkPath, check)
}
