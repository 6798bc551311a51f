package dockertest

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// What there is on the internet that [Throwaway.Connect] makes. All addresses are of
// ranges that are kept for documentation, and names of a domain that is.
const (
	NameServer  = "192.0.2.53"
	OutsideName = "outside.example" // of a server that greets on the ports 80 and 8080
	Greeting    = "hello from outside\n"
	BigName     = "big.example" // has a TXT record that no datagram holds
	BigLength   = 8000

	OutsideAddress = "198.51.100.7" // of that server
	EngineAddress  = "192.0.2.1"    // of the engine's host, which greets on port 80 of all of its addresses

)

// Connect gives the engine an uplink, to a network namespace of the test's own: beyond
// that there is nothing. A daemon that is to ask its name server needs the flag
// --dns=[NameServer].
func (e *Throwaway) Connect() {
	e.Helper()
	engine := "moat-" + e.name
	internet := engine + "-internet"
	e.Cleanup(func() { e.command("ip", "netns", "del", internet) })
	for _, args := range []string{
		"netns add " + internet,
		"-n " + engine + " link add uplink type veth peer name uplink netns " + internet,
		"-n " + engine + " addr add " + EngineAddress + "/24 dev uplink",
		"-n " + engine + " link set uplink up",
		"-n " + engine + " route add default via " + NameServer,
		"-n " + internet + " addr add " + NameServer + "/24 dev uplink",
		"-n " + internet + " addr add " + OutsideAddress + "/32 dev uplink",
		"-n " + internet + " link set uplink up",
	} {
		e.command("ip", strings.Fields(args)...)
	}
	var greeter, another, host, overTCP net.Listener
	var overUDP net.PacketConn
	err := inside("/run/netns/"+internet, func() (err error) {
		if greeter, err = net.Listen("tcp", OutsideAddress+":80"); err != nil {
			return err
		}
		if another, err = net.Listen("tcp", OutsideAddress+":8080"); err != nil {
			return err
		}
		if overTCP, err = net.Listen("tcp", NameServer+":53"); err != nil {
			return err
		}
		overUDP, err = net.ListenPacket("udp", NameServer+":53")
		return err
	})
	if err == nil {
		err = inside(e.Namespace(), func() (err error) {
			host, err = net.Listen("tcp4", ":80")
			return err
		})
	}
	if err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() {
		_ = errors.Join(greeter.Close(), another.Close(), host.Close(), overTCP.Close(), overUDP.Close())
	})
	for _, greets := range []net.Listener{greeter, another, host} {
		go accept(greets, func(conn net.Conn) { _, _ = io.WriteString(conn, Greeting) })
	}
	go accept(overTCP, answerStream)
	go answerDatagrams(overUDP)
}

func accept(listener net.Listener, serve func(net.Conn)) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			serve(conn)
		}()
	}
}

func answerDatagrams(socket net.PacketConn) {
	query := make([]byte, 1<<16)
	for {
		length, from, err := socket.ReadFrom(query)
		if err != nil {
			return
		}
		// What is longer does not fit into a datagram, for clients that say nothing else.
		if answer, err := answer(query[:length], 512); err == nil {
			_, _ = socket.WriteTo(answer, from)
		}
	}
}

func answerStream(conn net.Conn) {
	for {
		var length [2]byte
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(conn, query); err != nil {
			return
		}
		answer, err := answer(query, 1<<16-1)
		if err != nil {
			return
		}
		_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
	}
}

// answer returns the name server's answer to a query, truncated where it is longer than
// limit.
func answer(query []byte, limit int) ([]byte, error) {
	var message dnsmessage.Message
	if err := message.Unpack(query); err != nil {
		return nil, err
	}
	if len(message.Questions) != 1 {
		return nil, errors.New("not one question")
	}
	asked := message.Questions[0]
	message.Response, message.RecursionAvailable, message.Additionals = true, true, nil
	header := dnsmessage.ResourceHeader{Name: asked.Name, Type: asked.Type, Class: asked.Class}
	switch strings.ToLower(asked.Name.String()) {
	case OutsideName + ".":
		if asked.Type == dnsmessage.TypeA {
			address := [4]byte(net.ParseIP(OutsideAddress).To4())
			message.Answers = []dnsmessage.Resource{{Header: header, Body: &dnsmessage.AResource{A: address}}}
		}
	case BigName + ".":
		if asked.Type == dnsmessage.TypeTXT {
			const part = 250
			text := make([]string, BigLength/part)
			for i := range text {
				text[i] = strings.Repeat(strconv.Itoa(i%10), part)
			}
			message.Answers = []dnsmessage.Resource{{Header: header, Body: &dnsmessage.TXTResource{TXT: text}}}
		}
	default:
		message.RCode = dnsmessage.RCodeNameError
	}
	packed, err := message.Pack()
	if err == nil && len(packed) > limit {
		message.Truncated, message.Answers = true, nil
		packed, err = message.Pack()
	}
	return packed, err
}
