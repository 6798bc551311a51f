// Package optional has the interfaces that a runtime may implement beside [core.Runtime]:
// exec, copy, events, statistics, details, capabilities and more. [core.As] finds one in a
// runtime:
//
//	if execer, ok := core.As[optional.Execer](rt); ok {
//		code, err := execer.Exec(ctx, id, optional.ExecOptions{Cmd: []string{"true"}})
//	}
//
// Their methods owe what core's do (RT-01 to RT-07).
package optional

import (
	"context"
	"time"

	"github.com/moatproject/moat/core"
)

// TimedStopper is the optional interface for stopping with a timeout of the caller's.
type TimedStopper interface {
	// StopContainerTimeout is StopContainer with this time, in whole seconds,
	// between SIGTERM and SIGKILL; 0 kills at once.
	//
	//   - RT-34: the time given counts, not the container's.
	StopContainerTimeout(ctx context.Context, id string, timeout time.Duration) error
}

// Signaler is the optional interface for sending signals.
type Signaler interface {
	// SignalContainer sends a signal, by number, to the container's first process.
	//
	//   - RT-36: the workload receives it.
	//   - RT-37: not running: [core.ErrNotRunning]; missing: [core.ErrNotFound]; no such
	//     signal: [core.ErrInvalidConfig].
	SignalContainer(ctx context.Context, id string, signal int) error
}

// Inspector is the optional interface for a container's details in one call.
type Inspector interface {
	// Inspect returns a container's details.
	//
	//   - RT-62: what Config asked for and what became of it; missing: [core.ErrNotFound].
	Inspect(ctx context.Context, id string) (Details, error)
}

// Details is what is known of a container.
type Details struct {
	core.Info
	State     core.State         `json:"state"`
	Cmd       []string           `json:"cmd"` // with the image's entrypoint before it
	User      string             `json:"user"`
	Mounts    []core.MountConfig `json:"mounts"`
	Network   string             `json:"network"` // its mode or its network's name
	IPAddress string             `json:"ipaddress,omitempty"`
	Ports     map[int]int        `json:"ports"` // TCP, container port → host port
	MemoryMB  int                `json:"memorymb"`
	NanoCPUs  int64              `json:"nanocpus"`
	TTY       bool               `json:"tty"`
	Isolation Isolation          `json:"isolation"`

	// As the engine has them. 0: it does not tell; -1: there is no limit.
	MemorySwapMB int   `json:"memoryswapmb,omitempty"` // memory and swap together
	PidsLimit    int64 `json:"pidslimit,omitempty"`    // processes and threads
}

// Verifier is the optional interface of runtimes whose Ping does not show that
// containers can really run, such as a sandbox that is listed but does not start.
type Verifier interface {
	// Verify proves that containers can run, for example by starting one. The runtime
	// remembers a success, but not a failure.
	Verify(ctx context.Context) error
}

// Describer is the optional interface for what `moat doctor` shows of a runtime.
type Describer interface {
	// Describe asks the engine what it is. It may be slow: never on a hot path.
	Describe(ctx context.Context) (Description, error)
}

// Description tells what a runtime's engine is.
type Description struct {
	Engine   string `json:"engine"`   // name and version: "Docker Engine 29.1.0"
	Endpoint string `json:"endpoint"` // where it listens; empty in process
	Platform string `json:"platform"` // "linux/amd64"
	Kernel   string `json:"kernel"`   // what workloads see, where known
	Sandbox  string `json:"sandbox,omitempty"`
	Files    string `json:"files,omitempty"` // what becomes of a container's files when it ends, if that depends on the engine
}

// Isolation tells what stands between a workload and the host.
type Isolation string

// The isolations, weakest first.
const (
	IsolationNone      Isolation = "none"      // no boundary: the host process itself
	IsolationContainer Isolation = "container" // namespaces and cgroups on the host's kernel
	IsolationSandbox   Isolation = "sandbox"   // a user-space kernel between (gVisor)
	IsolationVM        Isolation = "vm"        // a virtual machine of its own
)

// Capable is the optional interface for what a runtime can do, as data.
type Capable interface {
	// Capabilities makes no call. It describes what the runtime promises, and the
	// suite holds it to that: RT-07 for what is missing.
	Capabilities() Capabilities
}

// Capabilities is what a runtime does and guarantees. The zero value promises nothing.
type Capabilities struct {
	Isolation Isolation `json:"isolation"`

	// Guarantees.
	ExitCodes       bool `json:"exitcodes"`       // WaitContainer knows every exit code
	MemoryLimit     bool `json:"memorylimit"`     // Config.MemoryMB holds
	CPULimit        bool `json:"cpulimit"`        // Config.CPUs and NanoCPUs hold
	PidsLimit       bool `json:"pidslimit"`       // Config.PidsLimit holds
	NoNewPrivileges bool `json:"nonewprivileges"` // setuid programs gain nothing unless asked
	EnforcedEgress  bool `json:"enforcedegress"`  // a check of this Runtime has shown that a restriction of egress holds
	UserNamespaces  bool `json:"usernamespaces"`  // root inside is nobody outside

	// Abilities.
	Mounts         bool `json:"mounts"`         // Config.Mounts
	PublishedPorts bool `json:"publishedports"` // Config.PortBindings and Ports
	NetworkModes   bool `json:"networkmodes"`   // Config.NetworkMode beside the default
	HostEntries    bool `json:"hostentries"`    // Config.ExtraHosts
	DNSServers     bool `json:"dnsservers"`     // Config.DNS
	LinuxCaps      bool `json:"linuxcaps"`      // Config.CapAdd
	Privileged     bool `json:"privileged"`     // Config.Privileged
	Attach         bool `json:"attach"`         // Attach, StartAttached
	TTY            bool `json:"tty"`            // Config.TTY, ResizeTTY
	HeldStart      bool `json:"heldstart"`      // Config.Held, Releaser
	NetworkPeers   bool `json:"networkpeers"`   // containers on a network of NetworkManager's reach each other by name
	NetworkManager bool `json:"networkmanager"`
	SidecarManager bool `json:"sidecarmanager"`
	BuildManager   bool `json:"buildmanager"`
	ServiceManager bool `json:"servicemanager"`
}

// CapabilitiesOf returns rt's capabilities, or the zero value.
func CapabilitiesOf(rt core.Runtime) Capabilities {
	if capable, ok := core.As[Capable](rt); ok {
		return capable.Capabilities()
	}
	return Capabilities{}
}
