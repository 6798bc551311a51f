package container

import (
	"log/slog"
	"os"

	"github.com/moatproject/moat/adapters/docker"
	"github.com/moatproject/moat/adapters/gvisor"
	"github.com/moatproject/moat/adapters/memory"
	"github.com/moatproject/moat/core"
)

// CandidateOptions is what the bundled runtimes are made with. Its zero value tells
// nobody anything and remembers nothing.
type CandidateOptions struct {
	PullProgress core.PullSink // of the pulls that CreateContainer does; nil discards
	Logger       *slog.Logger  // nil discards
	GVisorCache  gvisor.Cache  // what is known of engines' sandboxes; nil: nothing is remembered
}

// Candidates returns the bundled runtimes for [core.Plan] to choose from: Docker with
// and without gVisor at each endpoint that this process's environment leads to, and
// the memory runtime. None is opened. Where the environment leads nowhere, Docker's
// candidates fail with the reason.
func Candidates(opts CandidateOptions) []core.Candidate {
	env := environment()
	endpoints, err := docker.Endpoints(env)
	if err != nil {
		return append(dockerCandidates("", failing(err), failing(err)), memoryCandidate())
	}
	var candidates []core.Candidate
	buildKit, classic := env.Builder()
	for _, endpoint := range endpoints {
		engine := docker.Options{
			Host: endpoint.Host, TLS: endpoint.TLS, PullProgress: opts.PullProgress, Logger: opts.Logger,
			BuildKit: buildKit, ClassicBuilder: classic,
		}
		candidates = append(candidates, dockerCandidates(endpoint.Host,
			func() (*DockerRuntime, error) { return gvisor.New(engine, gvisor.Options{Cache: opts.GVisorCache}) },
			func() (*DockerRuntime, error) { return docker.New(engine) },
		)...)
	}
	return append(candidates, memoryCandidate())
}

func dockerCandidates(endpoint string, sandboxed, plain func() (*DockerRuntime, error)) []core.Candidate {
	return []core.Candidate{
		{Type: core.RuntimeGVisor, Endpoint: endpoint, New: asRuntime(sandboxed)},
		{Type: core.RuntimeDocker, Endpoint: endpoint, New: asRuntime(plain)},
	}
}

func memoryCandidate() core.Candidate {
	return core.Candidate{
		Type: core.RuntimeMemory,
		New:  func() (core.Runtime, error) { return memory.New(memory.Options{}), nil },
	}
}

func failing(err error) func() (*DockerRuntime, error) {
	return func() (*DockerRuntime, error) { return nil, err }
}

// asRuntime keeps a failure's nil pointer from becoming a runtime that is not nil.
func asRuntime(construct func() (*DockerRuntime, error)) func() (core.Runtime, error) {
	return func() (core.Runtime, error) {
		rt, err := construct()
		if err != nil {
			return nil, err
		}
		return rt, nil
	}
}

func environment() docker.Environment {
	home, _ := os.UserHomeDir() // empty where there is none, as Environment wants it
	return docker.Environment{Getenv: os.Getenv, Home: home}
}
