package docker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/moatproject/moat/core/driver"
	"github.com/moatproject/moat/core/optional"
)

// ContainerLogs follows the container's output from its beginning. The caller closes
// the reader, from any goroutine.
func (r *Runtime) ContainerLogs(ctx context.Context, id string) (io.ReadCloser, error) {
	c, err := r.on(ctx, 0, "follow logs", id)
	if err != nil {
		return nil, err
	}
	output, err := r.openLogs(c, optional.LogOptions{Follow: true})
	if err != nil {
		defer c.end()
		return nil, c.failed(err)
	}
	return &callReader{call: c, plain: output.inOrder()}, nil
}

// ContainerLogsAll returns all output so far.
func (r *Runtime) ContainerLogsAll(ctx context.Context, id string) ([]byte, error) {
	c, err := r.on(ctx, 0, "read logs", id)
	if err != nil {
		return nil, err
	}
	defer c.end()
	output, err := r.openLogs(c, optional.LogOptions{})
	if err != nil {
		return nil, c.failed(err)
	}
	var all bytes.Buffer
	err = output.copyTo(&all, &all)
	return all.Bytes(), c.failed(err)
}

// StreamLogs copies the container's output, stdout and stderr apart.
func (r *Runtime) StreamLogs(ctx context.Context, id string, opts optional.LogOptions) error {
	c, err := r.on(ctx, 0, "read logs", id)
	if err != nil {
		return err
	}
	defer c.end()
	output, err := r.openLogs(c, opts)
	if err != nil {
		return c.failed(err)
	}
	return c.failed(output.copyTo(driver.CallerWriter(opts.Stdout), driver.CallerWriter(opts.Stderr)))
}

// logOutput is a container's output as the engine sends it: a terminal's as it is,
// other in frames.
type logOutput struct {
	io.Reader
	tty bool
}

func (r *Runtime) openLogs(c *call, opts optional.LogOptions) (logOutput, error) {
	known := r.known.get(c.object)
	if known.phase == unknown {
		found, err := r.inspectContainer(c.ctx, c.object)
		if err != nil {
			return logOutput{}, err
		}
		known.stdio.tty = found.Config.Tty
	}
	// Both streams, even where one is discarded: Tail counts the lines of both.
	request := container.LogsOptions{ShowStdout: true, ShowStderr: true, Follow: opts.Follow}
	if opts.Tail > 0 {
		request.Tail = strconv.Itoa(opts.Tail)
	}
	body, err := r.kind().openLogs(r, c, request, known.stdio.tty)
	if err != nil {
		return logOutput{}, err
	}
	output := logOutput{Reader: body, tty: known.stdio.tty}
	if opts.Follow && known.phase != started {
		output.Reader = &follower{runtime: r, call: c, request: request, tty: known.stdio.tty, body: body}
	}
	return output, nil
}

// inOrder returns all output in the order of its arrival.
func (o logOutput) inOrder() io.Reader {
	if o.tty {
		return o.Reader
	}
	return newFrameReader(o.Reader)
}

// copyTo copies the output to its end.
func (o logOutput) copyTo(stdout, stderr io.Writer) error {
	if !o.tty {
		return demultiplex(stdout, stderr, o.Reader)
	}
	_, err := io.Copy(stdout, o.Reader)
	return err
}

// follower follows the output of a container that may not have been started yet. The
// engine ends the output of such a one at once, so its start is waited for.
type follower struct {
	runtime *Runtime
	call    *call
	request container.LogsOptions
	tty     bool
	body    io.Reader
	started bool // the end of body is the end of the output
}

func (f *follower) Read(p []byte) (int, error) {
	for {
		n, err := f.body.Read(p)
		f.started = f.started || n > 0
		if f.started || !errors.Is(err, io.EOF) {
			return n, err
		}
		if err := f.awaitStart(); err != nil {
			return 0, f.call.failed(err)
		}
		if !f.started {
			return 0, io.EOF
		}
	}
}

// awaitStart opens the output once the container has been started, or returns when
// that can be no more.
func (f *follower) awaitStart() error {
	ctx, cancel := context.WithCancel(f.call.ctx)
	defer cancel()
	// Asked for before the look at the state, so that no start falls between them.
	messages, failures := f.runtime.containerEvents(ctx, f.call.object, events.ActionStart)
	found, err := f.runtime.inspectContainer(ctx, f.call.object)
	switch {
	case errdefs.IsNotFound(err):
		return nil
	case err != nil:
		return err
	}
	if !hasRun(found.State) {
		select {
		case message := <-messages:
			if message.Action != events.ActionStart {
				return nil
			}
		case err := <-failures:
			return err
		}
	}
	f.started = true
	f.body, err = f.runtime.kind().openLogs(f.runtime, f.call, f.request, f.tty)
	return err
}

// containerEvents watches for an event of a container, and for its removal.
func (r *Runtime) containerEvents(ctx context.Context, id string, action events.Action) (<-chan events.Message, <-chan error) {
	wanted := filters.NewArgs(filters.Arg("container", id))
	r.filterEvents(wanted, action)
	r.filterEvents(wanted, events.ActionDestroy)
	return r.engine.Events(ctx, events.ListOptions{Filters: wanted})
}

// callReader is an open stream with the call that it lives in.
type callReader struct {
	call  *call
	plain io.Reader
}

func (l *callReader) Read(p []byte) (int, error) {
	n, err := l.plain.Read(p)
	if errors.Is(err, io.EOF) {
		return n, err
	}
	return n, l.call.failed(err)
}

// Close ends what the engine sends, and with it a blocked Read.
func (l *callReader) Close() error {
	l.call.end()
	return nil
}
