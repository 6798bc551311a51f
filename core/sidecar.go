package core

import (
	"context"
	"maps"
	"time"
)

// SidecarManager handles helper containers beside a run's main one.
// Returned by Runtime.SidecarManager - nil if not supported.
type SidecarManager interface {
	// StartSidecar pulls the image where it is absent, creates and starts a sidecar on
	// its network, and returns its container ID.
	//
	//   - SM-01: no Image: [ErrInvalidConfig], field Image.
	//   - SM-02: no NetworkID: [ErrInvalidConfig], field NetworkID.
	//   - SM-03: no Name: [ErrInvalidConfig], field Name.
	//   - SM-04: otherwise invalid ([SidecarConfig.Validate]): [ErrInvalidConfig] with the
	//     field's name. All these before the engine is asked for anything.
	//   - SM-05: it runs when the call returns (or has already exited), with Cmd, Env and
	//     Mounts as [Config] has them.
	//   - SM-06: on its network Hostname leads to it, and it is its own hostname.
	//   - SM-07: its labels are those of [SidecarConfig.ContainerLabels].
	//   - SM-08: it is isolated as the run's main container is, unless Privileged.
	//   - SM-09: Privileged: all capabilities, and no sandbox.
	//   - SM-10: an image that can neither be found nor pulled, or a network that does
	//     not exist: [ErrNotFound] naming it.
	//   - SM-11: a name that is taken: [ErrAlreadyExists]; that container is left alone.
	//   - SM-12: when it fails, no container is left behind.
	StartSidecar(ctx context.Context, cfg SidecarConfig) (string, error)

	// InspectContainer returns a container's detailed state.
	//
	//   - SM-20: State tells running, exit code and times, as the container's life goes.
	//   - SM-21: missing: [ErrNotFound].
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

// Validate reports the first setting that no runtime could honour, as
// [ErrInvalidConfig] with the field's name.
func (c SidecarConfig) Validate() error {
	if err := validateNetworkID(c.NetworkID); err != nil {
		return err
	}
	switch {
	case c.Name == "":
		return invalid("Name", "is empty; name the container")
	case c.Hostname != "" && !hostnamePattern.MatchString(c.Hostname):
		return invalid("Hostname", "%q must be at most 63 of [a-zA-Z0-9_.-] and begin with a letter or digit", c.Hostname)
	}
	if err := validateLabels(c.Labels); err != nil {
		return err
	}
	return c.Container().Validate()
}

// Container returns the configuration of the sidecar's container. Beside it the
// container has the labels of ContainerLabels, and Hostname as hostname and alias.
func (c SidecarConfig) Container() Config {
	return Config{
		Image: c.Image, Name: c.Name, NetworkMode: c.NetworkID, Cmd: c.Cmd, Privileged: c.Privileged,
		Mounts: c.Mounts, RunID: c.RunID, Role: RoleSidecar, Env: c.Env,
	}
}

// ContainerLabels returns the labels that the sidecar carries: Moat's, replaced by the
// caller's except for [LabelManaged], without which nothing would ever remove it.
func (c SidecarConfig) ContainerLabels() map[string]string {
	labels := ObjectLabels(c.RunID, RoleSidecar)
	maps.Copy(labels, c.Labels)
	labels[LabelManaged] = "true"
	return labels
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
