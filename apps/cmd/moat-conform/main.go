// Command moat-conform certifies a runtime of this machine with the conformance suite.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"slices"
	"strings"

	"github.com/moatproject/moat/adapters/container"
	"github.com/moatproject/moat/adapters/docker"
	onDocker "github.com/moatproject/moat/adapters/docker/contract"
	"github.com/moatproject/moat/adapters/gvisor"
	onGVisor "github.com/moatproject/moat/adapters/gvisor/contract"
	inMemory "github.com/moatproject/moat/adapters/memory/contract"
	"github.com/moatproject/moat/contracttests/conform"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/detect"
	"github.com/moatproject/moat/core/optional"
)

func main() {
	log.SetOutput(io.Discard) // BuildKit's client writes there of connections that the engine breaks off
	os.Exit(conform.Main(targets()...))
}

// nowhere is an address where no engine listens.
const nowhere = "unix:///nonexistent/docker.sock"

func targets() []conform.Target {
	registered := container.Registrations(container.RegistrationOptions{GVisorCache: &onGVisor.Cache{}})
	find := func(name core.RuntimeType) detect.Registration {
		return registered[slices.IndexFunc(registered, func(r detect.Registration) bool { return r.Name == name })]
	}
	dockers := find(core.RuntimeDocker)
	podmans := dockers // Podman listens at Docker's endpoints
	podmans.Name = "podman"
	unreachable := func() (core.Runtime, error) { return docker.New(docker.Options{Host: nowhere}) }
	return []conform.Target{
		{
			Registration: dockers, Check: isProduct("Docker"), Unsupported: onDocker.Unsupported,
			Unreachable: unreachable, Load: load,
		},
		{
			Registration: podmans, Check: isProduct("Podman"), Unsupported: onDocker.UnsupportedByPodman,
			Unreachable: unreachable, Load: load,
		},
		{
			Registration: find(gvisor.Type), Unsupported: onGVisor.Unsupported,
			Unreachable: func() (core.Runtime, error) {
				return gvisor.New(docker.Options{Host: nowhere}, gvisor.Options{})
			},
			OnHost: func(endpoint string) (core.Runtime, error) { return docker.New(docker.Options{Host: endpoint}) },
			Load:   load,
		},
		{
			Registration: detect.Registration{Name: "memory", Candidates: func() []detect.Candidate {
				return []detect.Candidate{{Type: "memory", New: func() (core.Runtime, error) { return inMemory.New(), nil }}}
			}},
			Unsupported: inMemory.Unsupported, Images: inMemory.Images,
		},
	}
}

func load(ctx context.Context, rt core.Runtime, archive io.Reader) error {
	return rt.(*docker.Runtime).LoadImage(ctx, archive)
}

// isProduct returns a check that an engine is a product.
func isProduct(name string) func(context.Context, core.Runtime) error {
	return func(ctx context.Context, rt core.Runtime) error {
		found, err := rt.(optional.Describer).Describe(ctx)
		if err == nil && !strings.HasPrefix(found.Engine, name+" ") {
			err = fmt.Errorf("the engine is %s", found.Engine)
		}
		return err
	}
}
