package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/run"
	"github.com/moatproject/moat/core/services"
)

func serviceNames() string {
	var names []string
	for _, definition := range services.Default() {
		names = append(names, definition.Name)
	}
	return strings.Join(names, ", ")
}

// parseServices reads --service, and checks what it does not go with.
func (o *runOptions) parseServices() ([]run.Service, error) {
	var chosen []run.Service
	for _, spec := range o.services {
		definition, version, err := services.Default().Parse(spec)
		if err != nil {
			return nil, fmt.Errorf("--service: %w", err)
		}
		if slices.ContainsFunc(chosen, func(other run.Service) bool { return other.Definition.Name == definition.Name }) {
			return nil, fmt.Errorf("--service %q: %s is asked for twice", spec, definition.Name)
		}
		chosen = append(chosen, run.Service{Definition: definition, Version: version})
	}
	switch {
	case o.serviceTimeout <= 0:
		return nil, fmt.Errorf("--service-timeout %s: want a time such as 30s", o.serviceTimeout)
	case len(chosen) == 0 && o.serviceTimeout != services.DefaultReadyTimeout:
		return nil, errors.New("--service-timeout needs a --service")
	case len(chosen) == 0:
	case o.detach:
		return nil, errors.New("--service and -d cannot be combined: nothing would stop the services when the workload exits")
	case o.network != "" && !(core.Config{NetworkMode: o.network}).OnNamedNetwork():
		return nil, fmt.Errorf("--service and --network %s: services are reached on a network of the run's own, or one that has a name", o.network)
	}
	return chosen, nil
}
