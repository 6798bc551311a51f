package selftest

import (
	"context"
	"io"
	"iter"
	"testing"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// full is a runtime with all optional interfaces that the suite knows.
type full interface {
	core.Runtime
	optional.Capable
	optional.TimedStopper
	optional.Signaler
	optional.Releaser
	optional.Inspector
	optional.LogStreamer
	optional.ImagePuller
	optional.Execer
	optional.EventSource
}

// hooks is a runtime whose methods can be replaced one by one.
type hooks struct {
	full            // the sound runtime
	t    testing.TB // the case that uses it

	kind            func() core.RuntimeType
	ping            func(context.Context) error
	close           func() error
	capabilities    func() optional.Capabilities
	create          func(context.Context, core.Config) (string, error)
	start           func(context.Context, string) error
	stop            func(context.Context, string) error
	stopTimeout     func(context.Context, string, time.Duration) error
	signal          func(context.Context, string, int) error
	release         func(context.Context, string) error
	wait            func(context.Context, string) (int64, error)
	remove          func(context.Context, string) error
	state           func(context.Context, string) (string, error)
	inspect         func(context.Context, string) (optional.Details, error)
	list            func(context.Context) ([]core.Info, error)
	logs            func(context.Context, string) (io.ReadCloser, error)
	logsAll         func(context.Context, string) ([]byte, error)
	stream          func(context.Context, string, optional.LogOptions) error
	attach          func(context.Context, string, core.AttachOptions) error
	startAttached   func(context.Context, string, core.AttachOptions) error
	resize          func(context.Context, string, uint, uint) error
	images          func(context.Context) ([]core.ImageInfo, error)
	removeImage     func(context.Context, string) error
	pull            func(context.Context, string, optional.PullSink) error
	ports           func(context.Context, string) (map[int]int, error)
	supportsHostNet func() bool
	hostAddress     func() string
	firewall        func(context.Context, string, string, int) error
	networkManager  func() core.NetworkManager
	sidecarManager  func() core.SidecarManager
	buildManager    func() core.BuildManager
	serviceManager  func() core.ServiceManager
	more            core.Runtime // optional interfaces that the sound runtime has not got
	exec            func(context.Context, string, optional.ExecOptions) (int64, error)
	events          func(context.Context, optional.EventOptions) (iter.Seq2[optional.Event, error], error)
}

func hooksInto(t testing.TB, rt full) *hooks {
	return &hooks{
		full: rt, t: t, kind: rt.Type, ping: rt.Ping, close: rt.Close, capabilities: rt.Capabilities,
		create: rt.CreateContainer, start: rt.StartContainer, stop: rt.StopContainer, stopTimeout: rt.StopContainerTimeout,
		signal: rt.SignalContainer, release: rt.ReleaseContainer, wait: rt.WaitContainer, remove: rt.RemoveContainer, state: rt.ContainerState,
		inspect: rt.Inspect, list: rt.ListContainers, logs: rt.ContainerLogs, logsAll: rt.ContainerLogsAll, stream: rt.StreamLogs,
		attach: rt.Attach, startAttached: rt.StartAttached, resize: rt.ResizeTTY,
		images: rt.ListImages, removeImage: rt.RemoveImage, pull: rt.PullImage,
		ports: rt.GetPortBindings, supportsHostNet: rt.SupportsHostNetwork, hostAddress: rt.GetHostAddress, firewall: rt.SetupFirewall, networkManager: rt.NetworkManager,
		sidecarManager: rt.SidecarManager, buildManager: rt.BuildManager, serviceManager: rt.ServiceManager,
		exec: rt.Exec, events: rt.Events,
	}
}

// Unwrap is where core.As finds more ports.
func (h *hooks) Unwrap() core.Runtime { return h.more }

// ended is closed when the case has ended, before its clean-up.
func (h *hooks) ended() <-chan struct{} { return h.t.Context().Done() }

func (h *hooks) Type() core.RuntimeType              { return h.kind() }
func (h *hooks) Ping(ctx context.Context) error      { return h.ping(ctx) }
func (h *hooks) Close() error                        { return h.close() }
func (h *hooks) Capabilities() optional.Capabilities { return h.capabilities() }
func (h *hooks) SupportsHostNetwork() bool           { return h.supportsHostNet() }
func (h *hooks) GetHostAddress() string              { return h.hostAddress() }
func (h *hooks) NetworkManager() core.NetworkManager { return h.networkManager() }
func (h *hooks) SidecarManager() core.SidecarManager { return h.sidecarManager() }
func (h *hooks) BuildManager() core.BuildManager     { return h.buildManager() }
func (h *hooks) ServiceManager() core.ServiceManager { return h.serviceManager() }

func (h *hooks) CreateContainer(ctx context.Context, cfg core.Config) (string, error) {
	return h.create(ctx, cfg)
}
func (h *hooks) StartContainer(ctx context.Context, id string) error  { return h.start(ctx, id) }
func (h *hooks) StopContainer(ctx context.Context, id string) error   { return h.stop(ctx, id) }
func (h *hooks) RemoveContainer(ctx context.Context, id string) error { return h.remove(ctx, id) }
func (h *hooks) StopContainerTimeout(ctx context.Context, id string, timeout time.Duration) error {
	return h.stopTimeout(ctx, id, timeout)
}
func (h *hooks) SignalContainer(ctx context.Context, id string, signal int) error {
	return h.signal(ctx, id, signal)
}
func (h *hooks) ReleaseContainer(ctx context.Context, id string) error       { return h.release(ctx, id) }
func (h *hooks) WaitContainer(ctx context.Context, id string) (int64, error) { return h.wait(ctx, id) }
func (h *hooks) ContainerState(ctx context.Context, id string) (string, error) {
	return h.state(ctx, id)
}
func (h *hooks) Inspect(ctx context.Context, id string) (optional.Details, error) {
	return h.inspect(ctx, id)
}
func (h *hooks) ListContainers(ctx context.Context) ([]core.Info, error) { return h.list(ctx) }
func (h *hooks) ContainerLogs(ctx context.Context, id string) (io.ReadCloser, error) {
	return h.logs(ctx, id)
}
func (h *hooks) ContainerLogsAll(ctx context.Context, id string) ([]byte, error) {
	return h.logsAll(ctx, id)
}
func (h *hooks) StreamLogs(ctx context.Context, id string, opts optional.LogOptions) error {
	return h.stream(ctx, id, opts)
}
func (h *hooks) Attach(ctx context.Context, id string, opts core.AttachOptions) error {
	return h.attach(ctx, id, opts)
}
func (h *hooks) StartAttached(ctx context.Context, id string, opts core.AttachOptions) error {
	return h.startAttached(ctx, id, opts)
}
func (h *hooks) ResizeTTY(ctx context.Context, id string, height, width uint) error {
	return h.resize(ctx, id, height, width)
}
func (h *hooks) ListImages(ctx context.Context) ([]core.ImageInfo, error) { return h.images(ctx) }
func (h *hooks) RemoveImage(ctx context.Context, id string) error         { return h.removeImage(ctx, id) }
func (h *hooks) PullImage(ctx context.Context, ref string, sink optional.PullSink) error {
	return h.pull(ctx, ref, sink)
}
func (h *hooks) GetPortBindings(ctx context.Context, id string) (map[int]int, error) {
	return h.ports(ctx, id)
}
func (h *hooks) SetupFirewall(ctx context.Context, id, host string, port int) error {
	return h.firewall(ctx, id, host, port)
}
func (h *hooks) Exec(ctx context.Context, id string, opts optional.ExecOptions) (int64, error) {
	return h.exec(ctx, id, opts)
}
func (h *hooks) Events(ctx context.Context, opts optional.EventOptions) (iter.Seq2[optional.Event, error], error) {
	return h.events(ctx, opts)
}
