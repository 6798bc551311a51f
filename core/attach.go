package core

import (
	"context"
	"io"
)

// AttachOptions configures container attachment.
type AttachOptions struct {
	Stdin  io.Reader // If non-nil, forward input to container
	Stdout io.Writer // If non-nil, receive stdout from container
	Stderr io.Writer // If non-nil, receive stderr from container (may be same as Stdout)
	TTY    bool      // If true, use TTY mode (raw terminal)

	// InitialWidth and InitialHeight set the initial terminal size, in characters,
	// for TTY mode. If both are > 0 the process sees them from its first instruction;
	// one that runs already, once it is attached to.
	InitialWidth  uint
	InitialHeight uint

	// Release is called by StartAttached once a container that is [Config.Held] has
	// started, and its program begins when it returns nil: what the program depends on
	// may come up beside the container. Its context ends with the attachment. Where it
	// returns an error, or StartAttached returns first, the program never begins, and the
	// container, which may run or have exited, is the caller's to remove. nil: at once.
	Release func(context.Context) error
}

// Attacher connects a caller's streams to a container's.
//
// In all its methods the end of Stdin closes the container's stdin (half-close), and
// the attachment goes on. A Read of Stdin that is in progress when the attachment ends
// is left to itself; what it returns is lost. Stdout and Stderr are never written to at
// the same time, nor after the method has returned.
type Attacher interface {
	// Attach connects to a running container and returns when it exits or ctx ends;
	// the container outlives ctx.
	//
	//   - RT-100: output written after Attach arrives; nil writers discard.
	//   - RT-101: missing: [ErrNotFound]; not running: [ErrNotRunning].
	//   - RT-102: when ctx ends, it returns within a second, nothing is written after that,
	//     and the container runs on.
	//   - RT-103: several at once get all output each; a writer that is slow delays
	//     neither another attachment nor a reader of the logs, unless it is as far behind
	//     as the runtime keeps output for it.
	//   - RT-104: a writer's failure ends the attachment with the writer's error; the
	//     container runs on.
	//   - RT-113: with a TTY, the process sees the initial size, as it would after
	//     ResizeTTY; one that is out of range: as RT-112.
	Attach(ctx context.Context, id string, opts AttachOptions) error

	// StartAttached attaches, starts the container, and returns when it exits or
	// ctx ends; the container outlives ctx.
	//
	//   - RT-105: not one byte is lost, from the first to the last, and those of stdout
	//     and stderr stay apart.
	//   - RT-106: missing: [ErrNotFound]; a program that cannot run: as RT-23, with a TTY
	//     as well.
	//   - RT-107: with a TTY, the first instruction sees the initial size.
	//   - RT-108: stdin arrives unchanged, whatever its bytes, and output goes on after
	//     its end.
	//   - RT-109: with a TTY all output is stdout's.
	//   - RT-114: a failure of a writer or of Stdin is returned; what the end of ctx ends
	//     is the attachment only, as RT-102.
	//   - RT-115: where Release fails, its error is returned, and the program does not run;
	//     neither does it where ctx ends before.
	//   - RT-116: Release for a container that is not [Config.Held]: [ErrInvalidConfig],
	//     field Release, here and from Attach. StartContainer of one that is:
	//     [ErrInvalidConfig], field Held.
	StartAttached(ctx context.Context, id string, opts AttachOptions) error

	// ResizeTTY sets the size of the container's terminal, in characters, each from 1
	// to [MaxTerminalSize].
	//
	//   - RT-110: the process sees the new size.
	//   - RT-111: no TTY: [ErrInvalidConfig]; not running, or held: [ErrNotRunning];
	//     missing: [ErrNotFound].
	//   - RT-112: a size out of range: [ErrInvalidConfig], field height or width.
	ResizeTTY(ctx context.Context, id string, height, width uint) error
}

// MaxTerminalSize is the largest height and width that a terminal can have.
const MaxTerminalSize = 1<<16 - 1

// ValidateTerminalSize reports a size that no terminal can have.
func ValidateTerminalSize(height, width uint) error {
	for _, side := range []struct {
		field string
		value uint
	}{{"height", height}, {"width", width}} {
		if side.value < 1 || side.value > MaxTerminalSize {
			return invalid(side.field, "%d is not from 1 to %d", side.value, MaxTerminalSize)
		}
	}
	return nil
}
