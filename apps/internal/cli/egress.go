package cli

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/run"
)

// proxyProgram is the name of the egress proxy's program, which is beside this one.
const proxyProgram = "moat-proxy"

// parseEgress returns what restricts the run's egress, nil where nothing does.
func (o *runOptions) parseEgress(env Env, workload core.Config) (*run.Egress, error) {
	if len(o.egress) == 0 {
		if len(o.egressPrivate) > 0 {
			return nil, errors.New("--egress-private needs --egress")
		}
		return nil, nil
	}
	private, err := parseEach("--egress-private", o.egressPrivate, netip.ParsePrefix)
	if err != nil {
		return nil, err
	}
	return &run.Egress{
		Rules: o.egress, Program: env.ProxyProgram, Private: private,
		AllowBy: func(runID string) string { return "run: moat egress allow " + runID },
		Hosts:   workload.ExtraHosts, // names are looked up by the proxy
	}, nil
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
