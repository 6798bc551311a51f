package egressproxy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	proxy "github.com/moatproject/moat/adapters/egress"
)

// patience is how long a test waits for an event.
const patience = time.Minute

// buffer is a file in memory.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// loopback resolves every name to this machine.
type loopback struct{}

func (loopback) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
}

// process is moat-proxy, serving.
type process struct {
	testing.TB
	options       Options
	audit, stderr *buffer
	end           context.CancelFunc
	status        chan int

	mu        sync.Mutex
	listeners map[string]net.Listener // by the configuration's address
}

// prepare returns a process that is not started. Its configuration is the minimal one
// and more fields.
func prepare(t testing.TB, fields string) *process {
	p := &process{TB: t, audit: &buffer{}, stderr: &buffer{}, status: make(chan int, 1), listeners: map[string]net.Listener{}}
	p.options = Options{
		Config: `{` + minimal + `,"private":["127.0.0.0/8"]` + fields + `}`,
		Stdout: p.audit, Stderr: p.stderr, UID: os.Geteuid(),
		Socket: fmt.Sprintf("@moat-proxy-%d-%s", os.Getpid(), t.Name()),
		Listen: func(network, address string) (net.Listener, error) {
			local := address
			if network == "tcp" {
				local = "127.0.0.1:0"
			}
			listener, err := net.Listen(network, local)
			p.mu.Lock()
			defer p.mu.Unlock()
			p.listeners[address] = listener
			return listener, err
		},
		Proxy: proxy.Options{
			Resolver:     loopback{},
			OwnAddresses: func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr("127.0.0.9")}, nil },
		},
	}
	return p
}

// start starts a process, and returns when it is ready.
func (p *process) start() *process {
	p.Helper()
	ctx, end := context.WithCancel(context.Background())
	p.end = end
	read, write := io.Pipe()
	p.options.Stderr = io.MultiWriter(p.stderr, write)
	go func() {
		status := Main(ctx, []string{"serve"}, p.options)
		write.Close()
		p.status <- status
	}()
	line, err := bufio.NewReader(read).ReadString('\n')
	if err != nil || line != "ready\n" {
		p.Fatalf("got %q, %v", line, err)
	}
	go func() { _, _ = io.Copy(io.Discard, read) }()
	p.Cleanup(func() {
		p.end()
		p.ended()
	})
	return p
}

// serving starts a process with more fields in its configuration.
func serving(t testing.TB, fields string) *process {
	t.Helper()
	return prepare(t, fields).start()
}

// ended waits for the process's end, and returns its status.
func (p *process) ended() int {
	p.Helper()
	select {
	case status := <-p.status:
		p.status <- status
		return status
	case <-time.After(patience):
		p.Fatal("it does not end")
		return -1
	}
}

// command executes a command in another process.
func (p *process) command(args ...string) (status int, stdout, stderr string) {
	options := p.options
	var out, errs buffer
	options.Stdout, options.Stderr, options.Config = &out, &errs, ""
	status = Main(p.Context(), args, options)
	return status, out.String(), errs.String()
}

// must executes a command that succeeds, and checks the rules that it prints.
func (p *process) must(want string, args ...string) {
	p.Helper()
	status, stdout, stderr := p.command(args...)
	if got := strings.Join(strings.Fields(stdout), " "); status != 0 || got != want || stderr != "" {
		p.Errorf("%v: status %d, %q, %q; want %q", args, status, got, stderr, want)
	}
}

func (p *process) listener(address string) net.Listener {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.listeners[address]
}

// dial connects to the listener of an address in the configuration.
func (p *process) dial(address string) *net.TCPConn {
	p.Helper()
	conn, err := net.Dial("tcp", p.listener(address).Addr().String())
	if err != nil {
		p.Fatal(err)
	}
	p.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn.(*net.TCPConn)
}

// connect asks for a tunnel, and returns it with the answer.
func (p *process) connect(target string) (*net.TCPConn, *http.Response) {
	p.Helper()
	conn := p.dial(":3128")
	const credential = "cnVuMTpzZWNyZXQ=" // run1:secret
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\nProxy-Authorization: Basic %s\r\n\r\n", target, credential)
	answer, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: http.MethodConnect})
	if err != nil {
		p.Fatal(err)
	}
	return conn, answer
}

// echoes checks that a connection leads to an echo.
func (p *process) echoes(conn net.Conn) {
	p.Helper()
	_, _ = io.WriteString(conn, "ping")
	answer := make([]byte, 4)
	if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != "ping" {
		p.Fatalf("got %q, %v", answer, err)
	}
}

func (p *process) records() (records []proxy.Record) {
	p.Helper()
	for line := range strings.Lines(p.audit.String()) {
		var record proxy.Record
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			p.Fatalf("%v: %s", err, line)
		}
		records = append(records, record)
	}
	return records
}

// accept serves connections at the address that it returns.
func accept(t testing.TB, serve func(*net.TCPConn)) (address string, port string) {
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
				_ = conn.SetDeadline(time.Now().Add(patience))
				serve(conn.(*net.TCPConn))
			}()
		}
	}()
	_, port, _ = net.SplitHostPort(listener.Addr().String())
	return listener.Addr().String(), port
}

func echo(conn *net.TCPConn) { _, _ = io.Copy(conn, conn) }

func TestServesARun(t *testing.T) {
	t.Parallel()
	_, port := accept(t, echo)
	p := serving(t, `,"rules":["example.com:`+port+`"],"allowby":"run: moat egress allow run1"`)

	tunnel, answer := p.connect("example.com:" + port)
	if answer.StatusCode != http.StatusOK {
		t.Fatal(answer.Status)
	}
	p.echoes(tunnel)
	tunnel.Close()

	_, answer = p.connect("example.org:443")
	const denial = "example.org:443 is not allowed for run run1. To allow it, run: moat egress allow run1 example.org:443"
	if got := answer.Header.Get(proxy.Header); answer.StatusCode != http.StatusForbidden || got != "blocked by policy: "+denial {
		t.Errorf("got %s: %s", answer.Status, got)
	}

	p.end()
	if status := p.ended(); status != 0 || p.stderr.String() != "ready\n" {
		t.Errorf("status %d, stderr %q", status, p.stderr)
	}
	var got []string
	for _, record := range p.records() {
		got = append(got, fmt.Sprint(record.Verdict, " ", record.Run, " ", record.Host, " ", record.Sent, " ", record.Reason))
	}
	slices.Sort(got)
	want := []string{"allowed run1 example.com 0 ", "denied run1 example.org 0 " + denial, "ended run1 example.com 4 "}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestRefusesOtherCredentials(t *testing.T) {
	t.Parallel()
	p := prepare(t, "")
	p.options.Config = strings.Replace(p.options.Config, "127.0.0.1/32", "127.0.0.2/32", 1)
	if _, answer := p.start().connect("example.com:443"); answer.StatusCode != http.StatusProxyAuthRequired {
		t.Error("a foreign address gets", answer.Status)
	}
}

func TestChangesRules(t *testing.T) {
	t.Parallel()
	_, port := accept(t, echo)
	target := "example.com:" + port
	p := serving(t, `,"rules":["example.org","example.org:443"]`)
	p.must("example.org:443", "rules")
	if _, answer := p.connect(target); answer.StatusCode != http.StatusForbidden {
		t.Fatal(answer.Status)
	}

	p.must("example.org:443 "+target, "allow", target, "example.org", target)
	tunnel, _ := p.connect(target)
	p.echoes(tunnel)

	p.must("example.org:443", "deny", target, target)
	if n, err := tunnel.Read(make([]byte, 1)); n > 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the tunnel is not cut: %d, %v", n, err)
	}
	if _, answer := p.connect(target); answer.StatusCode != http.StatusForbidden {
		t.Error(answer.Status)
	}
	p.must("", "deny", "example.org")
	p.must("", "rules")
}

func TestRefusedChangesChangeNothing(t *testing.T) {
	t.Parallel()
	p := serving(t, `,"rules":["example.org"]`)
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"allow", "example.com", "https://example.net"}, `rule "https://example.net"`},
		{[]string{"deny", "example.org", "https://example.net"}, `rule "https://example.net"`},
		{[]string{"deny", "example.org", "example.net"}, `rule "example.net:443" is not in force`},
		{[]string{"allow", "@cobol"}, `"@cobol"`},
		{[]string{"allow", strings.Repeat("a", commandBytes)}, "too large"},
	} {
		status, stdout, stderr := p.command(test.args...)
		if status != 1 || stdout != "" || !strings.HasPrefix(stderr, "moat-proxy: ") || !strings.Contains(stderr, test.want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("status %d, %q, %q; want %q", status, stdout, stderr, test.want)
		}
	}
	p.must("example.org:443", "rules")
}

func TestChangesAtOnceAreAllMade(t *testing.T) {
	t.Parallel()
	p := serving(t, "")
	var group sync.WaitGroup
	const changes = 20
	for i := range changes {
		group.Go(func() {
			if status, _, stderr := p.command("allow", fmt.Sprintf("h%d.example.com", i)); status != 0 {
				t.Error(stderr)
			}
		})
	}
	group.Wait()
	if _, rules, _ := p.command("rules"); strings.Count(rules, "\n") != changes {
		t.Errorf("%d changes at once make\n%s", changes, rules)
	}
}

func TestOtherUsersGiveNoCommands(t *testing.T) {
	t.Parallel()
	p := prepare(t, "")
	p.options.UID++
	p.start()
	p.options.UID-- // the client's side is content
	if status, stdout, stderr := p.command("allow", "example.com"); status != 1 || stdout != "" || !strings.HasPrefix(stderr, "moat-proxy: ask the serving process: ") {
		t.Errorf("status %d, %q, %q", status, stdout, stderr)
	}
}

func TestCommandsTrustNoOtherUser(t *testing.T) {
	t.Parallel()
	p := serving(t, "")
	p.options.UID++
	if status, stdout, stderr := p.command("allow", "example.com"); status != 1 || stdout != "" || !strings.Contains(stderr, "the other process is of user") {
		t.Errorf("status %d, %q, %q", status, stdout, stderr)
	}
	p.options.UID--
	p.must("", "rules")
}

func TestUsage(t *testing.T) {
	t.Parallel()
	p := prepare(t, "")
	for _, args := range [][]string{
		nil, {"serves"}, {"serve", "x"}, {"rules", "x"}, {"allow"}, {"deny"}, {"--help"}, {"allow", "--help"}, {""},
	} {
		if status, stdout, stderr := p.command(args...); status != 2 || stdout != "" || stderr != usage {
			t.Errorf("%q: status %d, %q, %q", args, status, stdout, stderr)
		}
	}
}

func TestFailsToStart(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, test := range []struct {
		name   string
		change func(*Options)
		want   string
	}{
		{"a bad configuration", func(o *Options) { o.Config = `{"listen":":1"}` }, "moat-proxy: MOAT_PROXY: run: it is empty\n"},
		{"a bad run", func(o *Options) { o.Config = strings.Replace(o.Config, "run1", "run/1", 1) }, "moat-proxy: MOAT_PROXY: run: "},
		{"an address in use", func(o *Options) {
			o.Listen, o.Config = net.Listen, strings.Replace(o.Config, ":3128", taken.Addr().String(), 1)
		}, "address already in use"},
		{"a bad address", func(o *Options) { o.Listen, o.Config = net.Listen, strings.Replace(o.Config, ":3128", `a\nb`, 1) }, "moat-proxy: listen tcp: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := prepare(t, "")
			test.change(&p.options)
			status := Main(t.Context(), []string{"serve"}, p.options)
			if got := p.stderr.String(); status != 1 || !strings.Contains(got, test.want) || strings.Count(got, "\n") != 1 {
				t.Errorf("status %d, %q; want %q", status, got, test.want)
			}
		})
	}
	if status, _, stderr := prepare(t, "").command("rules"); status != 1 || !strings.Contains(stderr, "connection refused") {
		t.Errorf("without a serving process: status %d, %q", status, stderr)
	}
}

func TestFailsWhileServing(t *testing.T) {
	t.Parallel()
	for _, address := range []string{":3128", ":8080", "socket"} {
		t.Run(address, func(t *testing.T) {
			t.Parallel()
			p := serving(t, `,"relays":[{"listen":":8080","to":"127.0.0.1:1"}]`)
			if address == "socket" {
				address = p.options.Socket
			}
			p.listener(address).Close()
			if status := p.ended(); status != 1 || !strings.Contains(p.stderr.String(), "use of closed network connection") {
				t.Errorf("status %d, %q", status, p.stderr)
			}
		})
	}
}

// onReady is a writer that holds up the line "ready".
type onReady func()

func (f onReady) Write(p []byte) (int, error) {
	f()
	return len(p), nil
}

func TestAnEndIsNoFailure(t *testing.T) {
	t.Parallel()
	ctx, end := context.WithCancel(t.Context())
	end()
	for range 20 { // the relay's end and that of the context come at the same time
		p := prepare(t, `,"relays":[{"listen":":8080","to":"127.0.0.1:1"}]`)
		p.options.Stderr = io.MultiWriter(p.stderr, onReady(func() { _, _ = p.listener(":8080").Accept() }))
		if status := Main(ctx, []string{"serve"}, p.options); status != 0 {
			t.Fatalf("status %d, %q", status, p.stderr)
		}
	}
}

func TestEndCutsTunnelsAndRelays(t *testing.T) {
	t.Parallel()
	address, port := accept(t, echo)
	p := serving(t, `,"rules":["example.com:`+port+`"],"relays":[{"listen":":8080","to":"`+address+`"}]`)
	tunnel, _ := p.connect("example.com:" + port)
	relayed := p.dial(":8080")
	p.echoes(tunnel)
	p.echoes(relayed)
	p.end()
	if status := p.ended(); status != 0 {
		t.Errorf("status %d, %q", status, p.stderr)
	}
	for _, conn := range []net.Conn{tunnel, relayed} {
		if n, err := conn.Read(make([]byte, 1)); n > 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a connection is not cut: %d, %v", n, err)
		}
	}
	if records := p.records(); len(records) != 2 || records[1].Verdict != proxy.Ended || records[1].Reason == "" {
		t.Errorf("got %+v", records)
	}
}

// stuck is a writer whose Write blocks until it is closed.
type stuck struct{ entered, closed chan struct{} }

func (s stuck) Write(p []byte) (int, error) {
	s.entered <- struct{}{}
	<-s.closed
	return len(p), nil
}

func TestEndsThoughTheAuditIsStuck(t *testing.T) {
	t.Parallel()
	p := prepare(t, "")
	audit := stuck{make(chan struct{}, 10), make(chan struct{})}
	p.options.Stdout = audit
	p.start()
	conn := p.dial(":3128")
	_, _ = io.WriteString(conn, "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n")
	select {
	case <-audit.entered:
	case <-time.After(patience):
		t.Fatal("nothing is written")
	}
	p.end()
	if status := p.ended(); status != 0 {
		t.Errorf("status %d, %q", status, p.stderr)
	}
	close(audit.closed)
}

// exhausted is a listener whose first connection meets too many open files.
type exhausted struct {
	net.Listener
	once sync.Once
}

func (l *exhausted) Accept() (conn net.Conn, err error) {
	l.once.Do(func() { err = &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)} })
	if err != nil {
		return nil, err
	}
	return l.Listener.Accept()
}

func TestRelays(t *testing.T) {
	t.Parallel()
	address, _ := accept(t, func(conn *net.TCPConn) {
		text, _ := io.ReadAll(conn) // until the client's half ends
		_, _ = conn.Write(bytes.ToUpper(text))
		_ = conn.CloseWrite()
		_, _ = io.Copy(io.Discard, conn)
	})
	p := prepare(t, `,"relays":[{"listen":":8080","to":"`+address+`"}]`)
	listen := p.options.Listen
	p.options.Listen = func(network, address string) (net.Listener, error) {
		listener, err := listen(network, address)
		if address == ":8080" && err == nil {
			listener = &exhausted{Listener: listener}
		}
		return listener, err
	}
	conn := p.start().dial(":8080")
	_, _ = io.WriteString(conn, "hello")
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(conn); err != nil || string(text) != "HELLO" {
		t.Errorf("got %q, %v", text, err)
	}
}

// TestRelaysOnlyInwards has a target that is not on the run's network, as a name may become
// while its container does not run.
func TestRelaysOnlyInwards(t *testing.T) {
	t.Parallel()
	outside, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	go func() {
		if conn, err := outside.Accept(); err == nil {
			conn.Close()
		}
	}()
	p := serving(t, `,"relays":[{"listen":":8080","to":"`+outside.Addr().String()+`"}]`)
	conn, err := net.Dial("tcp", p.listener(":8080").Addr().String())
	if err == nil { // or it has been reset by now
		defer conn.Close()
		_, err = io.ReadAll(conn)
	}
	if err == nil {
		t.Error("it is connected")
	}
}

func TestRelaysAHalfThatTheTargetEnds(t *testing.T) {
	t.Parallel()
	received := make(chan string, 1)
	address, _ := accept(t, func(conn *net.TCPConn) {
		_, _ = io.WriteString(conn, "bye")
		_ = conn.CloseWrite()
		text, _ := io.ReadAll(conn)
		received <- string(text)
	})
	p := serving(t, `,"relays":[{"listen":":8080","to":"`+address+`"}]`)
	conn := p.dial(":8080")
	if text, err := io.ReadAll(conn); err != nil || string(text) != "bye" {
		t.Fatalf("got %q, %v", text, err)
	}
	_, _ = io.WriteString(conn, "still here")
	_ = conn.CloseWrite()
	select {
	case text := <-received:
		if text != "still here" {
			t.Errorf("got %q", text)
		}
	case <-time.After(patience):
		t.Error("nothing arrives")
	}
}

func TestRelaysAReset(t *testing.T) {
	t.Parallel()
	failure := make(chan error, 1)
	address, _ := accept(t, func(conn *net.TCPConn) {
		_, _ = io.WriteString(conn, "ok")
		_, err := io.ReadAll(conn)
		failure <- err
	})
	p := serving(t, `,"relays":[{"listen":":8080","to":"`+address+`"},{"listen":":8081","to":"127.0.0.1:1"}]`)
	conn := p.dial(":8080")
	if _, err := io.ReadFull(conn, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetLinger(0)
	conn.Close()
	select {
	case err := <-failure:
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Error("the target gets", err)
		}
	case <-time.After(patience):
		t.Error("the target gets nothing")
	}
	second, err := net.Dial("tcp", p.listener(":8081").Addr().String())
	if err == nil { // otherwise the reset came even before
		defer second.Close()
		_ = second.SetDeadline(time.Now().Add(patience))
		_, err = second.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Error("of a target that does not listen, the client gets", err)
	}
}

func TestRelaysAreBounded(t *testing.T) {
	t.Parallel()
	address, _ := accept(t, echo)
	p := serving(t, `,"relays":[{"listen":":8080","to":"`+address+`"}]`)
	var last *net.TCPConn
	for range maxRelayed {
		last = p.dial(":8080")
	}
	if n, err := p.dial(":8080").Read(make([]byte, 1)); n > 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one connection too many is not closed: %d, %v", n, err)
	}
	p.echoes(last)
}
