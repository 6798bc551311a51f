// Package egress decides which destinations a run may reach. It has the rules, the
// parser of destinations and the classes of addresses, as functions without I/O: the
// proxy in adapters/egress applies them, and core/run and the command line can check
// rules before anything starts.
//
// A destination is a host name and a port. A [Policy] allows those that one of its rules
// names, and denies all others:
//
//	rules, err := egress.ParseRules("example.com", "*.example.org", "example.net:80", "@pypi")
//	policy := egress.NewPolicy(rules...)
//	destination, err := egress.ParseDestination("www.example.com:443", 0)
//	rule, allowed := policy.Decide(destination)
//
// A name that is allowed may still lead to an address that is not: [Classify] tells which
// addresses are not on the public internet.
package egress
