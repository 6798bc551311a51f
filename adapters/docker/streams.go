package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/containerd/errdefs/pkg/errhttp"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	"github.com/moatproject/moat/core"
)

// hijacked is a connection that the engine has turned into a stream.
type hijacked interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// hijack makes a request whose connection becomes a stream. The SDK's own way to do
// that hangs with the engine, whatever the context says, and drops the engine's error.
func (r *Runtime) hijack(ctx context.Context, path string, query url.Values, body io.Reader) (hijacked, error) {
	conn, err := r.upgrade(ctx, path, query, "tcp", body)
	if err == nil && r.kind().lastWords != nil {
		conn = &endingConn{hijacked: conn, lastWords: r.kind().lastWords}
	}
	return conn, err
}

// upgrade is hijack for a protocol.
func (r *Runtime) upgrade(ctx context.Context, path string, query url.Values, protocol string, body io.Reader) (hijacked, error) {
	header := http.Header{"Connection": {"Upgrade"}, "Upgrade": {protocol}, "Content-Type": {"application/json"}}
	response, err := r.request(ctx, http.MethodPost, path, query, header, body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode == http.StatusSwitchingProtocols {
		return response.Body.(hijacked), nil // net/http promises a Writer, and implements both
	}
	return nil, refusal(response)
}

// follow makes a request whose answer goes on.
func (r *Runtime) follow(ctx context.Context, path string, query url.Values) (io.ReadCloser, error) {
	response, err := r.request(ctx, http.MethodGet, path, query, nil, nil)
	if err != nil {
		return nil, err
	}
	if response.StatusCode == http.StatusOK {
		return response.Body, nil
	}
	return nil, refusal(response)
}

// request makes a request without the SDK.
func (r *Runtime) request(ctx context.Context, method, path string, query url.Values, header http.Header, body io.Reader) (*http.Response, error) {
	return r.requestVersioned(ctx, method, "/v"+r.engine.ClientVersion()+path, query, header, body)
}

// requestVersioned is request for a path that has the API's version.
func (r *Runtime) requestVersioned(ctx context.Context, method, path string, query url.Values, header http.Header, body io.Reader) (*http.Response, error) {
	address, err := client.ParseHostURL(r.engine.DaemonHost())
	if err != nil {
		return nil, err
	}
	target := url.URL{Scheme: "http", Host: client.DummyHost, Path: path, RawQuery: query.Encode()}
	if address.Scheme == "tcp" {
		target.Host, target.Path = address.Host, address.Path+target.Path
	}
	if r.options.TLS != nil {
		target.Scheme = "https"
	}
	request, err := http.NewRequestWithContext(ctx, method, target.String(), body)
	if err != nil {
		return nil, err
	}
	request.Header = header
	return r.upgrades.Do(request)
}

// refusal reads the engine's error, of an answer that is none to the request.
func refusal(response *http.Response) error {
	defer response.Body.Close()
	var failure struct{ Message string }
	_ = json.NewDecoder(io.LimitReader(response.Body, systemErrorMax)).Decode(&failure)
	return fmt.Errorf("%w: %s", errhttp.ToNative(response.StatusCode), failure.Message)
}

// stdio is what the streams of a container's program are.
type stdio struct {
	tty   bool
	stdin bool   // it is open
	once  bool   // the engine closes it at the end of an attachment's, which it does not do with a terminal
	gate  string // what the program waits for
	mark  string // of the gate's words

	id       string // the container's full one
	created  bool   // it has not been started
	fleeting bool   // the container's log is removed at its exit
}

func stdioFor(cfg core.Config) stdio {
	return stdio{tty: cfg.TTY, stdin: cfg.Interactive, once: cfg.Interactive && !cfg.TTY, gate: gateFor(cfg)}
}

func stdioOf(config *container.Config) stdio {
	gate, mark := gateOf(config)
	stdin := config.OpenStdin && gate != gateLastByte
	return stdio{tty: config.Tty, stdin: stdin, once: stdin && config.StdinOnce && !config.Tty, gate: gate, mark: mark}
}

// stream carries a hijacked connection's bytes to and from a caller's streams.
type stream struct {
	conn      hijacked
	opts      core.AttachOptions
	tty       bool
	halfClose bool // else the engine takes the end of the input for that of the stream
	backlog   *backlog
	stdin     chan error                  // the caller's failure to read, once its input has ended
	stdout    *opening                    // nil: all of it is the program's
	stderr    *opening                    // the same
	begin     func(context.Context) error // returns when the program has begun; nil: it has
}

func newStream(conn hijacked, opts core.AttachOptions) *stream {
	return &stream{conn: conn, opts: opts, backlog: newBacklog(backlogMax), stdin: make(chan error, 1)}
}

// setUp says what is at the other end.
func (s *stream) setUp(end stdio) {
	s.tty, s.halfClose = end.tty, end.once
	if !end.stdin {
		s.opts.Stdin = nil
	}
}

// backlogMax bounds what is kept for a slow writer. The engine sends to all that are
// attached, and to the logs, no faster than to the slowest: what it has sent must be
// taken from it. A writer further behind holds them up: what it must get all of, such as
// a program's output in a pipe, is not cut off.
const backlogMax = 64 << 20

// writeGrace is how long a Write in progress is waited for when a method is to return,
// which it must do within a second.
const writeGrace = 500 * time.Millisecond

// writers are the caller's, behind the openings. They begin no Write after ctx has ended.
func (s *stream) writers(ctx context.Context) (stdout, stderr io.Writer, openings []*opening) {
	live := func(to io.Writer, first *opening) io.Writer {
		to = callerWriter(to)
		if first != nil {
			first.to, first.wake = to, s.backlog.wake
			openings = append(openings, first)
			to = first
		}
		return liveWriter{ctx, to}
	}
	stdout = live(s.opts.Stdout, s.stdout)
	stderr = live(s.opts.Stderr, s.stderr)
	return stdout, stderr, openings
}

// run copies until the engine ends the stream, a writer fails, or ctx ends. It closes
// the connection.
func (s *stream) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer s.conn.Close()
	defer s.backlog.end()
	refused := make(chan error, 1)
	go func() {
		if s.begin != nil {
			if err := s.begin(ctx); err != nil {
				refused <- err
				return
			}
		}
		if s.opts.Stdin != nil {
			s.send()
		}
	}()
	go s.backlog.fill(s.conn)
	copied := make(chan struct{})
	var err error // of the copying, once that has ended
	go func() {
		defer close(copied)
		stdout, stderr, openings := s.writers(ctx)
		output := logOutput{Reader: openingReader{s.backlog, ctx, openings}, tty: s.tty}
		err = output.copyTo(stdout, stderr)
	}()
	var ended error
	select {
	case <-copied:
		if errors.Is(err, errContainerEnded) {
			err = nil
		}
		return err
	case ended = <-refused:
	case <-ctx.Done():
		ended = ctx.Err()
	}
	s.backlog.end()
	select {
	case <-copied:
	case <-time.After(writeGrace):
	}
	return ended
}

// send copies the caller's input, and its end where there is one to copy: a terminal
// has none. That the container reads no more is no failure.
func (s *stream) send() {
	input := &readerWithFailure{Reader: s.opts.Stdin}
	_, _ = io.Copy(s.conn, input)
	s.stdin <- input.failure // before what the program may end at
	if s.halfClose {
		_ = s.conn.CloseWrite()
	}
}

// inputFailure returns the caller's failure to read, after run.
func (s *stream) inputFailure() error {
	select {
	case err := <-s.stdin:
		return err
	default:
		return nil // it has not ended
	}
}

// readerWithFailure keeps the failure that ended it, apart from those of a copy's other side.
type readerWithFailure struct {
	io.Reader
	failure error
}

func (r *readerWithFailure) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.failure = &callerError{err}
	}
	return n, err
}

// liveWriter begins no Write after its context has ended.
type liveWriter struct {
	ctx context.Context
	io.Writer
}

func (w liveWriter) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.Writer.Write(p)
}

// backlog is a pipe that keeps up to max bytes, and what one add brings more.
type backlog struct {
	max     int
	mu      sync.Mutex
	changed sync.Cond
	kept    bytes.Buffer
	woken   bool  // a Read is to return, with nothing as well
	err     error // after kept
}

func newBacklog(max int) *backlog {
	b := &backlog{max: max}
	b.changed.L = &b.mu
	return b
}

// fill reads src to its end.
func (b *backlog) fill(src io.Reader) {
	buffer := make([]byte, demuxBuffer)
	for {
		n, err := src.Read(buffer)
		if b.add(buffer[:n], err) != nil {
			return
		}
	}
}

func (b *backlog) add(data []byte, err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.err == nil && b.kept.Len() >= b.max {
		b.changed.Wait()
	}
	if b.err == nil {
		b.kept.Write(data)
		b.err = err
	}
	b.changed.Broadcast()
	return b.err
}

func (b *backlog) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.err == nil && b.kept.Len() == 0 && !b.woken {
		b.changed.Wait()
	}
	b.woken = false
	if b.kept.Len() == 0 {
		return 0, b.err
	}
	defer b.changed.Broadcast()
	return b.kept.Read(p)
}

// wake lets a Read return that waits.
func (b *backlog) wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.woken = true
	b.changed.Broadcast()
}

// end drops what is kept and lets fill and Read return.
func (b *backlog) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kept.Reset()
	b.err = io.ErrClosedPipe
	b.changed.Broadcast()
}
