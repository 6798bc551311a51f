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

	// InitialWidth and InitialHeight set the terminal size, in characters, for TTY mode, if
	// both are above 0. With StartAttached the process sees the size from its first
	// instruction, with Attach once it is attached.
	InitialWidth  uint
	InitialHeight uint
}

// Attacher connects a caller's streams to a container's.
//
// In all its methods the end of Stdin closes the container's stdin (half-close), and
// output continues. A failure of Stdin does the same, and is returned once the program has
// exited: WaitContainer then returns the exit code. A Read of Stdin that is in progress
// when the attachment ends is not waited for, and its data is lost. Stdout and Stderr are
// never written to at the same time, nor after the method has returned.
type Attacher interface {
	// Attach connects to a running container and returns when it exits or ctx ends;
	// the container outlives ctx.
	//
	//   - RT-100: output written after Attach arrives; nil writers discard.
	//   - RT-101: missing: [ErrNotFound]; not running: [ErrNotRunning].
	//   - RT-102: when ctx ends, it returns within a second, nothing is written after that,
	//     and the container runs on. Its stdin stays open where there was no Stdin, and with
	//     a TTY.
	//   - RT-103: several at once get all output each; a writer that is slow delays
	//     neither another attachment nor a reader of the logs, unless it is further behind
	//     than the runtime keeps output for it, which is [AttachBacklog] at least.
	//   - RT-104: a writer's failure ends the attachment with the writer's error; the
	//     container runs on. Stdin's failure ends the input only: it is returned once the
	//     container has exited.
	//   - RT-113: with a TTY, the process sees the initial size, as it would after
	//     ResizeTTY; one that is out of range: as RT-112.
	Attach(ctx context.Context, id string, opts AttachOptions) error

	// StartAttached attaches, starts the container, and returns when it exits or
	// ctx ends; the container outlives ctx.
	//
	//   - RT-105: not one byte is lost, from the first to the last, and those of stdout
	//     and stderr stay apart.
	//   - RT-106: missing: [ErrNotFound]; a program that cannot run: as RT-23, with a TTY
	//     as well. So is one that only loading it shows: without its interpreter it does
	//     not exist ([fs.ErrNotExist]), in a format that the kernel does not know it cannot
	//     be executed ([fs.ErrPermission]).
	//   - RT-107: with a TTY, the first instruction sees the initial size.
	//   - RT-108: stdin arrives unchanged, whatever its bytes, and output goes on after
	//     its end.
	//   - RT-109: with a TTY all output is stdout's.
	//   - RT-114: a failure of a writer or of Stdin is returned, Stdin's once the container
	//     has exited: WaitContainer then returns the program's exit code. What the end of
	//     ctx ends is the attachment only, as RT-102.
	//   - RT-117: what ends an attachment before the end of Stdin leaves the container's stdin
	//     open for the next one, also without a TTY, here and from Attach. Some engines cannot.
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

// AttachBacklog is the least output, in bytes, that a runtime buffers for an attachment
// with a slow writer. A pipe holds at least that much on every system.
const AttachBacklog = 4096

// MaxTerminalSize is the largest height and width that a terminal can have.
const MaxTerminalSize = 1<<16 - 1

// ValidateTerminalSize reports a size that no terminal can have.
func ValidateTerminalSize(height, width uint) error {
	for _, side := range []struct {
		field string
		value uint
	}{{"height", height}, {"width", width}} {
		if side.value < 1 || side.value > MaxTerminalSize {
			return Invalid(side.field, "%d is not from 1 to %d", side.value, MaxTerminalSize)
		}
	}
	return nil
}
