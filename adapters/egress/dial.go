package egress

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/moatproject/moat/core/egress"
)

// refusedError is a refusal by the policy that no rule changes.
type refusedError struct{ reason string }

func (e *refusedError) Error() string { return e.reason }

// addressCheck decides which addresses a connection may be made to.
type addressCheck struct {
	allowedPrivate []netip.Prefix
	own            []netip.Addr
}

func (c addressCheck) check(address netip.Addr) error {
	address = address.Unmap()
	class := egress.Classify(address)
	contains := func(prefix netip.Prefix) bool { return prefix.Contains(address) }
	switch {
	case slices.Contains(c.own, address):
		class = "the proxy's own"
	case class != egress.Metadata && slices.ContainsFunc(c.allowedPrivate, contains):
		class = egress.Public
	}
	if class != egress.Public {
		return &refusedError{fmt.Sprintf("the host has an address that is not public (%s); no rule can allow it", class)}
	}
	return nil
}

// control checks the address of a socket that is about to be connected.
func (c addressCheck) control(_, address string, _ syscall.RawConn) error {
	parsed, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	return c.check(parsed.Addr())
}

// connect resolves the flow's host once, and connects to one of its addresses. It
// refuses the host if any of them may not be reached. The address stands in the flow's
// record, and the flow is on record as allowed, before anything is sent.
func (p *Proxy) connect(ctx context.Context, f *flow) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.options.DialTime)
	defer cancel()
	if up := p.options.Upstream; up != nil && up.ResolveNames {
		p.allow(f)
		return p.connectUpstream(ctx, f.destination.String())
	}
	own, err := p.options.OwnAddresses()
	if err != nil {
		return nil, fmt.Errorf("list the proxy's own addresses: %w", err)
	}
	check := addressCheck{p.options.AllowedPrivate, own}
	addresses, err := p.options.Resolver.LookupNetIP(ctx, "ip", f.destination.Host+".")
	if err == nil && len(addresses) == 0 {
		err = errors.New("it has no address")
	}
	if err != nil {
		return nil, fmt.Errorf("resolve the host: %w", err)
	}
	for _, address := range addresses {
		if err := check.check(address); err != nil {
			f.record.Address = address.Unmap()
			return nil, err
		}
	}
	for i, address := range addresses {
		f.record.Address = address.Unmap()
		if i == 0 {
			p.allow(f)
		}
		var conn net.Conn
		if conn, err = p.dial(ctx, check, netip.AddrPortFrom(address.Unmap(), f.destination.Port), len(addresses)-i); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// dial connects to an address. It leaves time for the other addresses that are left.
func (p *Proxy) dial(ctx context.Context, check addressCheck, address netip.AddrPort, left int) (net.Conn, error) {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/time.Duration(left))
		defer cancel()
	}
	if p.options.Upstream != nil {
		return p.connectUpstream(ctx, address.String())
	}
	return p.dialTCP(ctx, &net.Dialer{Control: check.control}, address.String())
}

// connectUpstream asks the upstream proxy for a connection.
func (p *Proxy) connectUpstream(ctx context.Context, target string) (net.Conn, error) {
	up := p.options.Upstream
	conn, err := p.dialTCP(ctx, &net.Dialer{}, up.Address)
	if err != nil {
		return nil, fmt.Errorf("connect to the upstream proxy: %w", err)
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	request := "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n"
	if up.Username != "" {
		request += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(up.Username+":"+up.Password)) + "\r\n"
	}
	if _, err = io.WriteString(conn, request+"\r\n"); err == nil {
		err = readAgreement(conn, int64(p.options.MaxHeaderBytes))
	}
	if ctx.Err() != nil {
		err = ctx.Err() // which is why the connection was closed
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("ask the upstream proxy to connect: %w", err)
	}
	return conn, nil
}

// readAgreement reads the answer to a CONNECT request, and no byte beyond it.
func readAgreement(conn io.Reader, limit int64) error {
	reader := bufio.NewReader(&byteReader{io.LimitReader(conn, limit)})
	answer, err := http.ReadResponse(reader, &http.Request{Method: http.MethodConnect}) //nolint:bodyclose // it has none, and conn is the caller's
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return errors.New("it answers with status " + strconv.Itoa(answer.StatusCode))
	}
	return nil
}

// byteReader reads single bytes, so that a buffer around it never reads ahead.
type byteReader struct{ io.Reader }

func (r *byteReader) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(1, len(p))]) }
