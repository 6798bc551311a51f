package container

import (
	"log/slog"
	"os"

	"github.com/moatproject/moat/adapters/docker"
	"github.com/moatproject/moat/adapters/gvisor"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/detect"
)

// RegistrationOptions configures the bundled runtimes. Its zero value discards log
// lines.
type RegistrationOptions struct {
	Logger      *slog.Logger // nil discards
	GVisorCache gvisor.Cache // what is known of engines' sandboxes; nil: nothing is remembered
}

// Registrations returns the bundled runtimes for [detect.Plan] to choose from. They use
// this process's environment: Docker, with and without gVisor, has a candidate at each
// endpoint that it leads to, and pulls and builds with the registry logins of the Docker
// client's configuration, which are looked up when they are needed. Nothing is opened.
// Where the environment leads nowhere, Docker's candidates fail with the reason.
func Registrations(opts RegistrationOptions) []detect.Registration {
	env := environment()
	return []detect.Registration{
		{Name: core.RuntimeDocker, Rank: dockerRank, Sandboxed: gvisor.Type, Candidates: onDocker(env, opts, core.RuntimeDocker, docker.New)},
		{Name: gvisor.Type, Candidates: onDocker(env, opts, gvisor.Type, func(engine docker.Options) (*DockerRuntime, error) {
			return gvisor.New(engine, gvisor.Options{Cache: opts.GVisorCache})
		})},
	}
}

// dockerRank is the same on every host. A runtime that a kind of host has of its own
// goes before it.
func dockerRank(detect.Host) int { return 1 }

// onDocker returns the candidates of a runtime on Docker's endpoints.
func onDocker(
	env docker.Environment, opts RegistrationOptions, name core.RuntimeType, construct func(docker.Options) (*DockerRuntime, error),
) func() []detect.Candidate {
	return func() []detect.Candidate {
		endpoints, err := docker.Endpoints(env)
		if err != nil {
			return []detect.Candidate{{Type: name, New: func() (core.Runtime, error) { return nil, err }}}
		}
		candidates := make([]detect.Candidate, len(endpoints))
		buildKit, classic := env.Builder()
		for i, endpoint := range endpoints {
			engine := docker.Options{
				Host: endpoint.Host, TLS: endpoint.TLS, Logger: opts.Logger,
				BuildKit: buildKit, ClassicBuilder: classic, Logins: env.Logins,
			}
			candidates[i] = detect.Candidate{Type: name, Endpoint: endpoint.Host, New: func() (core.Runtime, error) {
				rt, err := construct(engine)
				if err != nil {
					return nil, err // a nil pointer would be a runtime that is not nil
				}
				return rt, nil
			}}
		}
		return candidates
	}
}

func environment() docker.Environment {
	home, _ := os.UserHomeDir() // empty where there is none, as Environment wants it
	return docker.Environment{Getenv: os.Getenv, Home: home}
}
