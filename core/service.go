package core

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"strings"

	"github.com/moatproject/moat/core/internal/validation"
	"github.com/moatproject/moat/core/redact"
)

// ServiceManager provisions services (databases, caches) for a run: containers that
// the run's main one reaches by name. Returned by Runtime.ServiceManager - nil if not
// supported. One manager serves any number of runs at once.
//
// SV-01: no error contains a password, that is, the value of Env[PasswordEnv], or a part
// of it, even where the engine, the service or the readiness command prints it, also
// quoted ([ServiceInfo.Redact]).
type ServiceManager interface {
	// StartService pulls the image as cfg.Pull says, creates and starts the service,
	// and returns how to reach it without waiting until it is ready: services.WaitReady does.
	//
	//   - SV-10: an invalid configuration ([ServiceConfig.Validate]): [ErrInvalidConfig]
	//     with the field's name, before the engine is asked for anything.
	//   - SV-11: the container is what [ServiceConfig.Container] says: its name
	//     ([ServiceName]), image, labels, environment and command. [ServiceInfo] is as
	//     [ServiceConfig.Info] says.
	//   - SV-12: it joins NetworkID, or where that is empty the network of SetNetworkID
	//     as it was when the call began. Neither: the engine's default network.
	//   - SV-13: Name is its hostname, and on its network the name that leads to it. Host
	//     reaches it at Ports from there: Name, or its address where the network has no names.
	//   - SV-15: no port of it is published on the host.
	//   - SV-16: Pull says when the image is pulled, as [Config].Pull does.
	//   - SV-17: an image that can neither be found nor pulled, or a network that does
	//     not exist: [ErrNotFound] naming it.
	//   - SV-18: the run has a service of that name: [ErrAlreadyExists]; it is left alone.
	//   - SV-19: when it fails, neither a container nor a volume is left behind.
	StartService(ctx context.Context, cfg ServiceConfig) (ServiceInfo, error)

	// CheckReady asks once whether the service is ready; nil means that it is. It runs
	// [ServiceInfo.ReadinessScript] in the container, by `sh -c`.
	//
	//   - SV-20: status 0, or no ReadinessCmd and the container runs: nil.
	//   - SV-21: another status: an error without a class, with the service's name, the
	//     status and the output's last lines.
	//   - SV-22: the values of placeholders arrive whatever they contain, and no shell
	//     parses them.
	//   - SV-23: the container has exited, before or meanwhile: [ErrNotRunning], with its
	//     exit code and its log's last lines. Missing: [ErrNotFound]. Both are final. A
	//     paused one is only not ready.
	CheckReady(ctx context.Context, info ServiceInfo) error

	// StopService kills and removes the service.
	//
	//   - SV-30: container and anonymous volumes are gone, and the name is free; missing,
	//     stopped before, or never started (the zero [ServiceInfo]): nil.
	StopService(ctx context.Context, info ServiceInfo) error

	// SetNetworkID names the network that services join whose configuration names none.
	// Runs that share a manager use [ServiceConfig.NetworkID] instead.
	//
	//   - SV-40: it holds for the calls of StartService that begin after it, and for no
	//     other.
	SetNetworkID(id string)
}

// ServiceConfig defines what service to provision. services.Definition makes
// one. Printed or logged, it hides the values of Env; as JSON it does not.
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

	// What follows is not in the documented package.

	NetworkID string            // the network to join; empty: that of [ServiceManager.SetNetworkID]
	Labels    map[string]string // beside Moat's own, which they cannot replace
	Pull      PullPolicy        // when to pull the image; empty: [PullMissing]
}

// ServiceInfo contains connection details for a started service. Printed or logged, it
// hides the values of Env; as JSON it does not.
type ServiceInfo struct {
	ID           string
	Name         string
	Host         string
	Ports        map[string]int
	Env          map[string]string
	ReadinessCmd string // command that succeeds once the service is ready
	PasswordEnv  string // name of the variable that holds the password
}

// ServiceName returns the name of a service's container.
func ServiceName(service, runID string) string { return "moat-" + service + "-" + runID }

// Validate reports the first setting that no runtime could honour, as
// [ErrInvalidConfig] with the field's name. The error contains no value of Env.
func (c ServiceConfig) Validate() error {
	switch {
	case !validation.ServiceName().MatchString(c.Name):
		return Invalid("Name", "%q must be 1 to 63 of [a-z0-9-] and neither begin nor end with -", c.Name)
	case !validation.NetworkName().MatchString(c.RunID):
		return Invalid("RunID", "%q must be one or more of [a-zA-Z0-9_.-] and begin with a letter or digit", c.RunID)
	case c.Version != "" && !validation.Tag().MatchString(c.Version):
		return Invalid("Version", "%q is not an image's tag", c.Version)
	case c.Image == "":
		return Invalid("Image", "is empty; name the image to run")
	case strings.ContainsAny(c.Image[strings.LastIndex(c.Image, "/")+1:], ":@"):
		return Invalid("Image", "%q has a tag or a digest; the tag belongs into Version", c.Image)
	}
	if err := cmp.Or(
		checkText("ReadinessCmd", c.ReadinessCmd), checkText("PasswordEnv", c.PasswordEnv), checkTexts("ExtraCmd", c.ExtraCmd),
	); err != nil {
		return err
	}
	for _, name := range validation.SortedKeys(c.Ports) {
		if !validation.ServiceName().MatchString(name) {
			return Invalid("Ports", "%q is not a port's name, such as default", name)
		}
		if port := c.Ports[name]; port < 1 || port > 65535 {
			return Invalid("Ports", "port %d of %q is outside 1 to 65535", port, name)
		}
	}
	for _, key := range validation.SortedKeys(c.Env) {
		if strings.Contains(key, "=") { // it would be another variable
			return Invalid("Env", "%q is not a variable's name", key)
		}
	}
	if c.NetworkID != "" {
		if err := validateNetworkID(c.NetworkID); err != nil {
			return err
		}
	}
	container := c.Container()
	container.Cmd = nil // passwords are in it by now, and errors quote it
	return container.Validate()
}

// Container returns the configuration of the service's container.
func (c ServiceConfig) Container() Config {
	container := Config{
		Name: ServiceName(c.Name, c.RunID), Image: c.Image + ":" + cmp.Or(c.Version, "latest"), Cmd: c.expandCmd(),
		NetworkMode: c.NetworkID, Hostname: c.Name, RunID: c.RunID, Role: RoleService, Labels: c.Labels,
		Pull: c.Pull,
	}
	if container.OnNamedNetwork() {
		container.NetworkAliases = []string{c.Name}
	}
	for _, key := range validation.SortedKeys(c.Env) {
		container.Env = append(container.Env, key+"="+c.Env[key])
	}
	return container
}

// Info returns what StartService tells of the service, once it has an ID and a host.
func (c ServiceConfig) Info(id, host string) ServiceInfo {
	return ServiceInfo{
		ID: id, Name: c.Name, Host: host, Ports: maps.Clone(c.Ports), Env: maps.Clone(c.Env),
		ReadinessCmd: c.ReadinessCmd, PasswordEnv: c.PasswordEnv,
	}
}

// Without methods, or printing would not end.
type (
	shownConfig ServiceConfig
	shownInfo   ServiceInfo
)

func (c ServiceConfig) shown() shownConfig {
	c.Env = redactedEnv(c.Env)
	return shownConfig(c)
}

func (i ServiceInfo) shown() shownInfo {
	i.Env = redactedEnv(i.Env)
	return shownInfo(i)
}

// Format prints it with the values of Env hidden.
func (c ServiceConfig) Format(s fmt.State, verb rune) {
	fmt.Fprintf(s, fmt.FormatString(s, verb), c.shown())
}

// Format prints it with the values of Env hidden.
func (i ServiceInfo) Format(s fmt.State, verb rune) {
	fmt.Fprintf(s, fmt.FormatString(s, verb), i.shown())
}

// LogValue logs it with the values of Env hidden.
func (c ServiceConfig) LogValue() slog.Value { return slog.AnyValue(c.shown()) }

// LogValue logs it with the values of Env hidden.
func (i ServiceInfo) LogValue() slog.Value { return slog.AnyValue(i.shown()) }

func redactedEnv(env map[string]string) map[string]string {
	hidden := maps.Clone(env)
	for key := range hidden {
		hidden[key] = redact.Mark
	}
	return hidden
}

// Redact replaces the service's password in a text, such as a command's output. It also
// finds the password as quoted strings, JSON and URLs write it. If the password has several
// lines, each of them is replaced as well.
func (i ServiceInfo) Redact(text string) string {
	return redact.Text(text, i.Env[i.PasswordEnv])
}
