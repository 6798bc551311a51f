package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/egress"
	"github.com/moatproject/moat/core/optional"
)

// proxyPath is the path of the proxy's program in its image.
const proxyPath = "/proxy"

var _ optional.RestrictedNetworkFinder = (*networks)(nil)

func (n *networks) FindRestrictedNetwork(ctx context.Context, runID string) (optional.RestrictedNetwork, error) {
	var none optional.RestrictedNetwork
	r := (*Runtime)(n)
	c, err := r.call(ctx, "find restricted network", runID)
	if err != nil {
		return none, err
	}
	defer c.end()
	switch {
	case runID == "":
		return none, c.wrong(core.ErrInvalidConfig, "runID", "it is empty", "")
	case r.kind().noEgress != "":
		return none, c.wrong(core.ErrUnsupported, "", r.kind().noEgress, "Use Docker Engine for runs with restricted egress")
	}
	ofRun := filters.NewArgs(filters.Arg("label", core.LabelManaged+"=true"), filters.Arg("label", core.LabelRunID+"="+runID))
	all, err := r.engine.NetworkList(c.ctx, network.ListOptions{Filters: ofRun})
	if err != nil {
		return none, c.failed(err)
	}
	for _, found := range all {
		proxy, err := r.inspectContainer(c.ctx, proxyName(found.ID))
		switch {
		case errdefs.IsNotFound(err) && found.Internal:
			return none, c.wrong(core.ErrNotRunning, "", "the proxy of its network is not there yet, or any more", "")
		case errdefs.IsNotFound(err):
			continue
		case err != nil:
			return none, c.failed(err)
		}
		address, err := proxyAddress(proxy.Config.Env)
		if err != nil {
			return none, c.failed(fmt.Errorf("the configuration of %s: %w", proxyName(found.ID), err))
		}
		return optional.RestrictedNetwork{ID: found.ID, Proxy: address, Container: proxyName(found.ID), Program: proxyPath}, nil
	}
	return none, c.wrong(core.ErrNotFound, "", "the run has no restricted network", "")
}

// proxyAddress reads where a proxy listens from its environment. Its errors quote nothing,
// because the environment has the proxy's password.
func proxyAddress(env []string) (netip.AddrPort, error) {
	for _, variable := range env {
		text, ok := strings.CutPrefix(variable, egress.ProxyVariable+"=")
		var config egress.ProxyConfig
		if !ok || json.Unmarshal([]byte(text), &config) != nil {
			continue
		}
		if address, err := netip.ParseAddrPort(config.Listen); err == nil {
			return address, nil
		}
	}
	return netip.AddrPort{}, errors.New("it names no address")
}
