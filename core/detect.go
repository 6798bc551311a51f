package core

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// EnvRuntime is the environment variable that forces a runtime.
const EnvRuntime = "MOAT_RUNTIME"

// pingTimeout bounds autodetection where nothing answers: all candidates are asked
// at once, so it is also about the whole time.
const pingTimeout = 5 * time.Second

// Host is what detection needs to know of the machine, injected.
type Host struct {
	GOOS, GOARCH string
	Getenv       func(string) string // nil: an empty environment
}

func (h Host) getenv(key string) string {
	if h.Getenv == nil {
		return ""
	}
	return h.Getenv(key)
}

// Candidate is a runtime that detection may choose.
type Candidate struct {
	Type     RuntimeType
	Endpoint string                  // where it listens, for the report; may be empty
	New      func() (Runtime, error) // makes it without opening anything
}

// Attempt tells what became of a candidate.
type Attempt struct {
	Candidate
	Err error // nil: usable
}

// Plan returns the candidates that detection tries, best first.
//
// Forced (an argument of the user's, MOAT_RUNTIME), a runtime has no fallback.
// Docker is tried with gVisor only, or without, as opts.Sandbox says; Apple's
// container goes first where it exists. The memory and remote runtimes are never
// chosen unless forced. No candidate of the forced kind is [ErrUnavailable].
func Plan(host Host, opts RuntimeOptions, candidates []Candidate) ([]Candidate, error) {
	wanted := []RuntimeType{RuntimeDocker}
	if host.GOOS == "darwin" && host.GOARCH == "arm64" {
		wanted = []RuntimeType{RuntimeApple, RuntimeDocker}
	}
	forced := strings.ToLower(host.getenv(EnvRuntime))
	if forced != "" && forced != "auto" {
		if err := checkForced(forced); err != nil {
			return nil, err
		}
		wanted = []RuntimeType{RuntimeType(forced)}
	}
	if opts.Sandbox {
		if i := slices.Index(wanted, RuntimeDocker); i >= 0 {
			wanted[i] = RuntimeGVisor
		}
	}
	var plan []Candidate
	for _, kind := range wanted {
		for _, candidate := range candidates {
			if candidate.Type == kind {
				plan = append(plan, candidate)
			}
		}
	}
	if len(plan) == 0 {
		return nil, &Error{
			Op: "choose runtime", Object: forced, Class: ErrUnavailable,
			Err:    errors.New("this build of Moat has no adapter for it"),
			Remedy: "Choose another with " + EnvRuntime + " or --runtime, or unset it",
		}
	}
	return plan, nil
}

func checkForced(name string) error {
	allowed := []RuntimeType{RuntimeDocker, RuntimeApple, RuntimeGVisor, RuntimeRemote, RuntimeMemory}
	if slices.Contains(allowed, RuntimeType(name)) {
		return nil
	}
	return &Error{
		Op: "choose runtime", Object: name, Field: EnvRuntime, Class: ErrInvalidConfig,
		Err: errors.New("allowed are auto, docker, gvisor, apple, remote and memory"),
	}
}

// Detect returns the first usable runtime of a plan, and what became of each
// candidate. All are asked at once, and those after the chosen one only until it is
// chosen. The caller owns the runtime that is returned, the others are closed. Where
// none is usable the error lists every reason.
func Detect(ctx context.Context, plan []Candidate) (Runtime, []Attempt, error) {
	asking, stopAsking := context.WithCancel(ctx)
	defer stopAsking()
	attempts := make([]Attempt, len(plan))
	runtimes := make([]Runtime, len(plan))
	asked := make([]sync.WaitGroup, len(plan))
	for i, candidate := range plan {
		asked[i].Go(func() {
			attempts[i].Candidate = candidate
			runtimes[i], attempts[i].Err = open(asking, candidate)
		})
	}

	var chosen Runtime
	for i := range plan {
		asked[i].Wait()
		rt := runtimes[i]
		if rt == nil {
			continue
		}
		if chosen == nil {
			// Verified one after the other: a start is costly, and the first success ends the search.
			if verifier, ok := As[Verifier](rt); ok {
				attempts[i].Err = verifier.Verify(ctx)
			}
			if attempts[i].Err == nil {
				chosen = rt
				stopAsking()
				continue
			}
		}
		_ = rt.Close()
	}
	if chosen == nil {
		return nil, attempts, &NoRuntimeError{Attempts: attempts}
	}
	return chosen, attempts, nil
}

func open(ctx context.Context, candidate Candidate) (Runtime, error) {
	rt, err := candidate.New()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if err := rt.Ping(ctx); err != nil {
		_ = rt.Close()
		return nil, err
	}
	return rt, nil
}

// NoRuntimeError says why no candidate is usable. It matches what each candidate's
// error matches, such as [ErrUnavailable] or [ErrGVisorNotAvailable].
type NoRuntimeError struct {
	Attempts []Attempt
}

// Error lists every candidate with its reason.
func (e *NoRuntimeError) Error() string {
	if len(e.Attempts) == 1 {
		return e.Attempts[0].Err.Error()
	}
	var b strings.Builder
	b.WriteString("no container runtime is usable; run `moat doctor` for the remedies")
	for _, attempt := range e.Attempts {
		fmt.Fprintf(&b, "\n  %s %s: %v", attempt.Type, attempt.Endpoint, attempt.Err)
	}
	return b.String()
}

// Unwrap returns the candidates' errors.
func (e *NoRuntimeError) Unwrap() []error {
	errs := make([]error, len(e.Attempts))
	for i, attempt := range e.Attempts {
		errs[i] = attempt.Err
	}
	return errs
}
