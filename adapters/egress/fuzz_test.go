package egress

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// FuzzRequests sends anything as requests: no other host than the allowed one is dialed,
// and each connection to it carries one request for it, without the credential.
func FuzzRequests(f *testing.F) {
	get := "GET http://allowed.example.com/ HTTP/1.1\r\nHost: a\r\n" + credential
	for _, seed := range []string{
		get + "\r\n", get + "\r\n" + get + "\r\n", get + "Connection: Proxy-Authorization\r\n\r\n",
		"POST http://allowed.example.com HTTP/1.1\r\nHost: a\r\n" + credential + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n" + get + "\r\n",
		"CONNECT allowed.example.com:80 HTTP/1.1\r\nHost: a\r\n" + credential + "\r\nGET / HTTP/1.1\r\n\r\n",
		"GET http://allowed.example.com@evil.com/ HTTP/1.0\r\n" + credential + "\r\n",
		get + "Upgrade: h2c\r\nConnection: upgrade\r\nExpect: 100-continue\r\nX: a\r\n b\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	w := newWorld(f, Options{IdleTime: 100 * time.Millisecond, HeaderTime: 100 * time.Millisecond}, "allowed.example.com:80")
	w.proxy.audit.writer = io.Discard
	var failure atomic.Value
	w.listen("allowed.example.com", "127.0.0.2", 80, func(conn net.Conn) {
		if text := checkArrival(conn); text != "" {
			failure.Store(text)
		}
	})
	f.Fuzz(func(t *testing.T, data []byte) {
		conn, err := net.Dial("tcp", w.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, _ = conn.Write(data)
		_ = closeWrite(conn)
		_, _ = io.Copy(io.Discard, conn)
		if text := failure.Load(); text != nil {
			t.Fatal(text)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, address := range w.dials {
			if address != "127.0.0.2:80" {
				t.Fatal("dialed", address)
			}
		}
		w.dials = nil
	})
}

// checkArrival reads a request, answers it, and describes its fault, or returns "".
func checkArrival(conn net.Conn) string {
	var copied bytes.Buffer
	reader := bufio.NewReader(io.TeeReader(conn, &copied))
	request, err := http.ReadRequest(reader)
	if err != nil {
		if copied.Len() > 0 && bytes.Contains(copied.Bytes(), []byte("\r\n\r\n")) {
			return fmt.Sprintf("%v: %q", err, copied.Bytes())
		}
		return "" // nothing, or cut
	}
	_, bodyErr := io.Copy(io.Discard, request.Body)
	_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	rest, _ := io.ReadAll(reader)
	if request.Host != "allowed.example.com" || request.Header.Get("Proxy-Authorization") != "" || request.Header.Get("Upgrade") != "" ||
		bodyErr == nil && len(rest) > 0 {
		return fmt.Sprintf("there arrived %q", copied.Bytes())
	}
	return ""
}
