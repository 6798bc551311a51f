package memory

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/moatproject/moat/core/optional"
)

const (
	chunkSize = 32 << 10 // how much output of one stream is kept in one piece
	chunkCost = 64       // what the limit counts for a piece beside its bytes
)

// output keeps what a container wrote, in order of arrival.
type output struct {
	limit int

	mu      sync.Mutex
	chunks  []chunk
	size    int           // what the limit counts of chunks
	written int64         // bytes since the beginning
	writer  *streams      // of the run in progress; nil: none is
	begun   bool          // a run has begun
	changed chan struct{} // closed, and replaced, at every change
}

// chunk is a piece of the output of one stream.
type chunk struct {
	start  int64 // how many bytes of output were before it
	stderr bool
	data   []byte
}

func newOutput(limit int) *output { return &output{limit: limit, changed: make(chan struct{})} }

// streams is the right to write for one run.
type streams struct{ output *output }

// begin opens the output for a run.
func (o *output) begin() *streams {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.writer, o.begun = &streams{o}, true
	return o.writer
}

// end closes it: what is still running in the background writes no more.
func (o *output) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.writer = nil
	o.announce()
}

func (o *output) announce() {
	close(o.changed)
	o.changed = make(chan struct{})
}

type streamWriter struct {
	*streams
	stderr bool
}

func (w streamWriter) Write(data []byte) (int, error) {
	o := w.output
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.writer != w.streams {
		return 0, os.ErrClosed
	}
	for rest := data; len(rest) > 0; {
		last := len(o.chunks) - 1
		if last < 0 || o.chunks[last].stderr != w.stderr || len(o.chunks[last].data) == chunkSize {
			o.chunks = append(o.chunks, chunk{start: o.written, stderr: w.stderr})
			o.size += chunkCost
			last++
		}
		n := min(len(rest), chunkSize-len(o.chunks[last].data))
		o.chunks[last].data = append(o.chunks[last].data, rest[:n]...)
		o.size += n
		o.written += int64(n)
		rest = rest[n:]
	}
	o.trim()
	o.announce()
	return len(data), nil
}

// trim drops the oldest chunks, down to the limit.
func (o *output) trim() {
	for o.size > o.limit && len(o.chunks) > 1 {
		o.size -= chunkCost + len(o.chunks[0].data)
		o.chunks[0].data = nil // the slice's array outlives this
		o.chunks = o.chunks[1:]
	}
}

// oldest returns the place of the oldest byte that is kept.
func (o *output) oldest() int64 {
	if len(o.chunks) == 0 {
		return o.written
	}
	return o.chunks[0].start
}

// cursor is a place in an output.
type cursor struct {
	*output
	place  int64  // how many bytes of output are before it
	end    int64  // where reading ends that does not follow
	notice []byte // what is left of the line about lost bytes
}

// next copies what follows to p. Where nothing does yet, it returns the channel that
// tells of more, or io.EOF when the run has ended or follow is false.
func (c *cursor) next(p []byte, follow bool) (n int, stderr bool, more <-chan struct{}, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if lost := c.oldest() - c.place; lost > 0 {
		c.notice = fmt.Appendf(nil, "[memory: %d bytes of output are gone; Options.LogLimit is %d]\n", lost, c.limit)
		c.place += lost
	}
	if n = copy(p, c.notice); n > 0 {
		c.notice = c.notice[n:]
		return n, true, nil, nil
	}
	switch {
	case !follow && c.place >= c.end, c.place == c.written && c.begun && c.writer == nil:
		return 0, false, nil, io.EOF
	case c.place == c.written:
		return 0, false, c.changed, nil
	}
	after, _ := slices.BinarySearchFunc(c.chunks, c.place+1, func(chunk chunk, place int64) int { return cmp.Compare(chunk.start, place) })
	current := c.chunks[after-1]
	n = copy(p, current.data[c.place-current.start:])
	c.place += int64(n)
	return n, current.stderr, nil, nil
}

// tail returns the place where the last lines begin; 0 means all.
func (o *output) tail(lines int) *cursor {
	o.mu.Lock()
	defer o.mu.Unlock()
	start := &cursor{output: o, end: o.written}
	if lines <= 0 {
		return start
	}
	for i := len(o.chunks) - 1; i >= 0; i-- {
		data := o.chunks[i].data
		if i == len(o.chunks)-1 {
			data = bytes.TrimSuffix(data, []byte("\n"))
		}
		for {
			at := bytes.LastIndexByte(data, '\n')
			if at < 0 {
				break
			}
			if lines--; lines == 0 {
				start.place = o.chunks[i].start + int64(at) + 1
				return start
			}
			data = data[:at]
		}
	}
	return start
}

// logStream follows a container's output.
type logStream struct {
	cursor  *cursor
	ctx     context.Context
	op, id  string
	runtime *Runtime
	removed <-chan struct{}
	closed  chan struct{}
	once    sync.Once
}

func (s *logStream) Read(p []byte) (int, error) {
	n, _, err := s.read(p, true)
	return n, err
}

func (s *logStream) read(p []byte, follow bool) (n int, stderr bool, err error) {
	if len(p) == 0 {
		return 0, false, nil
	}
	for {
		select { // first, because a container may write for ever
		case <-s.closed:
			return 0, false, os.ErrClosed
		case <-s.ctx.Done():
			return 0, false, failure(s.op, s.id, nil, s.ctx.Err())
		default:
		}
		n, stderr, more, err := s.cursor.next(p, follow)
		if more == nil {
			return n, stderr, err
		}
		select {
		case <-more:
		case <-s.closed:
		case <-s.ctx.Done():
		case <-s.removed:
			return 0, false, io.EOF
		case <-s.runtime.closed:
			return 0, false, closedError(s.op, s.id)
		}
	}
}

func (s *logStream) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (r *Runtime) logStream(ctx context.Context, op, id string, tail int) (*logStream, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, err := r.find(ctx, op, id)
	if err != nil {
		return nil, err
	}
	return r.streamOf(ctx, op, c, c.output.tail(tail)), nil
}

func (r *Runtime) streamOf(ctx context.Context, op string, c *container, from *cursor) *logStream {
	return &logStream{
		cursor: from, ctx: ctx, op: op, id: c.info.ID, runtime: r, removed: c.removed, closed: make(chan struct{}),
	}
}

// now returns the place where the output has got to.
func (o *output) now() *cursor {
	o.mu.Lock()
	defer o.mu.Unlock()
	return &cursor{output: o, place: o.written}
}

// ContainerLogs follows the output from its beginning, of which [Options.LogLimit] may
// have cost some.
func (r *Runtime) ContainerLogs(ctx context.Context, id string) (io.ReadCloser, error) {
	stream, err := r.logStream(ctx, "follow logs", id, 0)
	if err != nil {
		return nil, err
	}
	return stream, nil
}

// ContainerLogsAll returns the output so far.
func (r *Runtime) ContainerLogsAll(ctx context.Context, id string) ([]byte, error) {
	var all bytes.Buffer
	err := r.streamLogs(ctx, "read logs", id, optional.LogOptions{Stdout: &all, Stderr: &all})
	if err != nil {
		return nil, err
	}
	return all.Bytes(), nil
}

// StreamLogs copies the output to the options' writers.
func (r *Runtime) StreamLogs(ctx context.Context, id string, opts optional.LogOptions) error {
	return r.streamLogs(ctx, "stream logs", id, opts)
}

func (r *Runtime) streamLogs(ctx context.Context, op, id string, opts optional.LogOptions) error {
	stream, err := r.logStream(ctx, op, id, opts.Tail)
	if err != nil {
		return err
	}
	return stream.copyTo(opts)
}

func (s *logStream) copyTo(opts optional.LogOptions) error {
	buf := make([]byte, chunkSize)
	for {
		n, stderr, err := s.read(buf, opts.Follow)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		writer := opts.Stdout
		if stderr {
			writer = opts.Stderr
		}
		if writer == nil {
			continue
		}
		if _, err := writer.Write(buf[:n]); err != nil {
			return failure(s.op, s.id, nil, err)
		}
	}
}
