package container_test

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// engine is as much of a Docker Engine as choosing a runtime and creating a container
// take. What it creates "runs" under gVisor.
type engine struct {
	runtimes []string // that it lists
	pulls    bool     // whether alpine must be pulled first

	mu      sync.Mutex
	created []string // OCI runtimes of the containers, "" for the default
	pulled  bool
}

// start serves the engine at what DOCKER_HOST names from now on.
func (e *engine) start(t *testing.T) (host string) {
	t.Helper()
	listener, host := listen(t)
	mux := http.NewServeMux()
	for pattern, answer := range map[string]http.HandlerFunc{
		"/_ping": func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Api-Version", "1.41") },
		"GET /v1.41/info": func(w http.ResponseWriter, _ *http.Request) {
			listed := map[string]map[string]string{}
			for _, name := range e.runtimes {
				listed[name] = map[string]string{"path": "/usr/bin/" + name}
			}
			answerJSON(w, http.StatusOK, map[string]any{"Runtimes": listed, "Architecture": "x86_64", "KernelVersion": "6.1.0"})
		},
		"POST /v1.41/containers/create": e.create,
		"POST /v1.41/images/create": func(w http.ResponseWriter, _ *http.Request) {
			e.mu.Lock()
			e.pulled = true
			e.mu.Unlock()
			answerJSON(w, http.StatusOK, map[string]any{"id": "abc", "status": "Downloading"})
		},
		"POST /v1.41/containers/{id}/start": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
		"POST /v1.41/containers/{id}/wait": func(w http.ResponseWriter, _ *http.Request) {
			answerJSON(w, http.StatusOK, map[string]int{"StatusCode": 0})
		},
		"GET /v1.41/containers/{id}/logs": serveGVisorProbe,
		"DELETE /v1.41/containers/{id}":   func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
	} {
		mux.HandleFunc(pattern, answer)
	}
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: mux}}
	server.Start()
	t.Cleanup(server.Close)
	return host
}

func (e *engine) create(w http.ResponseWriter, r *http.Request) {
	var request struct {
		Image      string
		HostConfig struct{ Runtime string }
	}
	err := json.NewDecoder(r.Body).Decode(&request)
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case err != nil:
		answerJSON(w, http.StatusBadRequest, map[string]string{"message": err.Error()})
	case e.pulls && !e.pulled && request.Image == "alpine":
		answerJSON(w, http.StatusNotFound, map[string]string{"message": "No such image: alpine:latest"})
	default:
		e.created = append(e.created, request.HostConfig.Runtime)
		answerJSON(w, http.StatusCreated, map[string]string{"Id": strings.Repeat("a", 64)})
	}
}

// ociRuntimes returns those of the containers that were created.
func (e *engine) ociRuntimes() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.created)
}

// serveGVisorProbe is what the gvisor adapter's probe writes under gVisor: the six
// strings of uname and the beginning of the kernel's log, as one frame of stdout.
func serveGVisorProbe(w http.ResponseWriter, _ *http.Request) {
	var output strings.Builder
	for _, text := range []string{"Linux", "node", "4.4.0", "#1 SMP", "x86_64", "(none)"} {
		output.WriteString(text + strings.Repeat("\x00", 65-len(text)))
	}
	output.WriteString("<6>[    0.000000] Starting gVisor...\n")
	frame := binary.BigEndian.AppendUint32([]byte{1, 0, 0, 0}, uint32(output.Len()))
	fmt.Fprintf(w, "%s%s", frame, output.String())
}

func answerJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value)
}

// listen opens a socket of the test's own and points DOCKER_HOST at it.
func listen(t *testing.T) (net.Listener, string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "e.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	t.Setenv("DOCKER_HOST", "unix://"+socket)
	return listener, "unix://" + socket
}

// deadSocket points DOCKER_HOST at a socket behind which nobody listens.
func deadSocket(t *testing.T) (host string) {
	listener, host := listen(t)
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = listener.Close()
	return host
}
