package egress

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moatproject/moat/core/egress"
)

// Header is set in each answer of the proxy's own, and removed from all others: a
// destination cannot imitate a denial. Its value begins with "blocked by policy" where
// the policy is the reason.
const Header = "Moat-Egress"

// flow is a request that the policy allows, and all that it moves.
type flow struct {
	destination egress.Destination
	record      Record // of its own goroutine, but for Run
	cancel      context.CancelCauseFunc
	upstream    net.Conn // which a change of the policy closes; guarded by the proxy's mu
	tunnel      bool     // its client's connection ends with it

	sent, received atomic.Int64
	start          time.Time
	active         atomic.Int64 // when it last moved data, since start
}

// moved counts data that has been moved.
func (f *flow) moved(counter *atomic.Int64, n int64) {
	if n > 0 {
		counter.Add(n)
		f.active.Store(int64(time.Since(f.start)))
	}
}

// idle returns for how long the flow has moved nothing.
func (f *flow) idle() time.Duration { return time.Since(f.start) - time.Duration(f.active.Load()) }

// handle decides one request. Each request of a connection comes here.
func (p *Proxy) handle(w http.ResponseWriter, r *http.Request) {
	record := Record{Method: r.Method, Host: r.Host}
	run, err := p.authenticate(r)
	if err != nil {
		record.Verdict, record.Reason = Denied, err.Error()
		p.audit.write(record)
		w.Header().Set("Proxy-Authenticate", `Basic realm="moat"`)
		respond(w, http.StatusProxyAuthRequired, "the proxy needs this run's credential, from this run's address")
		return
	}
	record.Run = run
	destination, err := destinationOf(r)
	if err != nil {
		p.deny(w, record, http.StatusBadRequest, "malformed request: "+err.Error())
		return
	}
	record.Host, record.Port = destination.Host, destination.Port
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	f := &flow{destination: destination, record: record, cancel: cancel, start: time.Now()}
	if status := p.begin(f); status != http.StatusOK {
		if status == http.StatusForbidden {
			p.deny(w, record, status, fmt.Sprintf("%v is not allowed for run %s. To allow it, %s", destination, run, p.options.Remedy(run, destination)))
			return
		}
		respond(w, status, errShutdown.Error())
		return
	}
	defer p.end(f)
	upstream, err := p.connect(ctx, f)
	if err != nil {
		p.unreachable(ctx, w, f, err)
		return
	}
	defer upstream.Close()
	p.hold(ctx, f, upstream)
	if r.Method == http.MethodConnect {
		p.tunnel(ctx, w, f, upstream)
	} else {
		p.forward(ctx, w, r, f, upstream)
	}
}

// authenticate returns the run whose credential and source address a request has.
func (p *Proxy) authenticate(r *http.Request) (run string, err error) {
	credentials := r.Header["Proxy-Authorization"]
	if len(credentials) != 1 {
		return "", errors.New("no credential")
	}
	name, token, ok := (&http.Request{Header: http.Header{"Authorization": credentials}}).BasicAuth()
	if !ok {
		return "", errors.New("malformed credential")
	}
	p.mu.Lock()
	known, ok := p.runs[name]
	p.mu.Unlock()
	if !ok {
		known = &client{} // its token is no hash of anything, and compared all the same
	}
	sum := sha256.Sum256([]byte(token))
	if subtle.ConstantTimeCompare(sum[:], known.token[:]) != 1 || !ok {
		return "", errors.New("wrong credential")
	}
	source, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !slices.ContainsFunc(known.Sources, func(prefix netip.Prefix) bool {
		return prefix.Contains(source.Addr().Unmap().WithZone(""))
	}) {
		return "", fmt.Errorf("the credential of run %s from the foreign address %s", name, r.RemoteAddr)
	}
	return name, nil
}

// destinationOf parses the text of the request line, which is the only thing that
// chooses a destination: net/http ignores the Host header of such a request.
func destinationOf(r *http.Request) (egress.Destination, error) {
	if r.Method == http.MethodConnect {
		if r.ContentLength != 0 {
			return egress.Destination{}, errors.New("a CONNECT request has no body")
		}
		return egress.ParseDestination(r.RequestURI, 0)
	}
	scheme, rest, ok := strings.Cut(r.RequestURI, "://")
	switch {
	case !ok:
		return egress.Destination{}, errors.New("this is a proxy; it takes CONNECT requests, and others with a whole URL")
	case !strings.EqualFold(scheme, "http"):
		return egress.Destination{}, errors.New("only http URLs are forwarded; use CONNECT for others")
	}
	if end := strings.IndexAny(rest, "/?"); end >= 0 { // a request line has no fragment
		rest = rest[:end]
	}
	return egress.ParseDestination(rest, 80)
}

// begin decides about a flow and registers it, both under one lock: no change of the
// policy can come in between.
func (p *Proxy) begin(f *flow) (status int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	run, known := p.runs[f.record.Run]
	switch {
	case p.closing:
		return http.StatusServiceUnavailable
	case !known:
		return http.StatusForbidden
	}
	rule, allowed := run.Policy.Decide(f.destination)
	if !allowed {
		return http.StatusForbidden
	}
	f.record.Rule, f.record.Flow = rule.String(), p.flowIDs.Add(1)
	p.flows[f] = struct{}{}
	return http.StatusOK
}

// allow puts a flow on record before it reaches out.
func (p *Proxy) allow(f *flow) {
	record := f.record
	record.Verdict = Allowed
	p.audit.write(record)
}

// end puts a flow on record when it is over. Only then is a tunnel's connection released,
// so that Shutdown waits for the record.
func (p *Proxy) end(f *flow) {
	p.mu.Lock()
	delete(p.flows, f)
	p.mu.Unlock()
	if f.record.Verdict == "" {
		f.record.Verdict = Ended
	}
	f.record.Sent, f.record.Received = f.sent.Load(), f.received.Load()
	p.audit.write(f.record)
	if f.tunnel {
		p.release(&p.connections)
	}
}

// deny answers a request that the policy refuses, and puts it on record.
func (p *Proxy) deny(w http.ResponseWriter, record Record, status int, reason string) {
	record.Verdict, record.Reason = Denied, reason
	p.audit.write(record)
	respond(w, status, "blocked by policy: "+reason)
}

// unreachable answers an allowed request that cannot be carried out.
func (p *Proxy) unreachable(ctx context.Context, w http.ResponseWriter, f *flow, err error) {
	f.record.Verdict = Failed
	if cause := cutBy(ctx); cause != nil {
		f.record.Verdict, err = Ended, cause
	}
	f.record.Reason = err.Error()
	var timeout net.Error
	switch refused := (*refusedError)(nil); {
	case errors.As(err, &refused):
		f.record.Verdict, f.record.Reason = Denied, refused.reason
		respond(w, http.StatusForbidden, fmt.Sprintf("blocked by policy: %v: %s", f.destination, refused.reason))
	case errors.Is(err, errRevoked):
		respond(w, http.StatusForbidden, fmt.Sprintf("blocked by policy: %v: %v", f.destination, errRevoked))
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, errIdle):
		respond(w, http.StatusGatewayTimeout, fmt.Sprintf("%v does not answer in time", f.destination))
	default:
		// The error may have addresses of the network outside, which the run need not know.
		respond(w, http.StatusBadGateway, fmt.Sprintf("%v cannot be reached", f.destination))
	}
}

// respond writes an answer of the proxy's own.
func respond(w http.ResponseWriter, status int, text string) {
	w.Header().Set(Header, text)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text+"\n")
}

// forward sends a request in plain HTTP on its own connection, and streams the answer.
func (p *Proxy) forward(ctx context.Context, w http.ResponseWriter, r *http.Request, f *flow, upstream net.Conn) {
	client := http.NewResponseController(w)
	defer context.AfterFunc(ctx, func() {
		upstream.Close()
		// The client may not be reading. It gets a moment for the answer that says why.
		_ = client.SetReadDeadline(time.Now())
		_ = client.SetWriteDeadline(time.Now().Add(time.Second))
	})()
	defer p.watch(f)()
	var dialed atomic.Bool
	forwarder := httputil.ReverseProxy{
		FlushInterval: -1,
		ErrorLog:      p.options.ErrorLog,
		Transport: &http.Transport{
			DialContext: func(context.Context, string, string) (net.Conn, error) {
				if dialed.Swap(true) {
					return nil, errors.New("a request has one connection")
				}
				return upstream, nil
			},
			DisableKeepAlives:      true, // the next request is decided anew
			DisableCompression:     true,
			MaxResponseHeaderBytes: int64(p.options.MaxHeaderBytes),
		},
		Rewrite: func(out *httputil.ProxyRequest) {
			out.Out.URL.Scheme, out.Out.URL.Host, out.Out.URL.User = "http", hostHeader(f.destination), nil
			out.Out.URL.RawQuery = out.In.URL.RawQuery // as it came
			out.Out.Host = out.Out.URL.Host
			if out.Out.Body != nil {
				out.Out.Body = &countedBody{ReadCloser: out.Out.Body, flow: f, counter: &f.sent}
			}
		},
		ModifyResponse: func(answer *http.Response) error {
			if answer.StatusCode == http.StatusSwitchingProtocols {
				return errors.New("the destination switches to another protocol, which was not asked for")
			}
			answer.Body = &countedBody{ReadCloser: answer.Body, flow: f, counter: &f.received, answer: answer}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			if writer, ok := w.(*cleanWriter); ok {
				w = writer.ResponseWriter
			}
			p.unreachable(ctx, w, f, err)
		},
	}
	r.Header.Del("Upgrade") // nothing but HTTP/1.1 is spoken here
	r.Header.Del("HTTP2-Settings")
	r.Header.Del("Expect") // net/http answers it when the body is read
	defer func() {
		if cause := cutBy(ctx); cause != nil && f.record.Reason == "" {
			f.record.Reason = cause.Error()
		}
	}()
	forwarder.ServeHTTP(&cleanWriter{w}, r.WithContext(ctx))
}

// cutBy returns why a flow was cut, or nil.
func cutBy(ctx context.Context) error {
	cause := context.Cause(ctx)
	if cause == context.Canceled { //nolint:errorlint // of net/http, not an error that wraps it
		return errClientGone
	}
	return cause
}

// hostHeader leaves out the default port, as browsers do.
func hostHeader(d egress.Destination) string {
	if d.Port == 80 {
		return d.Host
	}
	return d.String()
}

// watch cuts a flow that is idle for too long, until stop is called.
func (p *Proxy) watch(f *flow) (stop func()) {
	var timer *time.Timer
	var mu sync.Mutex // AfterFunc may run before its timer is known
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(p.options.IdleTime, func() {
		mu.Lock()
		defer mu.Unlock()
		if left := p.options.IdleTime - f.idle(); left > 0 {
			timer.Reset(left)
			return
		}
		f.cancel(errIdle)
	})
	return func() { timer.Stop() }
}

// countedBody counts the bytes of a body as they are read. Of an answer, it removes the
// proxy's own header from the trailers, which come after the body.
type countedBody struct {
	io.ReadCloser
	flow    *flow
	counter *atomic.Int64
	answer  *http.Response
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.flow.moved(b.counter, int64(n))
	if err != nil && b.answer != nil {
		b.answer.Trailer.Del(Header)
	}
	return n, err
}

// cleanWriter removes the proxy's own header from answers, also from those before the
// last one (1xx).
type cleanWriter struct{ http.ResponseWriter }

func (w *cleanWriter) WriteHeader(status int) {
	w.Header().Del(Header)
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for [http.ResponseController].
func (w *cleanWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
