package cli

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/moatproject/moat/adapters/memory"
	"github.com/moatproject/moat/apps/internal/runstore"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/detect"
	"github.com/moatproject/moat/core/optional"
	"github.com/moatproject/moat/core/run"
	"github.com/moatproject/moat/core/services"
)

// stubbornEngine is the memory runtime with failures, across several commands.
type stubbornEngine struct {
	core.Runtime
	start  func(id string) error // nil: none fails
	remove func(id string) error
	stop   func(ctx context.Context, id string) error
	wait   func(id string)
	gone   func(network string) // called before a network's removal

	create   func(core.Config) error // nil: none fails
	attached func(id string)         // called when a workload is about to be started

	noServices bool
	verify     error
}

func (e *stubbornEngine) Verify(context.Context) error { return e.verify }

func (e *stubbornEngine) Unwrap() core.Runtime { return e.Runtime }
func (e *stubbornEngine) Close() error         { return nil }
func (e *stubbornEngine) ServiceManager() core.ServiceManager {
	if e.noServices {
		return nil
	}
	return services.NewManager(e)
}
func (e *stubbornEngine) CreateContainer(ctx context.Context, cfg core.Config) (string, error) {
	if e.create != nil {
		if err := e.create(cfg); err != nil {
			return "", err
		}
	}
	return e.Runtime.CreateContainer(ctx, cfg)
}
func (e *stubbornEngine) StartAttached(ctx context.Context, id string, opts core.AttachOptions) error {
	if e.attached != nil {
		e.attached(id)
	}
	return e.Runtime.StartAttached(ctx, id, opts)
}
func (e *stubbornEngine) StartContainer(ctx context.Context, id string) error {
	if e.start != nil {
		if err := e.start(id); err != nil {
			return err
		}
	}
	return e.Runtime.StartContainer(ctx, id)
}
func (e *stubbornEngine) RemoveContainer(ctx context.Context, id string) error {
	if e.remove != nil {
		if err := e.remove(id); err != nil {
			return err
		}
	}
	return e.Runtime.RemoveContainer(ctx, id)
}

func (e *stubbornEngine) StopContainer(ctx context.Context, id string) error {
	if e.stop != nil {
		if err := e.stop(ctx, id); err != nil {
			return err
		}
	}
	return e.Runtime.StopContainer(ctx, id)
}
func (e *stubbornEngine) WaitContainer(ctx context.Context, id string) (int64, error) {
	if e.wait != nil {
		e.wait(id)
	}
	return e.Runtime.WaitContainer(ctx, id)
}
func (e *stubbornEngine) NetworkManager() core.NetworkManager {
	networks := e.Runtime.NetworkManager()
	if e.gone == nil {
		return networks
	}
	return &slowNetworks{networks, e.gone}
}

type slowNetworks struct {
	core.NetworkManager
	gone func(string)
}

func (n *slowNetworks) RemoveNetwork(ctx context.Context, id string) error {
	n.gone(id)
	return n.NetworkManager.RemoveNetwork(ctx, id)
}

// redis is an image whose readiness command finds what the script makes.
// registering makes a candidate the only runtime.
func registering(name core.RuntimeType, candidate func() detect.Candidate) func(Env, *slog.Logger) []detect.Registration {
	return func(Env, *slog.Logger) []detect.Registration {
		return []detect.Registration{{Name: name, Candidates: func() []detect.Candidate { return []detect.Candidate{candidate()} }}}
	}
}

func redis(tag, script string) memory.Image {
	return memory.Image{
		Ref: "redis:" + tag, Entrypoint: []string{"sh", "-c", script},
		Files: fstest.MapFS{"bin/redis-cli": {Mode: 0o755, Data: []byte("#!/bin/sh\ntest -e /tmp/ready && echo PONG\n")}},
	}
}

// commands runs the command line on one engine, as one user.
type commands struct {
	*testing.T
	engine   *stubbornEngine
	endpoint string
	env      Env
	store    runstore.Store
}

func newCommands(t *testing.T) *commands {
	engine := &stubbornEngine{Runtime: memory.New(memory.Options{Images: []memory.Image{
		redis("7", "touch /tmp/ready; sleep 1000"), redis("never", "echo no disk; sleep 1000"), redis("dies", "echo no key; exit 3"),
	}})}
	t.Cleanup(func() { engine.Runtime.Close() })
	dir := filepath.Join(t.TempDir(), "moat")
	c := &commands{T: t, engine: engine, endpoint: "here", store: runstore.New(dir, "here")}
	c.env = Env{
		Host:     detect.Host{GOOS: "linux", Getenv: func(key string) string { return map[string]string{detect.EnvRuntime: "memory"}[key] }},
		Notify:   func(...os.Signal) (<-chan os.Signal, func()) { return nil, func() {} },
		LookEnv:  func(key string) (string, bool) { return egressOpen, key == egressVariable },
		Clock:    run.SystemClock{},
		StateDir: dir,
		Registered: registering(memory.Type, func() detect.Candidate {
			return detect.Candidate{Type: memory.Type, Endpoint: c.endpoint, New: func() (core.Runtime, error) { return engine, nil }}
		}),
	}
	return c
}

func (c *commands) moat(args ...string) (code int, stdout, stderr string) {
	c.Helper()
	var out, err bytes.Buffer
	env := c.env
	env.Stdout, env.Stderr = &out, &err
	code = Main(env, args)
	return code, out.String(), err.String()
}

// left is what is on the engine, and how many runs are kept.
func (c *commands) left() (containers, networks, runs int) {
	c.Helper()
	infos, err := c.engine.ListContainers(c.Context())
	all, networksErr := c.engine.NetworkManager().ListNetworks(c.Context())
	if err = errors.Join(err, networksErr); err != nil {
		c.Fatal(err)
	}
	return len(infos), len(all), len(c.store.Ended())
}

func (c *commands) wantLeft(containers, networks, runs int) {
	c.Helper()
	if a, b, d := c.left(); a != containers || b != networks || d != runs {
		c.Errorf("left are %d containers, %d networks, %d runs; want %d, %d, %d", a, b, d, containers, networks, runs)
	}
}

func TestServiceHosts(t *testing.T) {
	c := newCommands(t)
	code, host, stderr := c.moat("run", "--rm", "--service", "redis:7", memory.BaseImage, "sh", "-c", "echo $MOAT_REDIS_HOST")
	if code != 0 || host != "redis\n" {
		t.Errorf("on the run's own network: %d, %q, %s", code, host, stderr)
	}
	if _, err := c.engine.NetworkManager().CreateNetwork(t.Context(), "shared"); err != nil {
		t.Fatal(err)
	}
	code, host, stderr = c.moat("run", "--rm", "--service", "redis:7", "--network", "shared", memory.BaseImage, "sh", "-c", "echo $MOAT_REDIS_HOST $MOAT_REDIS_URL")
	name, url, _ := strings.Cut(host, " ")
	if code != 0 || !strings.HasPrefix(name, "moat-redis-") || !strings.Contains(url, "@"+name+":6379") {
		t.Errorf("on one that other runs may use: %d, %q, %s", code, host, stderr)
	}
	c.wantLeft(0, 1, 0)
}

// service returns the container of a run's only service, when it runs.
func (c *commands) service() string {
	c.Helper()
	tick := time.Tick(time.Millisecond)
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-tick {
		infos, err := c.engine.ListContainers(c.Context())
		if err != nil {
			c.Fatal(err)
		}
		for _, info := range infos {
			if info.Labels[core.LabelRole] == core.RoleService && info.Status == core.StateRunning {
				return info.ID
			}
		}
	}
	c.Fatal("no service has been started")
	return ""
}

// awaitRunning returns when a container runs, or cannot be asked any more.
func (c *commands) awaitRunning(id string) {
	for tick := time.Tick(time.Millisecond); ; <-tick {
		state, err := c.engine.ContainerState(c.Context(), id)
		if err != nil || state == core.StateRunning {
			return
		}
	}
}

// TestWorkloadStartsBesideItsService makes the service ready when the workload is started.
func TestWorkloadStartsBesideItsService(t *testing.T) {
	c := newCommands(t)
	c.engine.attached = func(string) {
		execer, _ := core.As[optional.Execer](c.engine)
		code, err := execer.Exec(t.Context(), c.service(), optional.ExecOptions{Cmd: []string{"touch", "/tmp/ready"}})
		if code != 0 || err != nil {
			t.Errorf("touch: %d, %v", code, err)
		}
	}
	code, stdout, stderr := c.moat("run", "--rm", "--service", "redis:never", "--service-timeout", "20s", memory.BaseImage, "sh", "-c", "echo begun; exit 3")
	if code != 3 || stdout != "begun\n" {
		t.Errorf("%d, %q, %s", code, stdout, stderr)
	}
	c.wantLeft(0, 0, 0)
}

// TestWorkloadThatCannotBeHeld starts when its service is ready.
func TestWorkloadThatCannotBeHeld(t *testing.T) {
	c := newCommands(t)
	var ready atomic.Bool
	c.engine.create = func(cfg core.Config) error {
		if cfg.Held {
			return &core.Error{Op: "create container", Field: "Held", Class: core.ErrUnsupported}
		}
		return nil
	}
	c.engine.attached = func(string) {
		execer, _ := core.As[optional.Execer](c.engine)
		code, err := execer.Exec(t.Context(), c.service(), optional.ExecOptions{Cmd: []string{"test", "-e", "/tmp/ready"}})
		ready.Store(code == 0 && err == nil)
	}
	code, stdout, stderr := c.moat("run", "--rm", "--service", "redis:7", memory.BaseImage, "echo", "begun")
	if code != 0 || stdout != "begun\n" || !ready.Load() {
		t.Errorf("%d, %q, %s; ready: %t", code, stdout, stderr, ready.Load())
	}
	c.wantLeft(0, 0, 0)
}

// TestInterruptedWhileHeld interrupts a run whose service is not ready.
func TestInterruptedWhileHeld(t *testing.T) {
	for _, args := range [][]string{{"run", "--rm"}, {"run"}, {"run", "--rm", "-it"}} {
		c := newCommands(t)
		signals := make(chan os.Signal, 1)
		c.env.Notify = func(...os.Signal) (<-chan os.Signal, func()) { return signals, func() {} }
		console := &fakeConsole{size: func() optional.TerminalSize { return optional.TerminalSize{} }}
		c.env.Console, c.env.Stdin = console, strings.NewReader("")
		c.engine.attached = func(id string) {
			go func() {
				c.awaitRunning(id)
				signals <- syscall.SIGINT
			}()
		}
		code, stdout, stderr := c.moat(append(args, "--service", "redis:never", "--service-timeout", "20s", memory.BaseImage, "echo", "begun")...)
		if code != 130 || stdout != "" {
			t.Errorf("%q: %d, %q, %s", args, code, stdout, stderr)
		}
		if slices.Contains(console.calls, "raw") {
			t.Errorf("%q: the terminal's keys are not the command line's while it waits: %q", args, console.calls)
		}
		c.wantLeft(0, 0, 0)
	}
}

// TestKilledWhileHeld removes a workload that its service keeps waiting.
func TestKilledWhileHeld(t *testing.T) {
	c := newCommands(t)
	c.engine.attached = func(id string) {
		go func() {
			c.awaitRunning(id)
			_ = c.engine.RemoveContainer(t.Context(), id)
		}()
	}
	code, stdout, stderr := c.moat("run", "--service", "redis:never", memory.BaseImage, "echo", "begun")
	if code == 0 || stdout != "" {
		t.Errorf("%d, %q, %s", code, stdout, stderr)
	}
	c.wantLeft(0, 0, 0)
}

func TestServicesThatAreNotReady(t *testing.T) {
	c := newCommands(t)
	for version, texts := range map[string][]string{
		"never": {"redis", "timed out", "no disk"},
		"dies":  {"redis", "status 3", "no key"},
	} {
		code, _, stderr := c.moat("run", "--rm", "--service", "redis:"+version, "--service-timeout", "1s", memory.BaseImage, "true")
		if code != statusMoatFailed {
			t.Errorf("redis:%s: exit status %d", version, code)
		}
		for _, text := range texts {
			if !strings.Contains(stderr, text) {
				t.Errorf("redis:%s: %q is missing from %q", version, text, stderr)
			}
		}
		c.wantLeft(0, 0, 0)
	}
	for _, args := range [][]string{{"--service-timeout", "1s"}, {"--service", "redis:7", "--service-timeout", "-1s"}, {"--service", "redis:7", "--service-timeout", "0s"}} {
		if code, _, stderr := c.moat(append(append([]string{"run"}, args...), memory.BaseImage, "true")...); code != statusMoatFailed || !strings.Contains(stderr, "--service-timeout") {
			t.Errorf("%q: %d, %s", args, code, stderr)
		}
	}
}

// TestServicesThatAreRemovedLate fails as an engine does that is too slow for a cancelled start.
func TestServicesThatAreRemovedLate(t *testing.T) {
	c := newCommands(t)
	var removals atomic.Int32
	c.engine.start = func(string) error { return &core.Error{Op: "start container", Class: core.ErrUnavailable} }
	c.engine.remove = func(string) error {
		if removals.Add(1) == 1 {
			return &core.Error{Op: "remove container", Class: core.ErrUnavailable}
		}
		return nil
	}
	if code, _, _ := c.moat("run", "--rm", "--service", "redis:7", memory.BaseImage, "true"); code != statusMoatFailed {
		t.Errorf("exit status %d", code)
	}
	c.wantLeft(0, 0, 0)
}

// TestPullPolicyHoldsForServices sees what is asked of the engine for each container.
func TestPullPolicyHoldsForServices(t *testing.T) {
	for _, policy := range []core.PullPolicy{core.PullMissing, core.PullNever, core.PullAlways} {
		c := newCommands(t)
		var lock sync.Mutex
		asked := map[string]core.PullPolicy{}
		c.engine.create = func(cfg core.Config) error {
			lock.Lock()
			defer lock.Unlock()
			asked[cfg.Role] = cfg.Pull
			return errors.New("enough is known")
		}
		c.moat("run", "--pull", string(policy), "--service", "redis:7", memory.BaseImage, "true")
		if asked[core.RoleService] != policy || asked[""] != policy && asked[core.RoleMain] != policy {
			t.Errorf("--pull %s: asked for %v", policy, asked)
		}
	}
}

// TestWhatARunCannotRemove is for `moat clean`, also where it runs.
func TestWhatARunCannotRemove(t *testing.T) {
	c := newCommands(t)
	failing := true
	c.engine.remove = func(string) error {
		if failing {
			return &core.Error{Op: "remove container", Class: core.ErrUnavailable}
		}
		return nil
	}
	if code, _, _ := c.moat("run", "--rm", "--service", "redis:7", memory.BaseImage, "true"); code != statusMoatFailed {
		t.Errorf("exit status %d", code)
	}
	c.wantLeft(2, 0, 1) // the network is gone by force
	if code, _, _ := c.moat("clean"); code == 0 {
		t.Error("clean has not failed")
	}
	c.wantLeft(2, 0, 1)
	failing = false
	c.endpoint = "there" // the same engine
	code, stdout, stderr := c.moat("clean")
	if code != 0 || !strings.Contains(stdout, "moat-redis-") {
		t.Errorf("clean: %d, %s%s", code, stdout, stderr)
	}
	c.wantLeft(0, 0, 0)
}

// TestCleanupFailureIsPrinted beside the workload's status, and beside a signal's.
func TestCleanupFailureIsPrinted(t *testing.T) {
	for script, status := range map[string]int{"exit 3": 3, "exit 0": statusMoatFailed, "sleep 1000": 128 + int(syscall.SIGINT)} {
		c := newCommands(t)
		c.engine.remove = func(string) error { return &core.Error{Op: "remove container", Class: core.ErrUnavailable} }
		if status > 128 {
			signals := make(chan os.Signal)
			c.env.Notify = func(which ...os.Signal) (<-chan os.Signal, func()) {
				if slices.Contains(which, os.Signal(syscall.SIGINT)) {
					return signals, func() {}
				}
				return nil, func() {}
			}
			c.engine.attached = func(string) {
				for range 2 { // once both are received, the first has been handled
					signals <- syscall.SIGINT
				}
			}
		}
		code, _, stderr := c.moat("run", "--rm", memory.BaseImage, "sh", "-c", script)
		if code != status || strings.Count(stderr, "moat: remove container: ") != 1 {
			t.Errorf("%s: %d, %s", script, code, stderr)
		}
	}
}

// TestRestoreFailureIsPrinted beside the workload's status.
func TestRestoreFailureIsPrinted(t *testing.T) {
	c := newCommands(t)
	c.env.Console = &fakeConsole{size: func() optional.TerminalSize { return optional.TerminalSize{} }}
	c.env.Stdin = strings.NewReader("")
	code, _, stderr := c.moat("run", "-it", "--rm", memory.BaseImage, "sh", "-c", "exit 3")
	if code != 3 || stderr != "moat: cannot restore\n" {
		t.Errorf("%d, %q", code, stderr)
	}
}

// TestRemovedByHand removes the containers of a run whose process was killed.
func TestRemovedByHand(t *testing.T) {
	c := newCommands(t)
	owner, err := c.store.Owner()
	if err != nil {
		t.Fatal(err)
	}
	claim, err := runstore.New(c.env.StateDir, "under another name").Claim("run")
	if err != nil {
		t.Fatal(err)
	}
	claim.Release(run.EndingPartial)
	for _, role := range []string{core.RoleMain, core.RoleService} {
		_, err := c.engine.CreateContainer(t.Context(), core.Config{
			Name: role, Image: memory.BaseImage, RunID: "run", Role: role, Labels: map[string]string{run.LabelOwner: owner},
		})
		if err == nil {
			err = c.engine.StartContainer(t.Context(), role)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if code, _, stderr := c.moat("rm", "-f", "main"); code != 0 {
		t.Errorf("rm: %s", stderr)
	}
	c.wantLeft(1, 0, 1)
	if code, stdout, stderr := c.moat("clean", "--dry-run"); code != 0 || !strings.Contains(stdout, "service") {
		t.Errorf("clean --dry-run: %s%s", stdout, stderr)
	}
	c.wantLeft(1, 0, 1)
	if code, _, stderr := c.moat("rm", "-f", "service"); code != 0 {
		t.Errorf("rm: %s", stderr)
	}
	c.wantLeft(0, 0, 0)
}

// TestLostLocks tells of what it leaves alone.
func TestLostLocks(t *testing.T) {
	c := newCommands(t)
	owner, err := c.store.Owner()
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.engine.CreateContainer(t.Context(), core.Config{
		Name: "lost", Image: memory.BaseImage, Cmd: []string{"sleep", "1000"}, RunID: "run", Labels: map[string]string{run.LabelOwner: owner, run.LabelForeground: "true"},
	})
	if err == nil {
		err = c.engine.StartContainer(t.Context(), "lost")
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"clean", "--dry-run"}, {"clean"}} {
		if code, _, stderr := c.moat(args...); code != 0 || !strings.Contains(stderr, "moat rm -f lost") {
			t.Errorf("%q: %d, %s", args, code, stderr)
		}
	}
	c.wantLeft(1, 0, 0)
}

// TestRemovalsAtOnce has each container's removal wait for the other's.
func TestRemovalsAtOnce(t *testing.T) {
	c := newCommands(t)
	var both sync.WaitGroup
	both.Add(2)
	met := make(chan struct{})
	go func() { both.Wait(); close(met) }()
	c.engine.remove = func(string) error {
		both.Done()
		select {
		case <-met:
			return nil
		case <-time.After(10 * time.Second):
			return errors.New("the other is not being removed")
		}
	}
	if code, _, stderr := c.moat("run", "--rm", "--service", "redis:7", memory.BaseImage, "true"); code != 0 {
		t.Errorf("%d, %s", code, stderr)
	}
	c.wantLeft(0, 0, 0)
}

// TestWithoutServices has an engine that has no such manager.
func TestWithoutServices(t *testing.T) {
	c := newCommands(t)
	c.engine.noServices = true
	code, _, stderr := c.moat("run", "--rm", "--service", "redis:7", memory.BaseImage, "true")
	if code != statusMoatFailed || !strings.Contains(stderr, "service manager") {
		t.Errorf("%d, %s", code, stderr)
	}
	c.wantLeft(0, 0, 0)
}

// TestDetachedFromServices tells what goes on beside the workload.
func TestDetachedFromServices(t *testing.T) {
	for network, hint := range map[string]string{"": "for its services and network\n", "shared": "for its services\n"} {
		c := newCommands(t)
		c.env.Console = &fakeConsole{size: func() optional.TerminalSize { return optional.TerminalSize{} }}
		c.env.Stdin = strings.NewReader("\x10\x11")
		args := []string{"run", "-it", "--rm", "--service", "redis:7"}
		if network != "" {
			if _, err := c.engine.NetworkManager().CreateNetwork(t.Context(), network); err != nil {
				t.Fatal(err)
			}
			args = append(args, "--network", network)
		}
		_, _, stderr := c.moat(append(args, memory.BaseImage, "sleep", "1000")...)
		if !strings.Contains(stderr, "moat: detached; ") || !strings.HasSuffix(strings.TrimSuffix(stderr, "moat: cannot restore\n"), "and `moat clean` "+hint) {
			t.Errorf("%q: %s", args, stderr)
		}
		c.wantLeft(2, 1, 1)
	}
}
