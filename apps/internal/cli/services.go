package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moatproject/moat/apps/internal/wiring"
	"github.com/moatproject/moat/core"
	"golang.org/x/sync/errgroup"
)

// service is what `moat run --service` asks for.
type service struct {
	core.ServiceDefinition
	config core.ServiceConfig
}

func serviceNames() string {
	var names []string
	for _, definition := range core.DefaultServices() {
		names = append(names, definition.Name)
	}
	return strings.Join(names, ", ")
}

func (o *runOptions) servicesOf(run core.Config) ([]service, error) {
	var asked []service
	for _, spec := range o.services {
		definition, version, err := core.DefaultServices().Parse(spec)
		if err != nil {
			return nil, fmt.Errorf("--service: %w", err)
		}
		if slices.ContainsFunc(asked, func(other service) bool { return other.Name == definition.Name }) {
			return nil, fmt.Errorf("--service %q: %s is asked for twice", spec, definition.Name)
		}
		config, err := definition.Config(version, run.RunID, nil, rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("--service %q: %w", spec, err)
		}
		config.Labels = map[string]string{labelOwner: run.Labels[labelOwner]}
		asked = append(asked, service{definition, config})
	}
	switch {
	case o.serviceTimeout <= 0:
		return nil, fmt.Errorf("--service-timeout %s: want a time such as 30s", o.serviceTimeout)
	case len(asked) == 0 && o.serviceTimeout != core.DefaultReadyTimeout:
		return nil, errors.New("--service-timeout needs a --service")
	case len(asked) == 0:
	case o.detach:
		return nil, errors.New("--service needs the foreground: nothing would stop the services when the workload has exited")
	case run.NetworkMode != "" && !run.OnNamedNetwork():
		return nil, fmt.Errorf("--service and --network %s: services are reached on a network of the run's own, or one that has a name", run.NetworkMode)
	}
	return asked, nil
}

// provision is a run's services, from the network to the last container.
type provision struct {
	engine   *wiring.Engine
	services core.ServiceManager
	networks core.NetworkManager
	network  string // to be removed; empty: it is not the run's own
	infos    []core.ServiceInfo
	starting *errgroup.Group
	cancel   context.CancelFunc
}

// provide begins to start a run's services, on a network of its own unless it has one,
// and completes the run's configuration. stop must be called, also where it fails.
func (w *workload) provide(ctx context.Context, config *core.Config, asked []service, timeout time.Duration) (p *provision, _ context.Context, err error) {
	p = &provision{engine: w.engine, infos: make([]core.ServiceInfo, len(asked)), cancel: func() {}}
	if len(asked) == 0 {
		p.starting = new(errgroup.Group)
		return p, ctx, nil
	}
	if p.services, err = core.ServiceManagerOf(w.engine); err != nil {
		return p, ctx, err
	}
	if p.networks, err = core.NetworkManagerOf(w.engine); err != nil {
		return p, ctx, err
	}
	if config.NetworkMode == "" {
		if p.network, err = createRunNetwork(ctx, p.networks, *config); err != nil {
			return p, ctx, err
		}
		config.NetworkMode = p.network
	}
	ctx, p.cancel = context.WithCancel(ctx)
	p.starting, ctx = errgroup.WithContext(ctx)
	var env []string
	for i, s := range asked {
		s.config.NetworkID = config.NetworkMode
		// By its name, which leads to it once it runs: the workload's container can be created meanwhile.
		host := s.config.Name
		if p.network == "" {
			host = s.config.Container().Name // on a network of the user's, other runs may have such a service
		}
		env = append(env, s.MainEnv(s.config.Info("", host))...)
		p.starting.Go(func() error { return p.start(ctx, i, s.config, timeout) })
	}
	config.Env = append(env, config.Env...)
	return p, ctx, nil
}

// start starts one service and waits until it is ready.
func (p *provision) start(ctx context.Context, i int, config core.ServiceConfig, timeout time.Duration) (err error) {
	p.infos[i], err = p.services.StartService(ctx, config)
	if err != nil {
		if !errors.Is(err, core.ErrAlreadyExists) {
			p.infos[i].ID = config.Container().Name // for stop: when ctx ends, there is little time to remove it
		}
		return fmt.Errorf("service %s: %w", config.Name, err)
	}
	return core.WaitReady(ctx, p.services, p.infos[i], timeout)
}

// leftHint tells what else goes on with a run that is left.
func (p *provision) leftHint() string {
	switch {
	case len(p.infos) == 0:
		return ""
	case p.network == "":
		return ", and `moat clean` for its services"
	}
	return ", and `moat clean` for its services and network"
}

func createRunNetwork(ctx context.Context, networks core.NetworkManager, run core.Config) (string, error) {
	creator, ok := networks.(core.NetworkCreator)
	if !ok {
		return networks.CreateNetwork(ctx, "moat-"+run.RunID)
	}
	return creator.CreateNetworkFrom(ctx, core.NetworkConfig{
		Name: "moat-" + run.RunID, RunID: run.RunID, Labels: map[string]string{labelOwner: run.Labels[labelOwner]},
	})
}

// ready waits for the services. Where one has failed, its failure is what counts,
// whatever else that has ended.
func (p *provision) ready(err error) error {
	if err != nil {
		p.cancel()
	}
	if failure := p.starting.Wait(); failure != nil && (err == nil || errors.Is(err, context.Canceled)) {
		return failure
	}
	return err
}

// await is ready for as long as ctx lasts.
func (p *provision) await(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() { ended <- p.ready(nil) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stop removes the services, and further containers of the run, all at once: an engine
// takes its time for each. Then it removes their network.
func (p *provision) stop(ctx context.Context, containers ...string) error {
	p.cancel()
	if p.starting != nil {
		_ = p.starting.Wait()
	}
	var removals []func() error
	for _, info := range p.infos {
		if info.ID != "" {
			removals = append(removals, func() error { return p.services.StopService(ctx, info) })
		}
	}
	for _, id := range containers {
		removals = append(removals, func() error { return p.engine.RemoveContainer(ctx, id) })
	}
	errs := make([]error, len(removals))
	var removing sync.WaitGroup
	for i, remove := range removals {
		removing.Go(func() { errs[i] = remove() })
	}
	removing.Wait()
	err := errors.Join(errs...)
	if p.network != "" {
		err = errors.Join(err, p.networks.ForceRemoveNetwork(ctx, p.network))
	}
	return err
}
