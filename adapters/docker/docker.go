// Package docker runs containers on a Docker Engine, or on anything that speaks its
// API from version 1.41 on.
//
// A [Runtime] makes no request that a method does not need: one for each of create,
// start, wait, list and remove. The API's version is negotiated once, by the first.
package docker

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/docker/docker/client"
	"github.com/docker/go-connections/tlsconfig"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
	"github.com/moatproject/moat/core/services"
	"go.opentelemetry.io/otel/trace/noop"
)

// minimumAPI is Docker 20.10's.
const minimumAPI = "1.41"

// Options configures a [Runtime].
type Options struct {
	Host           string       // endpoint, such as unix:///var/run/docker.sock; empty: the platform's usual one
	TLS            *TLS         // of a tcp endpoint; nil: none
	Logger         *slog.Logger // nil discards
	Sandbox        Sandbox      // nil: the engine's default OCI runtime
	SubnetPool     netip.Prefix // IPv4 subnets for networks, from /8 to /29; zero: a part of 10.0.0.0/8
	BuildKit       string       // address of the BuildKit that builds images, such as unix:///run/buildkit/buildkitd.sock; empty: the engine builds
	ClassicBuilder bool         // the engine builds without its BuildKit

	// Logins returns the login at a registry, named as names of images have it
	// ("docker.io", "example.org:5000"); the zero Login where there is none. It is asked
	// before each pull, and by a build for each registry that it pulls from, concurrently.
	// A failure fails the pull or build. nil: all pulls are anonymous. [Environment.Logins]
	// is the Docker client's.
	Logins func(ctx context.Context, registry string) (Login, error)

	GOOS string // this machine's system, as [runtime.GOOS] has it; empty: the one that this is built for
}

// TLS says how a tcp endpoint is authenticated, by PEM files.
type TLS struct {
	CA, Cert, Key string // paths; empty: the system's authorities, no client certificate
	SkipVerify    bool   // accept any certificate of the engine's
}

// Runtime is a Docker Engine as a [core.Runtime]. It is safe for concurrent use.
type Runtime struct {
	engine   *client.Client
	upgrades *http.Client // the engine's connections without the SDK's wrapping
	options  Options
	timeout  time.Duration // of a request where the caller has set no deadline
	patience time.Duration // optional.EventPatience, but in tests

	negotiating mutex
	negotiated  atomic.Bool
	product     atomic.Pointer[product] // what answered the last ping

	closed context.Context // ends with Close
	close  context.CancelFunc

	sandbox sandbox
	known   known
	host    hostFacts

	resolvers     resolvers
	restrictions  restrictions
	firewalls     firewalls
	programImages sync.Map // IDs by name
	routes        string   // the file that lists this machine's
	services      core.ServiceManager
}

var _ interface {
	core.Runtime
	optional.LogStreamer
	optional.ImagePuller
	optional.TimedStopper
	optional.Signaler
	optional.Releaser
	optional.Inspector
	optional.Verifier
	optional.Describer
	optional.Capable
} = (*Runtime)(nil)

// New returns a runtime for an endpoint. It connects to nothing. A Host that cannot
// be an endpoint, or TLS files that cannot be used, are [core.ErrInvalidConfig].
func New(options Options) (*Runtime, error) {
	if options.Host == "" {
		options.Host = client.DefaultDockerHost
	}
	if options.GOOS == "" {
		options.GOOS = runtime.GOOS
	}
	if !options.SubnetPool.IsValid() {
		options.SubnetPool = defaultPool
	}
	if pool := options.SubnetPool; !pool.Addr().Is4() || pool != pool.Masked() || pool.Bits() < 8 || pool.Bits() > 29 {
		return nil, &core.Error{
			Op: "make runtime", Runtime: core.RuntimeDocker, Object: pool.String(), Field: "SubnetPool", Class: core.ErrInvalidConfig,
			Err: errors.New("it is not an IPv4 subnet from /8 to /29"),
		}
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	if err := checkBuildKit(options.BuildKit); err != nil {
		return nil, err
	}
	transport := &http.Transport{
		MaxIdleConns: maxIdleConnections, MaxIdleConnsPerHost: maxIdleConnections, IdleConnTimeout: time.Minute,
	}
	r := &Runtime{
		upgrades:    &http.Client{Transport: transport},
		options:     options,
		timeout:     callTimeout,
		patience:    optional.EventPatience,
		negotiating: make(mutex, 1),
		sandbox:     sandbox{proving: make(mutex, 1)},
		host:        hostFacts{asking: make(mutex, 1)},
		routes:      "/proc/net/route",
	}
	r.product.Store(&dockerEngine)
	if err := r.connect(transport); err != nil {
		return nil, err
	}
	r.closed, r.close = context.WithCancel(context.Background())
	r.services = services.NewManager(r)
	return r, nil
}

// connect makes the runtime's client, which connects with the first request.
func (r *Runtime) connect(transport *http.Transport) error {
	if err := checkHost(r.options.Host); err != nil {
		return err
	}
	connection := &http.Client{Transport: transport, CheckRedirect: client.CheckRedirect}
	engine, err := client.NewClientWithOpts(
		client.WithHTTPClient(connection),
		client.WithHost(r.options.Host),
		withTLS(transport, r.options.TLS),
		client.WithAPIVersionNegotiation(),
		client.WithUserAgent("moat/"+core.Version),
		client.WithTraceProvider(noop.NewTracerProvider()),
	)
	if err != nil {
		return invalidHost(r.options.Host, err, "")
	}
	transport.Proxy = nil // the SDK takes one from this process's environment
	connection.Transport = pinger{connection.Transport, &r.product}
	r.engine = engine
	return nil
}

// maxIdleConnections lets as many parallel runs go on without a connection each time.
const maxIdleConnections = 32

func withTLS(transport *http.Transport, files *TLS) client.Opt {
	return func(*client.Client) (err error) {
		if files == nil {
			return nil
		}
		transport.TLSClientConfig, err = tlsconfig.Client(tlsconfig.Options{
			CAFile: files.CA, CertFile: files.Cert, KeyFile: files.Key,
			InsecureSkipVerify: files.SkipVerify, MinVersion: tls.VersionTLS12, ExclusiveRootPools: true,
		})
		return err
	}
}

// Type returns [core.RuntimeDocker], sandboxed or not: [Runtime.Capabilities] tells.
func (r *Runtime) Type() core.RuntimeType { return core.RuntimeDocker }

// Ping verifies that the engine answers and is new enough.
func (r *Runtime) Ping(ctx context.Context) error {
	c, err := r.open(ctx, "ping", r.options.Host)
	if err != nil {
		return err
	}
	defer c.end()
	c.limit(r.timeout)
	asked, err := r.negotiate(c.ctx)
	if err == nil && !asked {
		_, err = r.engine.Ping(c.ctx)
		err = noPing(err)
	}
	return c.failed(err)
}

// noPing marks the failure of a ping, whatever it was: nobody there is an engine.
func noPing(err error) error {
	if err == nil {
		return nil
	}
	return &causedError{err, errNoPing}
}

// negotiate settles the API's version with the runtime's first request, and tells
// whether it was this call that asked.
func (r *Runtime) negotiate(ctx context.Context) (asked bool, err error) {
	if r.negotiated.Load() {
		return false, nil
	}
	if err := r.negotiating.lock(ctx); err != nil {
		return false, err
	}
	defer r.negotiating.unlock()
	if r.negotiated.Load() {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, r.timeout) // also where the method has none
	defer cancel()
	if err := r.engine.NewVersionError(ctx, minimumAPI, "Moat"); err != nil {
		return true, noPing(err)
	}
	r.negotiated.Store(true)
	return true, nil
}

// Close ends open streams and waits and drops the connections. Containers go on.
func (r *Runtime) Close() error {
	r.close()
	return r.engine.Close()
}
