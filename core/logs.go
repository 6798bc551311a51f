package core

import (
	"context"
	"io"
)

// Logs reads what containers wrote.
type Logs interface {
	// ContainerLogs follows the container's output from its beginning, stdout and
	// stderr demultiplexed into one reader in the order of arrival. The caller
	// closes the reader, from any goroutine.
	//
	//   - RT-70: it ends, with io.EOF, when the container exits and all is read.
	//   - RT-71: Close ends a blocked Read and leaks nothing; ctx ends the stream too.
	//   - RT-72: ten megabytes arrive byte for byte.
	//   - RT-73: missing: [ErrNotFound]. Created: it waits for the start.
	//   - RT-74: a container removed meanwhile ends the stream.
	ContainerLogs(ctx context.Context, id string) (io.ReadCloser, error)

	// ContainerLogsAll returns all output so far, without following.
	//
	//   - RT-75: complete and in the order of arrival once the container has exited.
	//   - RT-76: bytes pass unchanged, whatever they are.
	//   - RT-77: missing: [ErrNotFound]; never started: empty.
	ContainerLogsAll(ctx context.Context, id string) ([]byte, error)
}

// LogOptions selects what [LogStreamer.StreamLogs] copies.
type LogOptions struct {
	Follow bool // go on until the container exits
	Tail   int  // only the last Tail lines; 0 means all

	// Stdout and Stderr receive the streams; nil discards. Writes come from one
	// goroutine. With a TTY everything is stdout.
	Stdout io.Writer
	Stderr io.Writer
}

// LogStreamer is the optional port for logs with stdout and stderr apart.
type LogStreamer interface {
	// StreamLogs copies the container's output and returns when it ends, ctx ends,
	// or a writer fails, with that error.
	//
	//   - RT-78: each stream's bytes go to its writer, in order; with a TTY all are stdout's.
	//   - RT-79: Tail counts lines of both streams together, from the end; a last line
	//     without a newline is one.
	StreamLogs(ctx context.Context, id string, opts LogOptions) error
}
