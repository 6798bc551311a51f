package optional

import (
	"context"
	"io"
)

// LogOptions selects what [LogStreamer.StreamLogs] copies.
type LogOptions struct {
	Follow bool // go on until the container exits
	Tail   int  // only the last Tail lines; 0 means all

	// Stdout and Stderr receive the streams; nil discards. Writes come from one
	// goroutine. With a TTY everything is stdout.
	Stdout io.Writer
	Stderr io.Writer
}

// LogStreamer is the optional interface for logs with stdout and stderr apart.
type LogStreamer interface {
	// StreamLogs copies the container's output and returns when it ends, ctx ends,
	// or a writer fails, with that error.
	//
	//   - RT-78: each stream's bytes go to its writer, in order; with a TTY all are stdout's.
	//   - RT-79: Tail counts lines of both streams together, from the end; a last line
	//     without a newline is one.
	StreamLogs(ctx context.Context, id string, opts LogOptions) error
}
