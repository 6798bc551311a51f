package container_test

import (
	"context"
	"io"
	"reflect"
	"testing"
	"time"

	. "github.com/moatproject/moat/adapters/container"
)

// What follows up to the tests is generated from the documented package's text, with
// what its authors left out filled in: each function and method with its signature,
// each interface and each struct. Apple's names come with its adapter.

var (
	_ func(dns []string) []string                = DefaultDNS
	_ func() RuntimeOptions                      = DefaultRuntimeOptions
	_ func(ctx context.Context) bool             = GVisorAvailable
	_ func(sandbox bool) (*DockerRuntime, error) = NewDockerRuntime
	_ func() (Runtime, error)                    = NewRuntime
	_ func(opts RuntimeOptions) (Runtime, error) = NewRuntimeWithOptions
	_ error                                      = ErrGVisorNotAvailable
)

const (
	_ RuntimeType = RuntimeDocker
	_ RuntimeType = RuntimeApple
)

var (
	_ func(r *DockerRuntime, ctx context.Context, containerID string, opts AttachOptions) error              = (*DockerRuntime).Attach
	_ func(r *DockerRuntime) BuildManager                                                                    = (*DockerRuntime).BuildManager
	_ func(r *DockerRuntime) error                                                                           = (*DockerRuntime).Close
	_ func(r *DockerRuntime, ctx context.Context, containerID string) (io.ReadCloser, error)                 = (*DockerRuntime).ContainerLogs
	_ func(r *DockerRuntime, ctx context.Context, containerID string) ([]byte, error)                        = (*DockerRuntime).ContainerLogsAll
	_ func(r *DockerRuntime, ctx context.Context, containerID string) (string, error)                        = (*DockerRuntime).ContainerState
	_ func(r *DockerRuntime, ctx context.Context, cfg Config) (string, error)                                = (*DockerRuntime).CreateContainer
	_ func(r *DockerRuntime) string                                                                          = (*DockerRuntime).GetHostAddress
	_ func(r *DockerRuntime, ctx context.Context, containerID string) (map[int]int, error)                   = (*DockerRuntime).GetPortBindings
	_ func(r *DockerRuntime, ctx context.Context) ([]Info, error)                                            = (*DockerRuntime).ListContainers
	_ func(r *DockerRuntime, ctx context.Context) ([]ImageInfo, error)                                       = (*DockerRuntime).ListImages
	_ func(r *DockerRuntime) NetworkManager                                                                  = (*DockerRuntime).NetworkManager
	_ func(r *DockerRuntime, ctx context.Context) error                                                      = (*DockerRuntime).Ping
	_ func(r *DockerRuntime, ctx context.Context, containerID string) error                                  = (*DockerRuntime).RemoveContainer
	_ func(r *DockerRuntime, ctx context.Context, id string) error                                           = (*DockerRuntime).RemoveImage
	_ func(r *DockerRuntime, ctx context.Context, containerID string, height, width uint) error              = (*DockerRuntime).ResizeTTY
	_ func(r *DockerRuntime) ServiceManager                                                                  = (*DockerRuntime).ServiceManager
	_ func(r *DockerRuntime, ctx context.Context, containerID string, proxyHost string, proxyPort int) error = (*DockerRuntime).SetupFirewall
	_ func(r *DockerRuntime) SidecarManager                                                                  = (*DockerRuntime).SidecarManager
	_ func(r *DockerRuntime, ctx context.Context, containerID string, opts AttachOptions) error              = (*DockerRuntime).StartAttached
	_ func(r *DockerRuntime, ctx context.Context, containerID string) error                                  = (*DockerRuntime).StartContainer
	_ func(r *DockerRuntime, ctx context.Context, containerID string) error                                  = (*DockerRuntime).StopContainer
	_ func(r *DockerRuntime) bool                                                                            = (*DockerRuntime).SupportsHostNetwork
	_ func(r *DockerRuntime) RuntimeType                                                                     = (*DockerRuntime).Type
	_ func(r *DockerRuntime, ctx context.Context, containerID string) (int64, error)                         = (*DockerRuntime).WaitContainer
	_ Runtime                                                                                                = (*DockerRuntime)(nil)
)

type (
	documentedAttachOptions struct {
		Stdin         io.Reader
		Stdout        io.Writer
		Stderr        io.Writer
		TTY           bool
		InitialWidth  uint
		InitialHeight uint
	}
	documentedBuildManager interface {
		BuildImage(ctx context.Context, dockerfile string, tag string, opts BuildOptions) error
		ImageExists(ctx context.Context, tag string) (bool, error)
		GetImageHomeDir(ctx context.Context, imageName string) string
	}
	documentedBuildOptions struct {
		DNS          []string
		ContextFiles map[string][]byte
		NoCache      bool
	}
	documentedConfig struct {
		Name         string
		Image        string
		Cmd          []string
		WorkingDir   string
		Env          []string
		User         string
		Mounts       []MountConfig
		ExtraHosts   []string
		NetworkMode  string
		PortBindings map[int]string
		CapAdd       []string
		GroupAdd     []string
		Privileged   bool
		Interactive  bool
		HasMoatUser  bool
		MemoryMB     int
		CPUs         int
		DNS          []string
	}
	documentedImageInfo struct {
		ID, Tag string
		Size    int64
		Created time.Time
	}
	documentedInfo struct {
		ID      string
		Name    string
		Image   string
		Status  string
		Created time.Time
	}
	documentedInspectResponse struct {
		State *State
	}
	documentedMountConfig struct {
		Source, Target string
		ReadOnly       bool
	}
	documentedNetworkInfo struct {
		ID, Name string
	}
	documentedNetworkManager interface {
		CreateNetwork(ctx context.Context, name string) (string, error)
		RemoveNetwork(ctx context.Context, networkID string) error
		ForceRemoveNetwork(ctx context.Context, networkID string) error
		ListNetworks(ctx context.Context) ([]NetworkInfo, error)
	}
	documentedRuntime interface {
		Type() RuntimeType
		Ping(ctx context.Context) error
		CreateContainer(ctx context.Context, cfg Config) (string, error)
		StartContainer(ctx context.Context, id string) error
		StopContainer(ctx context.Context, id string) error
		WaitContainer(ctx context.Context, id string) (int64, error)
		RemoveContainer(ctx context.Context, id string) error
		ContainerLogs(ctx context.Context, id string) (io.ReadCloser, error)
		ContainerLogsAll(ctx context.Context, id string) ([]byte, error)
		GetPortBindings(ctx context.Context, id string) (map[int]int, error)
		GetHostAddress() string
		SupportsHostNetwork() bool
		NetworkManager() NetworkManager
		SidecarManager() SidecarManager
		BuildManager() BuildManager
		ServiceManager() ServiceManager
		Close() error
		SetupFirewall(ctx context.Context, id string, proxyHost string, proxyPort int) error
		ListImages(ctx context.Context) ([]ImageInfo, error)
		ListContainers(ctx context.Context) ([]Info, error)
		ContainerState(ctx context.Context, id string) (string, error)
		RemoveImage(ctx context.Context, id string) error
		Attach(ctx context.Context, id string, opts AttachOptions) error
		StartAttached(ctx context.Context, id string, opts AttachOptions) error
		ResizeTTY(ctx context.Context, id string, height, width uint) error
	}
	documentedRuntimeOptions struct {
		Sandbox bool
	}
	documentedServiceConfig struct {
		Name         string
		Version      string
		Env          map[string]string
		RunID        string
		Image        string
		Ports        map[string]int
		PasswordEnv  string
		ExtraCmd     []string
		ReadinessCmd string
	}
	documentedServiceInfo struct {
		ID           string
		Name         string
		Host         string
		Ports        map[string]int
		Env          map[string]string
		ReadinessCmd string
		PasswordEnv  string
	}
	documentedServiceManager interface {
		StartService(ctx context.Context, cfg ServiceConfig) (ServiceInfo, error)
		CheckReady(ctx context.Context, info ServiceInfo) error
		StopService(ctx context.Context, info ServiceInfo) error
		SetNetworkID(id string)
	}
	documentedSidecarConfig struct {
		Image      string
		Name       string
		Hostname   string
		NetworkID  string
		Cmd        []string
		Privileged bool
		Mounts     []MountConfig
		RunID      string
		Env        []string
		Labels     map[string]string
	}
	documentedSidecarManager interface {
		StartSidecar(ctx context.Context, cfg SidecarConfig) (string, error)
		InspectContainer(ctx context.Context, containerID string) (InspectResponse, error)
	}
	documentedState struct {
		Running bool
	}
)

// Interfaces have exactly the documented methods: each is assignable to the other.
var (
	_ BuildManager             = documentedBuildManager(nil)
	_ documentedBuildManager   = BuildManager(nil)
	_ NetworkManager           = documentedNetworkManager(nil)
	_ documentedNetworkManager = NetworkManager(nil)
	_ Runtime                  = documentedRuntime(nil)
	_ documentedRuntime        = Runtime(nil)
	_ ServiceManager           = documentedServiceManager(nil)
	_ documentedServiceManager = ServiceManager(nil)
	_ SidecarManager           = documentedSidecarManager(nil)
	_ documentedSidecarManager = SidecarManager(nil)
)

// structs pairs each documented struct with ours.
var structs = []struct{ documented, ours reflect.Type }{
	{reflect.TypeFor[documentedAttachOptions](), reflect.TypeFor[AttachOptions]()},
	{reflect.TypeFor[documentedBuildOptions](), reflect.TypeFor[BuildOptions]()},
	{reflect.TypeFor[documentedConfig](), reflect.TypeFor[Config]()},
	{reflect.TypeFor[documentedImageInfo](), reflect.TypeFor[ImageInfo]()},
	{reflect.TypeFor[documentedInfo](), reflect.TypeFor[Info]()},
	{reflect.TypeFor[documentedInspectResponse](), reflect.TypeFor[InspectResponse]()},
	{reflect.TypeFor[documentedMountConfig](), reflect.TypeFor[MountConfig]()},
	{reflect.TypeFor[documentedNetworkInfo](), reflect.TypeFor[NetworkInfo]()},
	{reflect.TypeFor[documentedRuntimeOptions](), reflect.TypeFor[RuntimeOptions]()},
	{reflect.TypeFor[documentedServiceConfig](), reflect.TypeFor[ServiceConfig]()},
	{reflect.TypeFor[documentedServiceInfo](), reflect.TypeFor[ServiceInfo]()},
	{reflect.TypeFor[documentedSidecarConfig](), reflect.TypeFor[SidecarConfig]()},
	{reflect.TypeFor[documentedState](), reflect.TypeFor[State]()},
}

func TestStructsHaveTheDocumentedFields(t *testing.T) {
	for _, pair := range structs {
		for _, field := range reflect.VisibleFields(pair.documented) {
			ours, ok := pair.ours.FieldByName(field.Name)
			if !ok || ours.Type != field.Type {
				t.Errorf("%s: %s should be a %s, is %v", pair.ours, field.Name, field.Type, ours.Type)
			}
		}
	}
}

func TestConstantsHaveTheDocumentedValues(t *testing.T) {
	for got, want := range map[RuntimeType]string{RuntimeDocker: "docker", RuntimeApple: "apple"} {
		if string(got) != want {
			t.Errorf("%q should be %q", got, want)
		}
	}
	if reflect.TypeFor[RuntimeType]().Kind() != reflect.String {
		t.Error("RuntimeType is no string")
	}
}
