package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"
)

const (
	// attackPatience is for what a network drops. It is longer than the kernel looks for a
	// neighbour.
	attackPatience = 5 * time.Second

	// attackDevice is the first device of a container.
	attackDevice = "eth0"
)

func (operatingSystem) Hear(port string, heard func(network, text string)) error {
	listener, err := net.Listen("tcp4", ":"+port)
	if err != nil {
		return err
	}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { heard("tcp", greetBack(connection)) }()
		}
	}()
	for _, network := range []string{"udp4", "udp6"} {
		datagrams, err := net.ListenPacket(network, ":"+port)
		if err != nil && network == "udp6" {
			break // as where the kernel has no IPv6
		}
		if err != nil {
			return err
		}
		go func() {
			buffer := make([]byte, 2048)
			for {
				length, _, err := datagrams.ReadFrom(buffer)
				if err != nil {
					return
				}
				heard("udp", string(buffer[:length]))
			}
		}()
	}
	return nil
}

// greetBack answers a connection, and returns what has come through it.
func greetBack(connection net.Conn) string {
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(attackPatience))
	text := make([]byte, 512)
	length, _ := connection.Read(text)
	_, _ = io.WriteString(connection, "hello\n")
	return string(text[:length])
}

func (operatingSystem) Send(way string, to netip.AddrPort, text string) error {
	switch way {
	case "tcp":
		return connect(to, text)
	case "udp":
		return datagram(to, text, allHosts)
	case "device":
		return datagram(to, text, allHosts, option{syscall.SO_DONTROUTE, 1}, option{syscall.SO_BINDTODEVICE, 0})
	case "icmp":
		return echo(to.Addr(), text)
	}
	return errors.New("there is no such way")
}

func connect(to netip.AddrPort, text string) error {
	ctx, cancel := context.WithTimeout(context.Background(), attackPatience)
	defer cancel()
	connection, err := new(net.Dialer).DialContext(ctx, "tcp", to.String())
	if err != nil {
		return err
	}
	defer connection.Close()
	// The connection is the success. Without an answer the text may be lost with the process.
	_ = connection.SetDeadline(time.Now().Add(attackPatience))
	_, _ = io.WriteString(connection, text)
	_, _ = io.ReadAll(connection)
	return nil
}

// option is a socket's.
type option struct{ name, value int }

var allHosts = option{syscall.SO_BROADCAST, 1}

func (o option) set(socket int) error {
	if o.name == syscall.SO_BINDTODEVICE {
		return syscall.BindToDevice(socket, attackDevice)
	}
	return syscall.SetsockoptInt(socket, syscall.SOL_SOCKET, o.name, o.value)
}

// socketFor returns a socket that is known to be possible.
func socketFor(to netip.Addr, kind, protocol int, options ...option) (socket int, err error) {
	family := syscall.AF_INET
	if to.Is6() {
		family = syscall.AF_INET6
	}
	socket, err = syscall.Socket(family, kind|syscall.SOCK_CLOEXEC, protocol)
	if err != nil {
		return 0, impossibleError{fmt.Errorf("socket: %w", err)}
	}
	for _, option := range options {
		if err := option.set(socket); err != nil {
			_ = syscall.Close(socket)
			return 0, impossibleError{fmt.Errorf("option %d: %w", option.name, err)}
		}
	}
	return socket, nil
}

func datagram(to netip.AddrPort, text string, options ...option) error {
	socket, err := socketFor(to.Addr(), syscall.SOCK_DGRAM, 0, options...)
	if err != nil {
		return err
	}
	defer func() { _ = syscall.Close(socket) }()
	address, err := socketAddress(to)
	if err != nil {
		return err
	}
	err = syscall.Sendto(socket, []byte(text), 0, address)
	if to.Addr().Is6() && (errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.ENETUNREACH)) {
		return impossibleError{fmt.Errorf("the device has no IPv6: %w", err)}
	}
	return err
}

// echo sends an echo request and waits for its answer.
func echo(to netip.Addr, text string) error {
	socket, err := socketFor(to, syscall.SOCK_DGRAM, syscall.IPPROTO_ICMP)
	if err != nil {
		return err
	}
	defer func() { _ = syscall.Close(socket) }()
	patience := syscall.NsecToTimeval(attackPatience.Nanoseconds())
	if err := syscall.SetsockoptTimeval(socket, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &patience); err != nil {
		return impossibleError{err}
	}
	request := append([]byte{8, 0, 0, 0, 0, 0, 0, 1}, text...)
	checksum(request, request[2:4])
	address, err := socketAddress(netip.AddrPortFrom(to, 0))
	if err != nil {
		return err
	}
	if err := syscall.Sendto(socket, request, 0, address); err != nil {
		return err
	}
	_, _, err = syscall.Recvfrom(socket, make([]byte, 512), 0)
	return err
}

// checksum writes the internet's checksum of a message.
func checksum(message, into []byte) {
	var sum uint32
	for i, b := range message {
		sum += uint32(b) << (8 * (1 - i%2))
	}
	sum = sum>>16 + sum&0xffff
	sum += sum >> 16
	into[0], into[1] = byte(^sum>>8), byte(^sum)
}

func socketAddress(to netip.AddrPort) (syscall.Sockaddr, error) {
	if to.Addr().Is4() {
		return &syscall.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}, nil
	}
	address := &syscall.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	if zone := to.Addr().Zone(); zone != "" {
		device, err := net.InterfaceByName(zone)
		if err != nil {
			return nil, impossibleError{fmt.Errorf("find the device %s: %w", strconv.Quote(zone), err)}
		}
		address.ZoneId = uint32(device.Index)
	}
	return address, nil
}
