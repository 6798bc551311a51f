package agent

import (
	"errors"
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
	Send(way string, to netip.AddrPort, text string) error
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
