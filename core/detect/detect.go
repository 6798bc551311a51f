// Package detect chooses a container runtime of those that a program has registered.
package detect

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// EnvRuntime is the environment variable that forces a runtime.
const EnvRuntime = "MOAT_RUNTIME"

// Auto is the name that forces no runtime, as the empty one does.
const Auto = "auto"

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

// Options says what the chosen runtime must give.
type Options struct {
	// Sandbox requires a sandbox for containers and fails where it is missing.
	// Without it containers may share the host's kernel.
	Sandbox bool
}

// DefaultOptions returns the options for a host. On Linux they require a sandbox, unless
// the environment has MOAT_NO_SANDBOX=1. On other systems they do not. Nothing is checked.
func DefaultOptions(host Host) Options {
	return Options{Sandbox: host.GOOS == "linux" && host.getenv("MOAT_NO_SANDBOX") != "1"}
}

// Registration makes a runtime known to detection.
type Registration struct {
	Name core.RuntimeType // in lower case; [EnvRuntime] takes it in any case

	// Rank orders autodetection on a host: the runtime with the highest is tried first,
	// and one with 0 only where it is forced. nil: 0 on every host.
	Rank func(Host) int

	// Sandboxed names the runtime that takes the place of this one where a sandbox is
	// required; empty: this one does.
	Sandboxed core.RuntimeType

	// Candidates returns the runtime at each endpoint where it may listen, best first.
	// It opens nothing.
	Candidates func() []Candidate
}

func (r Registration) rank(host Host) int {
	if r.Rank == nil {
		return 0
	}
	return r.Rank(host)
}

// Candidate is a runtime at an endpoint.
type Candidate struct {
	Type     core.RuntimeType
	Endpoint string                       // where it listens, for the report; may be empty
	New      func() (core.Runtime, error) // makes it without opening anything
}

// Attempt is the result of trying a candidate.
type Attempt struct {
	Candidate
	Err error // nil: chosen, or it answered after another was chosen and was not verified
}

// Plan returns the candidates that detection tries, best first.
//
// If [EnvRuntime] names a runtime, the plan has only its candidates; a name that is not
// registered is [core.ErrInvalidConfig]. Otherwise the plan has the registrations that have
// a rank on this host. A plan without candidates is [core.ErrUnavailable].
func Plan(host Host, opts Options, registered []Registration) ([]Candidate, error) {
	wanted, err := choose(host, registered)
	if err != nil {
		return nil, err
	}
	var plan []Candidate
	for _, registration := range wanted {
		if opts.Sandbox && registration.Sandboxed != "" {
			registration = find(registered, registration.Sandboxed)
		}
		if registration.Candidates != nil {
			plan = append(plan, registration.Candidates()...)
		}
	}
	if len(plan) == 0 {
		return nil, &core.Error{
			Op: "choose runtime", Object: forced(host), Class: core.ErrUnavailable,
			Err:    errors.New("this program has no runtime for it"),
			Remedy: "Choose another with " + EnvRuntime + " or --runtime, or unset it",
		}
	}
	return plan, nil
}

// choose returns the registrations to try, best first.
func choose(host Host, registered []Registration) ([]Registration, error) {
	if name := forced(host); name != "" {
		found := find(registered, core.RuntimeType(name))
		if found.Name == "" {
			return nil, &core.Error{
				Op: "choose runtime", Object: name, Field: EnvRuntime, Class: core.ErrInvalidConfig,
				Err: errors.New("allowed are " + strings.Join(Names(registered), ", ")),
			}
		}
		return []Registration{found}, nil
	}
	ranked := slices.DeleteFunc(slices.Clone(registered), func(r Registration) bool { return r.rank(host) <= 0 })
	slices.SortStableFunc(ranked, func(a, b Registration) int { return b.rank(host) - a.rank(host) })
	return ranked, nil
}

// forced returns the name of the runtime that the host's environment forces, or "".
func forced(host Host) string {
	name := strings.ToLower(host.getenv(EnvRuntime))
	if name == Auto {
		return ""
	}
	return name
}

// find returns the registration of a name, or the zero value.
func find(registered []Registration, name core.RuntimeType) Registration {
	if i := slices.IndexFunc(registered, func(r Registration) bool { return r.Name == name }); i >= 0 {
		return registered[i]
	}
	return Registration{}
}

// Names returns what [EnvRuntime] may be set to: [Auto] and the registered names.
func Names(registered []Registration) []string {
	names := []string{Auto}
	for _, registration := range registered {
		names = append(names, string(registration.Name))
	}
	return names
}

// OnlyForced reports whether the runtime called name is used on this host only if
// [EnvRuntime] names it: autodetection tries it neither for itself nor in the place of
// another runtime.
func OnlyForced(host Host, registered []Registration, name core.RuntimeType) bool {
	return !slices.ContainsFunc(registered, func(r Registration) bool {
		return (r.Name == name || r.Sandboxed == name) && r.rank(host) > 0
	})
}

// Detect returns the first usable runtime of a plan, and an Attempt for each candidate. It
// pings all candidates at the same time, and cancels the other pings once it has chosen
// one. The caller closes the returned runtime; Detect closes the others. If none is usable,
// the error lists every reason.
//
// A runtime is usable if it answers and, if it is an [optional.Verifier], Verify succeeds:
// containers can be created with it.
func Detect(ctx context.Context, plan []Candidate) (core.Runtime, []Attempt, error) {
	return detect(ctx, plan, true)
}

// Unverified is Detect for work that creates no container and so needs no working sandbox.
// If the plan has one candidate, it only has to answer. If it has several, Unverified
// returns the one that Detect would return, because the containers are there. If Detect
// would return none, Unverified returns the first one that answers.
func Unverified(ctx context.Context, plan []Candidate) (core.Runtime, []Attempt, error) {
	return detect(ctx, plan, false)
}

func detect(ctx context.Context, plan []Candidate, verified bool) (core.Runtime, []Attempt, error) {
	asking, stopAsking := context.WithCancel(ctx)
	defer stopAsking()
	attempts := make([]Attempt, len(plan))
	runtimes := make([]core.Runtime, len(plan))
	asked := make([]sync.WaitGroup, len(plan))
	for i, candidate := range plan {
		asked[i].Go(func() {
			attempts[i].Candidate = candidate
			runtimes[i], attempts[i].Err = open(asking, candidate)
		})
	}

	var chosen core.Runtime
	unverified := -1 // the first that answers
	for i := range plan {
		asked[i].Wait()
		rt := runtimes[i]
		if rt == nil {
			continue
		}
		if chosen == nil {
			// Verified one after the other: a start is costly, and the first success ends the search.
			if verifier, ok := core.As[optional.Verifier](rt); ok && (verified || len(plan) > 1) {
				attempts[i].Err = verifier.Verify(ctx)
			}
			if attempts[i].Err == nil {
				chosen = rt
				stopAsking()
				continue
			}
			if !verified && unverified < 0 && ctx.Err() == nil {
				unverified = i
				continue
			}
		}
		_ = rt.Close()
	}
	switch {
	case unverified < 0:
	case chosen == nil:
		chosen, attempts[unverified].Err = runtimes[unverified], nil
	default:
		_ = runtimes[unverified].Close()
	}
	if chosen == nil {
		return nil, attempts, &NoRuntimeError{Attempts: attempts}
	}
	return chosen, attempts, nil
}

func open(ctx context.Context, candidate Candidate) (core.Runtime, error) {
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
// error matches, such as [core.ErrUnavailable] or [core.ErrGVisorNotAvailable].
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
