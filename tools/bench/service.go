package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/moatproject/moat/core/services"
)

// serviceGate is what a run with a service may take beyond the slowest of its parts.
const serviceGate = 200 * time.Millisecond

// readyPoll is how long the raw side waits between two looks at whether a service is ready.
const readyPoll = 10 * time.Millisecond

// cliService compares a whole run with a service with what its parts take by themselves:
// the service's life on a network of its own, from nothing until nothing is left, and the
// workload's run.
func cliService(ctx context.Context, b *bench) (result, error) {
	// By the name that users know it by, as the tests do.
	if err := b.raw.do(ctx, http.MethodPost, "/images/moat/test-redis:7/tag?repo=redis&tag=7", nil, nil); err != nil {
		return result{}, fmt.Errorf("the image of a real Redis, which `make setup` makes on Debian 12: %w", err)
	}
	service, err := b.rawServiceOf(ctx, "redis:7")
	if err != nil {
		return result{}, err
	}
	body, err := b.createBody(ctx, "runc")
	if err != nil {
		return result{}, err
	}
	timed := func(do func() error) func() (time.Duration, error) {
		return func() (time.Duration, error) {
			start := time.Now()
			err := do()
			return time.Since(start), err
		}
	}
	moat := b.command(ctx, b.moat(), "--no-sandbox", "run", "--rm", "--label", label+"="+b.runID, "--service", "redis:7", testImage, "true")
	times, err := b.inTimedTurns(20, 6, timed(moat),
		timed(func() error { return service.live(ctx) }),
		timed(func() error { return b.raw.run(ctx, body) }))
	if err != nil {
		return result{}, err
	}
	slowest, inOrder := make([]time.Duration, len(times[0])), make([]time.Duration, len(times[0]))
	for i := range slowest {
		slowest[i] = max(times[1][i], times[2][i])
		inOrder[i] = times[1][i] + times[2][i]
	}
	found := atMost(times[0], slowest, "the slowest part", serviceGate)
	found.beside = fmt.Sprintf("%s raw API redis (ready after %s), %s the workload's run, %s both in order",
		short(median(times[1])), short(median(service.ready)), short(median(times[2])), short(median(inOrder)))
	found.compared += " than the slowest, " + atMost(times[0], inOrder, "", serviceGate).compared + " than both in order"
	return found, nil
}

// rawService is a service that is started with the raw API.
type rawService struct {
	raw     *rawClient
	network string // by name
	create  []byte // the body that creates its container
	exec    []byte // and the one that asks whether it is ready

	ready []time.Duration // how long it took, each time, until it was ready
}

// rawServiceOf finds out what the adapter sends, for the raw side to send the same.
func (b *bench) rawServiceOf(ctx context.Context, spec string) (service *rawService, err error) {
	definition, version, err := services.Default().Parse(spec)
	if err != nil {
		return nil, err
	}
	cfg, err := definition.Config(version, "bench-"+b.runID, nil, rand.Reader)
	if err != nil {
		return nil, err
	}
	service = &rawService{raw: b.raw, network: "moat-bench-" + b.runID}
	cfg.NetworkID, cfg.Labels = service.network, map[string]string{label: b.runID}
	script, env := cfg.Info("", "").ReadinessScript()
	service.exec, err = json.Marshal(container.ExecOptions{Cmd: []string{"sh", "-c", script}, Env: env, AttachStdout: true, AttachStderr: true})
	if err != nil {
		return nil, err
	}
	if err := service.createNetwork(ctx); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, service.removeNetwork(ctx)) }()
	return service, b.recorded(func(r *recorder) (err error) {
		rt, err := newRuntime("runc", r.host)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, rt.Close()) }()
		info, err := rt.ServiceManager().StartService(ctx, cfg)
		if err != nil {
			return err
		}
		service.create = r.created
		return rt.ServiceManager().StopService(ctx, info)
	})
}

func (s *rawService) createNetwork(ctx context.Context) error {
	body, err := json.Marshal(map[string]string{"Name": s.network})
	if err != nil {
		return err
	}
	return s.raw.do(ctx, http.MethodPost, "/networks/create", body, nil)
}

func (s *rawService) removeNetwork(ctx context.Context) error {
	return s.raw.do(ctx, http.MethodDelete, "/networks/"+s.network, nil, nil)
}

// live starts the service on a network of its own, and removes both when it is ready.
func (s *rawService) live(ctx context.Context) (err error) {
	begun := time.Now()
	if err := s.createNetwork(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.removeNetwork(ctx)) }()
	id, err := s.raw.create(ctx, s.create)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.raw.remove(ctx, id)) }()
	if err := s.raw.start(ctx, id); err != nil {
		return err
	}
	for deadline := begun.Add(services.DefaultReadyTimeout); ; time.Sleep(readyPoll) {
		ready, err := s.isReady(ctx, id)
		if ready {
			s.ready = append(s.ready, time.Since(begun))
		}
		if ready || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New("the service does not get ready")
		}
	}
}

func (s *rawService) isReady(ctx context.Context, id string) (bool, error) {
	var created container.ExecCreateResponse
	if err := s.raw.do(ctx, http.MethodPost, "/containers/"+id+"/exec", s.exec, &created); err != nil {
		return false, err
	}
	output, err := s.raw.send(ctx, http.MethodPost, "/exec/"+created.ID+"/start", []byte("{}"))
	if err != nil {
		return false, err
	}
	defer output.Body.Close()
	if _, err := io.Copy(io.Discard, output.Body); err != nil { // until it has exited
		return false, err
	}
	var found container.ExecInspect
	err = s.raw.do(ctx, http.MethodGet, "/exec/"+created.ID+"/json", nil, &found)
	return found.ExitCode == 0, err
}
