package container

import (
	"context"
	"log/slog"
	"os"
	"runtime"
	"slices"

	"github.com/moatproject/moat/adapters/gvisor"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/detect"
)

// DefaultRuntimeOptions returns the default runtime options of this process: a
// sandbox on Linux, where gVisor exists, unless MOAT_NO_SANDBOX=1 turns it off.
func DefaultRuntimeOptions() RuntimeOptions {
	return detect.DefaultOptions(host())
}

// NewRuntime is [NewRuntimeWithOptions] with the default options.
func NewRuntime() (Runtime, error) {
	return NewRuntimeWithOptions(DefaultRuntimeOptions())
}

// NewRuntimeWithOptions returns the best runtime that is usable, as [detect.Plan] and
// [detect.Detect] choose it. MOAT_RUNTIME forces one, without a fallback. The caller
// closes the runtime.
//
// Where none is usable the error lists each candidate with its reason: a
// [detect.NoRuntimeError]. It matches [ErrGVisorNotAvailable] only where an engine
// answered and has no gVisor that works.
func NewRuntimeWithOptions(opts RuntimeOptions) (Runtime, error) {
	plan, err := detect.Plan(host(), opts, registered())
	if err != nil {
		return nil, err
	}
	rt, _, err := detect.Detect(context.Background(), plan)
	return rt, err
}

// NewDockerRuntime returns Docker at the first endpoint that is usable, whatever
// MOAT_RUNTIME says; the caller closes it. If sandbox is true, it requires gVisor and
// fails with [ErrGVisorNotAvailable] where an engine answers without it. If sandbox is
// false, containers run on the engine's default OCI runtime, and creating the first
// one logs a warning to [slog.Default].
func NewDockerRuntime(sandbox bool) (*DockerRuntime, error) {
	return newDockerRuntime(context.Background(), sandbox)
}

// GVisorAvailable tells whether an engine has a gVisor that works: whether
// [NewDockerRuntime] with a sandbox would succeed.
//
// Deprecated: it opens an engine only to tell this. Use [NewDockerRuntime], or
// [optional.Verifier] on the runtime that is there.
func GVisorAvailable(ctx context.Context) bool {
	rt, err := newDockerRuntime(ctx, true)
	if err != nil {
		return false
	}
	_ = rt.Close()
	return true
}

func newDockerRuntime(ctx context.Context, sandbox bool) (*DockerRuntime, error) {
	wanted := core.RuntimeDocker
	if sandbox {
		wanted = gvisor.Type
	}
	all := registered()
	plan := all[slices.IndexFunc(all, func(r detect.Registration) bool { return r.Name == wanted })].Candidates()
	rt, _, err := detect.Detect(ctx, plan)
	if err != nil {
		return nil, err
	}
	return rt.(*DockerRuntime), nil
}

// registered returns the registrations for those who cannot say more: the documented
// functions have no argument for a logger or a cache.
func registered() []detect.Registration {
	return Registrations(RegistrationOptions{Logger: slog.Default(), GVisorCache: &proven})
}

func host() detect.Host {
	return detect.Host{GOOS: runtime.GOOS, GOARCH: runtime.GOARCH, Getenv: os.Getenv}
}
