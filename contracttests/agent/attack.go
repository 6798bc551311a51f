package agent

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"sync"
)

// Attacker is a process that makes system calls of its own.
type Attacker interface {
	// Hear listens for connections and datagrams at a port of all addresses, and calls heard
	// from its own goroutines.
	Hear(port string, heard func(network, text string)) error

	// Send sends a text to an address in one of these ways. Where an answer is certain, Send
	// waits for it.
	//
	//	tcp     in a connection
	//	udp     in a datagram, which may go to all hosts
	//	device  in such a datagram, to the first device whatever the routes are
	//	icmp    in an echo request
	//	raw     in a datagram with an IP header of its own
	//	packet  in a frame of its own to all that is on the network
	Send(way string, to netip.AddrPort, text string) error

	// Change gives the first device an address, or a route to a prefix.
	Change(what string, prefix netip.Prefix) error
}

// impossibleError is the error of a way that the process does not have anywhere.
type impossibleError struct{ error }

func (a *agent) attacker() (Attacker, error) {
	if attacker, ok := a.Process.(Attacker); ok {
		return attacker, nil
	}
	return nil, errors.New("the process makes no system calls of its own")
}

func (a *agent) hear(ports string) error {
	attacker, err := a.attacker()
	if err != nil {
		return err
	}
	var writing sync.Mutex
	for port := range strings.FieldsSeq(ports) {
		err := attacker.Hear(port, func(network, text string) {
			writing.Lock()
			defer writing.Unlock()
			_ = a.say(network + " " + port + " " + strconv.Quote(text))
		})
		if err != nil {
			return err
		}
	}
	writing.Lock()
	err = a.say("ready")
	writing.Unlock()
	if err != nil {
		return err
	}
	return a.pause(nil)
}

func (a *agent) send(words string) error {
	attacker, err := a.attacker()
	if err != nil {
		return err
	}
	way, words, _ := strings.Cut(words, " ")
	address, text, _ := strings.Cut(words, " ")
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	return a.outcome(text, attacker.Send(way, to, text))
}

func (a *agent) tunnel(words string) error {
	network, err := a.network()
	if err != nil {
		return err
	}
	fields := strings.SplitN(words, " ", 4)
	if len(fields) < 4 {
		return errors.New("a word is missing")
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	proxy, credential, host, text := fields[0], fields[1], fields[2], fields[3]
	connection, err := network.DialContext(ctx, "tcp4", proxy)
	if err != nil {
		return a.outcome(text, err)
	}
	defer connection.Close()
	end, _ := ctx.Deadline()
	_ = connection.SetDeadline(end)
	return a.outcome(text, tunnelThrough(connection, credential, host, text))
}

// tunnelThrough sends a text through a proxy. A refusal is an error with the proxy's status.
func tunnelThrough(proxy io.ReadWriter, credential, host, text string) error {
	request := "CONNECT " + host + " HTTP/1.1\r\nHost: " + host + "\r\n"
	if credential != "-" {
		request += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(credential)) + "\r\n"
	}
	if _, err := io.WriteString(proxy, request+"\r\n"); err != nil {
		return err
	}
	answer := bufio.NewReader(proxy)
	status, err := answer.ReadString('\n')
	if err != nil {
		return err
	}
	if _, status, _ = strings.Cut(strings.TrimSpace(status), " "); !strings.HasPrefix(status, "200 ") {
		return errors.New(status)
	}
	for line := status; line != "\r\n"; {
		if line, err = answer.ReadString('\n'); err != nil {
			return err
		}
	}
	_, err = io.WriteString(proxy, text)
	_, _ = io.ReadAll(answer) // or the text may be lost with the process
	return err
}

func (a *agent) change(words string) error {
	attacker, err := a.attacker()
	if err != nil {
		return err
	}
	what, words, _ := strings.Cut(words, " ")
	prefix, name, _ := strings.Cut(words, " ")
	changed, err := netip.ParsePrefix(prefix)
	if err != nil {
		return err
	}
	return a.outcome(name, attacker.Change(what, changed))
}

// outcome writes what has become of an attack, which is known by a name of one word.
func (a *agent) outcome(name string, err error) error {
	_, impossible := errors.AsType[impossibleError](err)
	switch {
	case err == nil:
		return a.say("succeeded " + name)
	case impossible:
		return a.say("impossible " + name + " " + err.Error())
	default:
		return a.say("failed " + name + " " + err.Error())
	}
}
