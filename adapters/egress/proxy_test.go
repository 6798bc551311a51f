package egress

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moatproject/moat/core/egress"
)

// patience is how long a test waits for an event.
const patience = time.Minute

// world is a proxy, the names and servers that it can reach, and a run.
type world struct {
	testing.TB
	proxy   *Proxy
	address string // of the proxy
	run     Run
	audit   *lines
	names   *names
	certs   *httptest.Server // whose certificate is for example.com and *.example.com

	mu      sync.Mutex
	servers map[string]string // where addresses lead, such as 127.0.0.2:443; nowhere else is dialed
	dials   []string
}

// newWorld starts a proxy that may reach 127.0.0.0/8, with a run and its rules.
func newWorld(t testing.TB, options Options, rules ...string) *world {
	w := &world{TB: t, audit: &lines{}, names: &names{}, servers: map[string]string{}}
	if options.AllowedPrivate == nil {
		options.AllowedPrivate = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	}
	if options.OwnAddresses == nil {
		options.OwnAddresses = func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr("127.0.0.9")}, nil }
	}
	if options.Audit == nil {
		options.Audit = w.audit
	}
	options.Resolver = w.names
	w.proxy = New(options)
	w.proxy.dialTCP = func(ctx context.Context, dialer *net.Dialer, address string) (net.Conn, error) {
		w.mu.Lock()
		w.dials = append(w.dials, address)
		to, ok := w.servers[address]
		w.mu.Unlock()
		if !ok {
			return nil, errors.New("nothing listens at " + address)
		}
		return dialer.DialContext(ctx, "tcp", to)
	}
	w.run = Run{ID: "run1", Token: "secret", Sources: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, Policy: policy(t, rules...)}
	if err := w.proxy.SetRun(w.run); err != nil {
		t.Fatal(err)
	}
	w.address = w.serve(t)
	t.Cleanup(func() {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		_ = w.proxy.Shutdown(ended)
	})
	return w
}

func (w *world) serve(t testing.TB) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		if err := w.proxy.Serve(listener); err != nil {
			t.Error("serve:", err)
		}
	}()
	return listener.Addr().String()
}

func policy(t testing.TB, rules ...string) egress.Policy {
	parsed, err := egress.ParseRules(rules...)
	if err != nil {
		t.Fatal(err)
	}
	return egress.NewPolicy(parsed...)
}

// lead makes an address of the world lead to a listener's.
func (w *world) lead(address, to string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.servers[address] = to
}

func (w *world) dialed() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.dials)
}

// web starts a server that speaks HTTP at a host's port 80, and TLS at its port 443.
func (w *world) web(host, address string, handler http.HandlerFunc) {
	plain := httptest.NewServer(handler)
	secure := httptest.NewTLSServer(handler)
	w.Cleanup(plain.Close)
	w.Cleanup(secure.Close)
	w.certs = secure
	w.names.set(host, address)
	w.lead(address+":80", plain.Listener.Addr().String())
	w.lead(address+":443", secure.Listener.Addr().String())
}

// listen accepts connections at a host's port, for serve to handle.
func (w *world) listen(host, address string, port int, serve func(net.Conn)) {
	w.names.set(host, address)
	w.lead(fmt.Sprintf("%s:%d", address, port), accept(w, serve))
}

// accept serves connections to the address that it returns.
func accept(t testing.TB, serve func(net.Conn)) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				serve(conn)
			}()
		}
	}()
	return listener.Addr().String()
}

// client returns a client of the proxy with a run's credential.
func (w *world) client(run Run) *http.Client {
	transport := &http.Transport{Proxy: func(*http.Request) (*url.URL, error) { return url.Parse(run.ProxyURL(w.address)) }}
	if w.certs != nil {
		transport.TLSClientConfig = &tls.Config{RootCAs: w.certs.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
	}
	w.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func (w *world) get(address string) (status int, body string, header http.Header) {
	w.Helper()
	answer, err := w.client(w.run).Get(address)
	if err != nil {
		w.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		w.Fatal(err)
	}
	return answer.StatusCode, string(text), answer.Header
}

const credential = "Proxy-Authorization: Basic cnVuMTpzZWNyZXQ=\r\n" // run1:secret

// dial connects to the proxy, with a deadline for all that follows.
func (w *world) dial() *net.TCPConn {
	w.Helper()
	conn, err := net.Dial("tcp", w.address)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn.(*net.TCPConn)
}

// raw sends bytes to the proxy as they are, and returns the status of its first answer,
// or 0 where it gives none.
func (w *world) raw(text string) int {
	w.Helper()
	conn := w.dial()
	defer conn.Close()
	if _, err := io.WriteString(conn, text); err != nil {
		w.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0
	}
	return answer.StatusCode
}

// connect asks for a tunnel, and returns it and the status of the answer.
func (w *world) connect(target string) (*net.TCPConn, int) {
	w.Helper()
	conn := w.dial()
	_, _ = io.WriteString(conn, "CONNECT "+target+" HTTP/1.1\r\nHost: "+target+"\r\n"+credential+"\r\n")
	answer, err := http.ReadResponse(bufio.NewReader(&byteReader{conn}), &http.Request{Method: http.MethodConnect})
	if err != nil {
		w.Fatal(err)
	}
	return conn, answer.StatusCode
}

// names resolves the tests' hosts. A host has one answer, or one for each lookup.
type names struct {
	mu      sync.Mutex
	answers map[string][][]netip.Addr
	asked   []string
}

func (n *names) set(host string, answers ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.answers == nil {
		n.answers = map[string][][]netip.Addr{}
	}
	n.answers[host] = nil
	for _, answer := range answers {
		var addresses []netip.Addr
		for text := range strings.SplitSeq(answer, ",") {
			addresses = append(addresses, netip.MustParseAddr(text))
		}
		n.answers[host] = append(n.answers[host], addresses)
	}
}

func (n *names) LookupNetIP(_ context.Context, network, host string) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked = append(n.asked, host)
	name, rooted := strings.CutSuffix(host, ".")
	answers := n.answers[name]
	if network != "ip" || !rooted || len(answers) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	if len(answers) > 1 {
		n.answers[name] = answers[1:]
	}
	return answers[0], nil
}

func (n *names) lookups() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.asked)
}

// lines is an audit in memory.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) records(t testing.TB) []Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	var records []Record
	for line := range bytes.Lines(l.text.Bytes()) {
		var record Record
		if err := json.Unmarshal(line, &record); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		records = append(records, record)
	}
	return records
}

// await returns the first record that matches, when it is written.
func (w *world) await(matches func(Record) bool) Record {
	w.Helper()
	var found Record
	w.eventually("a record", func() bool {
		records := w.audit.records(w)
		i := slices.IndexFunc(records, matches)
		if i >= 0 {
			found = records[i]
		}
		return i >= 0
	})
	return found
}

// eventually waits for a condition, with a deadline.
func (w *world) eventually(what string, condition func() bool) {
	w.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-deadline.C:
			w.Fatalf("%s did not come; the records are %+v", what, w.audit.records(w))
		case <-tick.C:
		}
	}
}

func hello(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	fmt.Fprintf(w, "hello %s %s", r.Host, r.URL.RequestURI())
}

func TestForwardsAndAudits(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600))
	w := newWorld(t, Options{Now: func() time.Time { return at }}, "allowed.example.com", "*.example.com:80")
	w.web("allowed.example.com", "127.0.0.2", hello)
	w.web("evil.example.com", "127.0.0.3", hello)

	if status, body, header := w.get("http://allowed.example.com/a%2Fb?q=1;2"); status != 200 || body != "hello allowed.example.com /a%2Fb?q=1;2" || header.Get(Header) != "" {
		t.Errorf("plain: %d %q %v", status, body, header)
	}
	if status, body, _ := w.get("https://allowed.example.com/x"); status != 200 || body != "hello allowed.example.com /x" {
		t.Errorf("TLS: %d %q", status, body)
	}
	if _, err := w.client(w.run).Get("https://evil.example.com/"); err == nil || !strings.Contains(err.Error(), "Forbidden") {
		t.Errorf("denied TLS: %v", err)
	}
	if status, body, header := w.get("http://denied.example.org:8080/"); status != 403 ||
		body != "blocked by policy: denied.example.org:8080 is not allowed for run run1. To allow it, add the rule denied.example.org:8080\n" ||
		header.Get(Header) != strings.TrimSpace(body) {
		t.Errorf("denied: %d %q %v", status, body, header)
	}
	w.proxy.RemoveRun("run1") // the idle connection of TLS ends
	end := w.await(func(r Record) bool { return r.Verdict == Ended && r.Method == http.MethodConnect })
	if end.Sent == 0 || end.Received == 0 {
		t.Errorf("the tunnel moved %d and %d bytes", end.Sent, end.Received)
	}
	end.Sent, end.Received = 0, 0
	address := netip.MustParseAddr("127.0.0.2")
	plain := Record{Version: 1, Time: at.UTC(), Flow: 1, Run: "run1", Rule: "*.example.com:80", Method: "GET", Host: "allowed.example.com", Port: 80, Address: address}
	tunnel := Record{Version: 1, Time: at.UTC(), Flow: 2, Run: "run1", Rule: "allowed.example.com:443", Method: http.MethodConnect, Host: "allowed.example.com", Port: 443, Address: address}
	denied := Record{Version: 1, Time: at.UTC(), Verdict: Denied, Run: "run1", Method: "GET", Host: "denied.example.org", Port: 8080,
		Reason: "denied.example.org:8080 is not allowed for run run1. To allow it, add the rule denied.example.org:8080"}
	ended := tunnel
	ended.Verdict, ended.Reason = Ended, "the rule was revoked"
	if end != ended {
		t.Errorf("got %+v, want %+v", end, ended)
	}
	records := w.audit.records(t)
	for _, want := range []struct {
		Record
		verdict  Verdict
		received int64
	}{{plain, Allowed, 0}, {plain, Ended, int64(len("hello allowed.example.com /a%2Fb?q=1;2"))}, {tunnel, Allowed, 0}, {denied, Denied, 0}} {
		want.Verdict, want.Received = want.verdict, want.received
		if !slices.Contains(records, want.Record) {
			t.Errorf("there is no record %+v in %+v", want.Record, records)
		}
	}
}

// TestExpect is a client that waits for leave to send its body.
func TestExpect(t *testing.T) {
	w := newWorld(t, Options{}, "allowed.example.com:80")
	w.web("allowed.example.com", "127.0.0.2", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%q with %q", body, r.Header["Expect"])
	})
	request, _ := http.NewRequest(http.MethodPost, "http://allowed.example.com/", strings.NewReader("abc"))
	request.Header.Set("Expect", "100-continue")
	client := w.client(w.run)
	client.Transport.(*http.Transport).ExpectContinueTimeout = patience
	answer, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(answer.Body); string(body) != `"abc" with []` {
		t.Errorf("%q, %v", body, err)
	}
}

// TestClientGone is a client that does not wait for the answer.
func TestClientGone(t *testing.T) {
	w := newWorld(t, Options{}, "allowed.example.com:80")
	w.listen("allowed.example.com", "127.0.0.2", 80, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	conn := w.dial()
	_, _ = io.WriteString(conn, "GET http://allowed.example.com/ HTTP/1.1\r\nHost: a\r\n"+credential+"\r\n")
	w.await(func(r Record) bool { return r.Verdict == Allowed })
	conn.Close()
	if end := w.await(func(r Record) bool { return r.Verdict != Allowed }); end.Verdict != Ended || end.Reason != errClientGone.Error() {
		t.Errorf("the record is %+v", end)
	}
}

func TestSetRunRefuses(t *testing.T) {
	w := newWorld(t, Options{}, "allowed.example.com:80")
	w.web("allowed.example.com", "127.0.0.2", hello)
	for name, change := range map[string]func(*Run){
		"ID":      func(r *Run) { r.ID = "a b" },
		"Token":   func(r *Run) { r.Token = "" },
		"Sources": func(r *Run) { r.Sources = nil },
	} {
		run := w.run
		run.Policy = egress.Policy{}
		change(&run)
		if err := w.proxy.SetRun(run); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if status, _, _ := w.get("http://allowed.example.com/"); status != 200 {
		t.Errorf("after refused changes the status is %d", status)
	}
}

func TestServerFirstAndHalfClose(t *testing.T) {
	w := newWorld(t, Options{}, "ssh.example.com:22")
	w.listen("ssh.example.com", "127.0.0.2", 22, func(conn net.Conn) {
		_, _ = io.WriteString(conn, "SSH-2.0\n")
		all, _ := io.ReadAll(conn) // until the client closes its half
		_, _ = conn.Write(bytes.ToUpper(all))
	})
	conn, status := w.connect("ssh.example.com:22")
	banner := make([]byte, 8)
	if _, err := io.ReadFull(conn, banner); status != 200 || err != nil || string(banner) != "SSH-2.0\n" {
		t.Fatalf("%d %q %v", status, banner, err)
	}
	long := strings.Repeat("abcdefgh", 100_000)
	go func() {
		_, _ = io.WriteString(conn, long)
		_ = conn.CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != strings.ToUpper(long) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	end := w.await(func(r Record) bool { return r.Verdict == Ended })
	if end.Sent != int64(len(long)) || end.Received != int64(len(long)+8) || end.Reason != "" {
		t.Errorf("the record is %+v", end)
	}
}

// TestEarlyClientHello sends the ClientHello together with the request.
func TestEarlyClientHello(t *testing.T) {
	w := newWorld(t, Options{}, "allowed.example.com")
	w.web("allowed.example.com", "127.0.0.2", hello)
	conn := w.dial()
	early := &prefixed{Conn: conn, prefix: []byte("CONNECT allowed.example.com:443 HTTP/1.1\r\n" + credential + "\r\n")}
	client := tls.Client(early, &tls.Config{ServerName: "allowed.example.com", RootCAs: w.certs.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs})
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
}

// TestEarlyData sends bytes right behind the ClientHello, as TLS 1.3 may, and all of it
// with the request.
func TestEarlyData(t *testing.T) {
	w := newWorld(t, Options{}, "allowed.example.com")
	arrived := make(chan []byte, 1)
	w.listen("allowed.example.com", "127.0.0.2", 443, func(conn net.Conn) {
		all, _ := io.ReadAll(conn)
		arrived <- all
	})
	near, far := net.Pipe()
	go func() { _ = tls.Client(near, &tls.Config{ServerName: "allowed.example.com"}).Handshake() }()
	hello := make([]byte, 16<<10)
	n, err := far.Read(hello)
	far.Close()
	if err != nil {
		t.Fatal(err)
	}
	sent := slices.Concat(hello[:n], bytes.Repeat([]byte("early data "), 1000))
	conn := w.dial()
	_, _ = conn.Write(append([]byte("CONNECT allowed.example.com:443 HTTP/1.1\r\nHost: a\r\n"+credential+"\r\n"), sent...))
	if _, err := http.ReadResponse(bufio.NewReader(&byteReader{conn}), &http.Request{Method: http.MethodConnect}); err != nil {
		t.Fatal(err)
	}
	_ = conn.CloseWrite()
	if got := <-arrived; !bytes.Equal(got, sent) {
		t.Errorf("%d bytes of %d arrived", len(got), len(sent))
	}
}

// prefixed sends something before the first bytes, and reads one header first.
type prefixed struct {
	net.Conn
	prefix []byte
	read   bool
}

func (c *prefixed) Write(p []byte) (int, error) {
	if _, err := c.Conn.Write(append(c.prefix, p...)); err != nil {
		return 0, err
	}
	c.prefix = nil
	return len(p), nil
}

func (c *prefixed) Read(p []byte) (int, error) {
	if !c.read {
		c.read = true
		if _, err := http.ReadResponse(bufio.NewReader(&byteReader{c.Conn}), &http.Request{Method: http.MethodConnect}); err != nil {
			return 0, err
		}
	}
	return c.Conn.Read(p)
}
