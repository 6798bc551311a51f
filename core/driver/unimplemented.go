package driver

import (
	"context"
	"io"

	"github.com/moatproject/moat/core"
)

// Unimplemented is a runtime that can do nothing. An adapter embeds it and replaces one
// method after the other. Each method that returns an error returns
// [core.ErrUnsupported]; all managers are nil. Only Close succeeds: it has nothing to
// close.
type Unimplemented struct {
	Name core.RuntimeType // for Type and errors
}

var _ core.Runtime = Unimplemented{}

func (u Unimplemented) unsupported(op, object string) error {
	return &core.Error{Op: op, Runtime: u.Name, Object: object, Class: core.ErrUnsupported}
}

// Type returns Name.
func (u Unimplemented) Type() core.RuntimeType { return u.Name }

// Ping is unsupported.
func (u Unimplemented) Ping(context.Context) error { return u.unsupported("ping", "") }

// Close does nothing.
func (u Unimplemented) Close() error { return nil }

// CreateContainer is unsupported.
func (u Unimplemented) CreateContainer(_ context.Context, cfg core.Config) (string, error) {
	return "", u.unsupported("create container", cfg.Name)
}

// StartContainer is unsupported.
func (u Unimplemented) StartContainer(_ context.Context, id string) error {
	return u.unsupported("start container", id)
}

// StopContainer is unsupported.
func (u Unimplemented) StopContainer(_ context.Context, id string) error {
	return u.unsupported("stop container", id)
}

// WaitContainer is unsupported.
func (u Unimplemented) WaitContainer(_ context.Context, id string) (int64, error) {
	return 0, u.unsupported("wait for container", id)
}

// RemoveContainer is unsupported.
func (u Unimplemented) RemoveContainer(_ context.Context, id string) error {
	return u.unsupported("remove container", id)
}

// ContainerState is unsupported.
func (u Unimplemented) ContainerState(_ context.Context, id string) (string, error) {
	return "", u.unsupported("get container state", id)
}

// ListContainers is unsupported.
func (u Unimplemented) ListContainers(context.Context) ([]core.Info, error) {
	return nil, u.unsupported("list containers", "")
}

// ContainerLogs is unsupported.
func (u Unimplemented) ContainerLogs(_ context.Context, id string) (io.ReadCloser, error) {
	return nil, u.unsupported("follow logs", id)
}

// ContainerLogsAll is unsupported.
func (u Unimplemented) ContainerLogsAll(_ context.Context, id string) ([]byte, error) {
	return nil, u.unsupported("read logs", id)
}

// Attach is unsupported.
func (u Unimplemented) Attach(_ context.Context, id string, _ core.AttachOptions) error {
	return u.unsupported("attach to container", id)
}

// StartAttached is unsupported.
func (u Unimplemented) StartAttached(_ context.Context, id string, _ core.AttachOptions) error {
	return u.unsupported("start attached", id)
}

// ResizeTTY is unsupported.
func (u Unimplemented) ResizeTTY(_ context.Context, id string, _, _ uint) error {
	return u.unsupported("resize terminal", id)
}

// ListImages is unsupported.
func (u Unimplemented) ListImages(context.Context) ([]core.ImageInfo, error) {
	return nil, u.unsupported("list images", "")
}

// RemoveImage is unsupported.
func (u Unimplemented) RemoveImage(_ context.Context, id string) error {
	return u.unsupported("remove image", id)
}

// GetPortBindings is unsupported.
func (u Unimplemented) GetPortBindings(_ context.Context, id string) (map[int]int, error) {
	return nil, u.unsupported("get port bindings", id)
}

// GetHostAddress returns "": no address is known to lead to the host.
func (u Unimplemented) GetHostAddress() string { return "" }

// SupportsHostNetwork returns false.
func (u Unimplemented) SupportsHostNetwork() bool { return false }

// SetupFirewall is unsupported.
func (u Unimplemented) SetupFirewall(_ context.Context, id, _ string, _ int) error {
	return u.unsupported("set up firewall", id)
}

// NetworkManager returns nil.
func (u Unimplemented) NetworkManager() core.NetworkManager { return nil }

// SidecarManager returns nil.
func (u Unimplemented) SidecarManager() core.SidecarManager { return nil }

// BuildManager returns nil.
func (u Unimplemented) BuildManager() core.BuildManager { return nil }

// ServiceManager returns nil.
func (u Unimplemented) ServiceManager() core.ServiceManager { return nil }
