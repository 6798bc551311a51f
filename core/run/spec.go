package run

import (
	"fmt"
	"strings"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/services"
)

// Spec says what to run. With an image its zero value is the safe default: the command
// in a hardened container, removed with all that belongs to it when the run is closed.
type Spec struct {
	// Workload is the main container: image, command, environment, mounts, network,
	// limits, ports. RunID and Name may be empty: a run without an ID gets one, and its
	// workload without a name gets the run's ID. Held, AutoRemove and Role are the run's own affair.
	Workload core.Config

	// Services start beside the workload, which is told how to reach them by its
	// environment, and begins when all are ready. They are on the network that the
	// workload names, or on one of the run's own.
	Services []Service

	// Egress restricts what the workload and the services can reach outside. nil: nothing
	// does.
	Egress *Egress

	// ServiceTimeout bounds how long a service may take until it is ready; 0:
	// [services.DefaultReadyTimeout].
	ServiceTimeout time.Duration

	// Timeout is how long the program may run; 0: as long as it likes. When it is over, the
	// workload is stopped as by [core.Lifecycle].StopContainer, and Wait returns a
	// [*LimitError]. It holds as long as this process stands for the run.
	Timeout time.Duration

	// IdleTimeout is how long the program may run without output and without input; 0: as
	// long as it likes. It ends the run as Timeout does. It needs the streams of
	// StartAttached, and counts no time in which their reader is behind.
	IdleTimeout time.Duration

	// Keep spares the workload's container, with its log and files, when the run is
	// closed. Where the workload still runs, the run is left.
	Keep bool

	// Detached leaves the run as soon as its workload has started: no process stands
	// for it. Without Keep the runtime removes the container when it has exited.
	Detached bool
}

// Service is a service of a run.
type Service struct {
	Definition services.Definition
	Version    string            // the image's tag; empty: latest
	Env        map[string]string // replaces the definition's
}

// Format prints NAME:VERSION, and no value of Env: there may be passwords in it.
func (s Service) Format(state fmt.State, _ rune) {
	fmt.Fprint(state, strings.TrimSuffix(s.Definition.Name+":"+s.Version, ":"))
}

// Validate reports the first setting that no run could honour, as
// [core.ErrInvalidConfig] with the field's name.
func (s Spec) Validate() error {
	switch {
	case s.Workload.Held:
		return core.Invalid("Held", "a run holds its workload itself")
	case s.Workload.AutoRemove:
		return core.Invalid("AutoRemove", "a run removes its workload itself, unless Keep is set")
	case s.Workload.Role != "":
		return core.Invalid("Role", "%q: a run's workload has the role %s", s.Workload.Role, core.RoleMain)
	case s.ServiceTimeout < 0:
		return core.Invalid("ServiceTimeout", "%s is below zero", s.ServiceTimeout)
	case s.Timeout < 0:
		return core.Invalid("Timeout", "%s is below zero", s.Timeout)
	case s.IdleTimeout < 0:
		return core.Invalid("IdleTimeout", "%s is below zero", s.IdleTimeout)
	case s.Timeout > 0 && s.Detached:
		return core.Invalid("Timeout", "nothing would stop a detached run in time")
	case s.IdleTimeout > 0 && s.Detached:
		return core.Invalid("IdleTimeout", "nothing would see that a detached run is idle")
	case len(s.Services) > 0 && s.Detached:
		return core.Invalid("Services", "nothing would stop the services of a detached run")
	case len(s.Services) > 0 && s.Workload.NetworkMode != "" && !s.Workload.OnNamedNetwork():
		return core.Invalid("Services", "services are not reached on network %s, only on one that has a name", s.Workload.NetworkMode)
	}
	if s.Egress != nil {
		if err := s.Egress.validate(s); err != nil {
			return err
		}
	}
	for key := range s.Workload.Labels {
		if strings.HasPrefix(key, "moat.") {
			return core.Invalid("Labels", "%q: the prefix moat. is Moat's own", key)
		}
	}
	names := map[string]bool{}
	for _, service := range s.Services {
		if names[service.Definition.Name] {
			return core.Invalid("Services", "%s is asked for twice", service.Definition.Name)
		}
		names[service.Definition.Name] = true
	}
	return s.Workload.Validate()
}
