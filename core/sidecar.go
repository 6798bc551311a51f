package core

import (
	"context"
	"time"
)

// SidecarManager handles helper containers beside a run's main one.
// Returned by Runtime.SidecarManager - nil if not supported.
//
// services.NewSidecarManager returns one for any runtime that has networks and implements
// optional.Inspector.
type SidecarManager interface {
	// StartSidecar pulls, creates and starts a sidecar on its network and returns
	// its container ID.
	//
	//   - SM-01: Image, NetworkID or Name missing: [ErrInvalidConfig], with that field;
	//     a network or image that does not exist: [ErrNotFound].
	//   - SM-02: it runs Cmd with Env and Mounts, under Hostname, which is also its
	//     name on the network.
	//   - SM-03: it has Moat's labels, [RoleSidecar], and cfg.Labels, which win over
	//     all but [LabelManaged].
	//   - SM-04: a failure leaves nothing behind.
	//   - SM-05: it is isolated as the runtime's other containers, unless Privileged.
	//   - SM-07: Pull says when the image is pulled, as [Config].Pull does.
	StartSidecar(ctx context.Context, cfg SidecarConfig) (string, error)

	// InspectContainer returns a container's detailed state.
	//
	//   - SM-06: running, its exit code once it has exited; missing: [ErrNotFound].
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
	Pull       PullPolicy        // when to pull the image; empty: [PullMissing]
}

// Container returns the configuration of the sidecar's container. Its labels are the
// sidecar's, over all of Moat's but [LabelManaged].
func (c SidecarConfig) Container() Config {
	cfg := Config{
		Name: c.Name, Image: c.Image, Cmd: c.Cmd, Env: c.Env, Mounts: c.Mounts, Privileged: c.Privileged,
		NetworkMode: c.NetworkID, Hostname: c.Hostname, RunID: c.RunID, Role: RoleSidecar, ownLabels: c.Labels,
		Pull: c.Pull,
	}
	if c.Hostname != "" {
		cfg.NetworkAliases = []string{c.Hostname}
	}
	return cfg
}

// Validate reports the first setting that no runtime could honour, as
// [ErrInvalidConfig] with the field's name.
func (c SidecarConfig) Validate() error {
	if c.Image == "" {
		return Invalid("Image", "is empty; name the sidecar's image")
	}
	if err := validateNetworkID(c.NetworkID); err != nil {
		return err
	}
	if c.Name == "" {
		return Invalid("Name", "is empty; name the sidecar's container")
	}
	if err := validateLabels(c.Labels); err != nil {
		return err
	}
	return c.Container().Validate()
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
