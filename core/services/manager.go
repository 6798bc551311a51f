package services

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// Watcher is an optional interface of a [core.ServiceManager], found by type assertion. With
// it [WaitReady] learns at once that a service died. The manager of [NewManager] has it.
type Watcher interface {
	// AwaitDeath blocks until the service has exited, and returns the error that
	// CheckReady returns from then on. Any other error says that it cannot be known.
	AwaitDeath(ctx context.Context, info core.ServiceInfo) error

	// LogTail returns the last lines of the service's log, without its password.
	LogTail(ctx context.Context, info core.ServiceInfo) (string, error)
}

// NewManager returns a service manager of rt's, made of its other methods. It
// needs networks whose names lead to containers, and an [optional.Execer].
func NewManager(rt core.Runtime) core.ServiceManager { return &services{rt: rt} }

type services struct {
	rt      core.Runtime
	network atomic.Pointer[string]
}

func (s *services) SetNetworkID(id string) { s.network.Store(&id) }

func (s *services) StartService(ctx context.Context, cfg core.ServiceConfig) (core.ServiceInfo, error) {
	if network := s.network.Load(); cfg.NetworkID == "" && network != nil {
		cfg.NetworkID = *network
	}
	if err := cfg.Validate(); err != nil {
		return core.ServiceInfo{}, err
	}
	id, err := startNew(ctx, s.rt, cfg.Container())
	if err != nil {
		return core.ServiceInfo{}, hide(cfg.Info("", ""), err)
	}
	return cfg.Info(id, cfg.Name), nil
}

func (s *services) CheckReady(ctx context.Context, info core.ServiceInfo) error {
	const op = "check service"
	execer, ok := core.As[optional.Execer](s.rt)
	if !ok {
		return &core.Error{Op: op, Runtime: s.rt.Type(), Object: info.Name, Class: core.ErrUnsupported}
	}
	if info.ReadinessCmd == "" {
		state, err := s.rt.ContainerState(ctx, info.ID)
		if err == nil {
			err = s.notRunning(ctx, info, state)
		}
		return hide(info, err)
	}
	script, env := info.ReadinessScript()
	var said tail
	opts := optional.ExecOptions{Cmd: []string{"sh", "-c", script}, Env: env}
	opts.Stdout, opts.Stderr = &said, &said
	code, err := execer.Exec(ctx, info.ID, opts)
	if code == 0 && err == nil {
		return nil
	}
	// A container that ends takes what runs in it along, whatever code that leaves.
	state, stateErr := s.rt.ContainerState(ctx, info.ID)
	switch {
	case stateErr != nil:
		err = errors.Join(err, stateErr)
	case state != core.StateRunning:
		err = s.notRunning(ctx, info, state)
	case err == nil:
		err = s.failure(info, nil, "not ready: its readiness command exited with status %d: %s", code, said.of(info))
	}
	return hide(info, err)
}

func (s *services) failure(info core.ServiceInfo, class error, format string, args ...any) *core.Error {
	return &core.Error{Op: "check service", Runtime: s.rt.Type(), Object: info.Name, Class: class, Err: fmt.Errorf(format, args...)}
}

// notRunning tells why a service does not run, and whether that is for good.
func (s *services) notRunning(ctx context.Context, info core.ServiceInfo, state string) error {
	switch state {
	case core.StateRunning:
		return nil
	case core.StateExited, core.StateDead:
		return s.died(ctx, info)
	case core.StateCreated:
		return s.failure(info, core.ErrNotRunning, "it has not been started")
	}
	return s.failure(info, nil, "not ready: it is %s", state)
}

// died waits for a service's death and tells why it runs no more.
func (s *services) died(ctx context.Context, info core.ServiceInfo) error {
	code, err := s.rt.WaitContainer(ctx, info.ID)
	if err != nil {
		return err
	}
	log, err := s.logTail(ctx, info)
	failure := s.failure(info, core.ErrNotRunning, "it exited with status %d: %s", code, log)
	failure.Err, failure.Remedy = errors.Join(failure.Err, err), "Read its log"
	return failure
}

// logTail returns the end of what a service has written.
func (s *services) logTail(ctx context.Context, info core.ServiceInfo) (string, error) {
	var log tail
	if streamer, ok := core.As[optional.LogStreamer](s.rt); ok {
		err := streamer.StreamLogs(ctx, info.ID, optional.LogOptions{Tail: tailLines, Stdout: &log, Stderr: &log})
		return log.of(info), err
	}
	all, err := s.rt.ContainerLogsAll(ctx, info.ID)
	_, _ = log.Write(all)
	return log.of(info), err
}

func (s *services) AwaitDeath(ctx context.Context, info core.ServiceInfo) error {
	return hide(info, s.died(ctx, info))
}

func (s *services) LogTail(ctx context.Context, info core.ServiceInfo) (string, error) {
	log, err := s.logTail(ctx, info)
	return log, hide(info, err)
}

func (s *services) StopService(ctx context.Context, info core.ServiceInfo) error {
	if info.ID == "" {
		return nil // of a service that was never started
	}
	return s.rt.RemoveContainer(ctx, info.ID)
}
