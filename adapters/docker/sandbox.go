package docker

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/docker/docker/client"
	"github.com/moatproject/moat/core"
)

// Sandbox finds the OCI runtime that isolates containers from the host's kernel. It is safe
// for concurrent use. Its methods return the client's errors as they are, which the
// [Runtime] classifies, or a [core.Error].
type Sandbox interface {
	// Resolve returns the name that the engine has for the OCI runtime, proven to
	// work. A [Runtime] remembers a success.
	Resolve(ctx context.Context, engine client.APIClient) (ociRuntime string, err error)

	// Check refuses a setting of a valid configuration that the sandbox cannot honour, with
	// [core.ErrUnsupported]. It makes no unnecessary request.
	Check(ctx context.Context, engine client.APIClient, ociRuntime string, cfg core.Config) error

	// Forget drops the engine's runtime from a cache of Resolve's, after that runtime has
	// failed.
	Forget(engine client.APIClient)

	// Remedy returns what to do about an error of a container's creation or start that shows
	// a wrong installation of the sandbox, and "" for any other error.
	Remedy(err error) string

	// KeepsFiles reports whether files that a container writes to its root file system are
	// still there after its end. It may start a container to find out.
	KeepsFiles(ctx context.Context, engine client.APIClient, ociRuntime string) (bool, error)

	// Describe returns the sandbox's name and version for people, and the kernel that
	// workloads see.
	Describe(ctx context.Context, engine client.APIClient) (sandbox, kernel string, err error)
}

// sandbox is what a runtime knows about its [Sandbox].
type sandbox struct {
	proving mutex
	name    string   // of the OCI runtime, once it is proven
	keeps   sync.Map // the names of OCI runtimes that have been seen to keep files

	warned sync.Once
}

// Verify proves that the sandbox works. Without a Sandbox it asks for nothing that Ping has
// not asked for.
func (r *Runtime) Verify(ctx context.Context) error {
	c, err := r.begin(ctx, 0, "verify sandbox", r.options.Host)
	if err != nil {
		return err
	}
	defer c.end()
	if r.options.Sandbox == nil {
		return nil
	}
	_, err = r.ociRuntime(c.ctx)
	return c.failed(err)
}

// ociRuntime returns the sandbox's OCI runtime. Concurrent callers wait for one proof.
func (r *Runtime) ociRuntime(ctx context.Context) (string, error) {
	if err := r.sandbox.proving.lock(ctx); err != nil {
		return "", err
	}
	defer r.sandbox.proving.unlock()
	if r.sandbox.name != "" {
		return r.sandbox.name, nil
	}
	if why := r.kind().noSandbox; why != "" {
		return "", &core.Error{
			Op: "find the sandbox", Runtime: core.RuntimeDocker, Object: r.options.Host, Class: core.ErrGVisorNotAvailable, Err: errors.New(why),
			Remedy: "Use Docker Engine for sandboxed containers",
		}
	}
	name, err := r.options.Sandbox.Resolve(ctx, r.engine)
	if err == nil {
		r.sandbox.name = name
	}
	return name, err
}

// ociRuntimeFor returns the OCI runtime of a new container, "" for the engine's
// default: that is worth one warning, where there could be a sandbox.
func (r *Runtime) ociRuntimeFor(ctx context.Context, cfg core.Config) (ociRuntime string, sandboxed bool, err error) {
	if r.options.Sandbox == nil {
		if r.options.GOOS == "linux" {
			r.sandbox.warned.Do(func() {
				r.options.Logger.Warn("without a sandbox containers share the kernel of their host", "endpoint", r.options.Host)
			})
		}
		return "", false, nil
	}
	if cfg.Privileged && cfg.Role == core.RoleSidecar {
		ociRuntime, err = r.plainRuntime(ctx)
		return ociRuntime, false, err
	}
	name, err := r.ociRuntime(ctx)
	if err != nil {
		return "", true, err
	}
	return name, true, r.options.Sandbox.Check(ctx, r.engine, name, cfg)
}

// keepsFiles tells whether an OCI runtime leaves to the engine what a container has
// written to its root file system. A success is remembered.
func (r *Runtime) keepsFiles(ctx context.Context, ociRuntime string) (bool, error) {
	if _, seen := r.sandbox.keeps.Load(ociRuntime); seen || r.options.Sandbox == nil {
		return seen, nil
	}
	kept, err := r.options.Sandbox.KeepsFiles(ctx, r.engine, ociRuntime)
	if kept {
		r.sandbox.keeps.Store(ociRuntime, nil)
	}
	return kept, err
}

// plainRuntime returns the OCI runtime of what must not be in the sandbox, "" for the
// engine's default where that is none.
func (r *Runtime) plainRuntime(ctx context.Context) (string, error) {
	if r.options.Sandbox == nil {
		return "", nil
	}
	host, err := r.hostFacts(ctx)
	if err != nil || host.ociRuntime == "runc" || host.ociRuntime == "crun" {
		return "", err
	}
	return "runc", nil
}

// isPlain tells an OCI runtime that is no sandbox, whatever an engine makes of its name.
func isPlain(ociRuntime string) bool {
	return slices.Contains([]string{"", "runc", "crun", "io.containerd.runc.v2", "oci"}, ociRuntime)
}

// sandboxed corrects the failure of a container's creation or start that shows that
// the sandbox does not work any more: the next creation proves it again.
func (r *Runtime) sandboxed(c *call, err error) error {
	failed := c.failed(err)
	if r.options.Sandbox == nil {
		return failed
	}
	remedy := r.options.Sandbox.Remedy(err)
	if remedy == "" && !brokenOCIRuntime(err) {
		return failed
	}
	if r.sandbox.proving.lock(c.ctx) == nil {
		r.sandbox.name = ""
		r.sandbox.proving.unlock()
	}
	r.options.Sandbox.Forget(r.engine)
	return &core.Error{
		Op: c.op, Runtime: core.RuntimeDocker, Object: c.object, Class: core.ErrGVisorNotAvailable, Err: err, Remedy: remedy,
	}
}
