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
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/moatproject/moat/adapters/docker"
	"github.com/moatproject/moat/adapters/gvisor"
	"github.com/moatproject/moat/core"
)

const (
	apiVersion = "/v1.41"
	testImage  = "moat/test-base"
	runPrefix  = "bench-" // of the run IDs of all that is made here
)

// bench is what the rows share.
type bench struct {
	host  string // of the engine
	bin   string
	quick bool

	raw       *rawClient
	plain     *docker.Runtime // runc
	sandboxed *docker.Runtime // runsc
	runID     string
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
	b := &bench{host: host, bin: bin, quick: quick, raw: newRawClient(host), runID: fmt.Sprint(runPrefix, os.Getpid())}
	if b.plain, err = docker.New(docker.Options{Host: host}); err != nil {
		return nil, err
	}
	if b.sandboxed, err = gvisor.New(docker.Options{Host: host}, gvisor.Options{}); err != nil {
		return nil, err
	}
	return b, b.sandboxed.Verify(ctx)
}

// close removes what rows left behind when they were interrupted.
func (b *bench) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	all, err := b.plain.ListContainers(ctx)
	for _, info := range all {
		if info.Labels[core.LabelRunID] == b.runID {
			err = errors.Join(err, b.plain.RemoveContainer(ctx, info.ID))
		}
	}
	return errors.Join(err, b.plain.Close(), b.sandboxed.Close())
}

func (b *bench) config(command ...string) core.Config {
	return core.Config{Image: testImage, Cmd: command, RunID: b.runID, Pull: core.PullNever}
}

// runtime returns the runtime of an OCI runtime.
func (b *bench) runtime(oci string) *docker.Runtime {
	if oci == "runsc" {
		return b.sandboxed
	}
	return b.plain
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

func (c *rawClient) wait(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodPost, "/containers/"+id+"/wait?condition=not-running", nil, new(container.WaitResponse))
}

func (c *rawClient) remove(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, "/containers/"+id+"?force=1&v=1", nil, nil)
}

// life runs a container from its creation to its removal.
func (c *rawClient) life(ctx context.Context, body []byte) error {
	id, err := c.create(ctx, body)
	if err != nil {
		return err
	}
	return errors.Join(c.start(ctx, id), c.wait(ctx, id), c.remove(ctx, id))
}

// life is the same through the adapter.
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
	host   string
	server http.Server

	mu       sync.Mutex
	requests []string
	created  []byte // the last container's configuration
}

func (b *bench) record() (*recorder, error) {
	folder, err := os.MkdirTemp("", "moat-bench-")
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(folder, "engine.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	r := &recorder{host: "unix://" + socket}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "docker"})
	proxy.Transport = b.raw.http.Transport
	proxy.FlushInterval = -1
	r.server.Handler = http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
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
	go func() { _ = r.server.Serve(listener) }()
	return r, nil
}

func (r *recorder) close() error {
	return errors.Join(r.server.Close(), os.RemoveAll(filepath.Dir(strings.TrimPrefix(r.host, "unix://"))))
}

// take returns the requests since the last call of it, those for the version apart.
func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var made []string
	for _, request := range r.requests {
		if !strings.HasSuffix(request, "/_ping") {
			made = append(made, request)
		}
	}
	r.requests = nil
	return made
}

// answerAtOnce is an engine that does nothing, and says that it has done it.
func answerAtOnce() (host string, stop func() error, err error) {
	folder, err := os.MkdirTemp("", "moat-bench-")
	if err != nil {
		return "", nil, err
	}
	socket := filepath.Join(folder, "engine.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return "", nil, err
	}
	id := strings.Repeat("0123456789abcdef", 4)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		w.Header().Set("Api-Version", strings.TrimPrefix(apiVersion, "/v"))
		w.Header().Set("Content-Type", "application/json")
		switch path := request.URL.Path; {
		case strings.HasSuffix(path, "/create"):
			w.WriteHeader(http.StatusCreated)
			_ = json.NewEncoder(w).Encode(container.CreateResponse{ID: id})
		case strings.HasSuffix(path, "/wait"):
			_ = json.NewEncoder(w).Encode(container.WaitResponse{})
		case strings.HasSuffix(path, "/_ping"):
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	})}
	go func() { _ = server.Serve(listener) }()
	return "unix://" + socket, func() error { return errors.Join(server.Close(), os.RemoveAll(folder)) }, nil
}

// createBody returns what the adapter sends to create a container, for the raw side
// to send the same.
func (b *bench) createBody(ctx context.Context, cfg core.Config, oci string) (body []byte, err error) {
	r, err := b.record()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	rt, err := docker.New(docker.Options{Host: r.host})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rt.Close()) }()
	id, err := rt.CreateContainer(ctx, cfg)
	if err != nil {
		return nil, err
	}
	var request struct {
		container.Config
		HostConfig       container.HostConfig
		NetworkingConfig json.RawMessage
	}
	if err := json.Unmarshal(r.created, &request); err != nil {
		return nil, err
	}
	request.HostConfig.Runtime = oci
	body, err = json.Marshal(request)
	return body, errors.Join(err, rt.RemoveContainer(ctx, id))
}
