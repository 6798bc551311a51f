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
