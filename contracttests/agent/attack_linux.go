package agent

import (
	"context"
	"encoding/binary"
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
	case "raw":
		return raw(to, text)
	case "packet":
		return packet(to, text)
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

func raw(to netip.AddrPort, text string) error {
	socket, err := socketFor(to.Addr(), syscall.SOCK_RAW, syscall.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer func() { _ = syscall.Close(socket) }()
	content, err := ipPacket(to, text)
	if err != nil {
		return err
	}
	address, err := socketAddress(to)
	if err != nil {
		return err
	}
	return syscall.Sendto(socket, content, 0, address)
}

func packet(to netip.AddrPort, text string) error {
	const ipv4 = 0x0008 // the Ethernet protocol 0x0800 in the network's order
	socket, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, ipv4)
	if err != nil {
		return impossibleError{fmt.Errorf("socket: %w", err)}
	}
	defer func() { _ = syscall.Close(socket) }()
	content, err := ipPacket(to, text)
	if err != nil {
		return err
	}
	device, err := net.InterfaceByName(attackDevice)
	if err != nil {
		return err
	}
	everyone := [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	return syscall.Sendto(socket, content, 0, &syscall.SockaddrLinklayer{Protocol: ipv4, Ifindex: device.Index, Halen: 6, Addr: everyone})
}

// ipPacket is a datagram from the first device.
func ipPacket(to netip.AddrPort, text string) ([]byte, error) {
	from, err := deviceAddress()
	if err != nil {
		return nil, err
	}
	const headers = 20 + 8 // of IP and UDP
	packet := make([]byte, headers, headers+len(text))
	packet = append(packet, text...)
	source, destination := from.As4(), to.Addr().As4()
	packet[0], packet[8], packet[9] = 0x45, 64, syscall.IPPROTO_UDP // version and length, hops, protocol
	binary.BigEndian.PutUint16(packet[2:], uint16(len(packet)))
	copy(packet[12:], source[:])
	copy(packet[16:], destination[:])
	checksum(packet[:20], packet[10:12])
	binary.BigEndian.PutUint16(packet[20:], 40000) // from any port
	binary.BigEndian.PutUint16(packet[22:], to.Port())
	binary.BigEndian.PutUint16(packet[24:], uint16(len(packet)-20))
	return packet, nil
}

// deviceAddress returns the IPv4 address of the first device.
func deviceAddress() (netip.Addr, error) {
	device, err := net.InterfaceByName(attackDevice)
	if err != nil {
		return netip.Addr{}, err
	}
	addresses, err := device.Addrs()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, address := range addresses {
		if prefix, err := netip.ParsePrefix(address.String()); err == nil && prefix.Addr().Is4() {
			return prefix.Addr(), nil
		}
	}
	return netip.Addr{}, errors.New("the device has no IPv4 address")
}

func (operatingSystem) Change(what string, prefix netip.Prefix) error {
	device, err := net.InterfaceByName(attackDevice)
	if err != nil {
		return impossibleError{err}
	}
	index, address := uint32(device.Index), prefix.Addr().As4()
	switch what {
	case "address":
		message := binary.NativeEndian.AppendUint32([]byte{syscall.AF_INET, byte(prefix.Bits()), 0, 0}, index)
		for _, attribute := range []uint16{syscall.IFA_LOCAL, syscall.IFA_ADDRESS} {
			message = appendAttribute(message, attribute, address[:])
		}
		return netlink(syscall.RTM_NEWADDR, message)
	case "route":
		message := []byte{
			syscall.AF_INET, byte(prefix.Bits()), 0, 0, syscall.RT_TABLE_MAIN, syscall.RTPROT_STATIC, syscall.RT_SCOPE_LINK, syscall.RTN_UNICAST, 0, 0, 0, 0,
		}
		message = appendAttribute(message, syscall.RTA_DST, address[:])
		return netlink(syscall.RTM_NEWROUTE, appendAttribute(message, syscall.RTA_OIF, binary.NativeEndian.AppendUint32(nil, index)))
	}
	return errors.New("there is no such change")
}

// appendAttribute appends one whose length is a multiple of four.
func appendAttribute(message []byte, kind uint16, value []byte) []byte {
	message = binary.NativeEndian.AppendUint16(message, uint16(syscall.SizeofRtAttr+len(value)))
	message = binary.NativeEndian.AppendUint16(message, kind)
	return append(message, value...)
}

// netlink asks the kernel for a change, and returns its answer.
func netlink(kind uint16, message []byte) error {
	socket, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, syscall.NETLINK_ROUTE)
	if err != nil {
		return impossibleError{fmt.Errorf("socket: %w", err)}
	}
	defer func() { _ = syscall.Close(socket) }()
	request := binary.NativeEndian.AppendUint32(nil, uint32(syscall.NLMSG_HDRLEN+len(message)))
	request = binary.NativeEndian.AppendUint16(request, kind)
	request = binary.NativeEndian.AppendUint16(request, syscall.NLM_F_REQUEST|syscall.NLM_F_ACK|syscall.NLM_F_CREATE)
	request = append(request, 1, 0, 0, 0, 0, 0, 0, 0) // a number, and the kernel's choice of a port
	request = append(request, message...)
	if err := syscall.Sendto(socket, request, 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	length, _, err := syscall.Recvfrom(socket, answer, 0)
	if err != nil {
		return err
	}
	messages, err := syscall.ParseNetlinkMessage(answer[:length])
	if err != nil {
		return err
	}
	if len(messages) == 0 || messages[0].Header.Type != syscall.NLMSG_ERROR || len(messages[0].Data) < 4 {
		return errors.New("the kernel does not answer")
	}
	switch number := syscall.Errno(-int32(binary.NativeEndian.Uint32(messages[0].Data))); number {
	case 0:
		return nil
	case syscall.EOPNOTSUPP:
		return impossibleError{number}
	default:
		return number
	}
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
