package core

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
)

// NewServiceManager returns a service manager of rt's, made of its other methods. It
// needs networks whose names lead to containers, and an [Execer].
func NewServiceManager(rt Runtime) ServiceManager { return &services{rt: rt} }

type services struct {
	rt      Runtime
	network atomic.Pointer[string]
}

func (s *services) SetNetworkID(id string) { s.network.Store(&id) }

func (s *services) StartService(ctx context.Context, cfg ServiceConfig) (ServiceInfo, error) {
	if network := s.network.Load(); cfg.NetworkID == "" && network != nil {
		cfg.NetworkID = *network
	}
	if err := cfg.Validate(); err != nil {
		return ServiceInfo{}, err
	}
	id, err := startNew(ctx, s.rt, cfg.Container())
	if err != nil {
		return ServiceInfo{}, cfg.Info("", "").hide(err)
	}
	return cfg.Info(id, cfg.Name), nil
}

func (s *services) CheckReady(ctx context.Context, info ServiceInfo) error {
	const op = "check service"
	execer, ok := As[Execer](s.rt)
	if !ok {
		return &Error{Op: op, Runtime: s.rt.Type(), Object: info.Name, Class: ErrUnsupported}
	}
	if info.ReadinessCmd == "" {
		state, err := s.rt.ContainerState(ctx, info.ID)
		if err == nil {
			err = s.notRunning(ctx, info, state)
		}
		return info.hide(err)
	}
	script, env := info.ReadinessScript()
	var said tail
	opts := ExecOptions{Cmd: []string{"sh", "-c", script}, Env: env}
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
	case state != StateRunning:
		err = s.notRunning(ctx, info, state)
	case err == nil:
		err = s.failure(info, nil, "not ready: its readiness command exited with status %d: %s", code, said.of(info))
	}
	return info.hide(err)
}

func (s *services) failure(info ServiceInfo, class error, format string, args ...any) *Error {
	return &Error{Op: "check service", Runtime: s.rt.Type(), Object: info.Name, Class: class, Err: fmt.Errorf(format, args...)}
}

// notRunning tells why a service does not run, and whether that is for good.
func (s *services) notRunning(ctx context.Context, info ServiceInfo, state string) error {
	switch state {
	case StateRunning:
		return nil
	case StateExited, StateDead:
		return s.died(ctx, info)
	case StateCreated:
		return s.failure(info, ErrNotRunning, "it has not been started")
	}
	return s.failure(info, nil, "not ready: it is %s", state)
}

// died waits for a service's death and tells why it runs no more.
func (s *services) died(ctx context.Context, info ServiceInfo) error {
	code, err := s.rt.WaitContainer(ctx, info.ID)
	if err != nil {
		return err
	}
	log, err := s.logTail(ctx, info)
	failure := s.failure(info, ErrNotRunning, "it exited with status %d: %s", code, log)
	failure.Err, failure.Remedy = errors.Join(failure.Err, err), "Read its log"
	return failure
}

// logTail returns the end of what a service has written.
func (s *services) logTail(ctx context.Context, info ServiceInfo) (string, error) {
	var log tail
	if streamer, ok := As[LogStreamer](s.rt); ok {
		err := streamer.StreamLogs(ctx, info.ID, LogOptions{Tail: tailLines, Stdout: &log, Stderr: &log})
		return log.of(info), err
	}
	all, err := s.rt.ContainerLogsAll(ctx, info.ID)
	_, _ = log.Write(all)
	return log.of(info), err
}

func (s *services) AwaitDeath(ctx context.Context, info ServiceInfo) error {
	return info.hide(s.died(ctx, info))
}

func (s *services) LogTail(ctx context.Context, info ServiceInfo) (string, error) {
	log, err := s.logTail(ctx, info)
	return log, info.hide(err)
}

func (s *services) StopService(ctx context.Context, info ServiceInfo) error {
	if info.ID == "" {
		return nil // of a service that was never started
	}
	return s.rt.RemoveContainer(ctx, info.ID)
}
