// Package gvisor runs containers of the docker adapter under gVisor (runsc), a kernel in
// user space.
//
// An engine that lists runsc need not have it: Podman lists runtimes that are not
// installed, engines may ignore the requested runtime, and users register any program
// under any name. So this package starts a container of its own, which needs no image
// from a registry, and asks the kernel inside for its name.
//
// On Docker Engine 29, a start that fails because of the network (a host port that is
// taken) leaves its sandbox behind where runsc is older than September 2026. No client
// of the engine can end that sandbox: docs/gvisor.md has the figures and a remedy.
package gvisor

import (
	"github.com/moatproject/moat/adapters/docker"
	"github.com/moatproject/moat/core"
)

// Type is the name of Docker whose containers run under gVisor.
const Type core.RuntimeType = "gvisor"

// Options configures a [Sandbox].
type Options struct {
	// Cache keeps successes between processes; nil: no cache.
	Cache Cache
}

// Cache keeps the name of an engine's verified runtime. It must be safe for concurrent
// use, and handles its own failures.
type Cache interface {
	Load(key string) (value string, ok bool)
	Store(key, value string)
	Delete(key string)
}

// Sandbox finds and verifies gVisor on Docker engines; it implements
// [docker.Sandbox]. It keeps no connection and is safe for concurrent use.
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
