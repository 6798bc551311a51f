package egress

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/egress"
)

// Run is a client of the proxy: a run of Moat, or any program with a policy of its own.
type Run struct {
	ID      string         // of letters, digits, "_", "." and "-"; the user name of its credential
	Token   string         // the password of its credential
	Sources []netip.Prefix // the addresses that its connections come from
	Policy  egress.Policy
}

// ProxyURL returns the value for HTTP_PROXY and HTTPS_PROXY of a client that reaches the
// proxy at address, "host:port". It contains the credential.
func (r Run) ProxyURL(address string) string {
	return (&url.URL{Scheme: "http", User: url.UserPassword(r.ID, r.Token), Host: address}).String()
}

// Proxy is an HTTP proxy that connects each run to the destinations that its policy
// allows. Its methods are safe for concurrent use.
type Proxy struct {
	options Options
	audit   auditor
	server  http.Server
	flowIDs atomic.Uint64

	// dialTCP connects a dialer; tests lead addresses to servers of theirs with it.
	dialTCP func(ctx context.Context, dialer *net.Dialer, address string) (net.Conn, error)

	mu          sync.Mutex
	runs        map[string]*client
	flows       map[*flow]struct{}
	connections int // of clients, also those that became tunnels
	shedding    int // connections that are being answered with 503
	closing     bool
	work        sync.WaitGroup // connections and shedding
}

// client is a run as the proxy knows it.
type client struct {
	Run
	token [sha256.Size]byte
}

// New returns a proxy without a run, which refuses everyone.
func New(options Options) *Proxy {
	options = options.withDefaults()
	p := &Proxy{
		options: options,
		audit:   auditor{writer: options.Audit, now: options.Now},
		runs:    map[string]*client{},
		flows:   map[*flow]struct{}{},
		dialTCP: func(ctx context.Context, dialer *net.Dialer, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", address)
		},
	}
	p.server = http.Server{
		Handler:                      http.HandlerFunc(p.handle),
		ReadHeaderTimeout:            options.HeaderTime,
		IdleTimeout:                  options.IdleTime,
		MaxHeaderBytes:               options.MaxHeaderBytes,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     options.ErrorLog,
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed { // a tunnel releases its own connection
				p.release(&p.connections)
			}
		},
	}
	return p
}

var runID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)

// SetRun adds a run, or replaces the run of this ID: requests from now on are decided by
// it, and open connections that its policy does not allow are cut before SetRun returns.
// A run without a token or sources is [core.ErrInvalidConfig], and changes nothing.
func (p *Proxy) SetRun(run Run) error {
	switch {
	case !runID.MatchString(run.ID):
		return core.Invalid("ID", "%q is not an ID of letters, digits, _, . and -", run.ID)
	case run.Token == "":
		return core.Invalid("Token", "it is empty")
	case len(run.Sources) == 0:
		return core.Invalid("Sources", "it is empty, so no client could connect")
	}
	run.Sources = slices.Clone(run.Sources)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.runs[run.ID] = &client{run, sha256.Sum256([]byte(run.Token))}
	p.cut(run.ID, func(d egress.Destination) bool {
		_, allowed := run.Policy.Decide(d)
		return !allowed
	})
	return nil
}

// RemoveRun cuts all connections of a run, and refuses it from now on. An unknown run is
// no error.
func (p *Proxy) RemoveRun(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.runs, id)
	p.cut(id, func(egress.Destination) bool { return true })
}

var (
	errRevoked  = errors.New("the rule was revoked")
	errIdle     = errors.New("idle for too long")
	errShutdown = errors.New("the proxy is ending")

	errClientGone = errors.New("the client has closed its connection")
)

// cut ends the flows of a run to some destinations. The caller holds mu.
func (p *Proxy) cut(run string, which func(egress.Destination) bool) {
	for f := range p.flows {
		if f.record.Run == run && which(f.destination) {
			f.cancel(errRevoked)
			if f.upstream != nil {
				f.upstream.Close()
			}
		}
	}
}

// hold makes cut close a flow's connection to its destination. A flow that is already cut
// closes it at once.
func (p *Proxy) hold(ctx context.Context, f *flow, upstream net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f.upstream = upstream
	if ctx.Err() != nil {
		upstream.Close()
	}
}

// Serve accepts clients' connections until Shutdown, and then returns nil. It closes the
// listener. Several listeners may be served at once.
func (p *Proxy) Serve(listener net.Listener) error {
	err := p.server.Serve(&limitedListener{listener, p})
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Shutdown stops accepting connections, and waits until the open ones have ended. When
// ctx is done before, it cuts them and returns ctx's error. No work of the proxy remains
// when it returns.
func (p *Proxy) Shutdown(ctx context.Context) error {
	p.mu.Lock()
	p.closing = true
	p.mu.Unlock()
	ended := make(chan struct{})
	err := p.server.Shutdown(ctx)
	go func() {
		p.work.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return err
	case <-ctx.Done():
	}
	p.mu.Lock()
	for f := range p.flows {
		f.cancel(errShutdown)
	}
	p.mu.Unlock()
	for { // a connection that is just being accepted is not known to Close at once
		_ = p.server.Close()
		select {
		case <-ended:
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// acquire counts a piece of work, unless there are limit of its kind.
func (p *Proxy) acquire(count *int, limit int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closing || *count >= limit {
		return false
	}
	*count++
	p.work.Add(1)
	return true
}

func (p *Proxy) release(count *int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	*count--
	p.work.Done()
}

// limitedListener answers connections beyond the limit with 503. It does not wrap the
// others, since io.Copy splices sockets only.
type limitedListener struct {
	net.Listener
	proxy *Proxy
}

// maxShedding limits the connections that are told 503. More are closed without a word.
const maxShedding = 64

func (l *limitedListener) Accept() (net.Conn, error) {
	p := l.proxy
	for {
		conn, err := l.Listener.Accept()
		switch {
		case err != nil:
			return nil, err
		case p.acquire(&p.connections, p.options.MaxConnections):
			return conn, nil
		case p.acquire(&p.shedding, maxShedding):
			go func() {
				defer p.release(&p.shedding)
				shed(conn)
			}()
		default:
			conn.Close()
		}
	}
}

// shed answers a request without parsing it. It waits for the request's first bytes,
// because clients do not expect an answer before, and then for the client to close,
// because closing first could reset the connection before the answer is read.
func shed(conn net.Conn) {
	const reason = "the proxy has too many connections; try again later"
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := conn.Read(make([]byte, 1024)); err != nil {
		return
	}
	_, err := fmt.Fprintf(conn, "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n"+
		"Content-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n%s: %s\r\n\r\n%[3]s\n", len(reason)+1, Header, reason)
	if err == nil && closeWrite(conn) == nil {
		_, _ = io.CopyN(io.Discard, conn, 64<<10)
	}
}
