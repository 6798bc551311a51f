package docker

import (
	"context"
	"slices"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
)

// A container with a terminal begins with the gate: a program of ours that waits for
// the terminal's size and then becomes the container's own. Without it the size always
// comes too late for a program that asks at once: engines set it after the start.
// programs/gate.c is its source.
const gatePath = "/.moat-gate"

// How the gate's line ends where it cannot become a program, which it names before.
const (
	gateMissing = ": no such program"
	gateRefused = ": cannot be executed"
)

// The size of a terminal that nobody has given one, in characters.
const (
	usualHeight = 24
	usualWidth  = 80
)

// gateOf returns the gate for an image, nil where we have none for its architecture.
func (r *Runtime) gateOf(ctx context.Context, name string) (program []byte, of image.InspectResponse, err error) {
	of, err = r.engine.ImageInspect(ctx, name)
	if err == nil && of.Os == "linux" {
		program, _ = programs.ReadFile("programs/gate-" + of.Architecture)
	}
	return program, of, err
}

// gateBefore puts the gate before the command of a configuration with a terminal, and
// returns its program: nil where there is no terminal, or no gate.
func (r *Runtime) gateBefore(ctx context.Context, config *container.Config) ([]byte, error) {
	if !config.Tty {
		return nil, nil
	}
	program, image, err := r.gateOf(ctx, config.Image)
	if err != nil || program == nil {
		return nil, err
	}
	// Who gives the engine an entrypoint has to give it the command as well.
	config.Entrypoint = []string{gatePath}
	if image.Config != nil {
		config.Entrypoint = slices.Concat(config.Entrypoint, image.Config.Entrypoint)
		if len(config.Cmd) == 0 {
			config.Cmd = image.Config.Cmd
		}
	}
	if len(config.Entrypoint)+len(config.Cmd) == 1 {
		config.Entrypoint = nil // nothing to run, which is the engine's to tell
	}
	return program, nil
}

// putGate copies the gate into a created container.
func (r *Runtime) putGate(ctx context.Context, program []byte, id string) error {
	layer, err := programLayer(gatePath[1:], program)
	if err != nil {
		return err
	}
	return r.engine.CopyToContainer(ctx, id, "/", layer, container.CopyToContainerOptions{})
}
