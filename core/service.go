package core

import "context"

// ServiceManager provisions services (databases, caches) for a run.
// Returned by Runtime.ServiceManager - nil if not supported.
type ServiceManager interface {
	// StartService starts a service and returns how to reach it.
	StartService(ctx context.Context, cfg ServiceConfig) (ServiceInfo, error)

	// CheckReady asks once whether the service is ready; nil means that it is.
	CheckReady(ctx context.Context, info ServiceInfo) error

	// StopService stops and removes the service. Missing: nil.
	StopService(ctx context.Context, info ServiceInfo) error

	// SetNetworkID names the network that services started from now on join.
	SetNetworkID(id string)
}

// ServiceConfig defines what service to provision.
type ServiceConfig struct {
	Name    string
	Version string // the image's tag; empty means latest
	Env     map[string]string
	RunID   string

	Image        string         // base image name, such as "postgres"
	Ports        map[string]int // named ports, such as "default" → 5432
	PasswordEnv  string         // variable that holds the password, such as "POSTGRES_PASSWORD"
	ExtraCmd     []string       // extra command arguments with {placeholder} substitution
	ReadinessCmd string         // command that succeeds once the service is ready
}

// ServiceInfo contains connection details for a started service.
type ServiceInfo struct {
	ID           string
	Name         string
	Host         string
	Ports        map[string]int
	Env          map[string]string
	ReadinessCmd string // command that succeeds once the service is ready
	PasswordEnv  string // name of the variable that holds the password
}
