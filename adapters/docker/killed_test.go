package docker_test

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/client"
	"github.com/moatproject/moat/adapters/docker"
	"github.com/moatproject/moat/core"
)

// throwaway is an engine that a test may kill.
type throwaway struct {
	*testing.T
	name, host string
}

// startThrowaway starts an engine of the test's own, with the test image in it.
func startThrowaway(t *testing.T) throwaway {
	t.Helper()
	if os.Getenv("MOAT_TEST_ENGINE") == "" || os.Getuid() != 0 {
		if slices.Contains(strings.Split(os.Getenv("CONTRACT_REQUIRED"), ","), "docker") {
			t.Fatal("docker is required by CONTRACT_REQUIRED; an engine of one's own takes root and `make setup`")
		}
		t.Skip("an engine of one's own takes root and `make setup`")
	}
	e := throwaway{t, "main-kill", "unix:///run/moat-engine/main-kill/docker.sock"}
	e.tool("up", e.name)
	t.Cleanup(func() { e.tool("down", "--purge", e.name) })
	from, to := e.client(os.Getenv("MOAT_TEST_ENGINE")), e.client(e.host)
	image, err := from.ImageSave(t.Context(), []string{"moat/test-base:latest"})
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	loaded, err := to.ImageLoad(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	defer loaded.Body.Close()
	if _, err := io.Copy(io.Discard, loaded.Body); err != nil {
		t.Fatal(err)
	}
	return e
}

func (e throwaway) tool(args ...string) {
	e.Helper()
	if out, err := exec.Command("bash", append([]string{"../../tools/engine.sh"}, args...)...).CombinedOutput(); err != nil {
		e.Fatalf("engine.sh %q: %v: %s", args, err, out)
	}
}

func (e throwaway) client(host string) *client.Client {
	e.Helper()
	c, err := client.NewClientWithOpts(client.WithHost(host), client.WithAPIVersionNegotiation())
	if err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() { c.Close() })
	return c
}

func (e throwaway) kill() {
	e.Helper()
	if out, err := exec.Command("pkill", "-9", "-f", "--", "--config-file=/run/moat-engine/"+e.name+"/dockerd.json").CombinedOutput(); err != nil {
		e.Fatalf("pkill: %v: %s", err, out)
	}
}

// TestEngineKilledInMidCall kills the engine under calls that last: each must come
// back with a class and a remedy, and what comes after it as well.
func TestEngineKilledInMidCall(t *testing.T) {
	e := startThrowaway(t)
	rt, err := docker.New(docker.Options{Host: e.host})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cfg := core.Config{Image: "moat/test-base", Cmd: []string{"sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"}}
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

	calls := map[string]func() error{
		"WaitContainer": func() error { _, err := rt.WaitContainer(ctx, id); return err },
		"reading logs":  func() error { _, err := io.Copy(io.Discard, logs); return err },
		"StreamLogs":    func() error { return rt.StreamLogs(ctx, id, core.LogOptions{Follow: true}) },
		"StopContainer": func() error { return rt.StopContainerTimeout(ctx, id, time.Minute) },
	}
	begun := make(chan struct{}, len(calls))
	failed := map[string]chan error{}
	for name, call := range calls {
		failed[name] = make(chan error, 1)
		go func() {
			begun <- struct{}{}
			failed[name] <- call()
		}()
	}
	for range calls {
		<-begun
	}
	// That they have reached the engine is its own to know: one that has not fails in the same way.
	e.kill()
	calls["CreateContainer"] = func() error { _, err := rt.CreateContainer(ctx, cfg); return err }
	failed["CreateContainer"] = make(chan error, 1)
	failed["CreateContainer"] <- calls["CreateContainer"]()
	for name, failure := range failed {
		err := <-failure
		typed, ok := errors.AsType[*core.Error](err)
		if !errors.Is(err, core.ErrUnavailable) || !ok || typed.Remedy == "" || typed.Object == "" {
			t.Errorf("%s returned %v", name, err)
		}
	}
}
