package docker

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
)

// openLogsOnPodman opens a log. Podman returns the last lines out of order if a line was
// written in parts, so lines are counted here. Followed output loses lines during much
// output and may end early. So following only signals that the log has grown, and the log
// itself is read again. A terminal's followed output loses nothing on the way: its log is
// read again only at its end.
func openLogsOnPodman(r *Runtime, c *call, request container.LogsOptions, tty bool) (io.Reader, error) {
	from, err := r.lastLinesOnPodman(c, request, tty)
	if err != nil {
		return nil, err
	}
	log, err := r.logOnPodman(c.ctx, c.object, request, tty, from)
	if err != nil || !request.Follow {
		return log, err
	}
	if tty {
		request.Follow = false
		log.rest = func(from positions) (*podmanLog, error) {
			return r.logOnPodman(c.ctx, c.object, request, tty, from)
		}
		return log, nil
	}
	return r.followOnPodman(c.ctx, c.object, log, from), nil
}

// logOnPodman opens a container's whole log, to read it from a position.
func (r *Runtime) logOnPodman(ctx context.Context, id string, request container.LogsOptions, tty bool, from positions) (*podmanLog, error) {
	request.Tail = ""
	body, err := r.engine.ContainerLogs(ctx, id, request)
	return &podmanLog{body: body, tty: tty, skip: from}, err
}

// lastLinesOnPodman returns where the lines that a request asks for begin.
func (r *Runtime) lastLinesOnPodman(c *call, request container.LogsOptions, tty bool) (positions, error) {
	if request.Tail == "" {
		return positions{}, nil
	}
	tail := request.Tail
	request.Follow = false
	log, err := r.logOnPodman(c.ctx, c.object, request, tty, positions{})
	if err != nil {
		return positions{}, err
	}
	return log.lastLines(tail)
}

// followOnPodman follows a log in frames. Any output of following signals that the log has
// grown.
func (r *Runtime) followOnPodman(ctx context.Context, id string, following *podmanLog, from positions) *podmanFollower {
	return &podmanFollower{
		again: func(from positions) (*podmanLog, error) {
			return r.logOnPodman(ctx, id, container.LogsOptions{ShowStdout: true, ShowStderr: true}, false, from)
		},
		written: signals(following.body), read: from,
	}
}

// signals returns a channel that signals output, and is closed at its end.
func signals(body io.Reader) <-chan struct{} {
	come := make(chan struct{}, 1)
	go func() {
		defer close(come)
		buffer := make([]byte, demuxBuffer)
		for {
			if _, err := body.Read(buffer); err != nil {
				return
			}
			select {
			case come <- struct{}{}:
			default:
			}
		}
	}()
	return come
}

// podmanFollower reads a log again whenever it has grown, in frames.
type podmanFollower struct {
	again   func(from positions) (*podmanLog, error)
	written <-chan struct{} // closed: the output has ended
	read    positions
	log     *podmanLog // in reading; nil: wait for more
	last    bool       // this reading is the last
	frame   []byte     // the last frame read, with its header; it may be incomplete
	unsure  []byte     // the last frame of the reading before
	pending bytes.Buffer
}

func (f *podmanFollower) Read(p []byte) (int, error) {
	for f.pending.Len() == 0 {
		if f.log == nil {
			if err := f.begin(); err != nil {
				return 0, err
			}
		}
		stream, data, err := f.log.next()
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			if f.log.isShorterThan(f.read) {
				return 0, errLogRestarted
			}
			f.end()
		case err != nil:
			return 0, err
		case len(data) > 0:
			f.deliver()
			f.frame = frameOf(stream, data)
		}
	}
	return f.pending.Read(p)
}

// begin opens the log again as soon as it may have grown.
func (f *podmanFollower) begin() (err error) {
	if f.last {
		return io.EOF
	}
	if f.unsure == nil {
		_, more := <-f.written
		f.last = !more
	}
	f.log, err = f.again(f.read)
	if errdefs.IsNotFound(err) {
		return io.EOF // the container has been removed
	}
	return err
}

// end ends a reading of the log. Its last frame is delivered once two readings agree on it.
func (f *podmanFollower) end() {
	f.log = nil
	if f.last || bytes.Equal(f.frame, f.unsure) {
		f.deliver()
		f.unsure = nil
		return
	}
	f.unsure, f.frame = f.frame, nil
}

func (f *podmanFollower) deliver() {
	if f.frame != nil {
		f.read[f.frame[0]] += int64(len(f.frame) - frameHeader)
		f.pending.Write(f.frame)
		f.frame = nil
	}
}

func frameOf(stream byte, data []byte) []byte {
	frame := make([]byte, frameHeader, frameHeader+len(data))
	frame[0] = stream
	binary.BigEndian.PutUint32(frame[4:], uint32(len(data)))
	return append(frame, data...)
}

// positions are the numbers of bytes read, by stream.
type positions [streamSystem + 1]int64

// podmanLog reads a log in whole frames, or a terminal's log unchanged.
type podmanLog struct {
	body    io.Reader
	tty     bool
	skip    positions // bytes to skip at the beginning
	read    positions // including the skipped ones
	pending bytes.Buffer
	rest    func(from positions) (*podmanLog, error) // opens the rest of the log after the end; nil: there is none
}

func (l *podmanLog) Read(p []byte) (int, error) {
	for l.pending.Len() == 0 {
		stream, data, err := l.next()
		if errors.Is(err, io.EOF) && l.rest != nil {
			err = l.goOn()
			stream, data = 0, nil
		}
		if err != nil {
			return 0, err
		}
		if len(data) == 0 {
			continue
		}
		if !l.tty {
			data = frameOf(stream, data)
		}
		l.pending.Write(data)
	}
	return l.pending.Read(p)
}

// next returns the next frame, or the next bytes of a terminal's log, after the skipped
// ones.
func (l *podmanLog) next() (stream byte, data []byte, err error) {
	stream = streamStdout
	if l.tty {
		data = make([]byte, demuxBuffer)
		var n int
		n, err = l.body.Read(data)
		if data = data[:n]; n > 0 {
			err = nil
		}
	} else {
		stream, data, err = readFrame(l.body)
	}
	size := int64(len(data))
	data = data[min(size, max(0, l.skip[stream]-l.read[stream])):]
	l.read[stream] += size
	return stream, data, err
}

// errLogRestarted reports that Podman has emptied a log at its size limit while it was followed.
var errLogRestarted = errors.New("output was lost: the engine emptied the log at its size limit")

// isShorterThan reports whether a log that has been read to its end lacks what was read before.
func (l *podmanLog) isShorterThan(before positions) bool {
	for stream, size := range before {
		if l.read[stream] < size {
			return true
		}
	}
	return false
}

// readFrame returns a whole frame, or [io.EOF] at the end.
func readFrame(body io.Reader) (stream byte, data []byte, err error) {
	var header [frameHeader]byte
	if _, err := io.ReadFull(body, header[:]); err != nil {
		return 0, nil, err
	}
	stream, length, err := parseHeader(header[:])
	if err != nil {
		return 0, nil, err
	}
	var payload bytes.Buffer // allocates for received bytes only, whatever the header says
	if _, err := io.CopyN(&payload, body, int64(length)); err != nil {
		return 0, nil, err
	}
	return stream, payload.Bytes(), nil
}

// goOn reads the log again from its last position. The log of a removed container has
// ended.
func (l *podmanLog) goOn() error {
	rest, err := l.rest(l.read)
	l.rest = nil
	switch {
	case errdefs.IsNotFound(err):
		return io.EOF
	case err != nil:
		return err
	}
	l.body, l.skip, l.read = rest.body, rest.skip, positions{}
	return nil
}

// lastLines reads a log to its end and returns where its last lines begin, counted over
// both streams together.
func (l *podmanLog) lastLines(tail string) (positions, error) {
	lines, err := strconv.Atoi(tail)
	if err != nil {
		return positions{}, err
	}
	var begins []positions // beginnings of the last lines
	var at positions
	within := map[byte]bool{} // the stream is within a line
	for {
		stream, data, err := l.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return positions{}, err
		}
		for _, char := range data {
			if !within[stream] {
				begins = append(begins, at)
				begins = begins[max(0, len(begins)-lines):]
			}
			within[stream] = char != '\n'
			at[stream]++
		}
	}
	if len(begins) == 0 {
		return at, nil
	}
	return begins[0], nil
}

// outputFromLog is a container's output from now on, read from its log, in place of an
// attachment: the end of any attachment to a container without a terminal closes the
// container's stdin.
type outputFromLog struct {
	runtime *Runtime
	ctx     context.Context
	cancel  context.CancelFunc
	id      string
	from    positions
	log     *podmanFollower // nil: nothing has been read
}

// attachToLogOnPodman returns the call's container's output from now on. The log is not
// followed before the first Read, by when the container must have been started.
func attachToLogOnPodman(r *Runtime, c *call) (hijacked, error) {
	from, err := r.lastLinesOnPodman(c, container.LogsOptions{ShowStdout: true, ShowStderr: true, Tail: "0"}, false)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(c.ctx)
	return &outputFromLog{runtime: r, ctx: ctx, cancel: cancel, id: c.object, from: from}, nil
}

func (o *outputFromLog) Read(p []byte) (int, error) {
	if o.log == nil {
		request := container.LogsOptions{ShowStdout: true, ShowStderr: true, Follow: true}
		following, err := o.runtime.logOnPodman(o.ctx, o.id, request, false, o.from)
		if err != nil {
			return 0, err
		}
		o.log = o.runtime.followOnPodman(o.ctx, o.id, following, o.from)
	}
	return o.log.Read(p)
}

// Write is never called: the attachment has no Stdin.
func (o *outputFromLog) Write([]byte) (int, error) { return 0, errors.ErrUnsupported }

func (o *outputFromLog) CloseWrite() error { return nil }

func (o *outputFromLog) Close() error {
	o.cancel()
	return nil
}
