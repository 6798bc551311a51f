package gvisor

import (
	"context"
	"path"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/client"
)

// Details describes an engine's gVisor.
type Details struct {
	Runtime  string // its name on the engine
	Version  string // of runsc, "release-20260224.0"; empty where runsc does not report one
	Platform string // how it intercepts system calls: systrap, kvm, ptrace; empty where unknown
	Kernel   string // the Linux release that workloads see, "4.19.0-gvisor"
}

// String returns one line for people.
func (d Details) String() string {
	words := []string{"gVisor"}
	for _, word := range []string{d.Version, d.Platform} {
		if word != "" {
			words = append(words, word)
		}
	}
	return strings.Join(append(words, "as runtime "+d.Runtime), " ")
}

// Details finds gVisor as [Sandbox.Resolve] does, without the cache, and asks for its
// version. It starts two containers.
func (s *Sandbox) Details(ctx context.Context, engine client.APIClient) (Details, error) {
	probe, err := newProber(ctx, engine)
	if err != nil {
		return Details{}, err
	}
	found, err := probe.find(ctx)
	if err != nil {
		return Details{}, err
	}
	return Details{
		Runtime:  found.name,
		Version:  probe.version(ctx, found.candidate),
		Platform: found.platform(),
		Kernel:   found.release,
	}, ctx.Err()
}

// Describe implements [docker.Sandbox] by [Sandbox.Details].
func (s *Sandbox) Describe(ctx context.Context, engine client.APIClient) (sandbox, kernel string, err error) {
	details, err := s.Details(ctx, engine)
	if err != nil {
		return "", "", err
	}
	return details.String(), details.Kernel, nil
}

// KeepsFiles implements [docker.Sandbox]. gVisor keeps a container's writes to its root
// file system in memory, unless it is started with --overlay2=none. KeepsFiles starts a
// container to find out.
func (s *Sandbox) KeepsFiles(ctx context.Context, engine client.APIClient, ociRuntime string) (bool, error) {
	probe, err := newProber(ctx, engine)
	if err != nil {
		return false, err
	}
	return probe.keeps(ctx, ociRuntime)
}

// version runs the program itself in a container: neither the engine nor the kernel inside
// reports its version, and the program may be on another machine.
func (p prober) version(ctx context.Context, runtime candidate) string {
	if !path.IsAbs(runtime.Path) {
		return ""
	}
	const inside = "/" + runscName
	output, err := p.run(ctx,
		container.Config{Entrypoint: []string{inside}, Cmd: []string{"--version"}},
		container.HostConfig{Runtime: runtime.name, Mounts: []mount.Mount{
			{Type: mount.TypeBind, Source: runtime.Path, Target: inside, ReadOnly: true},
		}},
	)
	if err != nil {
		return ""
	}
	return parseVersion(string(output))
}

// parseVersion reads the output of `runsc --version`.
func parseVersion(output string) string {
	line, _, _ := strings.Cut(output, "\n")
	version, ok := strings.CutPrefix(line, "runsc version ")
	if !ok || version == "VERSION_MISSING" { // runsc was built without a version
		return ""
	}
	return version
}

// platform returns the platform in the engine's arguments for runsc. A containerd shim has
// its settings in a file, so its platform is unknown.
func (c candidate) platform() string {
	if c.Path == "" {
		return ""
	}
	if asked, ok := c.flag("platform"); ok {
		return asked
	}
	return "systrap" // runsc's default
}

// flag returns the value of a flag among the engine's arguments for runsc, the last
// one where there are several.
func (c candidate) flag(name string) (value string, given bool) {
	for i, arg := range c.Args {
		flag, text, assigned := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if flag != name || !strings.HasPrefix(arg, "-") {
			continue
		}
		if !assigned && i+1 < len(c.Args) && !strings.HasPrefix(c.Args[i+1], "-") {
			text = c.Args[i+1]
		}
		value, given = text, true
	}
	return value, given
}
