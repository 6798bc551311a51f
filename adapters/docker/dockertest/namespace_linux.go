package dockertest

import (
	"context"
	"errors"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// DialIn connects from inside the network namespace that a file stands for, "" for
// this process's own. It takes root.
func DialIn(namespace string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		if namespace == "" {
			return new(net.Dialer).DialContext(ctx, network, address)
		}
		err = inside(namespace, func() error {
			conn, err = new(net.Dialer).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
}

// inside does something in a network namespace: sockets that it opens stay there.
func inside(namespace string, do func() error) (err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for ever: the thread ends with this goroutine
		if err = enter(namespace); err == nil {
			err = do()
		}
	}()
	<-done
	return err
}

func enter(namespace string) error {
	file, err := os.Open(namespace)
	if err != nil {
		return err
	}
	defer file.Close()
	return unix.Setns(int(file.Fd()), unix.CLONE_NEWNET)
}

// ListenIn listens inside the network namespace that a file stands for, "" for this
// process's own. It takes root.
func ListenIn(namespace, network, address string) (listener net.Listener, err error) {
	if namespace == "" {
		return net.Listen(network, address)
	}
	err = inside(namespace, func() error {
		listener, err = net.Listen(network, address)
		return err
	})
	return listener, err
}

// Datagrams counts what arrives at a port.
type Datagrams struct {
	tb        testing.TB
	namespace string
	count     atomic.Int64
	socket    net.PacketConn
	marks     chan struct{}
}

// mark is the datagram that Count sends.
const mark = "counted until here"

// CountDatagrams listens for datagrams inside the network namespace that a file stands for.
// It takes root.
func CountDatagrams(tb testing.TB, namespace, address string) *Datagrams {
	tb.Helper()
	d := &Datagrams{tb: tb, namespace: namespace, marks: make(chan struct{}, 1)}
	err := inside(namespace, func() (err error) {
		d.socket, err = net.ListenPacket("udp4", address)
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = d.socket.Close() })
	go func() {
		for buffer := make([]byte, 1<<16); ; {
			length, _, err := d.socket.ReadFrom(buffer)
			switch {
			case err != nil:
				return
			case string(buffer[:length]) == mark:
				d.marks <- struct{}{}
			default:
				d.count.Add(1)
			}
		}
	}()
	return d
}

// Count returns how many have arrived that were sent before the call.
func (d *Datagrams) Count() int {
	d.tb.Helper()
	port := d.socket.LocalAddr().(*net.UDPAddr).Port
	err := inside(d.namespace, func() error {
		conn, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		if err != nil {
			return err
		}
		_, err = conn.Write([]byte(mark))
		return errors.Join(err, conn.Close())
	})
	if err != nil {
		d.tb.Fatal(err)
	}
	select {
	case <-d.marks:
	case <-time.After(time.Minute):
		d.tb.Fatal("a datagram to this machine itself is lost")
	}
	return int(d.count.Load())
}
