package run

import (
	"context"
	"encoding/hex"
	"io"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/egress"
	"github.com/moatproject/moat/core/optional"
)

// Egress limits the workload and the services of a run to the destinations of Rules, which
// they reach through a proxy. The run gets a network of its own. Before anything begins,
// the runtime tries to leave that network from within the workload's container. If an
// attempt succeeds, the run fails.
type Egress struct {
	Rules []string // as [egress.ParseRules] reads them; none: no destination

	// Program returns the program of the proxy, moat-proxy, for an architecture by Go's name
	// of it.
	Program func(architecture string) ([]byte, error)

	// AllowBy returns the words that a denial puts before the denied destination to say how it
	// can be allowed, such as "run: moat egress allow RUN". nil: it says which rule is missing.
	AllowBy func(runID string) string

	Private []netip.Prefix // may be reached although they are not public
	Hosts   []string       // entries for the proxy's /etc/hosts, "HOST:IP"
}

func (e *Egress) validate(s Spec) error {
	if _, err := egress.ParseRules(e.Rules...); err != nil {
		return err
	}
	switch {
	case e.Program == nil:
		return core.Invalid("Egress", "there is no Program for the proxy")
	case s.Workload.NetworkMode != "":
		return core.Invalid("Egress", "it needs a network of the run's own, not %s", s.Workload.NetworkMode)
	case len(s.Workload.DNS) > 0:
		return core.Invalid("Egress", "the proxy looks names up, and DNS would not be asked")
	case s.Workload.Privileged:
		return core.Invalid("Egress", "a privileged workload could leave its network")
	case slices.ContainsFunc(s.Workload.PublishedPorts(), func(p core.PortMapping) bool { return p.Protocol != "tcp" }):
		return core.Invalid("Egress", "only TCP ports can be published from a restricted network")
	case s.Detached && s.Workload.Interactive && !s.Workload.TTY:
		return core.Invalid("Egress", "the input of a detached run would end when its program begins")
	}
	for _, name := range s.Workload.CapAdd {
		if egress.IsEscape(name) {
			return core.Invalid("Egress", "with the capability %s a workload could change or leave its network", name)
		}
	}
	return nil
}

// restrict makes the run's network a restricted one.
func (n *networkStep) restrict(ctx context.Context, name string) error {
	config, asked := &n.run.spec.Workload, n.run.spec.Egress
	restricter, ok := n.manager.(optional.EgressRestricter)
	if !ok || !optional.CapabilitiesOf(n.run.runtime).HeldStart {
		return &core.Error{Op: "restrict egress", Runtime: n.run.runtime.Type(), Object: config.Name, Class: core.ErrUnsupported, Remedy: "Open the network (`--egress open`), or use Docker Engine"}
	}
	var secret [16]byte
	if _, err := io.ReadFull(n.run.options.Random, secret[:]); err != nil {
		return &core.Error{Op: "make the proxy's password", Err: err}
	}
	token := hex.EncodeToString(secret[:])
	proxy := egress.ProxyConfig{Run: config.RunID, Token: token, Rules: asked.Rules, Private: asked.Private}
	if asked.AllowBy != nil {
		proxy.AllowBy = asked.AllowBy(config.RunID)
	}
	made, err := restricter.CreateRestrictedNetwork(ctx, optional.RestrictedNetworkConfig{
		NetworkConfig: optional.NetworkConfig{Name: name, RunID: config.RunID, Labels: n.run.ownerLabels()},
		Program:       asked.Program,
		Proxy:         proxy,
		Hosts:         asked.Hosts,
		Ports:         config.PublishedPorts(), PortsTo: config.Name,
	})
	n.run.publish(&n.id, made.ID)
	n.proxy = made.Container
	if err != nil {
		return err
	}
	config.NetworkMode = made.ID
	config.Ports, config.PortBindings = nil, nil // the proxy's
	config.Env = append(n.proxyEnv(made.Proxy, token), config.Env...)
	return nil
}

// proxyEnv tells programs of the proxy, and of what they reach without it.
func (n *networkStep) proxyEnv(proxy netip.AddrPort, token string) (env []string) {
	location := url.URL{Scheme: "http", User: url.UserPassword(n.run.ID(), token), Host: proxy.String()}
	var direct []string
	for _, service := range n.run.spec.Services {
		direct = append(direct, service.Definition.Name)
	}
	return ProxyEnv(location.String(), direct...)
}

// ProxyEnv returns the environment that tells programs of a proxy by its URL, and of hosts
// that they reach without it: these and loopback. It has each variable in both cases, since
// some programs read only one.
func ProxyEnv(proxy string, direct ...string) (env []string) {
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"} {
		env = append(env, name+"="+proxy, strings.ToLower(name)+"="+proxy)
	}
	exceptions := strings.Join(append([]string{"localhost", "127.0.0.1", "::1"}, direct...), ",")
	return append(env, "NO_PROXY="+exceptions, "no_proxy="+exceptions)
}

// confirmEgress gets the evidence without which a restricted run does not begin.
func (r *Run) confirmEgress(ctx context.Context) error {
	if r.spec.Egress == nil {
		return nil
	}
	evidence, err := r.network.manager.(optional.EgressRestricter).ConfirmEgress(ctx, r.workload.id)
	r.mu.Lock()
	r.evidence = evidence
	r.mu.Unlock()
	r.report(Event{Type: EventEvidence, Evidence: evidence, Err: err})
	if err != nil {
		return &StepError{StepNetwork, err}
	}
	r.confirm.Do(func() { close(r.confirmed) })
	return nil
}

// Evidence returns the results of the attempts to leave the network of Egress. It is the zero value
// before they were made.
func (r *Run) Evidence() optional.EgressEvidence {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.evidence
}
