package docker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moatproject/moat/adapters/docker"
	"github.com/moatproject/moat/adapters/docker/dockertest"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// throwaway is an engine that a test may kill.
type throwaway struct{ dockertest.Throwaway }

// freeze stops the engine's daemon, and returns when none of its threads runs.
func (e *throwaway) freeze() {
	e.Helper()
	pid := e.signal(syscall.SIGSTOP)
	deadline := time.After(time.Minute)
	for {
		running := 0
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		for _, thread := range threads {
			if stat, err := os.ReadFile(thread); err == nil && !strings.Contains(string(stat), ") T ") {
				running++
			}
		}
		if len(threads) > 0 && running == 0 {
			return
		}
		select {
		case <-time.After(time.Millisecond):
		case <-deadline:
			e.Fatal("the engine goes on")
		}
	}
}

// signal sends the engine's daemon a signal, and returns its process's number.
func (e *throwaway) signal(signal syscall.Signal) (pid int) {
	e.Helper()
	content, err := os.ReadFile(e.PIDFile())
	if err != nil {
		e.Fatal(err)
	}
	pid, err = strconv.Atoi(strings.TrimSpace(string(content)))
	if err == nil {
		err = syscall.Kill(pid, signal)
	}
	if err != nil {
		e.Fatal(err)
	}
	return pid
}

// TestEngineKilledInMidCall kills the engine under calls: each must come back with a
// class and a remedy. With the engine back, the runtime goes on, events tell what became
// of the containers, and nothing is left.
func TestEngineKilledInMidCall(t *testing.T) {
	e := throwaway{dockertest.Throwaway{TB: t, Adapter: "docker", Like: "main"}}
	e.Start()
	rt, err := docker.New(docker.Options{Host: e.Host()})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cfg := core.Config{Image: "moat/test-base", Cmd: []string{"sh", "-c", "trap '' TERM; echo ready; sleep 1000"}, StopTimeout: time.Second}
	id, err := rt.CreateContainer(ctx, cfg)
	if err == nil {
		err = rt.StartContainer(ctx, id)
	}
	if err != nil {
		t.Fatal(err)
	}
	logs, err := rt.ContainerLogs(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	if _, err := io.ReadFull(logs, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}

	other, err := rt.CreateContainer(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	events, err := rt.Events(ctx, optional.EventOptions{Container: id})
	if err != nil {
		t.Fatal(err)
	}
	died := make(chan error, 1)
	go func() {
		for event, err := range events {
			if err != nil || event.Type == optional.EventDied {
				died <- err
				return
			}
		}
		died <- errors.New("the events have ended")
	}()

	failed := map[string]chan error{}
	begin := func(calls map[string]func() error) {
		begun := make(chan struct{}, len(calls))
		for name, call := range calls {
			failure := make(chan error, 1)
			failed[name] = failure
			go func() {
				begun <- struct{}{}
				failure <- call()
			}()
		}
		for range calls {
			<-begun
		}
	}
	// That they have reached the engine is its own to know: one that has not fails in the same way.
	begin(map[string]func() error{
		"WaitContainer": func() error { _, err := rt.WaitContainer(ctx, id); return err },
		"reading logs":  func() error { _, err := io.Copy(io.Discard, logs); return err },
		"StreamLogs":    func() error { return rt.StreamLogs(ctx, id, optional.LogOptions{Follow: true}) },
		"Attach":        func() error { return rt.Attach(ctx, id, core.AttachOptions{}) },
		"StartAttached": func() error { return rt.StartAttached(ctx, other, core.AttachOptions{}) },
		"Exec": func() error {
			_, err := rt.Exec(ctx, id, optional.ExecOptions{Cmd: []string{"sleep", "1000"}})
			return err
		},
	})
	begin(map[string]func() error{
		"StopContainer": func() error { return rt.StopContainerTimeout(ctx, id, time.Minute) },
	})
	e.freeze() // what it would answer too soon does not get an answer
	begin(map[string]func() error{
		"CreateContainer": func() error { _, err := rt.CreateContainer(ctx, cfg); return err },
		"StartContainer":  func() error { return rt.StartContainer(ctx, id) },
		"RemoveContainer": func() error { return rt.RemoveContainer(ctx, id) },
		"PullImage":       func() error { return rt.PullImage(ctx, cfg.Image, nil) },
	})
	e.signal(syscall.SIGKILL)
	for name, failure := range failed {
		err := <-failure
		typed, ok := errors.AsType[*core.Error](err)
		if !errors.Is(err, core.ErrUnavailable) || !ok || typed.Remedy == "" || typed.Object == "" {
			t.Errorf("%s returned %v", name, err)
		}
	}

	e.Up()
	if err := <-died; err != nil {
		t.Errorf("instead of the container's death, the events brought %v", err)
	}
	left, err := rt.ListContainers(ctx)
	if err != nil || len(left) != 2 {
		t.Errorf("after the engine's death there are %+v, %v", left, err)
	}
	for _, id := range []string{id, other} {
		if err := rt.RemoveContainer(ctx, id); err != nil {
			t.Error(err)
		}
	}
}
