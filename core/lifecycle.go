package core

import (
	"context"
	"time"
)

// DefaultStopTimeout is how long StopContainer waits between SIGTERM and SIGKILL
// where [Config.StopTimeout] is zero.
const DefaultStopTimeout = 10 * time.Second

// The states of a container, one vocabulary for all runtimes.
const (
	StateCreated  = "created"
	StateRunning  = "running"
	StatePaused   = "paused"
	StateExited   = "exited"
	StateStopping = "stopping"
	StateDead     = "dead" // the engine failed to remove it
)

// Lifecycle creates, starts, stops and removes containers.
type Lifecycle interface {
	// CreateContainer creates a container without starting it and returns its ID.
	// An absent image is pulled first, as [Config.Pull] says.
	//
	//   - RT-10: the container is in state created and carries Moat's labels.
	//   - RT-11: a name that is taken: [ErrAlreadyExists].
	//   - RT-12: an invalid Config: [ErrInvalidConfig] with the field's name, before
	//     the engine is asked for anything.
	//   - RT-13: an image that can neither be found nor pulled, or a network that
	//     does not exist: [ErrNotFound] naming it.
	//   - RT-14: a bind mount whose source is missing: [ErrInvalidConfig], field Mounts;
	//     nothing is created on the host.
	//   - RT-15: when it fails, no container is left behind.
	//   - RT-16: a text that is not UTF-8, or contains a NUL byte: as RT-12. It could not
	//     reach the workload unchanged. The same holds for the options of Exec and Events,
	//     and for what the managers are given.
	CreateContainer(ctx context.Context, cfg Config) (string, error)

	// StartContainer starts a created or exited container.
	//
	//   - RT-20: it runs when the call returns (or has already exited).
	//   - RT-21: idempotent: a running container is left alone.
	//   - RT-22: an exited container runs again.
	//   - RT-23: a program that does not exist, or is not executable, is
	//     [ErrInvalidConfig], field Cmd, and matches [fs.ErrNotExist] or
	//     [fs.ErrPermission]; the container is not running. What only loading it shows
	//     (RT-106) may end the container instead.
	//   - RT-24: missing: [ErrNotFound].
	//   - RT-25: a published host port that is taken: [ErrInUse], here or from
	//     CreateContainer; the container is not running.
	StartContainer(ctx context.Context, id string) error

	// StopContainer sends SIGTERM, and SIGKILL when the container's stop timeout
	// ends first.
	//
	//   - RT-30: a program that handles SIGTERM chooses its exit code.
	//   - RT-31: one that ignores it is killed after [Config.StopTimeout], or after
	//     [DefaultStopTimeout] where that is zero.
	//   - RT-32: idempotent: nil where it is created or has exited.
	//   - RT-33: missing: [ErrNotFound].
	StopContainer(ctx context.Context, id string) error

	// WaitContainer blocks until the container exits and returns its exit code,
	// 0 to 255. A created container is waited for through its first run.
	//
	//   - RT-40: the program's own code.
	//   - RT-41: 128+n where signal n ended it.
	//   - RT-42: any number of waiters, before and after the exit, get the same code.
	//   - RT-43: the context ends the wait, not the container.
	//   - RT-44: missing: [ErrNotFound]; removed meanwhile: the code it died with or
	//     [ErrNotFound], never a hang.
	//   - RT-45: a code that cannot be known is an error, never 0.
	//   - RT-46: a program's own code and output are its own, also where engines use such
	//     codes (125, 126, 127) and such words themselves, with a TTY and without.
	WaitContainer(ctx context.Context, id string) (int64, error)

	// RemoveContainer kills the container if it runs and removes it with its
	// anonymous volumes.
	//
	//   - RT-50: missing, or removed before: nil.
	//   - RT-51: a running container is killed and removed.
	//   - RT-52: its name is free when the call returns.
	RemoveContainer(ctx context.Context, id string) error

	// ContainerState returns one of the State constants.
	//
	//   - RT-60: created, running and exited, as the calls above leave it.
	//   - RT-61: missing: [ErrNotFound].
	ContainerState(ctx context.Context, id string) (string, error)

	// ListContainers returns the managed containers, running or not, newest first:
	// those labelled [LabelManaged] and those that [IsRunName] tells.
	//
	//   - RT-65: each container with full ID, name, image, state, creation time,
	//     labels; nothing that is not ours.
	//   - RT-66: a removed container is not listed.
	ListContainers(ctx context.Context) ([]Info, error)
}

// Info contains information about a container.
type Info struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Image   string    `json:"image"`
	Status  string    `json:"status"` // one of the State constants
	Created time.Time `json:"created"`

	Labels map[string]string `json:"labels,omitempty"`

	// Published are the ports that are bound on the host, by container port, protocol,
	// and host address and port; none while it does not run.
	Published []PortMapping `json:"published,omitempty"`
}
