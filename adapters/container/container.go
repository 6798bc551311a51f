// Package container chooses among the container runtimes that Moat bundles: Docker
// and Docker with gVisor.
//
// Its names are aliases, so that what it returns and takes is what package core and
// the adapters know. It is the one library package that reads this process's
// environment and system; nothing else does so behind its caller's back.
package container

import (
	"github.com/moatproject/moat/adapters/docker"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/detect"
)

// The types of the port, as package core documents them.
type (
	AttachOptions   = core.AttachOptions
	BuildManager    = core.BuildManager
	BuildOptions    = core.BuildOptions
	Config          = core.Config
	ImageInfo       = core.ImageInfo
	Info            = core.Info
	InspectResponse = core.InspectResponse
	MountConfig     = core.MountConfig
	NetworkInfo     = core.NetworkInfo
	NetworkManager  = core.NetworkManager
	Runtime         = core.Runtime
	RuntimeOptions  = detect.Options
	RuntimeType     = core.RuntimeType
	ServiceConfig   = core.ServiceConfig
	ServiceInfo     = core.ServiceInfo
	ServiceManager  = core.ServiceManager
	SidecarConfig   = core.SidecarConfig
	SidecarManager  = core.SidecarManager
	State           = core.State
)

// DockerRuntime implements [Runtime] using Docker.
type DockerRuntime = docker.Runtime

// The runtimes that the documented package names.
const (
	RuntimeDocker = core.RuntimeDocker
	RuntimeApple  = core.RuntimeApple
)

// ErrGVisorNotAvailable is returned when gVisor is required but not installed.
var ErrGVisorNotAvailable = core.ErrGVisorNotAvailable

// DefaultDNS returns the default DNS servers if the provided list is empty, and a
// copy of the list otherwise.
func DefaultDNS(dns []string) []string { return core.DefaultDNS(dns) }
