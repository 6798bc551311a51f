package driver

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// Runtime is a [core.Runtime] over a [Driver]. It checks options, refuses settings that
// the driver's engine lacks, keeps what core promises of contexts and of Close, and gives
// errors their shape. An adapter that can do more embeds it and adds methods by [Call];
// what it does not replace of [Unimplemented] is unsupported.
type Runtime struct {
	Unimplemented
	driver Driver
	closed context.Context // ends with Close
	close  context.CancelFunc
	once   sync.Once
}

var _ interface {
	core.Runtime
	optional.Capable
	optional.Inspector
	optional.LogStreamer
	optional.Signaler
	optional.TimedStopper
} = (*Runtime)(nil)

// New returns a runtime with a name of its own. It makes no call.
func New(name core.RuntimeType, driver Driver) *Runtime {
	r := &Runtime{Unimplemented: Unimplemented{name}, driver: driver}
	r.closed, r.close = context.WithCancel(context.Background())
	return r
}

// Call makes one call of a runtime's: do gets a context that ends with the caller's and
// with the runtime. Call returns within half a second of that, also where do does not,
// and shapes the error. Object is what the call is about, such as a container's ID.
func Call[T any](ctx context.Context, r *Runtime, op, object string, do func(context.Context) (T, error)) (T, error) {
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.closed, cancel)()
	var none T
	if err := r.ended(ctx); err != nil {
		return none, r.failed(ctx, op, object, err)
	}
	type result struct {
		value T
		err   error
	}
	quiet, returned := make(chan struct{}), make(chan result, 1)
	go func() {
		defer close(quiet)
		value, err := do(running)
		returned <- result{value, err}
	}()
	await(running, quiet)
	select {
	case got := <-returned:
		return got.value, r.failed(ctx, op, object, got.err)
	default:
		return none, r.failed(ctx, op, object, running.Err())
	}
}

// errClosed is told after Close.
var errClosed = errors.New("the runtime is closed")

// ended returns why no call can go on, or nil.
func (r *Runtime) ended(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if r.closed.Err() != nil {
		return errClosed
	}
	return nil
}

// failed shapes an error. What the end of ctx or Close has caused is told as that.
func (r *Runtime) failed(ctx context.Context, op, object string, err error) error {
	if err == nil {
		return nil
	}
	failure := &core.Error{Op: op, Runtime: r.Name, Object: object, Err: err}
	caller, callers := errors.AsType[*CallerError](err)
	shaped, ours := errors.AsType[*core.Error](err)
	end := r.ended(ctx)
	switch {
	case callers:
		failure.Err = caller.Err
	case ours: // of core's checks, or from a driver that knows more
		failure.Field, failure.Class, failure.Err, failure.Remedy = shaped.Field, shaped.Class, shaped.Err, shaped.Remedy
	case errors.Is(end, errClosed):
		failure.Class, failure.Err, failure.Remedy = core.ErrUnavailable, errClosed, "Make a new one"
	case end != nil:
		failure.Err = end
		if errors.Is(end, context.DeadlineExceeded) {
			failure.Class = core.ErrTimeout
		}
	default:
		r.driver.Classify(failure)
	}
	return failure
}

// on is Call for a container. An ID that an engine could take for an option or a path is
// refused.
func on[T any](ctx context.Context, r *Runtime, op, id string, do func(context.Context) (T, error)) (T, error) {
	return Call(ctx, r, op, id, func(ctx context.Context) (T, error) {
		if !containerName().MatchString(id) {
			var none T
			return none, core.Invalid("id", "it is not a container's name or ID")
		}
		return do(ctx)
	})
}

var containerName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`) })

// did makes of a call without a result one that has an empty one.
func did(do func(context.Context) error) func(context.Context) (struct{}, error) {
	return func(ctx context.Context) (struct{}, error) { return struct{}{}, do(ctx) }
}

// Ping asks the engine.
func (r *Runtime) Ping(ctx context.Context) error {
	_, err := Call(ctx, r, "ping", "", did(r.driver.Ping))
	return err
}

// Close ends all calls in progress, and streams.
func (r *Runtime) Close() (err error) {
	r.once.Do(func() {
		r.close()
		err = r.driver.Close()
	})
	return err
}

// Capabilities returns the driver's.
func (r *Runtime) Capabilities() optional.Capabilities { return r.driver.Capabilities() }

// CreateContainer creates a container whose settings the engine can honour.
func (r *Runtime) CreateContainer(ctx context.Context, cfg core.Config) (string, error) {
	return Call(ctx, r, "create container", cfg.Name, func(ctx context.Context) (string, error) {
		if err := cfg.Validate(); err != nil {
			return "", err
		}
		if field := lacking(r.Capabilities(), cfg); field != "" {
			return "", &core.Error{Field: field, Class: core.ErrUnsupported}
		}
		return r.driver.Create(ctx, cfg)
	})
}

// lacking returns the field of the first setting that a runtime cannot honour, or "".
func lacking(c optional.Capabilities, cfg core.Config) string {
	for _, setting := range []struct {
		field    string
		set, can bool
	}{
		{"Mounts", len(cfg.Mounts) > 0, c.Mounts},
		{"PortBindings", len(cfg.PortBindings) > 0, c.PublishedPorts},
		{"Ports", len(cfg.Ports) > 0, c.PublishedPorts},
		{"NetworkMode", cfg.NetworkMode != "" && cfg.NetworkMode != "bridge", c.NetworkModes},
		{"NetworkMode", cfg.NetworkMode == "host", false},
		{"ExtraHosts", len(cfg.ExtraHosts) > 0, c.HostEntries},
		{"DNS", len(cfg.DNS) > 0, c.DNSServers},
		{"CapAdd", len(cfg.CapAdd) > 0, c.LinuxCaps},
		{"Privileged", cfg.Privileged, c.Privileged},
		{"TTY", cfg.TTY, c.TTY},
		{"Held", cfg.Held, c.HeldStart},
		{"MemoryMB", cfg.MemoryMB > 0, c.MemoryLimit},
		{"CPUs", cfg.CPUs > 0, c.CPULimit},
		{"NanoCPUs", cfg.NanoCPUs > 0, c.CPULimit},
		{"PidsLimit", cfg.PidsLimit > 0, c.PidsLimit},
	} {
		if setting.set && !setting.can {
			return setting.field
		}
	}
	return ""
}

// StartContainer starts a container.
func (r *Runtime) StartContainer(ctx context.Context, id string) error {
	_, err := on(ctx, r, "start container", id, did(func(ctx context.Context) error { return r.driver.Start(ctx, id) }))
	return err
}

// StopContainer stops a container in the time of its configuration.
func (r *Runtime) StopContainer(ctx context.Context, id string) error {
	_, err := on(ctx, r, "stop container", id, did(func(ctx context.Context) error { return r.driver.Stop(ctx, id, -1) }))
	return err
}

// StopContainerTimeout stops a container in a time of the caller's.
func (r *Runtime) StopContainerTimeout(ctx context.Context, id string, timeout time.Duration) error {
	_, err := on(ctx, r, "stop container", id, did(func(ctx context.Context) error {
		if timeout < 0 || timeout%time.Second != 0 {
			return core.Invalid("timeout", "%s is not a whole number of seconds", timeout)
		}
		return r.driver.Stop(ctx, id, timeout)
	}))
	return err
}

// lastSignal is Linux's.
const lastSignal = 64

// SignalContainer sends a signal.
func (r *Runtime) SignalContainer(ctx context.Context, id string, signal int) error {
	_, err := on(ctx, r, "signal container", id, did(func(ctx context.Context) error {
		if signal < 1 || signal > lastSignal {
			if _, err := r.driver.Inspect(ctx, id); err != nil {
				return err
			}
			return core.Invalid("signal", "there is no signal %d", signal)
		}
		return r.driver.Signal(ctx, id, signal)
	}))
	return err
}

// WaitContainer waits for a container's exit.
func (r *Runtime) WaitContainer(ctx context.Context, id string) (int64, error) {
	return on(ctx, r, "wait for container", id, func(ctx context.Context) (int64, error) { return r.driver.Wait(ctx, id) })
}

// RemoveContainer removes a container.
func (r *Runtime) RemoveContainer(ctx context.Context, id string) error {
	_, err := on(ctx, r, "remove container", id, did(func(ctx context.Context) error { return r.driver.Remove(ctx, id) }))
	return unlessMissing(err)
}

// unlessMissing makes a success of the failure to remove what is missing.
func unlessMissing(err error) error {
	if errors.Is(err, core.ErrNotFound) {
		return nil
	}
	return err
}

func (r *Runtime) inspect(ctx context.Context, op, id string) (optional.Details, error) {
	return on(ctx, r, op, id, func(ctx context.Context) (optional.Details, error) { return r.driver.Inspect(ctx, id) })
}

// Inspect returns a container's details.
func (r *Runtime) Inspect(ctx context.Context, id string) (optional.Details, error) {
	return r.inspect(ctx, "inspect container", id)
}

// ContainerState returns a container's state.
func (r *Runtime) ContainerState(ctx context.Context, id string) (string, error) {
	details, err := r.inspect(ctx, "get container state", id)
	return details.Status, err
}

// GetPortBindings returns a running container's TCP ports.
func (r *Runtime) GetPortBindings(ctx context.Context, id string) (map[int]int, error) {
	const op = "get port bindings"
	details, err := r.inspect(ctx, op, id)
	switch {
	case err != nil:
		return nil, err
	case details.Status != core.StateRunning:
		return nil, r.failed(ctx, op, id, &core.Error{Class: core.ErrNotRunning})
	case details.Ports == nil:
		return map[int]int{}, nil
	}
	return details.Ports, nil
}

// ListContainers returns the containers that are Moat's, newest first.
func (r *Runtime) ListContainers(ctx context.Context) ([]core.Info, error) {
	return Call(ctx, r, "list containers", "", func(ctx context.Context) ([]core.Info, error) {
		all, err := r.driver.List(ctx)
		managed := slices.DeleteFunc(all, func(info core.Info) bool { return !core.IsManaged(info.Name, info.Labels) })
		slices.SortStableFunc(managed, func(a, b core.Info) int { return b.Created.Compare(a.Created) })
		return managed, err
	})
}

// ContainerLogs follows a container's output.
func (r *Runtime) ContainerLogs(ctx context.Context, id string) (io.ReadCloser, error) {
	const op = "follow logs"
	if _, err := r.inspect(ctx, op, id); err != nil { // a missing container is told here
		return nil, err
	}
	reader, writer := io.Pipe()
	running, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(r.closed, cancel)
	context.AfterFunc(running, func() { // also where the driver waits for the reader
		_ = writer.CloseWithError(r.failed(ctx, op, id, cmp.Or(r.ended(ctx), io.ErrClosedPipe)))
	})
	go func() {
		defer cancel()
		defer stop()
		err := r.driver.Logs(running, id, optional.LogOptions{Follow: true, Stdout: writer, Stderr: writer})
		_ = writer.CloseWithError(r.failed(ctx, op, id, err))
	}()
	return &logReader{reader, cancel}, nil
}

// logReader ends the driver's call when it is closed.
type logReader struct {
	*io.PipeReader
	cancel context.CancelFunc
}

func (l *logReader) Close() error {
	l.cancel()
	return l.PipeReader.Close()
}

// ContainerLogsAll returns a container's output so far.
func (r *Runtime) ContainerLogsAll(ctx context.Context, id string) ([]byte, error) {
	return on(ctx, r, "read logs", id, func(ctx context.Context) ([]byte, error) {
		var all bytes.Buffer
		err := r.driver.Logs(ctx, id, optional.LogOptions{Stdout: &all, Stderr: &all})
		return all.Bytes(), err
	})
}

// StreamLogs copies a container's output.
func (r *Runtime) StreamLogs(ctx context.Context, id string, opts optional.LogOptions) error {
	_, err := on(ctx, r, "stream logs", id, func(ctx context.Context) (int64, error) {
		carrier := Carrier{Caller: core.AttachOptions{Stdout: opts.Stdout, Stderr: opts.Stderr}}
		carrier.Copy = func(ctx context.Context, stdout, stderr io.Writer) (int64, error) {
			opts.Stdout, opts.Stderr = stdout, stderr
			return 0, r.driver.Logs(ctx, id, opts)
		}
		return carrier.Run(ctx)
	})
	return err
}

// ListImages returns Moat's images by their tags.
func (r *Runtime) ListImages(ctx context.Context) ([]core.ImageInfo, error) {
	return Call(ctx, r, "list images", "", func(ctx context.Context) ([]core.ImageInfo, error) {
		all, err := r.driver.Images(ctx)
		ours := slices.DeleteFunc(all, func(info core.ImageInfo) bool { return !strings.HasPrefix(info.Tag, core.ImagePrefix) })
		slices.SortFunc(ours, func(a, b core.ImageInfo) int { return cmp.Compare(a.Tag, b.Tag) })
		return ours, err
	})
}

// RemoveImage removes an image.
func (r *Runtime) RemoveImage(ctx context.Context, id string) error {
	_, err := Call(ctx, r, "remove image", id, did(func(ctx context.Context) error {
		if id == "" || strings.HasPrefix(id, "-") {
			return core.Invalid("id", "it is not an image's name or ID")
		}
		return r.driver.RemoveImage(ctx, id)
	}))
	return unlessMissing(err)
}

// SetupFirewall is unsupported, whatever valid proxy it is asked for.
func (r *Runtime) SetupFirewall(ctx context.Context, id, proxyHost string, proxyPort int) error {
	_, err := on(ctx, r, "set up firewall", id, did(func(context.Context) error {
		if err := core.ValidateProxy(proxyHost, proxyPort); err != nil {
			return err
		}
		return &core.Error{Class: core.ErrUnsupported, Err: fmt.Errorf("%s restricts no network", r.Name)}
	}))
	return err
}
