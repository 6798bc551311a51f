package dockertest

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
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

// RemoveGuardRules removes the rules of Moat's guards from a network namespace, as flushing a
// host's ruleset does. It takes root.
func RemoveGuardRules(tb testing.TB, namespace string) {
	tb.Helper()
	changeRules(tb, namespace, unix.NFT_MSG_DELTABLE, attribute(unix.NFTA_TABLE_NAME, "moat\x00"))
}

// AcceptAtGuard has the rule of the guard of a bridge let everything through. It takes root.
func AcceptAtGuard(tb testing.TB, namespace, bridge string) {
	tb.Helper()
	const accept = "\x00\x00\x00\x01"
	changeRules(tb, namespace, unix.NFT_MSG_NEWCHAIN, slices.Concat(
		attribute(unix.NFTA_CHAIN_TABLE, "moat\x00"), attribute(unix.NFTA_CHAIN_NAME, bridge+"\x00"), attribute(unix.NFTA_CHAIN_POLICY, accept)))
}

// changeRules sends one message to nftables, about rules of the family netdev.
func changeRules(tb testing.TB, namespace string, kind uint16, attributes []byte) {
	tb.Helper()
	request := slices.Concat(
		message(unix.NFNL_MSG_BATCH_BEGIN, 0, 0, unix.NFNL_SUBSYS_NFTABLES, nil),
		message(unix.NFNL_SUBSYS_NFTABLES<<8|kind, unix.NLM_F_ACK, unix.NFPROTO_NETDEV, 0, attributes),
		message(unix.NFNL_MSG_BATCH_END, 0, 0, unix.NFNL_SUBSYS_NFTABLES, nil))
	err := inside(namespace, func() error {
		socket, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(socket) }()
		if err := unix.Sendto(socket, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return err
		}
		answer := make([]byte, 4096)
		length, _, err := unix.Recvfrom(socket, answer, 0)
		if err == nil && length < 20 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		if code := int32(binary.NativeEndian.Uint32(answer[16:])); code != 0 {
			return unix.Errno(-code)
		}
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
}

// message is one of netlink's, for its subsystem netfilter.
func message(kind, flags uint16, family byte, resource uint16, attributes []byte) []byte {
	text := binary.NativeEndian.AppendUint32(nil, uint32(20+len(attributes)))
	text = binary.NativeEndian.AppendUint16(text, kind)
	text = binary.NativeEndian.AppendUint16(text, unix.NLM_F_REQUEST|flags)
	text = append(text, make([]byte, 8)...) // the sequence and the port
	text = append(text, family, 0)
	return append(binary.BigEndian.AppendUint16(text, resource), attributes...)
}

func attribute(kind uint16, value string) []byte {
	text := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	text = append(binary.NativeEndian.AppendUint16(text, kind), value...)
	for len(text)%4 != 0 {
		text = append(text, 0)
	}
	return text
}
