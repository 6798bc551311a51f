package egress

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/moatproject/moat/core/egress"
)

// tunnel joins the client of a CONNECT request with its destination, after it has read
// in the client's first bytes that TLS is for the same host.
func (p *Proxy) tunnel(ctx context.Context, w http.ResponseWriter, f *flow, upstream net.Conn) {
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		f.record.Reason = err.Error()
		return
	}
	f.tunnel = true
	defer client.Close()
	defer context.AfterFunc(ctx, func() {
		client.Close()
		upstream.Close()
	})()
	// The buffer has the bytes that the client has sent behind its request.
	early, _ := buffered.Peek(buffered.Reader.Buffered())
	if _, err = io.WriteString(client, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		f.record.Reason = err.Error()
		return
	}
	down := make(chan struct{})
	receive := func() {
		defer close(down)
		if err := p.pump(f, &f.received, client, upstream, nil); err != nil {
			f.cancel(err)
		}
	}
	tlsOnly := needsTLS(f.destination.Port)
	if !tlsOnly {
		go receive() // the destination may speak first
	}
	first, err := p.firstBytes(client, bytes.Clone(early), f.destination)
	switch {
	case err != nil && tlsOnly:
		close(down)
	case tlsOnly:
		go receive()
	}
	if err == nil {
		err = p.pump(f, &f.sent, upstream, client, first)
	}
	if err != nil {
		f.cancel(err)
	}
	<-down
	if cause := context.Cause(ctx); cause != nil {
		f.record.Reason = cause.Error()
		if _, ok := errors.AsType[*refusedError](cause); ok {
			f.record.Verdict = Denied
		}
	}
}

// needsTLS tells whether a tunnel to a port carries nothing but TLS. A request in plain
// HTTP could name any host inside of a tunnel: it has to come as a request to the proxy.
func needsTLS(port uint16) bool { return port == 443 || port == 80 }

// handshake is the type of the TLS record that has a ClientHello.
const handshake = 22

// firstBytes reads the first bytes that the client has for the destination. Those of TLS
// are the whole ClientHello. It has to name the destination's host; where Encrypted
// Client Hello is used, this is the outer name.
func (p *Proxy) firstBytes(client net.Conn, early []byte, d egress.Destination) ([]byte, error) {
	wait := p.options.IdleTime
	if needsTLS(d.Port) {
		wait = p.options.HeaderTime
	}
	_ = client.SetReadDeadline(time.Now().Add(wait))
	if len(early) == 0 {
		early = make([]byte, 2048)
		n, err := client.Read(early)
		if early = early[:n]; n == 0 && !errors.Is(err, io.EOF) {
			return nil, err
		}
	}
	if len(early) == 0 || early[0] != handshake {
		if needsTLS(d.Port) {
			return nil, &refusedError{fmt.Sprintf("a tunnel to port %d is not TLS", d.Port)}
		}
		return early, nil
	}
	_ = client.SetReadDeadline(time.Now().Add(p.options.HeaderTime))
	var read bytes.Buffer
	unread := bytes.NewReader(early)
	hello, err := readClientHello(client, io.TeeReader(io.MultiReader(unread, client), &read))
	_, _ = unread.WriteTo(&read)
	var refusal string
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, err
	case err != nil:
		refusal = "the TLS ClientHello is invalid: " + err.Error()
	case hello.ServerName == "":
		refusal = "the TLS ClientHello has no server name"
	case !strings.EqualFold(hello.ServerName, d.Host):
		refusal = fmt.Sprintf("the TLS ClientHello is for the server %q", hello.ServerName)
	default:
		return read.Bytes(), nil
	}
	_, _ = client.Write(unrecognizedName)
	return nil, &refusedError{refusal}
}

// unrecognizedName is TLS's fatal alert of that name, so that a client does not wait.
var unrecognizedName = []byte{21, 3, 1, 0, 2, 2, 112}

// readClientHello lets crypto/tls parse a ClientHello. Nothing is sent to the client.
func readClientHello(client net.Conn, reader io.Reader) (hello *tls.ClientHelloInfo, err error) {
	errRead := errors.New("the ClientHello is read")
	err = tls.Server(helloConn{client, reader}, &tls.Config{
		GetConfigForClient: func(found *tls.ClientHelloInfo) (*tls.Config, error) {
			hello = found
			return nil, errRead
		},
	}).Handshake()
	if hello != nil {
		return hello, nil
	}
	return nil, err
}

// helloConn is a connection on which crypto/tls only reads.
type helloConn struct {
	net.Conn
	reader io.Reader
}

func (c helloConn) Read(p []byte) (int, error)  { return c.reader.Read(p) }
func (c helloConn) Write(p []byte) (int, error) { return len(p), nil }

// spliceTime is how long the kernel copies by itself before the flow is counted again.
const spliceTime = time.Second

// pump copies first, and then all that src has, to dst, until src ends; dst is then told
// so. While little comes it uses a small buffer, because each splice that waits holds a
// pipe, two more file descriptors. When much comes, io.Copy lets the kernel copy.
func (p *Proxy) pump(f *flow, counter *atomic.Int64, dst, src net.Conn, first []byte) error {
	idleTime := p.options.IdleTime
	buffer := make([]byte, 2048)
	for {
		now := time.Now()
		// The reader's deadline comes well before the writer's: data is lost in that of a writer.
		writeDeadline := now.Add(idleTime + idleTime/2)
		_ = dst.SetWriteDeadline(writeDeadline)
		if len(first) > 0 {
			n, err := dst.Write(first)
			f.moved(counter, int64(n))
			if err != nil {
				return err
			}
			first = nil
		}
		_ = src.SetReadDeadline(now.Add(idleTime / 4))
		n, err := src.Read(buffer)
		if n > 0 {
			written, err := dst.Write(buffer[:n])
			f.moved(counter, int64(written))
			if err != nil {
				return err
			}
		}
		if err == nil && n == len(buffer) {
			_ = src.SetReadDeadline(time.Now().Add(min(spliceTime, idleTime/4)))
			var copied int64
			copied, err = io.Copy(dst, src)
			f.moved(counter, copied)
			if err == nil {
				err = io.EOF
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			_ = closeWrite(dst) // where this fails, the other direction tells why
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(writeDeadline):
			if f.idle() >= idleTime {
				return errIdle
			}
		case err != nil:
			return err
		}
	}
}

// closeWrite tells the other side of a connection that nothing more comes.
func closeWrite(conn net.Conn) error {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return conn.Close()
}
