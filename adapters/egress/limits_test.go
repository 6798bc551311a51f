package egress

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestSlowLoris is P20: a client that never ends its header, or its ClientHello.
func TestSlowLoris(t *testing.T) {
	w := newWorld(t, Options{HeaderTime: 200 * time.Millisecond}, "allowed.example.com")
	w.web("allowed.example.com", "127.0.0.2", hello)
	start := time.Now()
	conn := w.dial()
	_, _ = io.WriteString(conn, "GET http://allowed.example.com/ HTTP/1.1\r\nHost:")
	if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the proxy waits for the header")
	}
	for _, sent := range []string{"", "\x16\x03\x01\x02\x00\x01"} {
		conn, status := w.connect("allowed.example.com:443")
		_, _ = io.WriteString(conn, sent)
		if _, err := io.ReadAll(conn); status != 200 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after %q: status %d, %v", sent, status, err)
		}
	}
	if took := time.Since(start); took > patience/4 {
		t.Errorf("it took %v", took)
	}
	if _, err := w.client(w.run).Get("https://allowed.example.com/"); err != nil {
		t.Error("control:", err)
	}
}

// TestIdle is P20: tunnels and bodies on which nothing moves end, those on which
// something moves in one direction do not.
func TestIdle(t *testing.T) {
	const idle = 400 * time.Millisecond
	w := newWorld(t, Options{IdleTime: idle}, "allowed.example.com:8080", "allowed.example.com:80")
	drip := func(conn net.Conn, times int) {
		tick := time.NewTicker(idle / 10)
		defer tick.Stop()
		for range times {
			<-tick.C
			_, _ = io.WriteString(conn, "x")
		}
	}
	w.listen("allowed.example.com", "127.0.0.2", 8080, func(conn net.Conn) {
		drip(conn, 30)
		_, _ = io.Copy(io.Discard, conn)
	})
	w.listen("allowed.example.com", "127.0.0.2", 80, func(conn net.Conn) {
		request, _ := http.ReadRequest(bufio.NewReader(conn))
		if request.URL.Path == "/silent" {
			_, _ = io.Copy(io.Discard, conn)
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 31\r\n\r\n")
		drip(conn, 30)
		_, _ = io.Copy(io.Discard, conn)
	})
	conn, _ := w.connect("allowed.example.com:8080")
	_, _ = io.WriteString(conn, "x")
	start := time.Now()
	if got, err := io.ReadAll(conn); len(got) != 30 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the tunnel moved %d bytes, %v", len(got), err)
	}
	if took := time.Since(start); took < 30*idle/10+idle {
		t.Errorf("the tunnel ended after %v", took)
	}
	answer, err := w.client(w.run).Get("http://allowed.example.com/")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(answer.Body); len(got) != 30 || err == nil {
		t.Errorf("the answer has %d bytes, %v", len(got), err)
	}
	if status, _, _ := w.get("http://allowed.example.com/silent"); status != 504 {
		t.Errorf("a silent destination: status %d", status)
	}
	for _, port := range []uint16{80, 8080} {
		w.await(func(r Record) bool { return r.Port == port && r.Reason == errIdle.Error() && r.Received == 30 })
	}
}

// TestStuckReader is a client that stops reading while data comes.
func TestStuckReader(t *testing.T) {
	w := newWorld(t, Options{IdleTime: 300 * time.Millisecond}, "allowed.example.com:8080", "allowed.example.com:80")
	endless := func(conn net.Conn) {
		for block := make([]byte, 64<<10); ; {
			if _, err := conn.Write(block); err != nil {
				return
			}
		}
	}
	w.listen("allowed.example.com", "127.0.0.2", 8080, endless)
	w.listen("allowed.example.com", "127.0.0.2", 80, func(conn net.Conn) {
		_, _ = http.ReadRequest(bufio.NewReader(conn))
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		endless(conn)
	})
	tunnel, _ := w.connect("allowed.example.com:8080")
	_, _ = io.WriteString(tunnel, "x")
	plain := w.dial()
	_, _ = io.WriteString(plain, "GET http://allowed.example.com/ HTTP/1.1\r\nHost: a\r\n"+credential+"\r\n")
	for _, port := range []uint16{80, 8080} {
		w.await(func(r Record) bool { return r.Port == port && r.Verdict == Ended })
	}
}

// TestTooManyConnections is P20: connections beyond the limit get 503, and the others go on.
func TestTooManyConnections(t *testing.T) {
	w := newWorld(t, Options{MaxConnections: 3}, "allowed.example.com:8080", "allowed.example.com:80")
	w.listen("allowed.example.com", "127.0.0.2", 8080, func(conn net.Conn) { _, _ = io.Copy(conn, conn) })
	w.web("allowed.example.com", "127.0.0.2", hello)
	var tunnels []*net.TCPConn
	for range 3 {
		tunnel, status := w.connect("allowed.example.com:8080")
		if status != 200 {
			t.Fatal("control: status", status)
		}
		tunnels = append(tunnels, tunnel)
	}
	for range 3 {
		if status, body, header := w.get("http://allowed.example.com/"); status != 503 || !strings.Contains(body, "too many") || header.Get(Header) == "" {
			t.Errorf("one too many: %d %q %v", status, body, header)
		}
	}
	silent := make([]net.Conn, 2*maxShedding)
	for i := range silent {
		silent[i] = w.dial()
	}
	for _, tunnel := range tunnels {
		_, _ = io.WriteString(tunnel, "x")
		if _, err := io.ReadFull(tunnel, make([]byte, 1)); err != nil {
			t.Error("a tunnel stalls:", err)
		}
	}
	for _, conn := range silent {
		conn.Close()
	}
	tunnels[0].Close()
	w.eventually("a free connection", func() bool {
		answer, err := w.client(w.run).Get("http://allowed.example.com/")
		return err == nil && answer.StatusCode == http.StatusOK
	})
}

// TestLongHeaders is P16 and P20: the limit of headers, of requests and of answers.
func TestLongHeaders(t *testing.T) {
	w := newWorld(t, Options{MaxHeaderBytes: 8 << 10}, "allowed.example.com:80")
	long := 1
	w.web("allowed.example.com", "127.0.0.2", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", long)) })
	get := "GET http://allowed.example.com/ HTTP/1.1\r\nHost: a\r\n" + credential + "X: "
	for size, status := range map[int]int{7 << 10: 200, 13 << 10: 431} {
		if got := w.raw(get + strings.Repeat("x", size) + "\r\n\r\n"); got != status {
			t.Errorf("a request of %d bytes: status %d, want %d", size, got, status)
		}
	}
	for size, status := range map[int]int{6 << 10: 200, 9 << 10: 502} {
		long = size
		if got, _, _ := w.get("http://allowed.example.com/"); got != status {
			t.Errorf("an answer of %d bytes: status %d, want %d", size, got, status)
		}
	}
}

// TestLargeBodies is P20: bodies of any size pass without being kept.
func TestLargeBodies(t *testing.T) {
	const size = 64 << 20
	w := newWorld(t, Options{}, "allowed.example.com", "allowed.example.com:80")
	w.web("allowed.example.com", "127.0.0.2", func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		if n != size {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		_, _ = io.CopyN(w, zeros{}, size)
	})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, scheme := range []string{"http", "https"} {
		answer, err := w.client(w.run).Post(scheme+"://allowed.example.com/", "", io.LimitReader(zeros{}, size))
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, answer.Body); n != size || err != nil || answer.StatusCode != http.StatusOK {
			t.Errorf("%s: status %d, %d bytes, %v", scheme, answer.StatusCode, n, err)
		}
		answer.Body.Close()
	}
	runtime.ReadMemStats(&after)
	if grown := int64(after.Sys) - int64(before.Sys); grown > 32<<20 {
		t.Errorf("the process grew by %d MiB", grown>>20)
	}
	w.await(func(r Record) bool { return r.Verdict == Ended && r.Port == 80 && r.Sent == size && r.Received == size })
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestTunnelBytes moves random amounts both ways at once, in pieces of random sizes.
func TestTunnelBytes(t *testing.T) {
	w := newWorld(t, Options{IdleTime: 4 * time.Second}, "allowed.example.com:8080")
	w.listen("allowed.example.com", "127.0.0.2", 8080, func(conn net.Conn) { _, _ = io.Copy(conn, conn) })
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			data := make([]byte, rand.IntN(8<<20))
			for i := range data {
				data[i] = byte(rand.Uint32())
			}
			if len(data) > 0 && data[0] == handshake {
				data[0]++ // or it would have to be a ClientHello
			}
			conn, _ := w.connect("allowed.example.com:8080")
			go func() {
				for rest := data; len(rest) > 0; {
					n := min(len(rest), 1+rand.IntN(1<<rand.IntN(20)))
					if _, err := conn.Write(rest[:n]); err != nil {
						return
					}
					rest = rest[n:]
				}
				_ = conn.CloseWrite()
			}()
			if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes of %d came back, %v", len(got), len(data), err)
			}
		})
	}
	group.Wait()
}

// TestManyTunnels is P20: as many tunnels as the limit of open files has room for, up to
// 10,000. It also measures the memory of one of them.
func TestManyTunnels(t *testing.T) {
	count := min(10_000, (openFiles()-1000)/4) // both ends of two connections are here
	w := newWorld(t, Options{MaxConnections: count, IdleTime: time.Hour}, "allowed.example.com:8080")
	var accepted atomic.Int32
	release := make(chan struct{})
	w.listen("allowed.example.com", "127.0.0.2", 8080, func(conn net.Conn) {
		accepted.Add(1)
		one := make([]byte, 1) // io.Copy would open a pipe for each
		_, _ = io.ReadFull(conn, one)
		_, _ = conn.Write(one)
		<-release
	})
	defer close(release)
	memory := func() uint64 {
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapInuse + stats.StackInuse
	}
	before, start := memory(), time.Now()
	tunnels := make([]*net.TCPConn, count)
	for i := range tunnels {
		conn, err := net.Dial("tcp", w.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(5 * time.Minute))
		tunnels[i] = conn.(*net.TCPConn)
		_, _ = io.WriteString(conn, "CONNECT allowed.example.com:8080 HTTP/1.1\r\nHost: a\r\n"+credential+"\r\n")
		line := make([]byte, len("HTTP/1.1 200 Connection established\r\n\r\n"))
		if _, err := io.ReadFull(conn, line); err != nil || !bytes.HasPrefix(line, []byte("HTTP/1.1 200")) {
			t.Fatalf("tunnel %d: %q, %v", i, line, err)
		}
	}
	took := time.Since(start)
	if status, _, _ := w.get("http://allowed.example.com/"); status != 503 {
		t.Errorf("one too many: status %d", status)
	}
	for i, tunnel := range tunnels {
		_, _ = tunnel.Write([]byte{byte(i) | 0x80})
	}
	for i, tunnel := range tunnels {
		got := make([]byte, 1)
		if _, err := io.ReadFull(tunnel, got); err != nil || got[0] != byte(i)|0x80 {
			t.Fatalf("tunnel %d: %v, %v", i, got, err)
		}
	}
	each := int64(memory()-before) / int64(count)
	t.Logf("%d tunnels, %.0f a second, %d bytes each with both of the test's ends", count, float64(count)/took.Seconds(), each)
	if each > 64<<10 {
		t.Errorf("a tunnel takes %d bytes", each)
	}
	if got := int(accepted.Load()); got != count {
		t.Errorf("the destination has %d connections", got)
	}
}

// writer is a function that writes.
type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

func TestShutdownWaitsForTheAudit(t *testing.T) {
	reached, finish := make(chan struct{}), make(chan struct{})
	w := newWorld(t, Options{Audit: writer(func(p []byte) (int, error) {
		if bytes.Contains(p, []byte(`"ended"`)) {
			close(reached)
			<-finish
		}
		return len(p), nil
	})}, "allowed.example.com:8080")
	w.listen("allowed.example.com", "127.0.0.2", 8080, func(conn net.Conn) { _, _ = io.Copy(conn, conn) })
	tunnel, _ := w.connect("allowed.example.com:8080")
	tunnel.Close()
	<-reached
	ended := make(chan error, 1)
	go func() { ended <- w.proxy.Shutdown(context.Background()) }()
	select {
	case <-ended:
		t.Error("it returns while a record is being written")
		close(finish)
	case <-time.After(200 * time.Millisecond):
		close(finish)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// TestShutdown lets open tunnels end, cuts them at the deadline, and leaves no goroutine.
func TestShutdown(t *testing.T) {
	others := proxyGoroutines(nil)
	w := newWorld(t, Options{}, "allowed.example.com:8080", "allowed.example.com:80")
	stopped := make(chan struct{})
	w.listen("allowed.example.com", "127.0.0.2", 8080, func(conn net.Conn) { _, _ = io.Copy(conn, conn) })
	w.listen("allowed.example.com", "127.0.0.2", 80, func(conn net.Conn) { <-stopped })
	defer close(stopped)

	short, _ := w.connect("allowed.example.com:8080")
	ended := make(chan error, 1)
	go func() { ended <- w.proxy.Shutdown(context.Background()) }()
	w.eventually("a closed listener", func() bool {
		conn, err := net.Dial("tcp", w.address)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	_, _ = io.WriteString(short, "x")
	if _, err := io.ReadFull(short, make([]byte, 1)); err != nil {
		t.Error("an open tunnel was cut:", err)
	}
	short.Close()
	if err := <-ended; err != nil {
		t.Error("after the last tunnel:", err)
	}

	second := newWorld(t, Options{}, "allowed.example.com:8080", "allowed.example.com:80")
	second.names, second.servers = w.names, w.servers
	second.proxy.options.Resolver = w.names
	tunnel, _ := second.connect("allowed.example.com:8080")
	hanging := second.dial()
	_, _ = io.WriteString(hanging, "GET http://allowed.example.com/ HTTP/1.1\r\nHost: a\r\n"+credential+"\r\n")
	silent := second.dial()
	second.await(func(r Record) bool { return r.Verdict == Allowed && r.Port == 80 })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := second.proxy.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error("with a deadline:", err)
	}
	for name, conn := range map[string]net.Conn{"tunnel": tunnel, "request": hanging, "silent": silent} {
		if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the %s is still open", name)
		}
	}
	w.eventually("the end of all goroutines", func() bool { return len(proxyGoroutines(others)) == 0 })
	if err := second.proxy.Shutdown(t.Context()); err != nil {
		t.Error("again:", err)
	}
}

// proxyGoroutines returns the goroutines, besides others, that run the proxy's code, or
// net/http's for it.
func proxyGoroutines(others map[string]bool) map[string]bool {
	buffer := make([]byte, 1<<20)
	found := map[string]bool{}
	for stack := range strings.SplitSeq(string(buffer[:runtime.Stack(buffer, true)]), "\n\n") {
		if strings.Contains(stack, "egress.(*Proxy)") || strings.Contains(stack, "http.(*persistConn)") || strings.Contains(stack, "http.(*conn).serve") {
			if number := strings.Fields(stack)[1]; !others[number] {
				found[number] = true
			}
		}
	}
	return found
}

// TestUpstream sends everything through another proxy, with that one's credential only.
func TestUpstream(t *testing.T) {
	for _, names := range []bool{false, true} {
		w := newWorld(t, Options{Upstream: &Upstream{Address: "10.9.9.9:3128", Username: "us", Password: "pw", ResolveNames: names}},
			"allowed.example.com", "allowed.example.com:80", "first.example.com:8080", "refused.example.com:8080", "private.example.com:8080")
		w.web("allowed.example.com", "127.0.0.2", hello)
		w.names.set("first.example.com", "127.0.0.3")
		w.names.set("refused.example.com", "127.0.0.4")
		w.names.set("private.example.com", "10.0.0.1")
		var asked lines
		servers := map[string]string{
			"127.0.0.2:80": w.servers["127.0.0.2:80"], "127.0.0.2:443": w.servers["127.0.0.2:443"],
			"allowed.example.com:80": w.servers["127.0.0.2:80"], "allowed.example.com:443": w.servers["127.0.0.2:443"],
		}
		w.listen("upstream", "10.9.9.9", 3128, func(conn net.Conn) {
			reader := bufio.NewReader(conn)
			request, err := http.ReadRequest(reader)
			if err != nil {
				return
			}
			fmt.Fprintln(&asked, request.Method, request.RequestURI, request.Header)
			switch request.RequestURI {
			case "127.0.0.3:8080", "first.example.com:8080": // which speaks first
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nX: y\r\n\r\nearly")
				return
			case "127.0.0.4:8080", "refused.example.com:8080":
				_, _ = io.WriteString(conn, "HTTP/1.1 407 Not you\r\nMoat-Egress: blocked\r\nContent-Length: 3\r\n\r\nabc")
				return
			}
			onward, err := net.Dial("tcp", servers[request.RequestURI])
			if err != nil {
				return
			}
			defer onward.Close()
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
			go func() { _, _ = io.Copy(onward, reader) }()
			_, _ = io.Copy(conn, onward)
		})
		for _, scheme := range []string{"http", "https"} {
			if status, body, _ := w.get(scheme + "://allowed.example.com/"); status != 200 || body != "hello allowed.example.com /" {
				t.Errorf("%s: %d %q", scheme, status, body)
			}
		}
		first, _ := w.connect("first.example.com:8080")
		if got, err := io.ReadAll(first); string(got) != "early" {
			t.Errorf("got %q, %v", got, err)
		}
		if _, status := w.connect("refused.example.com:8080"); status != 502 {
			t.Errorf("a refusal of the upstream proxy: status %d", status)
		}
		if _, status := w.connect("denied.example.com:8080"); status != 403 {
			t.Errorf("a denied host: status %d", status)
		}
		if !names {
			if _, status := w.connect("private.example.com:8080"); status != 403 {
				t.Errorf("a private address: status %d", status)
			}
		} else if got := w.names.lookups(); len(got) > 0 {
			t.Errorf("resolved %q", got)
		}
		for line := range strings.Lines(asked.text.String()) {
			if !strings.HasPrefix(line, "CONNECT ") || !strings.Contains(line, "map[Proxy-Authorization:[Basic dXM6cHc=]]") || strings.Contains(line, "denied") {
				t.Errorf("the upstream proxy was asked %s", line)
			}
		}
		for _, address := range w.dialed() {
			if address != "10.9.9.9:3128" {
				t.Errorf("dialed %s", address)
			}
		}
	}
}

// TestUnreachable tells the failures of an allowed destination apart.
func TestUnreachable(t *testing.T) {
	w := newWorld(t, Options{DialTime: 200 * time.Millisecond}, "*.example.com:8080", "*.example.com:80")
	w.names.set("closed.example.com", "127.0.0.5")
	w.names.set("slow.example.com", "127.0.0.6")
	w.names.set("second.example.com", "127.0.0.5,127.0.0.7")
	w.listen("garbage.example.com", "127.0.0.8", 80, func(conn net.Conn) {
		_, _ = http.ReadRequest(bufio.NewReader(conn))
		_, _ = io.WriteString(conn, "220 mail\r\n\r\n")
	})
	w.listen("second.example.com", "127.0.0.7", 8080, func(conn net.Conn) {})
	w.names.set("second.example.com", "127.0.0.5,127.0.0.7")
	dial := w.proxy.dialTCP
	w.proxy.dialTCP = func(ctx context.Context, dialer *net.Dialer, address string) (net.Conn, error) {
		if strings.HasPrefix(address, "127.0.0.6:") {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return dial(ctx, dialer, address)
	}
	for target, status := range map[string]int{
		"unknown.example.com:8080": 502, "closed.example.com:8080": 502, "slow.example.com:8080": 504, "second.example.com:8080": 200,
	} {
		conn, got := w.connect(target)
		if conn.Close(); got != status {
			t.Errorf("%s: status %d, want %d", target, got, status)
		}
	}
	if status, body, header := w.get("http://garbage.example.com/"); status != 502 || header.Get(Header) == "" || strings.Contains(body, "blocked") {
		t.Errorf("garbage: %d %q", status, body)
	}
	w.await(func(r Record) bool { return r.Verdict == Failed && strings.Contains(r.Reason, "no such host") })
	w.await(func(r Record) bool {
		return r.Verdict == Ended && r.Host == "second.example.com" && r.Address.String() == "127.0.0.7"
	})
}

// TestAuditLoss is a full disk: the next record counts those that could not be written.
func TestAuditLoss(t *testing.T) {
	disk := &failing{}
	w := newWorld(t, Options{Audit: disk}, "allowed.example.com:80")
	get := func() { w.get("http://denied.example.com/") }
	get()
	disk.full(true)
	get()
	get()
	disk.full(false)
	get()
	get()
	text := disk.text.String()
	got := strings.Split(strings.TrimSpace(text), "\n")
	if len(got) != 5 || got[1] != `{"ver` || !strings.Contains(got[2], `"verdict":"lost","lost":2}`) ||
		!strings.Contains(got[3], `"verdict":"denied"`) || !strings.Contains(got[4], `"verdict":"denied"`) {
		t.Errorf("the audit is\n%s", text)
	}
}

// TestAuditLines is a client that would fill the audit with few requests.
func TestAuditLines(t *testing.T) {
	w := newWorld(t, Options{}, "allowed.example.com:80")
	long := strings.Repeat("x", 10_000)
	for _, request := range []string{"CONNECT " + long + ":443", long + " http://" + long + "/", "GET http://a:" + long + "/"} {
		if status := w.raw(request + " HTTP/1.1\r\nHost: a\r\n" + credential + "\r\n"); status != 400 {
			t.Errorf("status %d", status)
		}
	}
	for line := range strings.Lines(w.audit.text.String()) {
		if len(line) > 1000 {
			t.Errorf("a line has %d bytes: %.100s", len(line), line)
		}
	}
	if got := len(w.audit.records(t)); got == 0 {
		t.Error("there is no record")
	}
}

// failing is a disk that is full at times, and then keeps the beginning of one line.
type failing struct {
	lines
	isFull, torn bool
}

func (f *failing) full(is bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.isFull = is
}

func (f *failing) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.isFull {
		return f.text.Write(p)
	}
	if f.torn {
		return 0, errors.New("no space left on device")
	}
	f.torn = true
	n, _ := f.text.Write(p[:5])
	return n, errors.New("no space left on device")
}

// BenchmarkConnect measures new tunnels, each with one byte there and back.
func BenchmarkConnect(b *testing.B) {
	address := accept(b, func(conn net.Conn) { _, _ = io.Copy(conn, conn) })
	w := benchWorld(b, address)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			conn := w.benchTunnel(b)
			_, _ = conn.Write([]byte{1})
			if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
				b.Error(err)
			}
			conn.Close()
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tunnels/s")
}

// BenchmarkThroughput compares a tunnel with a direct connection, and with one through a
// relay that does nothing but io.Copy.
func BenchmarkThroughput(b *testing.B) {
	const size = 64 << 20
	block := make([]byte, 256<<10)
	address := accept(b, func(conn net.Conn) {
		for {
			if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
				return
			}
			for range size / len(block) {
				if _, err := conn.Write(block); err != nil {
					return
				}
			}
		}
	})
	w := benchWorld(b, address)
	dialer := func(address string) func() net.Conn {
		return func() net.Conn {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				b.Fatal(err)
			}
			return conn
		}
	}
	relay := accept(b, func(conn net.Conn) {
		onward := dialer(address)()
		defer onward.Close()
		go func() { _, _ = io.Copy(onward, conn) }()
		_, _ = io.Copy(conn, onward)
	})
	for name, dial := range map[string]func() net.Conn{
		"direct": dialer(address), "relay": dialer(relay), "tunnel": func() net.Conn { return w.benchTunnel(b) },
	} {
		b.Run(name, func(b *testing.B) {
			conn := dial()
			defer conn.Close()
			buffer := make([]byte, 256<<10)
			b.SetBytes(size)
			for b.Loop() {
				_, _ = conn.Write([]byte{1})
				for left := size; left > 0; {
					n, err := conn.Read(buffer[:min(left, len(buffer))])
					if err != nil {
						b.Fatal(err)
					}
					left -= n
				}
			}
		})
	}
}

func benchWorld(b *testing.B, address string) *world {
	w := newWorld(b, Options{}, "allowed.example.com:8080")
	w.names.set("allowed.example.com", "127.0.0.2")
	w.lead("127.0.0.2:8080", address)
	w.proxy.audit.writer = io.Discard
	return w
}

func (w *world) benchTunnel(b *testing.B) net.Conn {
	conn, err := net.Dial("tcp", w.address)
	if err != nil {
		b.Fatal(err)
	}
	_, _ = io.WriteString(conn, "CONNECT allowed.example.com:8080 HTTP/1.1\r\nHost: a\r\n"+credential+"\r\n")
	line := make([]byte, len("HTTP/1.1 200 Connection established\r\n\r\n"))
	if _, err := io.ReadFull(conn, line); err != nil || !bytes.HasPrefix(line, []byte("HTTP/1.1 200")) {
		b.Fatalf("%q, %v", line, err)
	}
	return conn
}
