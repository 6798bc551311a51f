package memory

import (
	"context"
	"errors"
	"runtime"
	"sync"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/driver"
	"github.com/moatproject/moat/core/optional"
	"github.com/moatproject/moat/core/services"
)

// Type is the name of this runtime.
const Type core.RuntimeType = "memory"

// DefaultLogLimit is how much output, in bytes, a container keeps where
// [Options.LogLimit] is zero.
const DefaultLogLimit = 64 << 20

// Options configures a runtime. The zero value has the built-in images, and a registry
// that has nothing.
type Options struct {
	// Images are present from the beginning, beside the built-in ones. One with the
	// reference of a built-in image replaces it.
	Images []Image

	// Programs are functions of this process that containers run as programs: each is in
	// /bin of every image, by its name, in place of a built-in command of that name. One
	// returns its exit status. It is called by a goroutine for each process that runs it.
	Programs map[string]func(*Process) int

	// Registry has the images that can be pulled.
	Registry []Image

	// Unreachable lists references whose registry does not answer: pulling one is
	// [core.ErrUnavailable].
	Unreachable []string

	// LogLimit is how much output, in bytes, each container keeps; 0 means
	// [DefaultLogLimit]. Beyond it the oldest goes, and whoever reads finds on stderr,
	// in its place, a line that tells how many bytes are gone.
	LogLimit int
}

// Runtime runs containers in this process. Make one with [New].
type Runtime struct {
	logLimit    int
	programs    map[string]program
	registry    map[string]*image
	unreachable map[string]bool
	closed      chan struct{}
	services    core.ServiceManager
	holds       driver.Holds

	mu         sync.Mutex // guards what follows, and the containers' states
	images     map[string]*image
	built      map[string]*image // by what a build's step began with and did
	containers []*container      // oldest first
	networks   []core.NetworkInfo
	events     []optional.Event // oldest first
	happened   chan struct{}    // closed, and replaced, at every event
}

var _ interface {
	core.Runtime
	optional.LogStreamer
	optional.ImagePuller
	optional.TimedStopper
	optional.Signaler
	optional.Releaser
	optional.Inspector
	optional.Execer
	optional.EventSource
	optional.Describer
	optional.Capable
} = (*Runtime)(nil)

// New returns a runtime without containers. It opens nothing.
func New(opts Options) *Runtime {
	programs := programsWith(opts.Programs)
	r := &Runtime{
		logLimit:    opts.LogLimit,
		programs:    programs,
		registry:    imagesByRef(opts.Registry, programs),
		unreachable: map[string]bool{},
		closed:      make(chan struct{}),
		happened:    make(chan struct{}),
		images:      imagesByRef(append(builtinImages(), opts.Images...), programs),
		built:       map[string]*image{},
	}
	r.services = services.NewManager(r)
	if r.logLimit <= 0 {
		r.logLimit = DefaultLogLimit
	}
	for _, ref := range opts.Unreachable {
		r.unreachable[normalRef(ref)] = true
	}
	return r
}

// Type returns [Type].
func (r *Runtime) Type() core.RuntimeType { return Type }

// Ping fails after Close only.
func (r *Runtime) Ping(ctx context.Context) error { return r.check(ctx, "ping", "") }

// Close kills all containers and ends open streams and waits.
func (r *Runtime) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.isClosed() {
		return nil
	}
	close(r.closed)
	for _, c := range r.containers {
		c.kill()
	}
	return nil
}

func (r *Runtime) isClosed() bool {
	select {
	case <-r.closed:
		return true
	default:
		return false
	}
}

// check is the beginning of every call.
func (r *Runtime) check(ctx context.Context, op, object string) error {
	if err := ctx.Err(); err != nil {
		return failure(op, object, nil, err)
	}
	if r.isClosed() {
		return closedError(op, object)
	}
	return nil
}

func closedError(op, object string) error {
	return &core.Error{
		Op: op, Runtime: Type, Object: object, Class: core.ErrUnavailable,
		Err: errors.New("the runtime is closed"), Remedy: "Make a new one",
	}
}

func failure(op, object string, class, cause error) error {
	if class == nil && errors.Is(cause, context.DeadlineExceeded) {
		class = core.ErrTimeout
	}
	return &core.Error{Op: op, Runtime: Type, Object: object, Class: class, Err: cause}
}

func invalid(op, object, field string, cause error) error {
	return &core.Error{
		Op: op, Runtime: Type, Object: object, Field: field, Class: core.ErrInvalidConfig, Err: cause,
	}
}

// refused is invalid with what one of core's checks has found.
func refused(op, object string, err error) error {
	found, _ := errors.AsType[*core.Error](err)
	return invalid(op, object, found.Field, found.Err)
}

func unsupported(op, object, reason string) error {
	return failure(op, object, core.ErrUnsupported, errors.New(reason))
}

// Describe tells that the engine is this process.
func (r *Runtime) Describe(ctx context.Context) (optional.Description, error) {
	if err := r.check(ctx, "describe", ""); err != nil {
		return optional.Description{}, err
	}
	return optional.Description{
		Engine:   "in-process memory runtime " + core.Version,
		Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}, nil
}

// Capabilities returns the features that need no kernel: the runtime has no others.
func (r *Runtime) Capabilities() optional.Capabilities {
	return optional.Capabilities{
		Isolation:       optional.IsolationNone,
		ExitCodes:       true,
		NoNewPrivileges: true,
		Mounts:          true,
		NetworkModes:    true,
		HostEntries:     true,
		DNSServers:      true,
		Attach:          true,
		TTY:             true,
		HeldStart:       true,
		NetworkManager:  true,
		SidecarManager:  true,
		BuildManager:    true,
		ServiceManager:  true,
	}
}

// ServiceManager returns core's, on this runtime: the same at each call.
func (r *Runtime) ServiceManager() core.ServiceManager { return r.services }

// GetHostAddress returns "": without a network no address leads to the host.
func (r *Runtime) GetHostAddress() string { return "" }

// SupportsHostNetwork returns false.
func (r *Runtime) SupportsHostNetwork() bool { return false }

// GetPortBindings returns an empty map for a running container.
func (r *Runtime) GetPortBindings(ctx context.Context, id string) (map[int]int, error) {
	const op = "get port bindings"
	r.mu.Lock()
	defer r.mu.Unlock()
	c, err := r.find(ctx, op, id)
	if err != nil {
		return nil, err
	}
	if c.state != core.StateRunning {
		return nil, failure(op, id, core.ErrNotRunning, nil)
	}
	return map[int]int{}, nil
}

// SetupFirewall is unsupported: there is no network to restrict.
func (r *Runtime) SetupFirewall(ctx context.Context, id, proxyHost string, proxyPort int) error {
	const op = "set up firewall"
	if err := r.check(ctx, op, id); err != nil {
		return err
	}
	if err := core.ValidateProxy(proxyHost, proxyPort); err != nil {
		return refused(op, id, err)
	}
	return unsupported(op, id, "its containers have no network")
}
