package egress

import (
	"cmp"
	"context"
	"io"
	"log"
	"net"
	"net/netip"
	"time"

	"github.com/moatproject/moat/core/egress"
)

// Options are the limits of a proxy, and the things that it needs from outside. The zero value is safe:
// it has limits, and reaches only public addresses.
type Options struct {
	// Audit gets a line of JSON for each [Record], in one Write. The proxy waits for
	// Write, so a writer that may block needs a buffer of its own. Calls do not overlap.
	// nil: records are discarded.
	Audit io.Writer

	// Resolver looks up allowed hosts. nil: [net.DefaultResolver].
	Resolver Resolver

	// Upstream is a proxy through which all connections go. nil: they go straight out.
	Upstream *Upstream

	// AllowedPrivate are addresses that may be reached although they are not public, as
	// tests or a company's network need it. They open neither the metadata addresses of
	// clouds nor OwnAddresses.
	AllowedPrivate []netip.Prefix

	// OwnAddresses returns addresses that no client reaches through the proxy. It is
	// called for each connection, and its failure refuses the connection. nil: the
	// addresses of this machine's network interfaces.
	OwnAddresses func() ([]netip.Addr, error)

	// Remedy says how a destination that no rule of a run allows can be allowed, such as
	// "run: moat egress allow RUN HOST:PORT". It stands behind "To allow it, " in the denial.
	// nil: "add the rule HOST:PORT".
	Remedy func(run string, denied egress.Destination) string

	// Now is the clock of the records. nil: [time.Now].
	Now func() time.Time

	// ErrorLog gets net/http's reports about broken connections. nil: discarded.
	ErrorLog *log.Logger

	// MaxConnections limits the clients' connections that are served at the same time.
	// Further ones get 503, or are closed without an answer if there are many. 0: 1024.
	MaxConnections int

	// MaxHeaderBytes limits the headers of a request and of its answer. net/http allows
	// requests 4 KiB more. 0: 32 KiB.
	MaxHeaderBytes int

	// HeaderTime limits how long a client may take to send a request's header, and the
	// ClientHello of TLS. 0: 10 seconds.
	HeaderTime time.Duration

	// IdleTime is how long a tunnel, a body or a connection between two requests may stay
	// without any data. It is exceeded by half at most. 0: 10 minutes.
	IdleTime time.Duration

	// DialTime limits resolving a host and connecting to it. 0: 15 seconds.
	DialTime time.Duration
}

// Resolver is the part of [net.Resolver] that the proxy uses. It is called once for each
// request, with the network "ip" and a host that ends in a dot, so that no search domain
// is tried.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Upstream is a proxy that speaks CONNECT without TLS, as many companies have one. The
// clients' credentials are never sent to it.
type Upstream struct {
	Address  string // "host:port"; it may be private
	Username string // with Password, for Basic authentication; "" sends none
	Password string

	// ResolveNames leaves resolving to the upstream proxy, for networks in which only that
	// can. It is then the upstream proxy that has to refuse private addresses. False: this
	// proxy resolves and checks names, and asks for the address.
	ResolveNames bool
}

func (o Options) withDefaults() Options {
	if o.Audit == nil {
		o.Audit = io.Discard
	}
	if o.Resolver == nil {
		o.Resolver = net.DefaultResolver
	}
	if o.OwnAddresses == nil {
		o.OwnAddresses = interfaceAddresses
	}
	if o.Remedy == nil {
		o.Remedy = func(_ string, denied egress.Destination) string { return "add the rule " + denied.String() }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.ErrorLog == nil {
		o.ErrorLog = log.New(io.Discard, "", 0)
	}
	o.MaxConnections = cmp.Or(o.MaxConnections, 1024)
	o.MaxHeaderBytes = cmp.Or(o.MaxHeaderBytes, 32<<10)
	o.HeaderTime = cmp.Or(o.HeaderTime, 10*time.Second)
	o.IdleTime = cmp.Or(o.IdleTime, 10*time.Minute)
	o.DialTime = cmp.Or(o.DialTime, 15*time.Second)
	return o
}

func interfaceAddresses() ([]netip.Addr, error) {
	found, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var addresses []netip.Addr
	for _, address := range found {
		if prefix, err := netip.ParsePrefix(address.String()); err == nil {
			addresses = append(addresses, prefix.Addr().Unmap())
		}
	}
	return addresses, nil
}
