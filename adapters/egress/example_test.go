package egress_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"time"

	proxy "github.com/moatproject/moat/adapters/egress"
	"github.com/moatproject/moat/core/egress"
)

// A proxy for one run, whose audit goes to stdout.
func Example() {
	rules, _ := egress.ParseRules("example.com", "@npm")
	midnight := func() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }
	p := proxy.New(proxy.Options{Audit: os.Stdout, Now: midnight})
	run := proxy.Run{ID: "run1", Token: "secret", Sources: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, Policy: egress.NewPolicy(rules...)}
	_ = p.SetRun(run)
	listener, _ := net.Listen("tcp", "127.0.0.1:0")
	go func() { _ = p.Serve(listener) }()
	defer func() { _ = p.Shutdown(context.Background()) }()

	// The run has HTTP_PROXY=http://run1:secret@127.0.0.1:PORT.
	setting, _ := url.Parse(run.ProxyURL(listener.Addr().String()))
	client := http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(setting), DisableKeepAlives: true}}
	answer, err := client.Get("http://example.org/")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer answer.Body.Close()
	body, _ := io.ReadAll(answer.Body)
	fmt.Printf("%s: %s", answer.Status, body)
	// Output:
	// {"version":1,"time":"2026-01-01T00:00:00Z","verdict":"denied","run":"run1","method":"GET","host":"example.org","port":80,"reason":"example.org:80 is not allowed for run run1. To allow it, add the rule example.org:80"}
	// 403 Forbidden: blocked by policy: example.org:80 is not allowed for run run1. To allow it, add the rule example.org:80
}

// A run loses a rule while it is running: its open connections to that host are cut.
func ExampleProxy_SetRun() {
	rules, _ := egress.ParseRules("example.com", "*.example.org")
	p := proxy.New(proxy.Options{})
	run := proxy.Run{ID: "run1", Token: "secret", Sources: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, Policy: egress.NewPolicy(rules...)}
	fmt.Println(p.SetRun(run))
	run.Policy = egress.NewPolicy(rules[:1]...)
	fmt.Println(p.SetRun(run))
	// Output:
	// <nil>
	// <nil>
}
