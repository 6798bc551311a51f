package docker

import (
	"archive/tar"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/moatproject/moat/adapters/docker/programs"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
	"github.com/opencontainers/go-digest"
)

// patience is how long a test waits for what should come at once.
const patience = 20 * time.Second

// testID is the container that the fake engine creates, and knows.
const testID = "4f2d1e0c9b8a79685746352413021f0e1d2c3b4a5968778695a4b3c2d1e0f123"

// fakeEngine answers the Engine API over a unix socket, as its routes say.
type fakeEngine struct {
	host string

	mu     sync.Mutex
	asked  []string // method, path without the version, and query
	routes map[string]http.HandlerFunc
}

var versionPrefix = regexp.MustCompile(`^/v1\.\d+`)

// startFake starts an engine on which everything succeeds.
func startFake(t testing.TB) *fakeEngine {
	t.Helper()
	f := &fakeEngine{routes: map[string]http.HandlerFunc{}}
	mux := http.NewServeMux()
	for pattern, handler := range usualRoutes() {
		f.routes[pattern] = handler
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { f.route(pattern)(w, r) })
	}
	socket := filepath.Join(t.TempDir(), "engine.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = versionPrefix.ReplaceAllString(r.URL.Path, "")
		f.mu.Lock()
		f.asked = append(f.asked, r.Method+" "+r.URL.RequestURI())
		f.mu.Unlock()
		mux.ServeHTTP(w, r)
	})}
	t.Cleanup(func() { server.Close() })
	go server.Serve(listener)
	f.host = "unix://" + socket
	return f
}

func usualRoutes() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"/_ping":                                ping("1.41"),
		"POST /containers/create":               answer(http.StatusCreated, container.CreateResponse{ID: testID}),
		"POST /containers/{id}/start":           status(http.StatusNoContent),
		"POST /containers/{id}/attach":          failure(http.StatusNotFound, "page not found"),
		"POST /containers/{id}/resize":          status(http.StatusOK),
		"POST /containers/{id}/stop":            status(http.StatusNoContent),
		"POST /containers/{id}/kill":            status(http.StatusNoContent),
		"DELETE /containers/{id}":               status(http.StatusNoContent),
		"POST /containers/{id}/wait":            exits(0),
		"GET /containers/{id}/json":             inspected("exited"),
		"GET /containers/{id}/logs":             logsUnguarded,
		"GET /containers/json":                  answer(http.StatusOK, []any{}),
		"GET /containers/{id}/stats":            answer(http.StatusOK, map[string]string{"read": "2026-01-02T03:04:05Z"}),
		"PUT /containers/{id}/archive":          status(http.StatusOK),
		"GET /containers/{id}/archive":          archived,
		"POST /containers/{id}/exec":            answer(http.StatusCreated, map[string]string{"Id": execID}),
		"POST /exec/{id}/start":                 upgraded(func(io.ReadWriter) {}),
		"POST /exec/{id}/resize":                status(http.StatusOK),
		"GET /exec/{id}/json":                   answer(http.StatusOK, map[string]any{"Pid": 1, "ExitCode": 3}),
		"GET /networks":                         answer(http.StatusOK, []any{}),
		"POST /networks/create":                 answer(http.StatusCreated, map[string]string{"Id": testID}),
		"POST /networks/{id}/{verb}":            status(http.StatusOK),
		"DELETE /networks/{id}":                 status(http.StatusNoContent),
		"GET /events":                           hang,
		"GET /images/json":                      answer(http.StatusOK, []any{}),
		"GET /images/{name...}":                 programImagesOnly,
		"POST /build":                           answer(http.StatusOK, map[string]string{"stream": "Successfully built 0123"}),
		"POST /grpc":                            failure(http.StatusNotFound, "page not found"),
		"DELETE /images/{name...}":              answer(http.StatusOK, []any{}),
		"POST /images/create":                   answer(http.StatusOK, map[string]string{"status": "Download complete"}),
		"POST /images/load":                     raw(`{"stream":"Loaded image: x"}`),
		"GET /version":                          answer(http.StatusOK, map[string]string{"Version": "20.10.24"}),
		"GET /info":                             answer(http.StatusOK, map[string]string{"OSType": "linux"}),
		"GET " + libpod + "/containers/json":    answer(http.StatusOK, []any{}),
		"DELETE " + libpod + "/containers/{id}": answer(http.StatusOK, []any{}),
		"POST " + libpod + "/networks/create":   answer(http.StatusOK, map[string]string{"id": testID}),
		"HEAD /containers/{id}/archive":         archived,
		"GET /networks/{name}":                  answer(http.StatusOK, map[string]string{"Name": "bridge"}),
		"/":                                     failure(http.StatusNotFound, "page not found"),
	}
}

// aProxy is a proxy's program for amd64.
const aProxy = "the proxy for amd64"

// programImagesOnly is the answer of an engine that has no images but those of Moat's programs.
func programImagesOnly(w http.ResponseWriter, r *http.Request) {
	ref := strings.TrimSuffix(r.PathValue("name"), "/json")
	found := map[string]any{programImage("proxy", []byte(aProxy)): imageOf("proxy", []byte(aProxy), nil)}
	for _, name := range []string{"check", "guard", "resolver"} {
		for _, architecture := range []string{"amd64", "arm64"} {
			program, _ := programs.Read(name, architecture)
			found[programImage(name, program)] = imageOf(name, program, nil)
		}
	}
	if image, ok := found[ref]; ok {
		answer(http.StatusOK, image)(w, r)
		return
	}
	failure(http.StatusNotFound, "No such image")(w, r)
}

// imageOf describes the image of a program alone, and of an environment.
func imageOf(name string, program []byte, env []string) map[string]any {
	layer, _ := programLayer(name, program)
	return map[string]any{
		"Id": programImageTestID, "RootFS": map[string]any{"Layers": []string{digest.FromBytes(layer.Bytes()).String()}},
		"Config": map[string]any{"Entrypoint": []string{"/" + name}, "Env": env},
	}
}

// programImageTestID is the ID of all images of programs.
const programImageTestID = "sha256:0101010101010101010101010101010101010101010101010101010101010101"

// execID is the execution that the fake engine creates.
const execID = "e0e0e0e0"

// archived sends a file and what the engine says of it.
func archived(w http.ResponseWriter, _ *http.Request) {
	stat, _ := json.Marshal(map[string]any{"name": "file", "size": 4})
	w.Header().Set("X-Docker-Container-Path-Stat", base64.StdEncoding.EncodeToString(stat))
	_ = tar.NewWriter(w).Close()
}

// on replaces a route.
func (f *fakeEngine) on(pattern string, handler http.HandlerFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.routes[pattern] == nil {
		panic("no route " + pattern)
	}
	f.routes[pattern] = handler
}

func (f *fakeEngine) route(pattern string) http.HandlerFunc {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.routes[pattern]
}

// requests returns what was asked for, pings apart.
func (f *fakeEngine) requests() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(f.asked), func(request string) bool { return request == "HEAD /_ping" })
}

func (f *fakeEngine) pings() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.asked) - len(slices.DeleteFunc(slices.Clone(f.asked), func(request string) bool { return request == "HEAD /_ping" }))
}

func (f *fakeEngine) wantRequests(t testing.TB, want ...string) {
	t.Helper()
	if got := f.requests(); !slices.Equal(got, want) {
		t.Errorf("the engine was asked for\n%q, want\n%q", got, want)
	}
}

// runtime returns a runtime for the fake.
func (f *fakeEngine) runtime(t testing.TB, change ...func(*Options)) *Runtime {
	t.Helper()
	options := Options{Host: f.host}
	for _, do := range change {
		do(&options)
	}
	r, err := New(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// created returns a runtime that has created testID.
func (f *fakeEngine) created(t testing.TB) *Runtime {
	t.Helper()
	r := f.runtime(t)
	if _, err := r.CreateContainer(t.Context(), core.Config{Image: "image", Name: "named"}); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = nil
	return r
}

// started returns a runtime that has started testID.
func (f *fakeEngine) started(t testing.TB) *Runtime {
	t.Helper()
	r := f.created(t)
	if err := r.StartContainer(t.Context(), testID); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = nil
	return r
}

// Answers.

func ping(version string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Api-Version", version)
		w.Header().Set("Ostype", "linux")
	}
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func answer(code int, body any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(body)
	}
}

func failure(code int, message string) http.HandlerFunc {
	return answer(code, map[string]string{"message": message})
}

// raw answers with exactly these bytes.
func raw(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }
}

// hang sends the header of its answer, and no more.
func hang(w http.ResponseWriter, r *http.Request) {
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

// silence does not answer.
func silence(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// die ends the connection without an answer. Its empty write shows the race detector
// what came before.
func die(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	_, _ = conn.Write(nil)
	_ = conn.Close()
}

// cut ends the connection in the middle of the answer.
func cut(handler http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		handler(w, r)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

func exits(code int) http.HandlerFunc {
	return answer(http.StatusOK, container.WaitResponse{StatusCode: int64(code)})
}

// inspected describes testID in a state: created, running, or exited with code 3.
func inspected(state string) http.HandlerFunc {
	described := container.State{Status: state, Running: state == "running", StartedAt: "0001-01-01T00:00:00Z"}
	if state != "created" {
		described.StartedAt = "2026-01-02T03:04:05Z"
	}
	if state == "exited" {
		described.ExitCode, described.FinishedAt = 3, "2026-01-02T03:04:06Z"
	}
	return answer(http.StatusOK, container.InspectResponse{
		ContainerJSONBase: &container.ContainerJSONBase{ID: testID, Name: "/named", State: &described, HostConfig: &container.HostConfig{}},
		Config:            &container.Config{},
	})
}

func logs(frames ...[]byte) http.HandlerFunc { return raw(string(slices.Concat(frames...))) }

func frame(stream byte, payload string) []byte {
	header := make([]byte, frameHeader, frameHeader+len(payload))
	header[0] = stream
	binary.BigEndian.PutUint32(header[4:], uint32(len(payload)))
	return append(header, payload...)
}

// inOrder answers each request with the next handler, and stays at the last.
func inOrder(handlers ...http.HandlerFunc) http.HandlerFunc {
	var mu sync.Mutex
	next := 0
	return func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		handler := handlers[min(next, len(handlers)-1)]
		next++
		mu.Unlock()
		handler(w, r)
	}
}

// gate lets a test see a request, and answer it.
type gate struct {
	arrived chan struct{}
	open    chan struct{}
}

func newGate() gate { return gate{make(chan struct{}), make(chan struct{})} }

// openGate only tells that a request has arrived.
func openGate() gate {
	g := newGate()
	close(g.open)
	return g
}

// then holds each request until the gate opens.
func (g gate) then(handler http.HandlerFunc) http.HandlerFunc {
	var once sync.Once
	return func(w http.ResponseWriter, r *http.Request) {
		once.Do(func() { close(g.arrived) })
		select {
		case <-g.open:
		case <-r.Context().Done():
		}
		handler(w, r)
	}
}

// errAny stands for whatever error.
var errAny = errors.New("any")

// matches tells whether a call failed as it should: nil for not at all.
func matches(err, want error) bool {
	if errors.Is(want, errAny) {
		return err != nil
	}
	return errors.Is(err, want)
}

func await[T any](t testing.TB, event <-chan T, what string) (value T) {
	t.Helper()
	select {
	case value = <-event:
	case <-time.After(patience):
		t.Fatalf("%s has not come", what)
	}
	return value
}

// outcome is what a call in a goroutine of its own comes to.
type outcome[T any] struct {
	done  chan struct{}
	value T
	err   error
}

func begin[T any](do func() (T, error)) *outcome[T] {
	o := &outcome[T]{done: make(chan struct{})}
	go func() {
		defer close(o.done)
		o.value, o.err = do()
	}()
	return o
}

func (o *outcome[T]) result(t testing.TB) (T, error) {
	t.Helper()
	await(t, o.done, "the call's return")
	return o.value, o.err
}

// method is a method that asks the engine, on testID where it is about a container.
type method struct {
	name    string
	object  string // that its errors name
	request string
	route   string
	do      func(ctx context.Context, r *Runtime) error
}

// methods are all that ask the engine, each with the one request that it makes on a
// container that the runtime has started.
func methods(host string) []method {
	container := func(name, pattern, query string, do func(context.Context, *Runtime) error) method {
		verb, path, _ := strings.Cut(pattern, " ")
		return method{name, testID, verb + " " + fmt.Sprintf(path, testID) + query, verb + " " + fmt.Sprintf(path, "{id}"), do}
	}
	return []method{
		{"Ping", host, "HEAD /_ping", "/_ping", func(ctx context.Context, r *Runtime) error { return r.Ping(ctx) }},
		{"CreateContainer", "image", "POST /containers/create", "POST /containers/create", func(ctx context.Context, r *Runtime) error {
			_, err := r.CreateContainer(ctx, core.Config{Image: "image"})
			return err
		}},
		container("StartContainer", "POST /containers/%s/start", "", func(ctx context.Context, r *Runtime) error { return r.StartContainer(ctx, testID) }),
		container("StopContainer", "POST /containers/%s/stop", "", func(ctx context.Context, r *Runtime) error { return r.StopContainer(ctx, testID) }),
		container("StopContainerTimeout", "POST /containers/%s/stop", "?t=0", func(ctx context.Context, r *Runtime) error {
			return r.StopContainerTimeout(ctx, testID, 0)
		}),
		container("SignalContainer", "POST /containers/%s/kill", "?signal=10", func(ctx context.Context, r *Runtime) error {
			return r.SignalContainer(ctx, testID, 10)
		}),
		container("RemoveContainer", "DELETE /containers/%s", "?force=1&v=1", func(ctx context.Context, r *Runtime) error {
			return r.RemoveContainer(ctx, testID)
		}),
		container("WaitContainer", "POST /containers/%s/wait", "?condition=not-running", func(ctx context.Context, r *Runtime) error {
			_, err := r.WaitContainer(ctx, testID)
			return err
		}),
		container("ContainerState", "GET /containers/%s/json", "", func(ctx context.Context, r *Runtime) error {
			_, err := r.ContainerState(ctx, testID)
			return err
		}),
		container("Inspect", "GET /containers/%s/json", "", func(ctx context.Context, r *Runtime) error {
			_, err := r.Inspect(ctx, testID)
			return err
		}),
		container("GetPortBindings", "GET /containers/%s/json", "", func(ctx context.Context, r *Runtime) error {
			_, err := r.GetPortBindings(ctx, testID)
			return err
		}),
		container("ContainerLogs", "GET /containers/%s/logs", "?follow=1&stderr=1&stdout=1&tail=", func(ctx context.Context, r *Runtime) error {
			stream, err := r.ContainerLogs(ctx, testID)
			if err != nil {
				return err
			}
			defer stream.Close()
			_, err = io.Copy(io.Discard, stream)
			return err
		}),
		container("ContainerLogsAll", "GET /containers/%s/logs", "?stderr=1&stdout=1&tail=", func(ctx context.Context, r *Runtime) error {
			_, err := r.ContainerLogsAll(ctx, testID)
			return err
		}),
		container("StreamLogs", "GET /containers/%s/logs", "?follow=1&stderr=1&stdout=1&tail=2", func(ctx context.Context, r *Runtime) error {
			return r.StreamLogs(ctx, testID, optional.LogOptions{Follow: true, Tail: 2})
		}),
		container("Stats", "GET /containers/%s/stats", "?one-shot=1&stream=0", func(ctx context.Context, r *Runtime) error {
			_, err := r.Stats(ctx, testID)
			return err
		}),
		container("CopyTo", "PUT /containers/%s/archive", "?noOverwriteDirNonDir=true&path=%2Ftmp", func(ctx context.Context, r *Runtime) error {
			return r.CopyTo(ctx, testID, "/tmp", strings.NewReader(""))
		}),
		container("CopyFrom", "GET /containers/%s/archive", "?path=%2Ftmp", func(ctx context.Context, r *Runtime) error {
			archive, err := r.CopyFrom(ctx, testID, "/tmp")
			if err != nil {
				return err
			}
			defer archive.Close()
			_, err = io.Copy(io.Discard, archive)
			return err
		}),
		{"ListNetworks", host, "GET /networks?filters=%7B%22label%22%3A%7B%22moat.managed%3Dtrue%22%3Atrue%7D%7D", "GET /networks", func(ctx context.Context, r *Runtime) error {
			_, err := r.NetworkManager().ListNetworks(ctx)
			return err
		}},
		{"RemoveNetwork", testID, "DELETE /networks/" + testID, "DELETE /networks/{id}", func(ctx context.Context, r *Runtime) error {
			return r.NetworkManager().RemoveNetwork(ctx, testID)
		}},
		{"ListContainers", host, "GET /containers/json?all=1", "GET /containers/json", func(ctx context.Context, r *Runtime) error {
			_, err := r.ListContainers(ctx)
			return err
		}},
		{"ListImages", host, "GET /images/json", "GET /images/json", func(ctx context.Context, r *Runtime) error {
			_, err := r.ListImages(ctx)
			return err
		}},
		{"RemoveImage", "image", "DELETE /images/image", "DELETE /images/{name...}", func(ctx context.Context, r *Runtime) error {
			return r.RemoveImage(ctx, "image")
		}},
		{"PullImage", "image", "POST /images/create?fromImage=docker.io%2Flibrary%2Fimage&tag=latest", "POST /images/create",
			func(ctx context.Context, r *Runtime) error { return r.PullImage(ctx, "image", nil) }},
		{"Describe", host, "GET /version", "GET /version", func(ctx context.Context, r *Runtime) error {
			_, err := r.Describe(ctx)
			return err
		}},
	}
}
