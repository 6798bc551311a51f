package docker

import (
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
	"github.com/moatproject/moat/core/services"
)

// Capabilities tells what an engine does for this adapter. EnforcedEgress is false until a
// check of this Runtime has shown that a restriction holds.
func (r *Runtime) Capabilities() optional.Capabilities {
	isolation := optional.IsolationContainer
	if r.options.Sandbox != nil {
		isolation = optional.IsolationSandbox
	}
	return optional.Capabilities{
		Isolation:       isolation,
		ExitCodes:       true,
		MemoryLimit:     true,
		CPULimit:        true,
		PidsLimit:       true,
		NoNewPrivileges: true,
		EnforcedEgress:  r.firewalls.enforced.Load(),
		Mounts:          true,
		PublishedPorts:  true,
		NetworkModes:    true,
		HostEntries:     true,
		DNSServers:      true,
		LinuxCaps:       true,
		Privileged:      true,
		Attach:          true,
		TTY:             true,
		HeldStart:       true,
		NetworkPeers:    true,
		NetworkManager:  true,
		SidecarManager:  true,
		BuildManager:    true,
		ServiceManager:  true,
	}
}

// SidecarManager returns core's, on this runtime.
func (r *Runtime) SidecarManager() core.SidecarManager { return services.NewSidecarManager(r) }

// ServiceManager returns core's, on this runtime: the same at each call.
func (r *Runtime) ServiceManager() core.ServiceManager { return r.services }
