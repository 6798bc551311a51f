package e2e

import (
	"bytes"
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// gate stands between a user and the engine, and holds up one request.
type gate struct {
	reached chan struct{} // closed when the request is there
	pass    func()        // lets it on

	mu       sync.Mutex
	answered []string // requests, held up or not
}

// answers tells whether the engine has answered a request.
func (g *gate) answers(pattern string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.ContainsFunc(g.answered, regexp.MustCompile(pattern).MatchString)
}

// gate puts one in the user's way, for the first request that matches: before the
// engine has it, or before its answer goes back.
func (u *user) gate(pattern string, before bool) *gate {
	u.Helper()
	request, open := regexp.MustCompile(pattern), make(chan struct{})
	var found, passed atomic.Bool
	g := &gate{reached: make(chan struct{}), pass: func() {
		if !passed.Swap(true) {
			close(open)
		}
	}}
	u.proxy(func(r *http.Request, answered bool) {
		if answered {
			g.mu.Lock()
			g.answered = append(g.answered, r.Method+" "+r.URL.Path)
			g.mu.Unlock()
		}
		if answered != before && request.MatchString(r.Method+" "+r.URL.Path) && !found.Swap(true) {
			close(g.reached)
			<-open
		}
	})
	u.Cleanup(g.pass)
	return g
}

// proxy stands between the user and the engine, and shows each request that passes,
// twice: on its way to the engine, and when its answer is on its way back. The engine
// does what it was asked even when the asker has gone; pending counts such requests.
func (u *user) proxy(show func(r *http.Request, answered bool)) (pending *atomic.Int32) {
	u.Helper()
	socket := strings.TrimPrefix(u.engine, "unix://")
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "engine" },
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}},
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0),
		ModifyResponse: func(r *http.Response) error {
			show(r.Request, true)
			return nil
		},
	}
	pending = new(atomic.Int32)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		if r.Header.Get("Upgrade") == "" { // a stream ends with its asker, and changes nothing
			pending.Add(1)
			defer pending.Add(-1)
		}
		show(r, false)
		proxy.ServeHTTP(w, r.WithContext(u.Context()))
	}))
	server.Config.ErrorLog = proxy.ErrorLog
	server.Start()
	u.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	u.engine = "tcp://" + server.Listener.Addr().String()
	return pending
}

// await waits until the request is there.
func (g *gate) await(u *user) {
	u.Helper()
	u.eventually("the request is at the gate", func() bool {
		select {
		case <-g.reached:
			return true
		default:
			return false
		}
	})
}
