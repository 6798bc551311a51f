package core

import "context"

// RuntimeType identifies the container runtime being used.
type RuntimeType string

// The types of the Docker and Apple runtimes. Each other adapter defines its own.
const (
	RuntimeDocker RuntimeType = "docker"
	RuntimeApple  RuntimeType = "apple"
)

// Runtime is everything a container runtime offers, composed of the roles that a
// consumer may ask for one by one. What some runtimes add beyond it (exec, copy,
// pulls with progress, …) are optional interfaces: see [As].
//
// A Runtime is safe for concurrent use and owned by whoever made it, who closes it.
type Runtime interface {
	Identity
	Lifecycle
	Logs
	Attacher
	Images
	Ports
	Firewall
	Managers
}

// Identity tells which runtime this is and whether it answers.
type Identity interface {
	// Type returns the runtime's type. It never changes and makes no call.
	//
	// RT-08: not empty, the same at each call, and valid after Close.
	Type() RuntimeType

	// Ping verifies that the runtime is accessible.
	//
	// RT-09: nil when usable; [ErrUnavailable] with a remedy otherwise.
	Ping(ctx context.Context) error

	// Close releases the runtime's resources. Containers go on running.
	Close() error
}

// Managers returns the specialised managers. Each is an untyped nil where the
// runtime has none; [NetworkManagerOf] and its siblings turn that into an error.
//
// RT-90: a manager is nil exactly where optional.Capabilities says that it is missing.
type Managers interface {
	NetworkManager() NetworkManager
	SidecarManager() SidecarManager
	BuildManager() BuildManager
	ServiceManager() ServiceManager
}

// NetworkManagerOf returns m's network manager, or [ErrUnsupported].
func NetworkManagerOf(m Managers) (NetworkManager, error) {
	return managerOf(m.NetworkManager(), "network manager")
}

// SidecarManagerOf returns m's sidecar manager, or [ErrUnsupported].
func SidecarManagerOf(m Managers) (SidecarManager, error) {
	return managerOf(m.SidecarManager(), "sidecar manager")
}

// BuildManagerOf returns m's build manager, or [ErrUnsupported].
func BuildManagerOf(m Managers) (BuildManager, error) {
	return managerOf(m.BuildManager(), "build manager")
}

// ServiceManagerOf returns m's service manager, or [ErrUnsupported].
func ServiceManagerOf(m Managers) (ServiceManager, error) {
	return managerOf(m.ServiceManager(), "service manager")
}

func managerOf[T comparable](manager T, what string) (T, error) {
	var none T
	if manager == none {
		return none, &Error{Op: "use " + what, Class: ErrUnsupported}
	}
	return manager, nil
}
