package run

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
	"github.com/moatproject/moat/core/services"
)

// A step makes one part of a run, and removes it.
type step interface {
	name() Step

	// do makes the part.
	do(ctx context.Context) error

	// undo removes what do has made, also where do has failed or was never called.
	undo(ctx context.Context) error
}

// networkStep is the run's own network, where its services need one.
type networkStep struct {
	run     *Run
	manager core.NetworkManager
	id      string // empty: there is none
	proxy   string // the container of a restricted network's; empty: there is none
}

func (*networkStep) name() Step { return StepNetwork }

func (n *networkStep) do(ctx context.Context) (err error) {
	config := &n.run.spec.Workload
	if n.manager, err = core.NetworkManagerOf(n.run.runtime); err != nil || config.NetworkMode != "" {
		return err
	}
	name := "moat-" + config.RunID
	if n.run.spec.Egress != nil {
		return n.restrict(ctx, name)
	}
	var id string
	if creator, ok := n.manager.(optional.NetworkCreator); ok {
		id, err = creator.CreateNetworkFrom(ctx, optional.NetworkConfig{Name: name, RunID: config.RunID, Labels: n.run.ownerLabels()})
	} else {
		id, err = n.manager.CreateNetwork(ctx, name)
	}
	n.run.publish(&n.id, id)
	config.NetworkMode = id
	return err
}

func (n *networkStep) undo(ctx context.Context) error {
	if n.id == "" {
		return nil
	}
	return n.manager.ForceRemoveNetwork(ctx, n.id)
}

// removeProxy removes what a restricted network has of its own, which would otherwise keep
// its removal waiting.
func (n *networkStep) removeProxy(ctx context.Context) error {
	if n.proxy == "" {
		return nil
	}
	return n.run.runtime.RemoveContainer(ctx, n.proxy)
}

// servicesStep are the run's services. do begins to start them all at once and does not wait.
type servicesStep struct {
	run     *Run
	manager core.ServiceManager
	configs []core.ServiceConfig
	infos   []core.ServiceInfo // of those that may have been started

	starting sync.WaitGroup
	cancel   context.CancelFunc // of their start
	failed   sync.Once
	failure  error // the first one; read it after starting
}

func (*servicesStep) name() Step { return StepServices }

func (s *servicesStep) do(ctx context.Context) error {
	var env []string
	workload := &s.run.spec.Workload
	for i := range s.configs {
		config := &s.configs[i]
		config.Labels, config.Pull, config.NetworkID = s.run.ownerLabels(), workload.Pull, workload.NetworkMode
		// By its name, which leads to it once it runs: the workload is created meanwhile.
		host := config.Name
		if s.run.network.id == "" {
			host = config.Container().Name // on a network of the user's, other runs may have such a service
		}
		env = append(env, s.run.spec.Services[i].Definition.MainEnv(config.Info("", host))...)
	}
	workload.Env = append(env, workload.Env...)
	s.infos = make([]core.ServiceInfo, len(s.configs))
	for i, config := range s.configs {
		s.starting.Go(func() {
			if err := s.start(ctx, i, config); err != nil {
				s.failed.Do(func() { s.failure = err; s.cancel() })
			}
		})
	}
	return nil
}

// start starts one service and waits until it is ready.
func (s *servicesStep) start(ctx context.Context, i int, config core.ServiceConfig) (err error) {
	if s.run.spec.Egress != nil {
		select {
		case <-s.run.confirmed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.infos[i], err = s.manager.StartService(ctx, config)
	if err != nil {
		if !errors.Is(err, core.ErrAlreadyExists) {
			s.infos[i].ID = config.Container().Name // for undo: when ctx ends, there is little time to remove it
		}
		return fmt.Errorf("service %s: %w", config.Name, err)
	}
	return services.WaitReady(ctx, s.manager, s.infos[i], s.run.spec.ServiceTimeout)
}

// ready waits for the services as long as ctx lasts.
func (s *servicesStep) ready(ctx context.Context) error {
	ended := make(chan struct{})
	go func() { s.starting.Wait(); close(ended) }()
	select {
	case <-ended:
		return s.failure
	case <-ctx.Done():
		return ctx.Err()
	}
}

// abandon ends the start of the services because something else has failed, and returns
// their failure where that was the reason for the other.
func (s *servicesStep) abandon(err error) error {
	s.cancel()
	s.starting.Wait()
	if s.failure != nil && errors.Is(err, context.Canceled) {
		return &StepError{StepServices, s.failure}
	}
	return err
}

func (s *servicesStep) undo(ctx context.Context) error {
	s.cancel()
	s.starting.Wait()
	return atOnce(s.infos, func(info core.ServiceInfo) error {
		if info.ID == "" {
			return nil
		}
		return s.manager.StopService(ctx, info)
	})
}

// workloadStep is the run's main container.
type workloadStep struct {
	run  *Run
	id   string // empty: it is not created
	held bool
}

func (*workloadStep) name() Step { return StepWorkload }

// do creates the container, held until its services are ready where the runtime can.
func (w *workloadStep) do(ctx context.Context) error {
	config := w.run.spec.Workload
	config.AutoRemove = w.run.spec.Detached && !w.run.spec.Keep
	restricted := w.run.spec.Egress != nil
	config.Held = restricted ||
		w.run.options.Attached && len(w.run.spec.Services) > 0 && optional.CapabilitiesOf(w.run.runtime).HeldStart
	id, err := w.run.runtime.CreateContainer(ctx, config)
	if config.Held && !restricted && core.FieldOf(err) == "Held" { // not with this image
		config.Held = false
		id, err = w.run.runtime.CreateContainer(ctx, config)
	}
	w.run.publish(&w.id, id)
	w.held = config.Held && err == nil
	return err
}

func (w *workloadStep) undo(ctx context.Context) error {
	if w.id == "" {
		return nil
	}
	return w.run.runtime.RemoveContainer(ctx, w.id)
}

// atOnce calls f for all items at the same time and joins the errors in their order.
func atOnce[T any](items []T, f func(T) error) error {
	errs := make([]error, len(items))
	var calls sync.WaitGroup
	for i, item := range items {
		calls.Go(func() { errs[i] = f(item) })
	}
	calls.Wait()
	return errors.Join(errs...)
}
