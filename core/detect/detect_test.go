package detect_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/detect"
)

// registrations reads "name@endpoint name@endpoint". Those of docker and apple have the
// ranks that Moat's facade gives them.
func registrations(text string) []detect.Registration {
	var registered []detect.Registration
	for _, word := range strings.Fields(text) {
		name, endpoint, _ := strings.Cut(word, "@")
		candidate := detect.Candidate{Type: core.RuntimeType(name), Endpoint: endpoint}
		if last := len(registered) - 1; last >= 0 && registered[last].Name == candidate.Type {
			before := registered[last].Candidates
			registered[last].Candidates = func() []detect.Candidate { return append(before(), candidate) }
			continue
		}
		registration := detect.Registration{Name: candidate.Type, Candidates: func() []detect.Candidate { return []detect.Candidate{candidate} }}
		switch candidate.Type {
		case core.RuntimeDocker:
			registration.Rank, registration.Sandboxed = func(detect.Host) int { return 1 }, "gvisor"
		case core.RuntimeApple:
			registration.Rank = func(host detect.Host) int {
				if host.GOOS == "darwin" && host.GOARCH == "arm64" {
					return 2
				}
				return 0
			}
		}
		registered = append(registered, registration)
	}
	return registered
}

func TestPlan(t *testing.T) {
	const all = "docker@1 docker@2 gvisor@1 gvisor@2 apple@ remote@ memory@"
	tests := []struct {
		platform string // GOOS/GOARCH
		runtime  string // MOAT_RUNTIME
		sandbox  bool
		offered  string
		want     string
		err      error
	}{
		{"linux/amd64", "", true, all, "gvisor@1 gvisor@2", nil},
		{"linux/amd64", "", false, all, "docker@1 docker@2", nil},
		{"linux/arm64", "", false, all, "docker@1 docker@2", nil},
		{"darwin/amd64", "", false, all, "docker@1 docker@2", nil},
		{"darwin/arm64", "", false, all, "apple@ docker@1 docker@2", nil},
		{"darwin/arm64", "", true, all, "apple@ gvisor@1 gvisor@2", nil},
		{"darwin/arm64", "", false, "docker@1", "docker@1", nil},

		{"linux/amd64", "auto", false, all, "docker@1 docker@2", nil},
		{"linux/amd64", "docker", true, all, "gvisor@1 gvisor@2", nil},
		{"linux/amd64", "docker", false, all, "docker@1 docker@2", nil},
		{"darwin/arm64", "docker", false, all, "docker@1 docker@2", nil},
		{"linux/amd64", "gvisor", true, all, "gvisor@1 gvisor@2", nil},
		{"linux/amd64", "gvisor", false, all, "gvisor@1 gvisor@2", nil},
		{"linux/amd64", "apple", true, all, "apple@", nil},
		{"linux/amd64", "remote", true, all, "remote@", nil},
		{"linux/amd64", "podman", true, all + " podman@1", "podman@1", nil},
		{"linux/amd64", "DOCKER", false, all, "docker@1 docker@2", nil},
		{"linux/amd64", "GVisor", false, all, "gvisor@1 gvisor@2", nil},
		{"linux/amd64", "Auto", false, all, "docker@1 docker@2", nil},

		{"linux/amd64", "podman", false, all, "", core.ErrInvalidConfig},
		{"linux/amd64", "docker ", false, all, "", core.ErrInvalidConfig},
		{"linux/amd64", "docker,memory", false, all, "", core.ErrInvalidConfig},
		{"linux/amd64", "apple", true, "docker@1 gvisor@1", "", core.ErrInvalidConfig},
		{"linux/amd64", "docker", true, "docker@1", "", core.ErrUnavailable},
		{"linux/amd64", "", true, "docker@1", "", core.ErrUnavailable},
		{"linux/amd64", "", true, "memory@ remote@", "", core.ErrUnavailable},
		{"linux/amd64", "", false, "", "", core.ErrUnavailable},
	}
	for _, test := range tests {
		name := fmt.Sprintf("%s %q sandbox=%t of %q", test.platform, test.runtime, test.sandbox, test.offered)
		t.Run(name, func(t *testing.T) {
			goos, goarch, _ := strings.Cut(test.platform, "/")
			host := detect.Host{GOOS: goos, GOARCH: goarch, Getenv: environment(map[string]string{detect.EnvRuntime: test.runtime})}
			plan, err := detect.Plan(host, detect.Options{Sandbox: test.sandbox}, registrations(test.offered))
			if !errors.Is(err, test.err) {
				t.Fatalf("error %v, want %v", err, test.err)
			}
			if got := formatCandidates(plan); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestPlanNamesTheRegisteredRuntimes(t *testing.T) {
	host := detect.Host{GOOS: "linux", Getenv: environment(map[string]string{detect.EnvRuntime: "Podman"})}
	_, err := detect.Plan(host, detect.Options{}, registrations("docker@1 mine@"))
	for _, part := range []string{`"podman"`, detect.EnvRuntime, "auto, docker, mine"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not contain %q", err, part)
		}
	}
	if got := core.FieldOf(err); got != detect.EnvRuntime {
		t.Errorf("field is %q", got)
	}
}

// TestPlanAsksOnlyTheWanted keeps the settings of one runtime from failing another.
func TestPlanAsksOnlyTheWanted(t *testing.T) {
	registered := registrations("docker@1 mine@")
	registered[0].Candidates = func() []detect.Candidate {
		t.Error("a runtime that is not wanted was asked for its endpoints")
		return nil
	}
	host := detect.Host{GOOS: "linux", Getenv: environment(map[string]string{detect.EnvRuntime: "mine"})}
	if plan, err := detect.Plan(host, detect.Options{}, registered); err != nil || formatCandidates(plan) != "mine@" {
		t.Errorf("got %q, %v", formatCandidates(plan), err)
	}
}

func TestOnlyForced(t *testing.T) {
	registered := registrations("docker@ gvisor@ apple@ remote@")
	for name, want := range map[core.RuntimeType]bool{"docker": false, "gvisor": false, "apple": true, "remote": true} {
		if got := detect.OnlyForced(detect.Host{GOOS: "linux"}, registered, name); got != want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestHostWithoutEnvironment(t *testing.T) {
	if !detect.DefaultOptions(detect.Host{GOOS: "linux"}).Sandbox {
		t.Error("without an environment nothing turns the sandbox off")
	}
}

func TestDefaultOptions(t *testing.T) {
	tests := []struct {
		goos, noSandbox string
		sandbox         bool
	}{
		{"linux", "", true},
		{"linux", "0", true},
		{"linux", "1", false},
		{"darwin", "", false},
		{"windows", "", false},
	}
	for _, test := range tests {
		host := detect.Host{GOOS: test.goos, Getenv: environment(map[string]string{"MOAT_NO_SANDBOX": test.noSandbox})}
		if got := detect.DefaultOptions(host); got.Sandbox != test.sandbox {
			t.Errorf("%s with MOAT_NO_SANDBOX=%q: sandbox %t", test.goos, test.noSandbox, got.Sandbox)
		}
	}
}

func environment(variables map[string]string) func(string) string {
	return func(name string) string { return variables[name] }
}

func formatCandidates(candidates []detect.Candidate) string {
	words := make([]string, len(candidates))
	for i, candidate := range candidates {
		words[i] = string(candidate.Type) + "@" + candidate.Endpoint
	}
	return strings.Join(words, " ")
}

// fake is a runtime of which only what detection calls is there; the rest panics.
type fake struct {
	core.Runtime
	ping   func(context.Context) error // nil: answers
	closed atomic.Int32
}

func (f *fake) Ping(ctx context.Context) error {
	if f.ping == nil {
		return nil
	}
	return f.ping(ctx)
}

func (f *fake) Close() error {
	f.closed.Add(1)
	return nil
}

// verified is a runtime with a verification.
type verified struct {
	fake
	err   error
	calls int
}

func (v *verified) Verify(context.Context) error {
	v.calls++
	return v.err
}

func planOf(runtimes ...core.Runtime) []detect.Candidate {
	plan := make([]detect.Candidate, len(runtimes))
	for i, rt := range runtimes {
		plan[i] = detect.Candidate{
			Type: core.RuntimeDocker, Endpoint: fmt.Sprint("unix:///", i),
			New: func() (core.Runtime, error) { return rt, nil },
		}
	}
	return plan
}

func failing(err error) func(context.Context) error {
	return func(context.Context) error { return err }
}

// hanging answers when its context ends, as every call of a runtime's must.
func hanging(ctx context.Context) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

var errDown = &core.Error{Op: "ping", Class: core.ErrUnavailable}

func TestDetectTakesTheFirstUsable(t *testing.T) {
	runtimes := []*fake{{ping: failing(errDown)}, {}, {}, {ping: failing(errDown)}}
	plan := planOf(runtimes[0], runtimes[1], runtimes[2], runtimes[3])
	rt, attempts, err := detect.Detect(t.Context(), plan)
	if err != nil || rt != core.Runtime(runtimes[1]) {
		t.Fatalf("got %v, %v", rt, err)
	}
	for i, rt := range runtimes {
		want := int32(1)
		if i == 1 {
			want = 0
		}
		if got := rt.closed.Load(); got != want {
			t.Errorf("runtime %d was closed %d times, want %d", i, got, want)
		}
	}
	if len(attempts) != len(plan) {
		t.Fatalf("%d attempts", len(attempts))
	}
	for i, attempt := range attempts {
		if attempt.Endpoint != plan[i].Endpoint {
			t.Errorf("attempt %d is of %s", i, attempt.Endpoint)
		}
	}
	if !errors.Is(attempts[0].Err, errDown) || attempts[1].Err != nil {
		t.Errorf("attempts tell %v and %v", attempts[0].Err, attempts[1].Err)
	}
}

func TestDetectReportsAFailingConstructor(t *testing.T) {
	boom := errors.New("boom")
	plan := planOf(nil, &fake{})
	plan[0].New = func() (core.Runtime, error) { return nil, boom }
	rt, attempts, err := detect.Detect(t.Context(), plan)
	if err != nil || rt == nil || !errors.Is(attempts[0].Err, boom) {
		t.Errorf("got %v, %v, %v", rt, attempts, err)
	}
}

func TestDetectAsksAllAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 3
		arrived, release := make(chan int, n), make(chan struct{})
		var runtimes []core.Runtime
		for i := range n {
			runtimes = append(runtimes, &fake{ping: func(context.Context) error {
				arrived <- i
				<-release
				return nil
			}})
		}
		done := make(chan core.Runtime)
		go func() {
			rt, _, _ := detect.Detect(t.Context(), planOf(runtimes...))
			done <- rt
		}()
		synctest.Wait()
		if len(arrived) != n {
			t.Errorf("%d of %d are asked while none has answered", len(arrived), n)
		}
		close(release)
		if rt := <-done; rt != runtimes[0] {
			t.Error("the first was not chosen")
		}
	})
}

func TestDetectKeepsTheOrderWhateverAnswersFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &fake{ping: func(context.Context) error { time.Sleep(time.Second); return nil }} // the bubble's clock
		rt, _, err := detect.Detect(t.Context(), planOf(slow, &fake{}))
		if err != nil || rt != core.Runtime(slow) {
			t.Errorf("got %v, %v", rt, err)
		}
	})
}

func TestDetectDoesNotWaitForWhatComesAfterTheChosen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hung := &fake{ping: hanging}
		began := time.Now()
		rt, attempts, err := detect.Detect(t.Context(), planOf(&fake{}, hung))
		if err != nil || rt == nil {
			t.Fatal(err)
		}
		if waited := time.Since(began); waited != 0 {
			t.Errorf("waited %s for a runtime that is not needed", waited)
		}
		if !errors.Is(attempts[1].Err, context.Canceled) || hung.closed.Load() != 1 {
			t.Errorf("the one cut short: %v, closed %d times", attempts[1].Err, hung.closed.Load())
		}
	})
}

func TestDetectIsBoundedWhereNothingAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		rt, _, err := detect.Detect(t.Context(), planOf(&fake{ping: hanging}, &fake{ping: hanging}))
		if rt != nil || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, %v", rt, err)
		}
		if waited := time.Since(began); waited >= 6*time.Second {
			t.Errorf("took %s", waited)
		}
	})
}

func TestDetectEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		_, _, err := detect.Detect(ctx, planOf(&fake{ping: hanging}))
		if waited := time.Since(began); waited != time.Second || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after %s: %v", waited, err)
		}
	})
}

func TestDetectVerifies(t *testing.T) {
	listedOnly := &verified{err: core.ErrGVisorNotAvailable}
	down := &verified{fake: fake{ping: failing(errDown)}}
	real, spare := &verified{}, &verified{}
	rt, attempts, err := detect.Detect(t.Context(), planOf(down, decorated{listedOnly}, decorated{real}, spare))
	if err != nil || rt != core.Runtime(decorated{real}) {
		t.Fatalf("got %v, %v", rt, err)
	}
	if !errors.Is(attempts[1].Err, core.ErrGVisorNotAvailable) {
		t.Errorf("a failed verification is reported as %v", attempts[1].Err)
	}
	for _, check := range []struct {
		name          string
		rt            *verified
		calls, closed int
	}{
		{"down", down, 0, 1}, {"listed only", listedOnly, 1, 1}, {"chosen", real, 1, 0}, {"spare", spare, 0, 1},
	} {
		if check.rt.calls != check.calls || int(check.rt.closed.Load()) != check.closed {
			t.Errorf("%s: verified %d times, closed %d times", check.name, check.rt.calls, check.rt.closed.Load())
		}
	}
}

func TestUnverified(t *testing.T) {
	for _, test := range []struct {
		name   string
		plan   []*verified
		chosen int // -1: none
		calls  []int
	}{
		{"one without gVisor", []*verified{{err: core.ErrGVisorNotAvailable}}, 0, []int{0}},
		{"one that is down", []*verified{{fake: fake{ping: failing(errDown)}}}, -1, []int{0}},
		{"the one that Detect would take", []*verified{{err: core.ErrGVisorNotAvailable}, {}, {}}, 1, []int{1, 1, 0}},
		{"the first of those without gVisor", []*verified{
			{fake: fake{ping: failing(errDown)}}, {err: core.ErrGVisorNotAvailable}, {err: core.ErrGVisorNotAvailable},
		}, 1, []int{0, 1, 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var runtimes []core.Runtime
			for _, rt := range test.plan {
				runtimes = append(runtimes, rt)
			}
			rt, attempts, err := detect.Unverified(t.Context(), planOf(runtimes...))
			if (err == nil) != (test.chosen >= 0) || (err == nil) != (rt != nil) {
				t.Fatalf("got %v, %v", rt, err)
			}
			for i, candidate := range test.plan {
				isChosen, closed := i == test.chosen, int32(1)
				if isChosen {
					closed = 0
				}
				if isChosen != (rt == core.Runtime(candidate)) || candidate.closed.Load() != closed {
					t.Errorf("candidate %d: chosen %v, closed %d times", i, rt == core.Runtime(candidate), candidate.closed.Load())
				}
				if candidate.calls != test.calls[i] {
					t.Errorf("candidate %d was verified %d times, want %d", i, candidate.calls, test.calls[i])
				}
				if isChosen && attempts[i].Err != nil {
					t.Errorf("the chosen one is reported as %v", attempts[i].Err)
				}
			}
		})
	}
}

func TestNoRuntimeErrorListsAndMatchesAll(t *testing.T) {
	listedOnly := &verified{err: core.ErrGVisorNotAvailable}
	rt, attempts, err := detect.Detect(t.Context(), planOf(&fake{ping: failing(errDown)}, listedOnly))
	if rt != nil {
		t.Fatalf("got %v", rt)
	}
	none, ok := errors.AsType[*detect.NoRuntimeError](err)
	if !ok || len(none.Attempts) != len(attempts) {
		t.Fatalf("got %v", err)
	}
	for _, part := range []string{"unix:///0", errDown.Error(), "unix:///1", core.ErrGVisorNotAvailable.Error(), "moat doctor"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not contain %q", err, part)
		}
	}
	for _, class := range []error{core.ErrUnavailable, core.ErrGVisorNotAvailable} {
		if !errors.Is(err, class) {
			t.Errorf("does not match %q", class)
		}
	}
	if errors.Is(err, core.ErrNotFound) {
		t.Error("matches what nobody said")
	}
}

func TestNoRuntimeErrorOfOneIsItsReason(t *testing.T) {
	_, _, err := detect.Detect(t.Context(), planOf(&fake{ping: failing(errDown)}))
	if err == nil || err.Error() != errDown.Error() {
		t.Errorf("got %v", err)
	}
}

func TestDetectWithoutCandidates(t *testing.T) {
	rt, _, err := detect.Detect(t.Context(), nil)
	if rt != nil || err == nil {
		t.Errorf("got %v, %v", rt, err)
	}
}

// decorated wraps a runtime as decorators do.
type decorated struct{ core.Runtime }

func (d decorated) Unwrap() core.Runtime { return d.Runtime }
