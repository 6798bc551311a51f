package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
)

// withoutGVisor hides gVisor from the user: the engine lists runc alone. It counts the
// containers that are asked for.
func (u *user) withoutGVisor() (created *atomic.Int32) {
	u.Helper()
	socket := strings.TrimPrefix(u.engine, "unix://")
	created = new(atomic.Int32)
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "engine"})
	proxy.FlushInterval = -1
	proxy.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	proxy.ModifyResponse = func(r *http.Response) error {
		if strings.HasSuffix(r.Request.URL.Path, "/containers/create") {
			created.Add(1)
		}
		if !strings.HasSuffix(r.Request.URL.Path, "/info") {
			return nil
		}
		var info map[string]any
		if err := json.NewDecoder(r.Body).Decode(&info); err != nil {
			return err
		}
		info["Runtimes"] = map[string]any{"runc": map[string]any{"path": "runc"}}
		body, err := json.Marshal(info)
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		r.Header.Set("Content-Length", fmt.Sprint(len(body)))
		return err
	}
	server := httptest.NewServer(proxy)
	u.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	u.engine = "tcp://" + server.Listener.Addr().String()
	return created
}

// TestEngineWithoutGVisor has containers of both kinds on an engine that has lost its
// gVisor: only to run another one takes it.
func TestEngineWithoutGVisor(t *testing.T) {
	u := newUser(t)
	sandboxed, plain, network := unique(t)+"-gvisor", unique(t)+"-plain", unique(t)
	u.must(u.labelled("-d", "--name", sandboxed, image, "sh", "-c", "echo ready; sleep 1000")...)
	u.must(u.labelled("--no-sandbox", "-d", "--name", plain, image, "sh", "-c", "echo ready; sleep 1000")...)
	created := u.withoutGVisor()
	for _, args := range [][]string{
		{"ps"}, {"images"}, {"network", "create", network}, {"network", "ls"}, {"network", "rm", network}, {"clean", "--dry-run"},
		{"stats", "--no-stream", plain},
		{"logs", plain}, {"logs", sandboxed}, {"exec", plain, "true"}, {"exec", sandboxed, "true"}, {"inspect", plain}, {"inspect", sandboxed},
		{"cp", plain + ":/etc/passwd", "from-plain"}, {"cp", sandboxed + ":/etc/passwd", "from-sandboxed"},
		{"cp", "from-plain", plain + ":/tmp/to"}, {"cp", "from-sandboxed", sandboxed + ":/tmp/to"},
		{"stop", "-t", "0", plain, sandboxed}, {"wait", plain, sandboxed}, {"rm", plain, sandboxed},
	} {
		found := u.moat(args...)
		if found.code != 0 || strings.Contains(found.stderr, "gVisor") {
			u.Errorf("moat %q: status %d, %s", args, found.code, found.stderr)
		}
	}
	want(u, "the containers that were asked for", created.Load(), 0)
	found := u.run("--rm", image, "true")
	want(u, "the exit status of a run", found.code, 125)
	wantText(u, found.stderr, "gVisor (runsc) is required but not available", "lists no runtime runsc")
	want(u, "the containers that were asked for", created.Load(), 0)
}
