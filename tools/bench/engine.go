package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/docker/docker/api/types/container"
	"github.com/moatproject/moat/adapters/docker"
	"github.com/moatproject/moat/adapters/gvisor"
	"github.com/moatproject/moat/core"
)

const (
	apiVersion = "/v1.41"
	testImage  = "moat/test-base"
	label      = "bench" // on all containers that are made here, with this process's ID
)

// bench is what the rows share.
type bench struct {
	host  string // of the engine
	bin   string
	cache string // folder, of the commands that are run
	quick bool

	raw       *rawClient
	plain     *docker.Runtime // runc
	sandboxed *docker.Runtime // runsc
	runID     string

	interrupted context.Context // ends with the first signal
}

func newBench(ctx context.Context, bin string, quick bool) (*bench, error) {
	host := os.Getenv("MOAT_TEST_ENGINE")
	if host == "" {
		return nil, errors.New("MOAT_TEST_ENGINE is not set: run `make setup bench`")
	}
	bin, err := filepath.Abs(bin)
	if err != nil {
		return nil, err
	}
	b := &bench{host: host, bin: bin, quick: quick, raw: newRawClient(host), runID: strconv.Itoa(os.Getpid())}
	if b.plain, err = newRuntime("runc", host); err != nil {
		return nil, err
	}
	if b.sandboxed, err = newRuntime("runsc", host); err != nil {
		return nil, err
	}
	if err := b.sandboxed.Verify(ctx); err != nil {
		return nil, err
	}
	b.cache, err = os.MkdirTemp("", "moat-bench-")
	return b, err
}

func newRuntime(oci, host string) (*docker.Runtime, error) {
	if oci == "runsc" {
		return gvisor.New(docker.Options{Host: host}, gvisor.Options{})
	}
	return docker.New(docker.Options{Host: host})
}

// runtime returns the runtime of an OCI runtime.
func (b *bench) runtime(oci string) *docker.Runtime {
	if oci == "runsc" {
		return b.sandboxed
	}
	return b.plain
}

// close removes what rows left behind when they failed.
func (b *bench) close(ctx context.Context) error {
	var left []container.Summary
	filters := url.QueryEscape(fmt.Sprintf(`{"label":["%s=%s"]}`, label, b.runID))
	err := b.raw.do(ctx, http.MethodGet, "/containers/json?all=1&filters="+filters, nil, &left)
	for _, container := range left {
		err = errors.Join(err, b.raw.remove(ctx, container.ID))
	}
	return errors.Join(err, b.plain.Close(), b.sandboxed.Close(), os.RemoveAll(b.cache))
}

func (b *bench) config(command ...string) core.Config {
	return core.Config{Image: testImage, Cmd: command, Labels: map[string]string{label: b.runID}, Pull: core.PullNever}
}

// rawClient speaks the Engine API with net/http alone.
type rawClient struct{ http http.Client }

func newRawClient(host string) *rawClient {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(host, "unix://"))
	}
	return &rawClient{http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 64}}}
}

// do makes a request and decodes the answer's JSON into answer, if that is not nil.
func (c *rawClient) do(ctx context.Context, method, path string, body []byte, answer any) error {
	response, err := c.send(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if answer != nil {
		return json.NewDecoder(response.Body).Decode(answer)
	}
	_, err = io.Copy(io.Discard, response.Body)
	return err
}

// send returns an answer whose body the caller closes.
func (c *rawClient) send(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://docker"+apiVersion+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := c.http.Do(request)
	if err == nil && response.StatusCode >= http.StatusBadRequest {
		defer response.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10))
		err = fmt.Errorf("%s %s: %s: %s", method, path, response.Status, text)
	}
	return response, err
}

func (c *rawClient) create(ctx context.Context, body []byte) (string, error) {
	var created container.CreateResponse
	err := c.do(ctx, http.MethodPost, "/containers/create", body, &created)
	return created.ID, err
}

func (c *rawClient) start(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodPost, "/containers/"+id+"/start", nil, nil)
}

func (c *rawClient) remove(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, "/containers/"+id+"?force=1&v=1", nil, nil)
}

// life runs a container from its creation to its removal, and calls before and running
// about the start, unless they are nil. The wait is registered before the start.
func (c *rawClient) life(ctx context.Context, body []byte, before, running func(id string) error) (err error) {
	id, err := c.create(ctx, body)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.remove(ctx, id)) }()
	if before != nil {
		if err := before(id); err != nil {
			return err
		}
	}
	wait, err := c.send(ctx, http.MethodPost, "/containers/"+id+"/wait?condition=next-exit", nil)
	if err != nil {
		return err
	}
	defer wait.Body.Close()
	if err := c.start(ctx, id); err != nil {
		return err
	}
	if running != nil {
		if err := running(id); err != nil {
			return err
		}
	}
	return json.NewDecoder(wait.Body).Decode(new(container.WaitResponse))
}

// run is a life with the output, attached to before the start.
func (c *rawClient) run(ctx context.Context, body []byte) error {
	var conn io.ReadWriteCloser
	return c.life(ctx, body,
		func(id string) (err error) {
			conn, err = c.attach(ctx, id, "stdout=1&stderr=1")
			return err
		},
		func(string) error {
			_, err := io.Copy(io.Discard, conn)
			return errors.Join(err, conn.Close())
		})
}

// attach returns a container's streams, those that a query names.
func (c *rawClient) attach(ctx context.Context, id, streams string) (io.ReadWriteCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://docker"+apiVersion+"/containers/"+id+"/attach?stream=1&"+streams, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Connection", "Upgrade")
	request.Header.Set("Upgrade", "tcp")
	response, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		defer response.Body.Close()
		return nil, fmt.Errorf("attach: %s", response.Status)
	}
	return response.Body.(io.ReadWriteCloser), nil // as net/http promises
}

// logs hands a container's output to read until its end, in frames.
func (c *rawClient) logs(ctx context.Context, id string, read func(io.Reader) error) error {
	response, err := c.send(ctx, http.MethodGet, "/containers/"+id+"/logs?stdout=1&stderr=1&follow=1", nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	return read(response.Body)
}

// life is the same as the raw one through the adapter.
func life(ctx context.Context, rt core.Runtime, cfg core.Config) error {
	id, err := rt.CreateContainer(ctx, cfg)
	if err != nil {
		return err
	}
	if err := rt.StartContainer(ctx, id); err != nil {
		return errors.Join(err, rt.RemoveContainer(ctx, id))
	}
	_, err = rt.WaitContainer(ctx, id)
	return errors.Join(err, rt.RemoveContainer(ctx, id))
}

// A recorder is a proxy before the engine that notes what passes.
type recorder struct {
	host string

	mu       sync.Mutex
	requests []string
	created  []byte // the last container's configuration
}

// recorded hands use a recorder, and closes it.
func (b *bench) recorded(use func(*recorder) error) error {
	r := &recorder{}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "docker"})
	proxy.Transport = b.raw.http.Transport
	proxy.FlushInterval = -1
	host, stop, err := serve(func(w http.ResponseWriter, request *http.Request) {
		body, _ := io.ReadAll(request.Body)
		request.Body = io.NopCloser(bytes.NewReader(body))
		r.mu.Lock()
		r.requests = append(r.requests, request.Method+" "+request.URL.Path)
		if strings.HasSuffix(request.URL.Path, "/containers/create") {
			r.created = body
		}
		r.mu.Unlock()
		proxy.ServeHTTP(w, request)
	})
	if err != nil {
		return err
	}
	r.host = host
	return errors.Join(use(r), stop())
}

// take returns the requests since the last call of it.
func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	made := r.requests
	r.requests = nil
	return made
}

// requests counts those of do by an adapter that has found out about the engine before.
func (b *bench) requests(ctx context.Context, oci string, do func(core.Runtime) error) (made int, err error) {
	err = b.recorded(func(r *recorder) (err error) {
		rt, err := newRuntime(oci, r.host)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, rt.Close()) }()
		if err := rt.Verify(ctx); err != nil {
			return err
		}
		r.take()
		err = do(rt)
		made = len(r.take())
		return err
	})
	return made, err
}

// answeredAtOnce hands use an engine that does nothing, and says that it has done it.
// Its containers have written logs, which are in frames.
func answeredAtOnce(logs []byte, use func(host string) error) error {
	id := strings.Repeat("0123456789abcdef", 4)
	host, stop, err := serve(func(w http.ResponseWriter, request *http.Request) {
		w.Header().Set("Api-Version", strings.TrimPrefix(apiVersion, "/v"))
		w.Header().Set("Content-Type", "application/json")
		switch path := request.URL.Path; {
		case strings.HasSuffix(path, "/create"):
			w.WriteHeader(http.StatusCreated)
			_ = json.NewEncoder(w).Encode(container.CreateResponse{ID: id})
		case strings.HasSuffix(path, "/wait"):
			_ = json.NewEncoder(w).Encode(container.WaitResponse{})
		case strings.HasSuffix(path, "/logs"):
			_, _ = w.Write(logs)
		case strings.HasSuffix(path, "/attach"):
			w.Header().Del("Content-Type")
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "tcp")
			w.WriteHeader(http.StatusSwitchingProtocols)
			if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
				_ = conn.Close()
			}
		case strings.HasSuffix(path, "/_ping"):
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	})
	if err != nil {
		return err
	}
	return errors.Join(use(host), stop())
}

// serve listens on a socket of its own until stop.
func serve(handler http.HandlerFunc) (host string, stop func() error, err error) {
	folder, err := os.MkdirTemp("", "moat-bench-")
	if err != nil {
		return "", nil, err
	}
	socket := filepath.Join(folder, "engine.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(folder))
	}
	server := &http.Server{Handler: handler}
	go func() { _ = server.Serve(listener) }()
	return "unix://" + socket, func() error { return errors.Join(server.Close(), os.RemoveAll(folder)) }, nil
}

// createBody returns what the adapter sends to create a container, for the raw side
// to send the same.
func (b *bench) createBody(ctx context.Context, oci string) (body []byte, err error) {
	err = b.recorded(func(r *recorder) (err error) {
		rt, err := newRuntime(oci, r.host)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, rt.Close()) }()
		id, err := rt.CreateContainer(ctx, b.config("true"))
		if err != nil {
			return err
		}
		body = r.created
		return rt.RemoveContainer(ctx, id)
	})
	return body, err
}
