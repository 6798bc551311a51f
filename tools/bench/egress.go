package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/moatproject/moat/core/egress"
)

const (
	destinationHost    = "example.com" // httptest has a certificate for it
	destinationAddress = "127.0.0.2"   // the proxy refuses the machine's own, 127.0.0.1
	proxyToken         = "secret"
	proxyUser          = "bench"
)

// An egressPath is a server, and the program moat-proxy, which allows it.
type egressPath struct {
	proxy  string // addresses
	server string
	target string // the server as clients of the proxy name it
	pid    int    // of the proxy
	hello  []byte // a TLS ClientHello for the server
}

// egressTo starts the proxy for a server that listens, hands use the path, and ends the proxy.
func (b *bench) egressTo(ctx context.Context, server net.Listener, use func(*egressPath) error) (err error) {
	_, port, err := net.SplitHostPort(server.Addr().String())
	if err != nil {
		return err
	}
	proxy, err := freeAddress()
	if err != nil {
		return err
	}
	path := &egressPath{proxy: proxy, server: server.Addr().String(), target: net.JoinHostPort(destinationHost, port)}
	if path.hello, err = clientHello(); err != nil {
		return err
	}
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	config, err := json.Marshal(egress.ProxyConfig{
		Listen: proxy, Run: proxyUser, Token: proxyToken, Sources: loopback, Private: loopback, Rules: []string{path.target},
	})
	if err != nil {
		return err
	}
	hosts := filepath.Join(b.cache, "hosts")
	if err := os.WriteFile(hosts, []byte(destinationAddress+" "+destinationHost+"\n"), 0o644); err != nil {
		return err
	}
	command := b.process(ctx, "unshare", "--mount", "sh", "-c", `mount --bind "$0" /etc/hosts && exec "$1" serve`, hosts, filepath.Join(b.bin, "moat-proxy"))
	command.Env = append(os.Environ(), egress.ProxyVariable+"="+string(config), "GOMEMLIMIT=96MiB", "GOMAXPROCS=2") // the former as in its container
	command.Stdout = struct{ io.Writer }{io.Discard}                                                                // through a pipe, as an engine reads it
	stderr, err := command.StderrPipe()
	if err != nil {
		return err
	}
	if err := command.Start(); err != nil {
		return err
	}
	defer func() {
		_ = command.Process.Signal(syscall.SIGTERM)
		rest, _ := io.ReadAll(stderr)
		if ended := command.Wait(); ended != nil {
			err = errors.Join(err, fmt.Errorf("moat-proxy: %w: %s", ended, rest))
		}
	}()
	said := bufio.NewReader(stderr)
	if line, err := said.ReadString('\n'); line != "ready\n" {
		return errors.Join(fmt.Errorf("moat-proxy is not ready: %q", line), err)
	}
	path.pid = command.Process.Pid
	return use(path)
}

// freeAddress returns an address at which nothing listens.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

// clientHello returns the first bytes of a TLS client.
func clientHello() ([]byte, error) {
	client, server := net.Pipe()
	defer server.Close()
	go func() {
		_ = tls.Client(client, &tls.Config{ServerName: destinationHost}).Handshake()
		client.Close()
	}()
	hello := make([]byte, 16<<10)
	n, err := server.Read(hello)
	return hello[:n], err
}

// A connector connects to the server: direct or tunnel.
type connector func(context.Context) (net.Conn, error)

// direct connects to the server.
func (p *egressPath) direct(ctx context.Context) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", p.server)
}

const established = "HTTP/1.1 200 Connection established\r\n\r\n"

// tunnel connects to the server through the proxy.
func (p *egressPath) tunnel(ctx context.Context) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", p.proxy)
	if err != nil {
		return nil, err
	}
	credential := base64.StdEncoding.EncodeToString([]byte(proxyUser + ":" + proxyToken))
	_, err = fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\nProxy-Authorization: Basic %s\r\n\r\n", p.target, credential)
	if err == nil {
		answer := make([]byte, len(established))
		if _, err = io.ReadFull(conn, answer); err == nil && string(answer) != established {
			err = fmt.Errorf("the proxy answers %q", answer)
		}
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// firstByte sends a ClientHello on a new connection, and waits for the first byte of the answer.
func (p *egressPath) firstByte(ctx context.Context, connect connector) (net.Conn, error) {
	conn, err := connect(ctx)
	if err != nil {
		return nil, err
	}
	if _, err = conn.Write(p.hello); err == nil {
		_, err = io.ReadFull(conn, make([]byte, 1))
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// openAndClose is firstByte, without the connection.
func (p *egressPath) openAndClose(ctx context.Context, connect connector) error {
	conn, err := p.firstByte(ctx, connect)
	if err != nil {
		return err
	}
	return conn.Close()
}

// egressToAnswers is egressTo with a server that answers each connection's first bytes with one byte.
func (b *bench) egressToAnswers(ctx context.Context, use func(*egressPath) error) (err error) {
	listener, err := net.Listen("tcp", destinationAddress+":0")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, listener.Close()) }()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				buffer := make([]byte, 4<<10)
				if _, err := conn.Read(buffer); err != nil {
					return
				}
				if _, err := conn.Write(buffer[:1]); err != nil {
					return
				}
				_, _ = conn.Read(buffer) // until the client closes
			}()
		}
	}()
	return b.egressTo(ctx, listener, use)
}

// A fetcher reads the body that a server sends, through the proxy or direct.
type fetcher func(proxied bool) error

// egressToBody is egressTo with an HTTPS server that sends a body.
func (b *bench) egressToBody(ctx context.Context, size int, use func(*egressPath, fetcher) error) error {
	part := make([]byte, 256<<10)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(size))
		for left := size; left > 0; left -= len(part) {
			if _, err := w.Write(part[:min(left, len(part))]); err != nil {
				return
			}
		}
	}))
	listener, err := net.Listen("tcp", destinationAddress+":0")
	if err != nil {
		return err
	}
	_ = server.Listener.Close()
	server.Listener = listener
	server.StartTLS()
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	return b.egressTo(ctx, listener, func(path *egressPath) error {
		return use(path, func(proxied bool) error {
			transport := &http.Transport{
				DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots},
				DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return path.direct(ctx) },
			}
			if proxied {
				transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return path.tunnel(ctx) }
			}
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+path.target+"/", nil)
			if err != nil {
				return err
			}
			answer, err := transport.RoundTrip(request)
			if err != nil {
				return err
			}
			defer answer.Body.Close()
			read, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, answer.Body, make([]byte, 256<<10))
			if err == nil && read != int64(size) {
				err = fmt.Errorf("the body has %d bytes instead of %d", read, size)
			}
			return err
		})
	})
}

// egressBody compares a large body over TLS, through a tunnel and direct.
func egressBody(ctx context.Context, b *bench) (found result, err error) {
	const size = 256_000_000
	err = b.egressToBody(ctx, size, func(_ *egressPath, fetch fetcher) error {
		times, err := b.inTurns(20,
			func() error { return fetch(true) },
			func() error { return fetch(false) })
		if err != nil {
			return err
		}
		found = atSpeed(0.90, times[0], times[1], "direct", "MB", size/1e6)
		return nil
	})
	return found, err
}

// egressRate measures how many tunnels are opened, used for one byte and closed, many at the same time.
func egressRate(ctx context.Context, b *bench) (found result, err error) {
	const (
		tunnels = 1000 // a round
		clients = 16
		gate    = 2000 // a second
	)
	err = b.egressToAnswers(ctx, func(path *egressPath) error {
		by := func(connect connector) func() error {
			return func() error { return atOnce(clients, tunnels, func() error { return path.openAndClose(ctx, connect) }) }
		}
		times, err := b.inTurns(10, by(path.tunnel), by(path.direct))
		if err != nil {
			return err
		}
		perSecond, uncertain := compare(times[0], times[1], func(a, _ float64) float64 { return tunnels / time.Duration(a).Seconds() })
		found = result{
			moat: rate(times[0], "tunnels", tunnels), beside: rate(times[1], "connections", tunnels) + " direct",
			compared: fmt.Sprintf("%.0f/s ± %.0f", perSecond, uncertain),
			gate:     fmt.Sprintf("≥ %d/s", gate), met: within(-perSecond, uncertain, -gate),
		}
		return nil
	})
	return found, err
}

// atOnce does something n times, by some workers, and returns one of the errors.
func atOnce(workers, n int, do func() error) error {
	errs := make([]error, workers)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() {
			for range n/workers + min(1, max(0, n%workers-i)) {
				if errs[i] = do(); errs[i] != nil {
					return
				}
			}
		})
	}
	all.Wait()
	return cmp.Or(errs...)
}

// egressLatency compares the 99th percentile of the time to the first byte, one connection after the other.
func egressLatency(ctx context.Context, b *bench) (found result, err error) {
	const connections = 300 // a round
	err = b.egressToAnswers(ctx, func(path *egressPath) error {
		percentile := func(connect connector) func() (time.Duration, error) {
			return func() (time.Duration, error) {
				times := make([]time.Duration, connections)
				for i := range times {
					start := time.Now()
					conn, err := path.firstByte(ctx, connect)
					if err != nil {
						return 0, err
					}
					times[i] = time.Since(start)
					conn.Close()
				}
				slices.Sort(times)
				return times[connections*99/100], nil
			}
		}
		times, err := b.inTimedTurns(20, fewestRounds, percentile(path.tunnel), percentile(path.direct))
		if err != nil {
			return err
		}
		found = atMost(times[0], times[1], "direct", 5*time.Millisecond)
		return nil
	})
	return found, err
}

// egressMemory measures the proxy's resident memory: idle, at most under load, and for each of many open tunnels.
func egressMemory(ctx context.Context, b *bench) (found result, err error) {
	const (
		size       = 256_000_000
		open       = 1000 // the proxy's limit is 1024
		gate       = 20e6
		tunnelGate = 64e3
	)
	var idle, withBodies, withTunnels, each int
	err = b.egressToBody(ctx, size, func(path *egressPath, fetch fetcher) (err error) {
		if idle, err = resident(path.pid, "VmRSS"); err != nil {
			return err
		}
		if err := atOnce(4, 8, func() error { return errors.Join(b.interrupted.Err(), fetch(true)) }); err != nil {
			return err
		}
		withBodies, err = resident(path.pid, "VmHWM")
		return err
	})
	if err != nil {
		return found, err
	}
	err = b.egressToAnswers(ctx, func(path *egressPath) (err error) {
		if err := atOnce(16, 4000, func() error { return errors.Join(b.interrupted.Err(), path.openAndClose(ctx, path.tunnel)) }); err != nil {
			return err
		}
		withTunnels, err = resident(path.pid, "VmHWM")
		return err
	})
	if err != nil {
		return found, err
	}
	err = b.egressToAnswers(ctx, func(path *egressPath) (err error) {
		before, err := resident(path.pid, "VmRSS")
		if err != nil {
			return err
		}
		for range open {
			conn, err := path.firstByte(ctx, path.tunnel)
			if err = errors.Join(err, b.interrupted.Err()); err != nil {
				return err
			}
			defer conn.Close()
		}
		after, err := resident(path.pid, "VmRSS")
		each = (after - before) / open
		return err
	})
	busy := max(withBodies, withTunnels)
	return result{
		moat: fmt.Sprintf("%.1f MB with load", float64(busy)/1e6), beside: fmt.Sprintf("%.1f MB idle", float64(idle)/1e6),
		compared: fmt.Sprintf("+%.1f KB a tunnel", float64(each)/1e3),
		gate:     "< 20 MB, < 64 KB", met: verdictOf(max(idle, busy) < gate && each < tunnelGate),
	}, err
}

// resident returns a figure of a process's memory in bytes.
func resident(pid int, field string) (int, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(status) {
		name, value, _ := strings.Cut(string(line), ":")
		if name == field {
			kibibytes, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
			return kibibytes << 10, err
		}
	}
	return 0, fmt.Errorf("no %s of process %d", field, pid)
}
