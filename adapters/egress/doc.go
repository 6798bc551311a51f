// Package egress is an HTTP proxy that lets untrusted programs reach chosen hosts of the
// internet, and nothing else. It is a library: a program listens, gives the proxy a
// policy for each of its runs, and sets HTTP_PROXY and HTTPS_PROXY for them. The network
// that a run is on has to block every other way out; no proxy can do that.
//
//	rules, err := egress.ParseRules("example.com", "*.example.org") // package core/egress
//	proxy := New(Options{Audit: file})
//	err = proxy.SetRun(Run{ID: "run1", Token: token, Sources: sources, Policy: egress.NewPolicy(rules...)})
//	go proxy.Serve(listener)
//
// # How a request is decided
//
// Each request is decided by itself, also the second one of a connection, in this order:
//
//  1. The credential is that of a run, and the client's address is one of the run's. Otherwise the answer is 407.
//  2. The destination is parsed strictly. Otherwise the answer is 400.
//  3. The run's policy allows it. Otherwise the answer is 403, and the host was not even resolved.
//  4. The host is resolved, once, and each of its addresses is public. Otherwise the answer is 403.
//  5. The proxy connects to one of these addresses, which is checked again by its socket.
//  6. CONNECT: the client's first bytes are a TLS ClientHello for the same host. Otherwise
//     nothing is sent to the destination, and the client gets an alert of TLS.
//
// On ports other than 443 and 80 a tunnel may also carry protocols without TLS, such as
// SSH. A ClientHello is checked there too.
//
// Requests in plain HTTP are parsed and written anew. Redirects go to the client.
// Upgrades, such as WebSocket without TLS, are not forwarded.
//
// # Answers of the proxy
//
// Each answer that is the proxy's own has the header [Header], but for those of net/http
// to requests that it cannot parse. A denial says "blocked by policy", and what would allow the
// destination ([Options.Remedy]):
//
//	blocked by policy: example.org:443 is not allowed for run run1. To allow it, add the rule example.org:443
//
// # Limits
//
// The proxy does not decrypt TLS. Inside a tunnel it cannot see which host an HTTP
// request names, nor the inner name of Encrypted Client Hello: a host that serves others'
// domains, as content delivery networks do, may lead to these. A host whose answer has a
// single private address, such as one of NAT64, is refused as a whole. Where a proxy
// serves several runs, one of them can use up its connections.
package egress
