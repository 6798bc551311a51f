package core

import (
	"context"
	"time"
)

// SidecarManager handles helper containers beside a run's main one.
// Returned by Runtime.SidecarManager - nil if not supported.
type SidecarManager interface {
	// StartSidecar pulls, creates and starts a sidecar on its network and returns
	// its container ID. A failure leaves nothing behind.
	StartSidecar(ctx context.Context, cfg SidecarConfig) (string, error)

	// InspectContainer returns a container's detailed state. Missing: [ErrNotFound].
	InspectContainer(ctx context.Context, containerID string) (InspectResponse, error)
}

// SidecarConfig holds configuration for starting a sidecar container.
type SidecarConfig struct {
	Image      string            // such as "moby/buildkit:latest"; required
	Name       string            // the container's name; required
	Hostname   string            // its name on the network
	NetworkID  string            // the network to attach to; required
	Cmd        []string          // the command to run
	Privileged bool              // runs privileged, and then never sandboxed
	Mounts     []MountConfig     // bind mounts
	RunID      string            // the run it belongs to
	Env        []string          // environment, KEY=value
	Labels     map[string]string // merged over the default labels
}

// InspectResponse holds detailed container state.
type InspectResponse struct {
	State *State `json:"state"`
}

// State is a container's state in detail.
type State struct {
	Running    bool      `json:"running"`
	Status     string    `json:"status"`   // one of the State constants
	ExitCode   int       `json:"exitcode"` // meaningful where Status is exited
	StartedAt  time.Time `json:"startedat"`
	FinishedAt time.Time `json:"finishedat"` // zero while running
	OOMKilled  bool      `json:"oomkilled"`
	Health     string    `json:"health,omitempty"` // the engine's word; empty without a health check
}
