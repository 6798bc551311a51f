package core

import (
	"time"

	"github.com/moatproject/moat/core/internal/validation"
)

// Config holds configuration for creating a container. Its zero value, with an
// image, is the safe default: a container with its own bridge network, hardened as
// optional.Capabilities describes. Adapters pass it through [Config.Validate] first. All texts
// are UTF-8 without NUL bytes, whatever the runtime: engines are spoken to in JSON, which
// would change others silently.
//
// What the workload observes of it:
//
//   - CF-01: Name: every method takes it in place of the ID.
//   - CF-02: Image: its entrypoint, environment, user, working directory and command
//     hold where Config says nothing.
//   - CF-03: Cmd: the arguments arrive word for word, whatever they contain. It
//     replaces the image's command, not its entrypoint.
//   - CF-04: Env: values arrive unchanged, and replace the image's of the same name.
//   - CF-05: WorkingDir: made where it is missing.
//   - CF-06: User: by name or number, with its group.
//   - CF-07: Mounts: both sides see what the other writes.
//   - CF-08: Mounts: a read-only one refuses writes.
//   - CF-09: ExtraHosts: in /etc/hosts.
//   - CF-10: NetworkMode bridge, also "": one network of the container's own.
//   - CF-11: NetworkMode none: nothing but loopback.
//   - CF-12: NetworkMode host: the host's addresses, where [Ports.SupportsHostNetwork].
//   - CF-13: Ports: the host port that was asked for.
//   - CF-14: Ports: UDP is not TCP.
//   - CF-15: CapAdd: the capability is effective.
//   - CF-16: CapAdd: without it NET_RAW, SYS_ADMIN and the like are missing.
//   - CF-17: GroupAdd: the process has the groups, known to the image or not.
//   - CF-18: Privileged: all capabilities.
//   - CF-19: Interactive: reading stdin blocks; without it, it ends.
//   - CF-20: TTY: all three streams are a terminal.
//   - CF-21: MemoryMB: as much memory as the workload is told that there is, and no swap
//     beyond it. What takes more is killed.
//   - CF-22: CPUs: the quota.
//   - CF-23: NanoCPUs: a fraction throttles.
//   - CF-24: PidsLimit: no more processes than that; where it is zero, [DefaultPidsLimit].
//   - CF-25: DNS: the servers in /etc/resolv.conf, and no others; where none are given,
//     there are some.
//   - CF-26: Labels, RunID and Role: as [Config.ContainerLabels] says.
//   - CF-27: Pull: as the policies say.
//   - CF-28: AutoRemove: waiters that were there get the code.
//   - CF-29: AllowNewPrivileges false: set-user-ID programs gain nothing.
//   - CF-30: AllowNewPrivileges true: they do.
//   - CF-31: Hostname: what the workload is told, and finds itself by.
//   - CF-32: Held: nothing of the program runs before optional.Releaser is called,
//     and then it finds its streams, arguments and environment as it would without.
//   - CF-33: Ports: one container port on several host ports, each of which leads to it,
//     and [Info] has them all.
//   - CF-34: Ports: of a range of host ports, one that is free.
//   - CF-35: PortBindings and Ports without an address: on 127.0.0.1, and nowhere else.
//   - CF-36: Env: what else there is comes from the image or is the container's own, such as
//     HOME; nothing is passed on of what the engine, its host or this process has, such as
//     HTTP_PROXY.
//
// PortBindings are RT-85's, NetworkAliases are NM-06's, StopTimeout is RT-31's, and HasMoatUser changes nothing
// that a workload sees.
type Config struct {
	Name         string
	Image        string
	Cmd          []string
	WorkingDir   string         // absolute, and not under /proc
	Env          []string       // KEY=value
	User         string         // User to run as (e.g., "1000:1000" or "moatuser")
	Mounts       []MountConfig  // bind mounts
	ExtraHosts   []string       // host:ip mappings (Docker-specific)
	NetworkMode  string         // "bridge" (also ""), "host", "none", or a network name/ID
	PortBindings map[int]string // container port -> host bind address (e.g., 3000 -> "127.0.0.1")
	CapAdd       []string       // Linux capabilities to add (e.g., "NET_ADMIN")
	GroupAdd     []string       // Supplementary group IDs for the container process (e.g., "999" for docker group)
	Privileged   bool           // If true, run container in privileged mode (required for Docker-in-Docker)
	Interactive  bool           // If true, stdin is kept open for Attach and StartAttached
	HasMoatUser  bool           // If true, image has moatuser (moat-built images); used for exec --user in Apple containers
	MemoryMB     int            // Memory limit in megabytes of 1048576 bytes, swap included; 0: no limit
	CPUs         int            // Number of CPUs; 0: no limit
	DNS          []string       // DNS servers; empty: the engine's, or [DefaultDNS] where those would not work

	// What follows is not in the documented package.

	TTY         bool              // give the process a terminal; stdout and stderr become one stream
	StopTimeout time.Duration     // between SIGTERM and SIGKILL, in whole seconds; 0: [DefaultStopTimeout]
	Labels      map[string]string // beside Moat's own, which they cannot replace
	RunID       string            // the run it belongs to, for [LabelRunID]
	Role        string            // what it is to its run, for [LabelRole]; empty: [RoleMain]
	Ports       []PortMapping     // published ports, where PortBindings does not say enough
	NanoCPUs    int64             // CPUs in billionths, for fractions; not together with CPUs
	Pull        PullPolicy        // when to pull the image; empty: [PullMissing]
	PidsLimit   int64             // processes and threads; 0: [DefaultPidsLimit]; -1: no limit
	AutoRemove  bool              // the engine removes it, with its logs, as soon as it has exited
	Held        bool              // only StartAttached starts it, and its program waits for optional.Releaser

	// AllowNewPrivileges lets setuid programs (sudo, su) raise the workload's
	// privileges inside the container, which is refused otherwise.
	AllowNewPrivileges bool

	Hostname       string   // what it calls itself; empty: the engine's choice
	NetworkAliases []string // further names on the network that NetworkMode names

	ownLabels map[string]string // of a manager's, over all but LabelManaged
}

// DefaultPidsLimit stops fork bombs and leaves room for parallel builds.
const DefaultPidsLimit = 4096

// MountConfig describes a bind mount.
type MountConfig struct {
	Source   string `json:"source"` // absolute path on the host, which must exist
	Target   string `json:"target"` // absolute path in the container
	ReadOnly bool   `json:"readonly"`
}

// PortMapping publishes one container port on one host port. Several may publish the
// same container port.
type PortMapping struct {
	ContainerPort int    `json:"containerPort"`         // 1 to 65535
	Protocol      string `json:"protocol"`              // "tcp" (also "") or "udp"
	HostIP        string `json:"hostIp"`                // bind address; empty: 127.0.0.1
	HostPort      int    `json:"hostPort"`              // 0: the engine picks one
	HostPortEnd   int    `json:"hostPortEnd,omitempty"` // the engine picks one from HostPort to this; 0: HostPort alone
}

// PullPolicy says when an image is pulled.
type PullPolicy string

// The pull policies, as Docker users know them.
const (
	PullMissing PullPolicy = "missing"
	PullAlways  PullPolicy = "always"
	PullNever   PullPolicy = "never"
)

// CPUQuota returns the CPU limit in billionths of a CPU, 0 for none.
func (c Config) CPUQuota() int64 {
	if c.CPUs > 0 {
		return int64(c.CPUs) * 1e9
	}
	return c.NanoCPUs
}

// StopTimeoutOrDefault returns the time between SIGTERM and SIGKILL.
func (c Config) StopTimeoutOrDefault() time.Duration {
	if c.StopTimeout > 0 {
		return c.StopTimeout
	}
	return DefaultStopTimeout
}

// OnNamedNetwork tells whether NetworkMode is a network's name or ID.
func (c Config) OnNamedNetwork() bool {
	switch c.NetworkMode {
	case "", "bridge", "host", "none":
		return false
	}
	return true
}

// PublishedPorts returns PortBindings and Ports as one list with the defaults
// filled in, PortBindings first and in the order of their ports.
func (c Config) PublishedPorts() []PortMapping {
	ports := make([]PortMapping, 0, len(c.PortBindings)+len(c.Ports))
	for _, port := range validation.SortedKeys(c.PortBindings) {
		ports = append(ports, PortMapping{ContainerPort: port, HostIP: c.PortBindings[port]})
	}
	ports = append(ports, c.Ports...)
	for i := range ports {
		if ports[i].Protocol == "" {
			ports[i].Protocol = "tcp"
		}
		if ports[i].HostIP == "" {
			ports[i].HostIP = "127.0.0.1"
		}
	}
	return ports
}
