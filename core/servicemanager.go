package core

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
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
		if err == nil && state != StateRunning {
			err = s.died(ctx, info, state)
		}
		return info.hide(err)
	}
	script, env := info.ReadinessScript()
	var said bytes.Buffer
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
		err = s.died(ctx, info, state)
	case err == nil:
		err = &Error{
			Op: op, Runtime: s.rt.Type(), Object: info.Name,
			Err: fmt.Errorf("not ready: its readiness command exited with status %d: %s", code, tail(said.String())),
		}
	}
	return info.hide(err)
}

// died tells why a service runs no more.
func (s *services) died(ctx context.Context, info ServiceInfo, state string) error {
	failure := &Error{Op: "check service", Runtime: s.rt.Type(), Object: info.Name, Class: ErrNotRunning, Remedy: "Its log says why"}
	if state == StateCreated {
		failure.Err = errors.New("it has not been started")
		return failure
	}
	code, err := s.rt.WaitContainer(ctx, info.ID)
	if err != nil {
		return err
	}
	log, err := s.rt.ContainerLogsAll(ctx, info.ID)
	failure.Err = errors.Join(fmt.Errorf("it exited with status %d: %s", code, tail(string(log))), err)
	return failure
}

func (s *services) StopService(ctx context.Context, info ServiceInfo) error {
	return s.rt.RemoveContainer(ctx, info.ID)
}

// How much of an output an error shows.
const (
	tailLines = 10
	tailBytes = 2000
)

// tail returns the last lines of an output.
func tail(output string) string {
	output = strings.TrimRight(output, "\n")
	lines := strings.Split(output[max(0, len(output)-tailBytes):], "\n")
	return strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
}

// hide returns an error whose text does not contain the service's password.
func (i ServiceInfo) hide(err error) error {
	if err == nil || i.Redact(err.Error()) == err.Error() {
		return err
	}
	return &hiding{err, i.Redact(err.Error())}
}

// hiding is an error with another text.
type hiding struct {
	error
	text string
}

func (h *hiding) Error() string { return h.text }
func (h *hiding) Unwrap() error { return h.error }
