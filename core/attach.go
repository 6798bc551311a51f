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
	// for TTY mode. If both are > 0 the process sees them from its first instruction.
	InitialWidth  uint
	InitialHeight uint
}

// Attacher connects a caller's streams to a container's.
type Attacher interface {
	// Attach connects to a running container and returns when it exits or ctx ends.
	// The end of Stdin closes the container's, and the attachment goes on.
	//
	//   - RT-100: output written after Attach arrives; nil writers discard.
	//   - RT-101: missing: [ErrNotFound]; not running: [ErrNotRunning].
	Attach(ctx context.Context, id string, opts AttachOptions) error

	// StartAttached attaches, starts the container, and returns when it exits or
	// ctx ends; the container outlives ctx.
	//
	//   - RT-105: not one byte is lost, from the first to the last.
	//   - RT-106: missing: [ErrNotFound].
	StartAttached(ctx context.Context, id string, opts AttachOptions) error

	// ResizeTTY sets the size of the container's terminal, in characters.
	//
	//   - RT-110: the process sees the new size.
	//   - RT-111: no TTY: [ErrInvalidConfig]; not running: [ErrNotRunning]; missing:
	//     [ErrNotFound].
	ResizeTTY(ctx context.Context, id string, height, width uint) error
}
