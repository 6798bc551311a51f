// Package egressproxy is the program moat-proxy: adapters/egress for one run, with relays
// for the run's published ports, and commands that change the rules while it serves.
package egressproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"

	proxy "github.com/moatproject/moat/adapters/egress"
	"github.com/moatproject/moat/core/egress"
)

const usage = `usage:
  moat-proxy serve           serve one run, as the JSON in ` + egress.ProxyVariable + ` configures it
  moat-proxy rules           print the rules in force, one per line
  moat-proxy allow RULE...   add rules, such as example.com:443 or @npm, and print all
  moat-proxy deny RULE...    remove rules, cut their connections, and print the others
`

// Options are the things that the program needs from outside.
type Options struct {
	Config string    // the value of [egress.ProxyVariable]
	Stdout io.Writer // the audit, or the rules
	Stderr io.Writer
	Socket string // where the commands reach the serving process; an @ begins an abstract name
	UID    int    // the user who may give commands: this process's own
	Listen func(network, address string) (net.Listener, error)
	Proxy  proxy.Options // but for the fields that Config and Stdout set
}

// Process returns the options of this process, and removes the configuration, which has
// a secret, from its environment.
func Process() Options {
	options := Options{
		Config: os.Getenv(egress.ProxyVariable), Stdout: os.Stdout, Stderr: os.Stderr,
		Socket: "@moat-proxy", UID: os.Geteuid(), Listen: net.Listen,
	}
	_ = os.Unsetenv(egress.ProxyVariable) // it fails for malformed names only
	return options
}

var errUsage = errors.New("usage")

// Main executes a command, and returns the exit status: 0, 1 after a failure, or 2 if
// there is no such command. The end of ctx ends serve with status 0.
func Main(ctx context.Context, args []string, options Options) int {
	switch err := execute(ctx, args, options); {
	case err == nil:
		return 0
	case errors.Is(err, errUsage):
		fmt.Fprint(options.Stderr, usage)
		return 2
	default:
		fmt.Fprintln(options.Stderr, "moat-proxy:", strings.ReplaceAll(err.Error(), "\n", " "))
		return 1
	}
}

func execute(ctx context.Context, args []string, options Options) error {
	if len(args) == 0 {
		return errUsage
	}
	command, rules := args[0], args[1:]
	switch isFlag := func(text string) bool { return strings.HasPrefix(text, "-") }; {
	case slices.ContainsFunc(rules, isFlag): // it could be read as a rule, but no host begins so
		return errUsage
	case command == "serve" && len(rules) == 0:
		return serve(ctx, options)
	case command == "rules" && len(rules) == 0, command == "allow" && len(rules) > 0, command == "deny" && len(rules) > 0:
		return ask(ctx, options, command, rules)
	}
	return errUsage
}
