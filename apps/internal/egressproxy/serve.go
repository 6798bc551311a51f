package egressproxy

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	proxy "github.com/moatproject/moat/adapters/egress"
	"github.com/moatproject/moat/core/egress"
)

const (
	grace    = 1500 * time.Millisecond // for open connections, when serving ends
	endLimit = 2 * time.Second         // for all of the end
)

// service serves a listener until the program ends, and returns an error before.
type service struct {
	network, address string
	serve            func(net.Listener) error
}

// serve proxies for one run until ctx ends, which is no error.
func serve(ctx context.Context, options Options) error {
	c, rules, err := parseConfig(options.Config)
	if err != nil {
		return fmt.Errorf("%s: %w", egress.ProxyVariable, err)
	}
	settings := options.Proxy
	settings.Audit, settings.AllowedPrivate = options.Stdout, c.Private
	if c.AllowBy != "" {
		settings.Remedy = func(_ string, denied egress.Destination) string { return c.AllowBy + " " + denied.String() }
	}
	p := proxy.New(settings)
	control := &control{proxy: p, run: proxy.Run{
		ID: c.Run, Token: c.Token, Sources: c.Sources, Policy: egress.NewPolicy(unique(rules)...),
	}}
	if err := p.SetRun(control.run); err != nil {
		return fmt.Errorf("%s: run: %w", egress.ProxyVariable, err)
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	services := []service{
		{"tcp", c.Listen, p.Serve},
		{"unix", options.Socket, func(listener net.Listener) error { return control.serve(ctx, listener, options.UID) }},
	}
	for _, r := range c.Relays {
		services = append(services, service{"tcp", r.Listen, func(listener net.Listener) error { return relay(ctx, listener, r.To, c.Sources) }})
	}
	listeners := make([]net.Listener, len(services))
	for i, s := range services {
		if listeners[i], err = options.Listen(s.network, s.address); err != nil {
			return err
		}
		defer func() { _ = listeners[i].Close() }()
	}
	failed := make(chan error, len(services))
	var running sync.WaitGroup
	for i, s := range services {
		running.Go(func() { failed <- s.serve(listeners[i]) })
	}
	fmt.Fprintln(options.Stderr, "ready")
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	if ctx.Err() != nil {
		err = nil // the services fail because they have ended
	}

	cancel() // which ends the relays and the commands
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		_ = p.Shutdown(end) // it cuts the connections that are still open
		running.Wait()
	}()
	select {
	case <-ended:
	case <-time.After(endLimit): // a write of the audit may never return
	}
	return err
}
