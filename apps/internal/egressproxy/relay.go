package egressproxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"
)

const (
	maxRelayed    = 256 // connections of one relay at the same time; further ones are closed
	relayDialTime = 10 * time.Second
	acceptPause   = 50 * time.Millisecond
)

// relay passes a listener's TCP connections on to an address until ctx ends, and then cuts
// what is open. The address has to be within inside: a name that only a container has is
// looked up outside while that container does not run.
func relay(ctx context.Context, listener net.Listener, to string, inside []netip.Prefix) error {
	defer context.AfterFunc(ctx, func() { _ = listener.Close() })()
	places := make(chan struct{}, maxRelayed)
	var work sync.WaitGroup
	defer work.Wait()
	for {
		conn, err := listener.Accept()
		if err != nil {
			if passing, ok := err.(interface{ Temporary() bool }); !ok || !passing.Temporary() || ctx.Err() != nil {
				return err
			}
			select { // there may be too many open files for a while
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
			continue
		}
		select {
		case places <- struct{}{}:
			work.Go(func() {
				defer func() { <-places }()
				join(ctx, conn, to, inside)
			})
		default:
			conn.Close()
		}
	}
}

// join connects a client with the relay's target until both directions have ended.
func join(ctx context.Context, client net.Conn, to string, within []netip.Prefix) {
	defer client.Close()
	outside := client.(*net.TCPConn)
	dialer := net.Dialer{Timeout: relayDialTime, Control: func(_, address string, _ syscall.RawConn) error {
		found, err := netip.ParseAddrPort(address)
		if err == nil && !slices.ContainsFunc(within, func(p netip.Prefix) bool { return p.Contains(found.Addr().Unmap()) }) {
			err = errors.New(address + " is not on the run's network")
		}
		return err
	}}
	target, err := dialer.DialContext(ctx, "tcp", to)
	if err != nil {
		_ = outside.SetLinger(0) // a reset, as where nothing listens
		return
	}
	inside := target.(*net.TCPConn)
	defer target.Close()
	defer context.AfterFunc(ctx, func() {
		client.Close()
		target.Close()
	})()
	var other sync.WaitGroup
	other.Go(func() { pass(inside, outside) })
	pass(outside, inside)
	other.Wait()
}

// pass copies until src ends, and then ends dst's direction too. A failure resets both
// connections, so that neither end takes a part for the whole.
func pass(dst, src *net.TCPConn) {
	_, err := io.Copy(dst, src)
	if err == nil {
		err = dst.CloseWrite()
	}
	if err != nil {
		for _, conn := range []*net.TCPConn{dst, src} {
			_ = conn.SetLinger(0)
			_ = conn.Close()
		}
	}
}
