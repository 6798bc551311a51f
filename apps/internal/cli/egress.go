package cli

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/moatproject/moat/core/egress"
	"github.com/moatproject/moat/core/run"
)

// proxyProgram is the name of the egress proxy's program, which is beside this one.
const proxyProgram = "moat-proxy"

// egressOpen is the value of --egress with which nothing is restricted.
const egressOpen = "open"

// egressVariable has the values of --egress, separated by commas or spaces, for runs that
// have neither --egress nor --network.
const egressVariable = "MOAT_EGRESS"

// closedProxy is the proxy of a run that has no network. Programs print its name when they
// cannot resolve it.
const closedProxy = "http://closed-by-moat.allow-a-host-with--egress-HOST.invalid:3128"

// parseEgress restricts the run's network as the flags say. Without any it is closed.
func (o *runOptions) parseEgress(env Env, spec *run.Spec) error {
	rules, err := o.egressRules(env)
	if err != nil {
		return err
	}
	open := slices.Contains(rules, egressOpen)
	switch {
	case len(o.egressPrivate) > 0 && (open || len(rules) == 0):
		return errors.New("--egress-private needs --egress with a host")
	case open || len(rules) == 0 && o.network != "":
		return nil
	case len(rules) == 0 && len(spec.Services) == 0 && len(spec.Workload.Ports) == 0:
		spec.Workload.NetworkMode = "none"
		spec.Workload.Env = slices.Concat(run.ProxyEnv(closedProxy), spec.Workload.Env)
		return nil
	}
	private, err := parseEach("--egress-private", o.egressPrivate, netip.ParsePrefix)
	if err != nil {
		return err
	}
	spec.Egress = &run.Egress{
		Rules: rules, Program: env.ProxyProgram, Private: private,
		AllowBy: func(runID string) string { return "run: moat egress allow " + runID },
		Hosts:   spec.Workload.ExtraHosts, // names are looked up by the proxy
	}
	if err := spec.Validate(); err != nil && len(rules) == 0 {
		return fmt.Errorf("%w; the network is closed by default, and --egress open opens it", err)
	}
	return nil
}

// egressRules returns the values of --egress, or of the environment where no flag is about
// the network.
func (o *runOptions) egressRules(env Env) (rules []string, err error) {
	from := "--egress"
	if rules = o.egress; len(rules) == 0 && o.network == "" {
		from = egressVariable
		value, _ := env.LookEnv(egressVariable)
		rules = strings.FieldsFunc(value, func(r rune) bool { return r == ',' || unicode.IsSpace(r) })
	}
	if slices.Contains(rules, egressOpen) {
		if len(rules) > 1 {
			return nil, fmt.Errorf("%s open: it stands alone, because it allows every host", from)
		}
		return rules, nil
	}
	if _, err := egress.ParseRules(rules...); err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	return rules, nil
}

// opens returns the flag that has opened the network, "" where none has.
func (o *runOptions) opens() string {
	switch {
	case slices.Contains(o.egress, egressOpen):
		return "--egress " + egressOpen
	case o.network == "bridge" || o.network == "host":
		return "--network " + o.network
	}
	return ""
}

// besideThis reads the proxy's program from the directory of this process's executable.
func besideThis(architecture string) ([]byte, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if self, err = filepath.EvalSymlinks(self); err != nil {
		return nil, err
	}
	directory := filepath.Dir(self)
	for _, name := range []string{proxyProgram + "-" + architecture, proxyProgram} {
		program, err := os.ReadFile(filepath.Join(directory, name))
		if err == nil || !errors.Is(err, os.ErrNotExist) {
			return program, err
		}
	}
	return nil, fmt.Errorf("%s is not in %s: build it with `make build`", proxyProgram, directory)
}
