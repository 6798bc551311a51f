package egress

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moatproject/moat/core/egress"
)

// The numbers are those of the known ways round a proxy, P1 to P22. P11 (a client that
// ignores the proxy's variables) and P12 (UDP, QUIC, ICMP, IPv6) are not here: no proxy
// can stop them, only the network that the workload is on. Each test has a positive
// control: the same request in its harmless form succeeds.

func both(target string) []string {
	host, port, _ := strings.Cut(target, "\n")
	return []string{
		"CONNECT " + host + ":" + port + " HTTP/1.1\r\nHost: x\r\n" + credential + "\r\n",
		"GET http://" + host + ":" + port + "/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + credential + "\r\n",
	}
}

// TestHostsInOtherWords is P1 to P4, P8 and P10, in both forms of a request.
func TestHostsInOtherWords(t *testing.T) {
	w := newWorld(t, Options{}, "allowed.example.com:8080", "*.sub.example.com:8080")
	serve := func(conn net.Conn) {
		_, _ = bufio.NewReader(conn).ReadString('\n')
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	}
	w.listen("allowed.example.com", "127.0.0.2", 8080, serve)
	w.listen("a.sub.example.com", "127.0.0.2", 8080, serve)
	for _, host := range []string{"allowed.example.com", "ALLOWED.Example.com", "allowed.example.com.", "a.sub.example.com"} {
		for _, request := range both(host + "\n8080") {
			if status := w.raw(request); status != 200 {
				t.Errorf("control: %q has status %d", request, status)
			}
		}
	}
	dials, lookups := len(w.dialed()), len(w.names.lookups())
	for _, host := range []string{
		"allowed.example.com\x00", "allowed.example.com\x00.evil.com", "evil.com\x00.allowed.example.com", // P1
		"allowed.example.com\x01", "allowed.example.com\x7f", "allowed.example.com\r", "allowed.example.com\t",
		"[allowed.example.com]", "[[allowed.example.com]]", "[allowed.example.com", // P2
		"allowed.example.com..", ".allowed.example.com", "allowed..example.com", "allowed.example.com:8080", // P3
		"allowed.example.com%00", "allowed%2eexample.com", "evil.com%23.allowed.example.com", "allowed.example.com#", "allowed.example.com#@evil.com",
		"user@allowed.example.com", "allowed.example.com:8080@evil.com", "allowed.example.com\\@evil.com", "evil.com\\.allowed.example.com",
		"127.0.0.1", "127.1", "0x7f000001", "2130706433", "0", "017700000001", "0x7f.1", // P4 and P8
		"[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "127.0.0.1.", "allowed.example.com\xe3\x80\x82",
		"evilallowed.example.com", "allowed.example.com.evil.com", "sub.example.com", "evilsub.example.com", // P10
	} {
		for _, request := range both(host + "\n8080") {
			if status := w.raw(request); status != 400 && status != 403 {
				t.Errorf("%q has status %d", request, status)
			}
		}
	}
	for _, port := range []string{"0", "65536", "", "+8080", "8080:8080", "8081", "08 080"} {
		for _, request := range both("allowed.example.com\n" + port) {
			if port == "" && strings.HasPrefix(request, "GET") {
				continue // port 80 in a URL; the next line has it
			}
			if status := w.raw(request); status != 400 && status != 403 {
				t.Errorf("%q has status %d", request, status)
			}
		}
	}
	if got := w.dialed()[dials:]; len(got) > 0 {
		t.Errorf("refused hosts were dialed: %q", got)
	}
	if got := w.names.lookups()[lookups:]; len(got) > 0 { // P13: labels of denied names leave nothing behind
		t.Errorf("refused hosts were resolved: %q", got)
	}
}

// TestAddresses is P4, P5, P6, P15: the addresses of an allowed name.
func TestAddresses(t *testing.T) {
	everywhere := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	tests := []struct {
		answer  string
		private []netip.Prefix // addresses that are allowed besides public ones
		status  int
	}{
		{"8.8.8.8", none, 200},
		{"::ffff:8.8.8.8", none, 200},
		{"2606:4700::1111", none, 200},
		{"127.0.0.2", everywhere, 200},
		{"10.0.0.1", everywhere, 200},

		{"127.0.0.2", none, 403},
		{"0.0.0.0", none, 403},
		{"10.0.0.1", none, 403},
		{"8.8.8.8,10.0.0.1", none, 403},
		{"10.0.0.1,8.8.8.8", none, 403},
		{"169.254.1.1", none, 403},
		{"100.64.0.1", none, 403},
		{"224.0.0.1", none, 403},
		{"::1", none, 403},
		{"::", none, 403},
		{"fd00::1", none, 403},
		{"fe80::1", none, 403},
		{"::ffff:127.0.0.1", none, 403},
		{"64:ff9b::7f00:1", none, 403},
		{"2002:7f00:1::1", none, 403},
		{"2001:0:808:808::1", none, 403},
		{"127.0.0.9", everywhere, 403}, // P15: the proxy's own
		{"::ffff:127.0.0.9", everywhere, 403},
		{"169.254.169.254", everywhere, 403},
		{"::ffff:169.254.169.254", everywhere, 403},
		{"fd00:ec2::254", everywhere, 403},
	}
	for _, test := range tests {
		w := newWorld(t, Options{AllowedPrivate: test.private}, "allowed.example.com:8080")
		var reached atomic.Int32
		w.listen("allowed.example.com", "192.0.2.1", 8080, func(conn net.Conn) { reached.Add(1) })
		w.names.set("allowed.example.com", test.answer)
		// The check at dial time is not asked here: the servers are on loopback.
		listens := w.servers["192.0.2.1:8080"]
		w.proxy.dialTCP = func(ctx context.Context, _ *net.Dialer, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", listens)
		}
		_, status := w.connect("allowed.example.com:8080")
		if status != test.status {
			t.Errorf("%s among %v: status %d, want %d", test.answer, test.private, status, test.status)
		}
		if status == 403 && reached.Load() > 0 {
			t.Errorf("%s was reached", test.answer)
		}
	}
}

var none = []netip.Prefix{}

// TestDialTimeCheck is the second half of P6: the address of the socket is checked again.
func TestDialTimeCheck(t *testing.T) {
	for address, status := range map[string]int{"127.0.0.1/32": 200, "127.0.0.2/32": 403} {
		w := newWorld(t, Options{AllowedPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32"), netip.MustParsePrefix(address)}}, "allowed.example.com:8080")
		w.listen("allowed.example.com", "127.0.0.2", 8080, func(net.Conn) {}) // leads to 127.0.0.1
		if _, got := w.connect("allowed.example.com:8080"); got != status {
			t.Errorf("with %s allowed the status is %d, want %d", address, got, status)
		}
	}
}

// TestRebinding is P6: the second answer of a name is never asked for.
func TestRebinding(t *testing.T) {
	w := newWorld(t, Options{}, "allowed.example.com:80")
	w.web("allowed.example.com", "127.0.0.2", hello)
	w.names.set("allowed.example.com", "127.0.0.2", "10.0.0.1")
	if status, _, _ := w.get("http://allowed.example.com/"); status != 200 {
		t.Errorf("status %d", status)
	}
	if got := w.names.lookups(); len(got) != 1 {
		t.Errorf("lookups: %q", got)
	}
	if status, _, _ := w.get("http://allowed.example.com/"); status != 403 {
		t.Errorf("the second request has status %d", status)
	}
	if got := w.dialed(); !slices.Equal(got, []string{"127.0.0.2:80"}) {
		t.Errorf("dialed %q", got)
	}
}

// TestOwnAddresses is P15 with the addresses of this machine.
func TestOwnAddresses(t *testing.T) {
	w := newWorld(t, Options{OwnAddresses: interfaceAddresses}, "self.example.com:8080", "other.example.com:8080")
	w.listen("self.example.com", "127.0.0.1", 8080, func(net.Conn) {})
	w.listen("other.example.com", "127.0.0.2", 8080, func(net.Conn) {})
	w.lead("127.0.0.2:8080", "127.0.0.1:1") // where the dial-time check refuses the control
	if _, status := w.connect("self.example.com:8080"); status != 403 {
		t.Errorf("the proxy's own address: status %d", status)
	}
	if got := w.dialed(); len(got) > 0 {
		t.Errorf("dialed %q", got)
	}
	w.connect("other.example.com:8080")
	if got := w.dialed(); len(got) != 1 {
		t.Errorf("control: dialed %q", got)
	}
	w.proxy.options.OwnAddresses = func() ([]netip.Addr, error) { return nil, errors.New("no list") }
	if _, status := w.connect("other.example.com:8080"); status != 502 || len(w.dialed()) != 1 {
		t.Errorf("without a list of own addresses: status %d, dialed %q", status, w.dialed())
	}
}

// TestClientHello is P7. The server reports the bytes that arrive.
func TestClientHello(t *testing.T) {
	const host = "allowed.example.com"
	handshake := func(config *tls.Config) func(net.Conn) {
		return func(conn net.Conn) { _ = tls.Client(conn, config).Handshake() }
	}
	write := func(text string) func(net.Conn) {
		return func(conn net.Conn) { _, _ = io.WriteString(conn, text) }
	}
	insecure := func(name string) *tls.Config { return &tls.Config{ServerName: name, InsecureSkipVerify: true} }
	ech := func(inner, outer string) *tls.Config {
		return &tls.Config{ServerName: inner, EncryptedClientHelloConfigList: echConfigs(t, outer)}
	}
	tests := []struct {
		name    string
		port    int
		client  func(net.Conn)
		reason  string // "": the bytes arrive
		nothing bool   // nothing may arrive
	}{
		{"the same name", 443, handshake(insecure(host)), "", false},
		{"the same name in capitals", 443, handshake(insecure("ALLOWED.example.com")), "", false},
		{"the same name elsewhere", 8443, handshake(insecure(host)), "", false},
		{"the same name, byte by byte", 443, func(conn net.Conn) { _ = tls.Client(dribble{conn}, insecure(host)).Handshake() }, "", false},
		{"no TLS elsewhere", 8443, write("EHLO x\r\n"), "", false},
		{"the same outer name", 443, handshake(ech("hidden.example.com", host)), "", false}, // the inner one cannot be seen

		{"another name", 443, handshake(insecure("evil.example.com")), `for the server "evil.example.com"`, true},
		{"another name elsewhere", 8443, handshake(insecure("evil.example.com")), `for the server "evil.example.com"`, true},
		{"a longer name", 443, handshake(insecure(host + ".evil.com")), "for the server", true},
		{"no name", 443, handshake(insecure("192.0.2.1")), "no server name", true}, // crypto/tls sends none for an address
		{"another outer name", 443, handshake(ech(host, "outer.example.com")), `for the server "outer.example.com"`, true},
		{"HTTP", 443, write("GET / HTTP/1.1\r\nHost: evil.example.com\r\n\r\n"), "not TLS", true},
		{"HTTP on its port", 80, write("GET / HTTP/1.1\r\nHost: evil.example.com\r\n\r\n"), "not TLS", true},
		{"SSH", 443, write("SSH-2.0-x\r\n"), "not TLS", true},
		{"SSL 2", 443, write("\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10"), "not TLS", true},
		{"a broken record", 443, write("\x16\x03\x01\xff\xff" + strings.Repeat("x", 70_000)), "invalid", true},
		{"another message of TLS", 443, write("\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00"), "invalid", true},
		{"a cut record", 443, func(conn net.Conn) {
			_, _ = io.WriteString(conn, "\x16\x03\x01\x01\x00\x01")
			_ = conn.(*net.TCPConn).CloseWrite()
		}, "invalid", true},
		{"nothing", 443, func(conn net.Conn) { _ = conn.(*net.TCPConn).CloseWrite() }, "not TLS", true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			target := fmt.Sprintf("%s:%d", host, test.port)
			w := newWorld(t, Options{}, target)
			arrived := make(chan string, 1)
			w.listen(host, "127.0.0.2", test.port, func(conn net.Conn) {
				buffer := make([]byte, 64<<10)
				n, _ := conn.Read(buffer)
				arrived <- string(buffer[:n])
			})
			conn, status := w.connect(target)
			if status != 200 {
				t.Fatal("status", status)
			}
			test.client(conn)
			got := <-arrived
			if (got == "") != test.nothing {
				t.Errorf("%d bytes arrived: %.100q", len(got), got)
			}
			_ = conn.CloseWrite()
			end := w.await(func(r Record) bool { return r.Verdict != Allowed })
			if test.reason == "" && end.Verdict != Ended || test.reason != "" && (end.Verdict != Denied || !strings.Contains(end.Reason, test.reason)) {
				t.Errorf("the record is %+v", end)
			}
		})
	}
}

// TestAlert is a client of TLS that learns why its tunnel ends.
func TestAlert(t *testing.T) {
	w := newWorld(t, Options{}, "allowed.example.com")
	w.web("allowed.example.com", "127.0.0.2", hello)
	conn, _ := w.connect("allowed.example.com:443")
	err := tls.Client(conn, &tls.Config{ServerName: "evil.example.com", InsecureSkipVerify: true}).Handshake()
	if err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Error("the handshake ends with", err)
	}
}

// dribble writes single bytes.
type dribble struct{ net.Conn }

func (d dribble) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := d.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

// echConfigs returns a list of one configuration for Encrypted Client Hello.
func echConfigs(t *testing.T, publicName string) []byte {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public := key.PublicKey().Bytes()
	contents := []byte{1, 0x00, 0x20} // its ID; DHKEM of X25519
	contents = binary.BigEndian.AppendUint16(contents, uint16(len(public)))
	contents = append(contents, public...)
	contents = append(contents, 0, 4, 0, 1, 0, 1, 32, byte(len(publicName))) // HKDF-SHA256 with AES-128-GCM; the longest name
	contents = append(contents, publicName...)
	contents = append(contents, 0, 0)
	config := binary.BigEndian.AppendUint16([]byte{0xfe, 0x0d}, uint16(len(contents)))
	config = append(config, contents...)
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(config))), config...)
}

// TestKeptConnection is P9: each request of a connection is decided by itself, and its
// Host header decides nothing.
func TestKeptConnection(t *testing.T) {
	w := newWorld(t, Options{}, "allowed.example.com:80")
	w.web("allowed.example.com", "127.0.0.2", hello)
	w.web("evil.example.com", "127.0.0.3", hello)
	conn := w.dial()
	reader := bufio.NewReader(conn)
	for _, test := range []struct {
		line, host string
		status     int
		body       string
	}{
		{"GET http://allowed.example.com/1", "allowed.example.com", 200, "hello allowed.example.com /1"},
		{"GET http://allowed.example.com/2", "evil.example.com", 200, "hello allowed.example.com /2"},
		{"GET http://evil.example.com/3", "allowed.example.com", 403, "blocked by policy"},
		{"GET /4", "allowed.example.com", 400, "this is a proxy"},
		{"GET https://allowed.example.com/5", "allowed.example.com", 400, "use CONNECT"},
		{"GET ftp://allowed.example.com/6", "allowed.example.com", 400, "use CONNECT"},
		{"OPTIONS *", "allowed.example.com", 400, "this is a proxy"},
		{"CONNECT evil.example.com:443", "allowed.example.com", 403, "blocked by policy"},
		{"GET http://allowed.example.com/7", "allowed.example.com", 200, "hello allowed.example.com /7"},
	} {
		_, _ = io.WriteString(conn, test.line+" HTTP/1.1\r\nHost: "+test.host+"\r\n"+credential+"\r\n")
		answer, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatalf("%s: %v", test.line, err)
		}
		body, _ := io.ReadAll(answer.Body)
		if answer.StatusCode != test.status || !strings.Contains(string(body), test.body) {
			t.Errorf("%s: %d %q", test.line, answer.StatusCode, body)
		}
	}
	// The credential counts for one request only.
	_, _ = io.WriteString(conn, "GET http://allowed.example.com/8 HTTP/1.1\r\nHost: x\r\n\r\n")
	if answer, err := http.ReadResponse(reader, nil); err != nil || answer.StatusCode != http.StatusProxyAuthRequired {
		t.Errorf("without a credential: %v, %v", answer, err)
	}
}

// TestRedirect is P14.
func TestRedirect(t *testing.T) {
	w := newWorld(t, Options{}, "allowed.example.com:80")
	w.web("evil.example.com", "127.0.0.3", hello)
	w.web("allowed.example.com", "127.0.0.2", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://evil.example.com/", http.StatusFound)
	})
	status, _, header := w.get("http://allowed.example.com/")
	if status != 302 || header.Get("Location") != "http://evil.example.com/" || slices.Contains(w.names.lookups(), "evil.example.com.") {
		t.Errorf("status %d, %v, lookups %q", status, header, w.names.lookups())
	}
	if status, _, _ := w.get(header.Get("Location")); status != 403 {
		t.Errorf("the client that follows has status %d", status)
	}
}

// TestSmuggling is P16: the destination gets one request with one meaning, or none.
func TestSmuggling(t *testing.T) {
	const smuggled = "GET http://evil.example.com/smuggled HTTP/1.1\r\nHost: evil.example.com\r\n\r\n"
	post := "POST http://allowed.example.com/ HTTP/1.1\r\nHost: allowed.example.com\r\n" + credential
	tests := []struct {
		name, request, want string // want is the request that arrives, without its first lines; "" is none
	}{
		{"a plain body", post + "Content-Length: 5\r\n\r\nabcde", "Content-Length: 5\r\n\r\nabcde"},
		{"chunks", post + "Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n"},
		{"both lengths", post + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n" + smuggled, "Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n"},
		{"two lengths", post + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", ""},
		{"a list of lengths", post + "Content-Length: 5, 6\r\n\r\nabcdef", ""},
		{"a signed length", post + "Content-Length: +5\r\n\r\nabcde", ""},
		{"another encoding", post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", ""},
		{"two encodings", post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", ""},
		{"a hidden encoding", post + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", ""},
		{"a space before the colon", post + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", ""},
		{"a bare CR", post + "X: a\rTransfer-Encoding: chunked\r\n\r\n", ""},
		{"a NUL", post + "X: a\x00b\r\n\r\n", ""},
		{"a folded line", post + "X: a\r\n Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n", "Content-Length: 0\r\nX: a Transfer-Encoding: chunked\r\n\r\n"},
		{"a bad chunk", post + "Transfer-Encoding: chunked\r\n\r\n5;x=\ny\r\nabcdex", "*"},
		{"two Host headers", "GET http://allowed.example.com/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n" + credential + "\r\n", ""},
		{"a line break in the URL", "GET http://allowed.example.com/\r HTTP/1.1\r\nHost: a\r\n" + credential + "\r\n", ""},
		{"h2c", "GET http://allowed.example.com/ HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n" + credential + "\r\n", "\r\n"},
		{"WebSocket", "GET http://allowed.example.com/ HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + credential + "\r\n", "\r\n"},
		{"Upgrade alone", "GET http://allowed.example.com/ HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n" + credential + "\r\n", "\r\n"},
		{"hop-by-hop headers", "GET http://allowed.example.com/ HTTP/1.1\r\nHost: a\r\nConnection: X-One, close\r\nX-One: 1\r\nX-Two: 2\r\nKeep-Alive: 1\r\n" +
			"Proxy-Connection: keep-alive\r\nTE: gzip\r\n" + credential + "\r\n", "X-Two: 2\r\n\r\n"},
		{"h2 with prior knowledge", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ""},
		{"a body of CONNECT", "CONNECT allowed.example.com:80 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n" + credential + "\r\nabcde", ""},
		{"a long header", "GET http://allowed.example.com/ HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 50<<10) + "\r\n" + credential + "\r\n", ""},
		{"a long URL", "GET http://allowed.example.com/" + strings.Repeat("x", 50<<10) + " HTTP/1.1\r\nHost: a\r\n" + credential + "\r\n", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, Options{IdleTime: time.Second}, "allowed.example.com:80")
			arrived := make(chan string, 10)
			w.listen("allowed.example.com", "127.0.0.2", 80, func(conn net.Conn) {
				var copied bytes.Buffer
				request, err := http.ReadRequest(bufio.NewReader(io.TeeReader(conn, &copied)))
				if err == nil {
					_, _ = io.Copy(io.Discard, request.Body)
				}
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				_, _ = io.Copy(&copied, conn) // until the proxy closes
				arrived <- copied.String()
			})
			status := w.raw(test.request)
			if test.want == "" {
				if status < 400 && status != 0 || len(w.dialed()) > 0 {
					t.Errorf("status %d, dialed %q", status, w.dialed())
				}
				return
			}
			got := <-arrived
			if strings.Contains(got, "smuggled") || strings.Count(got, "HTTP/1.1") > 1 || strings.Contains(got, "cnVuMTpzZWNyZXQ") {
				t.Errorf("there arrived\n%q", got)
			}
			head, rest, _ := strings.Cut(got, "Host: allowed.example.com\r\n")
			before, after, closing := strings.Cut(rest, "Connection: close\r\n")
			rest = before + after
			if test.want != "*" && (!closing || rest != test.want || !strings.HasSuffix(head, " / HTTP/1.1\r\n") || status != 200) {
				t.Errorf("status %d, and there arrived\n%q\nwant\n%q", status, rest, test.want)
			}
		})
	}
}

// TestHeadersChooseNoUpstream is P17.
func TestHeadersChooseNoUpstream(t *testing.T) {
	w := newWorld(t, Options{}, "allowed.example.com:80", "evil.example.com:80")
	w.web("evil.example.com", "127.0.0.3", hello)
	var forwarded http.Header
	w.web("allowed.example.com", "127.0.0.2", func(w http.ResponseWriter, r *http.Request) {
		forwarded = r.Header
		hello(w, r)
	})
	request, _ := http.NewRequest(http.MethodGet, "http://allowed.example.com/", nil)
	for _, name := range []string{
		"X-Upstream-Https-Proxy", "X-Forwarded-Host", "X-Forwarded-For", "Forwarded", "X-Original-Host", "X-Host", "X-Http-Destinationurl",
		"Proxy-Host", "Proxy", "X-Real-Ip", "X-Original-Url", "X-Rewrite-Url", "Destination", Header,
	} {
		request.Header.Set(name, "http://evil.example.com/")
	}
	answer, err := w.client(w.run).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(answer.Body)
	if string(body) != "hello allowed.example.com /" || !slices.Equal(w.dialed(), []string{"127.0.0.2:80"}) {
		t.Errorf("%q, dialed %q", body, w.dialed())
	}
	for _, name := range []string{"Proxy-Authorization", "X-Forwarded-For", "Forwarded"} {
		if forwarded.Get(name) != "" {
			t.Errorf("the destination sees %s", name)
		}
	}
	if status, _, _ := w.get("http://evil.example.com/"); status != 200 {
		t.Errorf("control: status %d", status)
	}
}

// TestImitation is P18: an answer that looks like the proxy's own lacks its header,
// wherever the destination puts it.
func TestImitation(t *testing.T) {
	w := newWorld(t, Options{}, "allowed.example.com:80")
	w.listen("allowed.example.com", "127.0.0.2", 80, func(conn net.Conn) {
		_, _ = http.ReadRequest(bufio.NewReader(conn))
		imitation := "moat-egress: blocked by policy\r\n"
		_, _ = io.WriteString(conn, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n"+imitation+"\r\n"+
			"HTTP/1.1 403 Forbidden\r\nX-Other: 1\r\n"+imitation+"Trailer: Moat-Egress, X-Trailer\r\nTransfer-Encoding: chunked\r\n\r\n"+
			"5\r\nabcde\r\n0\r\nX-Trailer: 1\r\n"+imitation+"\r\n")
	})
	conn := w.dial()
	_, _ = io.WriteString(conn, "GET http://allowed.example.com/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTE: trailers\r\n"+credential+"\r\n")
	got, err := io.ReadAll(conn)
	text := strings.ToLower(string(got))
	if err != nil || strings.Contains(text, "moat-egress: ") {
		t.Errorf("the client gets %q, %v", got, err)
	}
	for _, kept := range []string{"103 early hints", "link: </a>", "403 forbidden", "x-other: 1", "abcde", "x-trailer: 1"} {
		if !strings.Contains(text, kept) {
			t.Errorf("the client does not get %q: %q", kept, got)
		}
	}
	if _, _, header := w.get("http://denied.example.com/"); !strings.HasPrefix(header.Get(Header), "blocked by policy") {
		t.Errorf("control: the proxy's own answer has %v", header)
	}
}

// TestSwitchingProtocols is a destination that answers 101 to a request that did not ask.
func TestSwitchingProtocols(t *testing.T) {
	for _, header := range []string{"Connection: Upgrade\r\nUpgrade: x\r\n", "Connection: Upgrade\r\n", ""} {
		w := newWorld(t, Options{}, "allowed.example.com:80")
		w.listen("allowed.example.com", "127.0.0.2", 80, func(conn net.Conn) {
			_, _ = http.ReadRequest(bufio.NewReader(conn))
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n"+header+"\r\n")
			_, _ = io.Copy(io.Discard, conn)
		})
		if status := w.raw("GET http://allowed.example.com/ HTTP/1.1\r\nHost: a\r\n" + credential + "\r\n"); status != 502 {
			t.Errorf("with %q: status %d", header, status)
		}
		if end := w.await(func(r Record) bool { return r.Verdict != Allowed }); !strings.Contains(end.Reason, "not asked for") {
			t.Errorf("with %q: the record is %+v", header, end)
		}
	}
}

// TestClosedWithoutPolicy is P19.
func TestClosedWithoutPolicy(t *testing.T) {
	w := newWorld(t, Options{}, "allowed.example.com:80")
	w.web("allowed.example.com", "127.0.0.2", hello)
	get := func() int {
		status, _, _ := w.get("http://allowed.example.com/")
		return status
	}
	if status := get(); status != 200 {
		t.Errorf("control: status %d", status)
	}
	for name, empty := range map[string]egress.Policy{"zero": {}, "empty": egress.NewPolicy(), "zero rule": egress.NewPolicy(egress.Rule{})} {
		run := w.run
		run.Policy = empty
		if err := w.proxy.SetRun(run); err != nil {
			t.Fatal(err)
		}
		if status := get(); status != 403 {
			t.Errorf("%s: status %d", name, status)
		}
	}
	w.proxy.RemoveRun(w.run.ID)
	if status := get(); status != 407 {
		t.Errorf("without a run: status %d", status)
	}
}

// TestCredentials is P22.
func TestCredentials(t *testing.T) {
	w := newWorld(t, Options{}, "allowed.example.com:80")
	w.web("allowed.example.com", "127.0.0.2", hello)
	second := Run{ID: "run2", Token: "other", Sources: w.run.Sources, Policy: policy(t, "second.example.com:80")}
	elsewhere := Run{ID: "run3", Token: "third", Sources: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Policy: w.run.Policy}
	for _, run := range []Run{second, elsewhere} {
		if err := w.proxy.SetRun(run); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		run    Run
		status int
	}{
		"its own":            {w.run, 200},
		"a second run's":     {second, 403},
		"a sibling's":        {elsewhere, 407}, // known, but from another address
		"another token":      {Run{ID: "run1", Token: "other"}, 407},
		"a longer token":     {Run{ID: "run1", Token: "secretx"}, 407},
		"an empty token":     {Run{ID: "run1"}, 407},
		"an unknown run":     {Run{ID: "run9", Token: "secret"}, 407},
		"an unknown nothing": {Run{ID: "", Token: ""}, 407},
	} {
		answer, err := w.client(test.run).Get("http://allowed.example.com/")
		if err != nil || answer.StatusCode != test.status {
			t.Errorf("%s: %v, %v, want status %d", name, answer, err, test.status)
		}
	}
	get := "GET http://allowed.example.com/ HTTP/1.1\r\nHost: a\r\n"
	for _, header := range []string{
		"", "Authorization: Basic cnVuMTpzZWNyZXQ=\r\n", "Proxy-Authorization: Bearer cnVuMTpzZWNyZXQ=\r\n", "Proxy-Authorization: Basic !\r\n",
		"Proxy-Authorization: Basic cnVuMQ==\r\n", credential + credential, "Proxy-Authorization: Basic x\r\n" + credential,
	} {
		if status := w.raw(get + header + "\r\n"); status != 407 {
			t.Errorf("%q: status %d", header, status)
		}
	}
	if status := w.raw(get + credential + "\r\n"); status != 200 {
		t.Errorf("control: status %d", status)
	}
	for _, record := range w.audit.records(t) {
		if strings.Contains(fmt.Sprint(record), "secret") {
			t.Errorf("the token is on record: %+v", record)
		}
	}
}

// TestRevocation is P21, for a tunnel, a request that is being answered, and one that
// still connects.
func TestRevocation(t *testing.T) {
	w := newWorld(t, Options{}, "allowed.example.com:8080", "kept.example.com:8080", "allowed.example.com:80")
	echo := func(conn net.Conn) { _, _ = io.Copy(conn, conn) }
	w.listen("allowed.example.com", "127.0.0.2", 8080, echo)
	w.listen("kept.example.com", "127.0.0.3", 8080, echo)
	w.listen("allowed.example.com", "127.0.0.2", 80, func(conn net.Conn) {
		_, _ = http.ReadRequest(bufio.NewReader(conn))
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabcde")
		_, _ = io.Copy(io.Discard, conn)
	})
	says := func(conn net.Conn) error {
		_, _ = io.WriteString(conn, "x")
		_, err := io.ReadFull(conn, make([]byte, 1))
		return err
	}
	revoked, _ := w.connect("allowed.example.com:8080")
	kept, _ := w.connect("kept.example.com:8080")
	if err := errors.Join(says(revoked), says(kept)); err != nil {
		t.Fatal("control:", err)
	}
	streaming, err := w.client(w.run).Get("http://allowed.example.com/")
	if err != nil {
		t.Fatal(err)
	}
	run := w.run
	run.Policy = policy(t, "*.example.com:8443", "kept.example.com:8080")
	if err := w.proxy.SetRun(run); err != nil {
		t.Fatal(err)
	}
	if says(revoked) == nil {
		t.Error("the tunnel is still open")
	}
	if body, err := io.ReadAll(streaming.Body); err == nil {
		t.Errorf("the answer ended as if it were whole: %q", body)
	}
	if err := says(kept); err != nil {
		t.Error("the other tunnel was cut:", err)
	}
	if _, status := w.connect("allowed.example.com:8080"); status != 403 {
		t.Errorf("a new request has status %d", status)
	}
	for _, port := range []uint16{80, 8080} {
		w.await(func(r Record) bool { return r.Verdict == Ended && r.Port == port && r.Reason == errRevoked.Error() })
	}
	w.proxy.RemoveRun(w.run.ID)
	if says(kept) == nil {
		t.Error("the tunnel of a removed run is still open")
	}
}

// TestRevocationIsDone looks at connections to a destination when the change has returned.
func TestRevocationIsDone(t *testing.T) {
	w := newWorld(t, Options{}, "allowed.example.com:8080")
	w.listen("allowed.example.com", "127.0.0.2", 8080, func(conn net.Conn) { _, _ = io.Copy(conn, conn) })
	dial := w.proxy.dialTCP
	var upstreams []*closeNoted
	w.proxy.dialTCP = func(ctx context.Context, dialer *net.Dialer, address string) (net.Conn, error) {
		conn, err := dial(ctx, dialer, address)
		if err != nil {
			return nil, err
		}
		upstreams = append(upstreams, &closeNoted{Conn: conn})
		return upstreams[len(upstreams)-1], nil
	}
	for range 50 {
		if conn, _ := w.connect("allowed.example.com:8080"); conn != nil {
			_, _ = io.WriteString(conn, "x")
			if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
				t.Fatal("control:", err)
			}
		}
	}
	w.proxy.RemoveRun(w.run.ID)
	for i, upstream := range upstreams {
		if !upstream.closed.Load() {
			t.Fatalf("tunnel %d of %d is still open", i, len(upstreams))
		}
	}
}

// closeNoted remembers that it was closed.
type closeNoted struct {
	net.Conn
	closed atomic.Bool
}

func (c *closeNoted) Close() error {
	c.closed.Store(true)
	return c.Conn.Close()
}

// TestRevocationWhileConnecting revokes a rule between the decision and the connection.
func TestRevocationWhileConnecting(t *testing.T) {
	w := newWorld(t, Options{}, "allowed.example.com:8080")
	w.listen("allowed.example.com", "127.0.0.2", 8080, func(net.Conn) {})
	dial := w.proxy.dialTCP
	w.proxy.dialTCP = func(ctx context.Context, dialer *net.Dialer, address string) (net.Conn, error) {
		w.proxy.RemoveRun(w.run.ID)
		<-ctx.Done()
		return dial(ctx, dialer, address)
	}
	if _, status := w.connect("allowed.example.com:8080"); status != 403 {
		t.Errorf("status %d", status)
	}
}

// TestRemedy has a denial name a command of the embedder's.
func TestRemedy(t *testing.T) {
	w := newWorld(t, Options{Remedy: func(run string, denied egress.Destination) string {
		return "run: allow " + run + " " + denied.String()
	}})
	if _, body, _ := w.get("http://denied.example.org/"); !strings.HasSuffix(body, ". To allow it, run: allow run1 denied.example.org:80\n") {
		t.Errorf("got %q", body)
	}
}
