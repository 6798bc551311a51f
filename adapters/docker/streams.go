package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/containerd/errdefs/pkg/errhttp"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/driver"
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
	stdin := config.OpenStdin && gate != gateLastLine
	return stdio{tty: config.Tty, stdin: stdin, once: stdin && config.StdinOnce && !config.Tty, gate: gate, mark: mark}
}

// stream carries a hijacked connection's bytes to and from a caller's streams.
type stream struct {
	conn       hijacked
	opts       core.AttachOptions
	tty        bool
	gate, mark string // of the container
	halfClose  bool   // else the engine takes the end of the input for that of the stream
	backlog    *driver.Backlog
	stdout     *opening                    // nil: all of it is the program's
	stderr     *opening                    // the same
	ready      func(context.Context) error // returns when the program has begun; nil: it has
}

func newStream(conn hijacked, opts core.AttachOptions) *stream {
	return &stream{conn: conn, opts: opts, backlog: driver.NewBacklog(driver.BacklogSize)}
}

// setUp says what is at the other end.
func (s *stream) setUp(end stdio) {
	s.tty, s.halfClose, s.gate, s.mark = end.tty, end.once, end.gate, end.mark
	if !end.stdin {
		s.opts.Stdin = nil
	}
}

// run copies until the engine ends the stream and exit has told the program's exit code,
// a writer fails, or ctx ends. It closes the connection.
func (s *stream) run(ctx context.Context, exit func(context.Context) (int64, error)) (int64, error) {
	defer s.conn.Close()
	carrier := driver.Carrier{Caller: s.opts, Input: stdin{s}, Ready: s.ready}
	carrier.Copy = func(ctx context.Context, stdout, stderr io.Writer) (int64, error) {
		if err := s.copyTo(ctx, stdout, stderr); err != nil {
			return 0, err
		}
		return exit(ctx)
	}
	return carrier.Run(ctx)
}

// copyTo copies the output to its end, and closes the connection.
func (s *stream) copyTo(ctx context.Context, stdout, stderr io.Writer) error {
	defer s.conn.Close()
	defer s.backlog.Close()
	defer context.AfterFunc(ctx, s.backlog.Close)()
	go s.backlog.Fill(s.conn)
	output := logOutput{Reader: s.backlog, tty: s.tty}
	err := output.copyTo(s.stdout.before(stdout), s.stderr.before(stderr))
	if errors.Is(err, errContainerEnded) {
		return nil
	}
	return err
}

// stdin is the program's end of a stream.
type stdin struct{ *stream }

func (s stdin) Write(p []byte) (int, error) { return s.conn.Write(p) }

// Close ends the input where that is not the end of the stream. A terminal's has no end.
func (s stdin) Close() error {
	if s.halfClose {
		return s.conn.CloseWrite()
	}
	return nil
}
