// Package gvisor puts containers of the docker adapter into gVisor (runsc), a
// kernel of their own in user space.
//
// That an engine lists runsc proves nothing: Podman lists what it does not have,
// engines may ignore the runtime asked for, and users register any program under
// any name. So the runtime is found by what the kernel inside a container says of
// itself, with a container of our own and no image from a registry.
//
// On Docker Engine 29, a start that fails because of the network (a host port that is
// taken) leaves its sandbox behind where runsc is older than September 2026. No client
// of the engine can end that sandbox: docs/gvisor.md has the figures and a remedy.
package gvisor

import (
	"github.com/moatproject/moat/adapters/docker"
)

// Options configures a [Sandbox].
type Options struct {
	// Cache remembers successes between processes; nil: nothing is remembered.
	Cache Cache
}

// Cache remembers what was found out. It must be safe for concurrent use, and a
// failure to store is its own affair.
type Cache interface {
	Load(key string) (value string, ok bool)
	Store(key, value string)
	Delete(key string)
}

// Sandbox finds and verifies gVisor on Docker engines; it implements
// [docker.Sandbox]. It holds nothing of an engine's and is safe for concurrent use.
type Sandbox struct {
	cache Cache
}

var _ docker.Sandbox = (*Sandbox)(nil)

// NewSandbox returns a sandbox. It makes no call.
func NewSandbox(opts Options) *Sandbox {
	if opts.Cache == nil {
		opts.Cache = noCache{}
	}
	return &Sandbox{cache: opts.Cache}
}

// New returns a docker runtime whose containers run under gVisor. It opens nothing;
// a Sandbox in engine is replaced.
func New(engine docker.Options, opts Options) (*docker.Runtime, error) {
	engine.Sandbox = NewSandbox(opts)
	return docker.New(engine)
}

type noCache struct{}

func (noCache) Load(string) (string, bool) { return "", false }
func (noCache) Store(string, string)       {}
func (noCache) Delete(string)              {}
