package gvisor

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/system"
	"github.com/docker/docker/client"
)

const hostRelease = "6.1.0-host"

// fakeEngine answers the Engine API over a unix socket. Its fields are set before
// it is asked anything.
type fakeEngine struct {
	info       system.Info
	infoStatus int // of /info, instead of answering

	start  map[string]http.HandlerFunc // by runtime; nil starts it
	create http.HandlerFunc            // runs before a container is created
	refuse map[string]http.HandlerFunc // instead of creating, by runtime
	load   http.HandlerFunc            // instead of loading
	output map[string]string           // what a container writes, by runtime
	keeps  map[string]int              // the answer to who looks for a file that a container has made, by runtime

	mu         sync.Mutex
	news       *sync.Cond // of another request
	requests   []string   // method and path without the version, names as NAME
	created    []createRequest
	containers map[string]createRequest // by name
	images     map[string]bool          // by tag
}

// createRequest is a container as the client asked for it.
type createRequest struct {
	container.Config
	HostConfig container.HostConfig
}

// gvisorOutput and hostOutput are what the probe prints under gVisor and without.
var (
	gvisorOutput = probeOutput("4.4.0", "<6>[    0.000000] Starting gVisor...\n<6>[    0.3] Ready!\n")
	hostOutput   = probeOutput(hostRelease, "")
)

func probeOutput(release, log string) string {
	var b strings.Builder
	for _, field := range []string{"Linux", "node", release, "#1 SMP", "x86_64", "(none)"} {
		b.WriteString(field + strings.Repeat("\x00", utsField-len(field)))
	}
	return b.String() + log
}

// startFake serves an engine that lists runtimes by name, each of a path, and runs
// gVisor under every one.
func startFake(t *testing.T, runtimes map[string]string) (*fakeEngine, client.APIClient) {
	t.Helper()
	engine := &fakeEngine{
		info:       system.Info{Architecture: "x86_64", KernelVersion: hostRelease, Runtimes: map[string]system.RuntimeWithStatus{}},
		start:      map[string]http.HandlerFunc{},
		output:     map[string]string{},
		containers: map[string]createRequest{},
		images:     map[string]bool{},
	}
	engine.news = sync.NewCond(&engine.mu)
	for name, path := range runtimes {
		engine.info.Runtimes[name] = system.RuntimeWithStatus{Runtime: system.Runtime{Path: path}}
		engine.output[name] = gvisorOutput
	}
	socket := filepath.Join(t.TempDir(), "engine.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: engine.handler()}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() {
		_ = server.Close()
		serving.Wait()
	})
	return engine, newClient(t, "unix://"+socket)
}

func newClient(t *testing.T, host string) *client.Client {
	t.Helper()
	api, err := client.NewClientWithOpts(client.WithHost(host), client.WithVersion("1.41"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = api.Close() })
	return api
}

func (e *fakeEngine) handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, answer http.HandlerFunc) {
		method, path, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(method+" /v1.41"+path, func(w http.ResponseWriter, r *http.Request) {
			e.mu.Lock()
			e.requests = append(e.requests, strings.ReplaceAll(pattern, "{name}", "NAME"))
			e.mu.Unlock()
			e.news.Broadcast()
			answer(w, r)
		})
	}
	mux.HandleFunc("/_ping", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Api-Version", "1.41") })
	handle("GET /info", e.serveInfo)
	handle("POST /images/load", e.serveLoad)
	handle("POST /containers/create", e.serveCreate)
	handle("POST /containers/{name}/start", e.serveStart)
	handle("POST /containers/{name}/wait", func(w http.ResponseWriter, _ *http.Request) {
		answerJSON(w, http.StatusOK, container.WaitResponse{})
	})
	handle("GET /containers/{name}/logs", e.serveLogs)
	handle("HEAD /containers/{name}/archive", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Docker-Container-Path-Stat", "e30=")
		w.WriteHeader(e.keeps[e.container(r).HostConfig.Runtime])
	})
	handle("DELETE /containers/{name}", e.serveRemove)
	return mux
}

func answerJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value)
}

// refuse answers with an engine's error.
func refuse(status int, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		answerJSON(w, status, map[string]string{"message": message})
	}
}

// hangUp breaks the connection, as an engine that is killed does.
func hangUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func (e *fakeEngine) serveInfo(w http.ResponseWriter, r *http.Request) {
	if e.infoStatus != 0 {
		refuse(e.infoStatus, "no information")(w, r)
		return
	}
	answerJSON(w, http.StatusOK, e.info)
}

func (e *fakeEngine) serveLoad(w http.ResponseWriter, r *http.Request) {
	tags, err := readTags(r.Body)
	switch {
	case e.load != nil:
		e.load(w, r)
	case err != nil:
		refuse(http.StatusBadRequest, err.Error())(w, r)
	default:
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, tag := range tags {
			e.images[tag] = true
		}
		answerJSON(w, http.StatusOK, map[string]string{"stream": "Loaded image"})
	}
}

func (e *fakeEngine) serveCreate(w http.ResponseWriter, r *http.Request) {
	var request createRequest
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
		refuse(http.StatusBadRequest, err.Error())(w, r)
		return
	}
	if e.create != nil {
		e.create(w, r)
	}
	if refuse := e.refuse[request.HostConfig.Runtime]; refuse != nil {
		refuse(w, r)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.images[request.Image] {
		refuse(http.StatusNotFound, "No such image: "+request.Image)(w, r)
		return
	}
	e.created = append(e.created, request)
	e.containers[r.FormValue("name")] = request
	answerJSON(w, http.StatusCreated, container.CreateResponse{ID: strings.Repeat("a", 64)})
}

func (e *fakeEngine) serveStart(w http.ResponseWriter, r *http.Request) {
	if start := e.start[e.container(r).HostConfig.Runtime]; start != nil {
		start(w, r)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (e *fakeEngine) serveLogs(w http.ResponseWriter, r *http.Request) {
	asked := e.container(r)
	output := e.output[asked.HostConfig.Runtime]
	if len(asked.Cmd) > 0 {
		output = e.output[strings.Join(asked.Cmd, " ")]
	}
	frame := []byte{1, 0, 0, 0, 0, 0, byte(len(output) >> 8), byte(len(output))}
	_, _ = w.Write(append(frame, output...))
}

func (e *fakeEngine) serveRemove(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	name := r.PathValue("name")
	if _, ok := e.containers[name]; !ok {
		refuse(http.StatusNotFound, "No such container: "+name)(w, r)
		return
	}
	if r.FormValue("force") != "1" {
		refuse(http.StatusConflict, "You cannot remove a running container")(w, r)
		return
	}
	delete(e.containers, name)
	w.WriteHeader(http.StatusNoContent)
}

func (e *fakeEngine) container(r *http.Request) createRequest {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.containers[r.PathValue("name")]
}

// asked returns the requests since it was last called.
func (e *fakeEngine) asked() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	requests := e.requests
	e.requests = nil
	return requests
}

// waitFor returns once a request has been made.
func (e *fakeEngine) waitFor(request string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for !slices.Contains(e.requests, request) {
		e.news.Wait()
	}
}

// mustBeTidy fails the test if a container is left.
func (e *fakeEngine) mustBeTidy(t *testing.T) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	if left := slices.Collect(maps.Keys(e.containers)); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// readTags returns the tags of an image archive whose parts fit together.
func readTags(body io.Reader) ([]string, error) {
	files, err := unpackTar(body)
	if err != nil {
		return nil, err
	}
	var manifest []manifestEntry
	if err := json.Unmarshal(files["manifest.json"], &manifest); err != nil {
		return nil, err
	}
	if len(manifest) != 1 || files[manifest[0].Config] == nil || files[manifest[0].Layers[0]] == nil {
		return nil, fmt.Errorf("manifest %v", manifest)
	}
	return manifest[0].RepoTags, nil
}
