package docker

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moatproject/moat/core"
)

// kernelTrees give access to the host's kernel or devices, as does everything below them.
var kernelTrees = []string{"/proc", "/sys", "/dev"}

// engineSockets are names of sockets that give root access to the host.
var engineSockets = []string{"docker.sock", "containerd.sock", "podman.sock", "crio.sock", "buildkitd.sock"}

// engineFolders are the usual directories of such sockets.
var engineFolders = []string{
	"/run", "/run/containerd", "/run/docker/containerd", "/run/podman", "/run/crio", "/run/buildkit", "/run/k3s/containerd",
}

// engineRoots are the usual directories in which engines keep images and containers.
var engineRoots = []string{"/var/lib/docker", "/var/lib/containerd", "/var/lib/containers"}

// checkMounts refuses mounts through which a workload could leave its container. A source
// that does not exist here is left to the engine, which may be on another machine.
func (r *Runtime) checkMounts(c *call, mounts []core.MountConfig) error {
	if len(mounts) == 0 {
		return nil
	}
	facts, err := r.hostFacts(c.ctx)
	if err != nil {
		return c.failed(err)
	}
	roots := engineRoots
	if facts.root != "" {
		roots = append([]string{facts.root}, roots...)
		if resolved, err := filepath.EvalSymlinks(facts.root); err == nil {
			roots = append(roots, resolved)
		}
	}
	for _, mount := range mounts {
		source, err := filepath.EvalSymlinks(mount.Source)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			source = filepath.Clean(mount.Source)
		case err != nil:
			return c.wrong(core.ErrInvalidConfig, "Mounts", err.Error(), "Check the path, and that you may look into it")
		}
		if what := exposed(source, r.options.Host, roots); what != "" {
			return c.wrong(core.ErrInvalidConfig, "Mounts", "mounting "+mount.Source+" would give the workload "+what,
				"Mount a narrower folder, or run it privileged if the workload is trusted")
		}
	}
	return nil
}

// exposed returns the part of the host that a bind mount of a resolved source gives access
// to, or "".
func exposed(source, endpoint string, roots []string) string {
	for _, tree := range kernelTrees {
		if contains(tree, source) || contains(source, tree) {
			return tree
		}
	}
	for _, root := range roots {
		if contains(root, source) || contains(source, root) {
			return root + ", where a container engine keeps images and containers"
		}
	}
	if slices.Contains(engineSockets, filepath.Base(source)) {
		return "the socket of a container engine"
	}
	for _, socket := range socketsNear(source, endpoint) {
		if contains(source, socket) {
			return socket + ", the socket of a container engine"
		}
	}
	return ""
}

// socketsNear returns sockets of engines that may be below a directory.
func socketsNear(folder, endpoint string) []string {
	var sockets []string
	if path, ok := strings.CutPrefix(endpoint, "unix://"); ok {
		sockets = append(sockets, path)
		if resolved, err := filepath.EvalSymlinks(path); err == nil {
			sockets = append(sockets, resolved)
		}
	}
	for _, name := range engineSockets {
		for _, known := range engineFolders {
			sockets = append(sockets, filepath.Join(known, name), filepath.Join("/var", known, name))
		}
		if beside := filepath.Join(folder, name); exists(beside) {
			sockets = append(sockets, beside)
		}
	}
	return sockets
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// contains reports whether path is folder or below it.
func contains(folder, path string) bool {
	relative, err := filepath.Rel(folder, path)
	return err == nil && relative != ".." && !strings.HasPrefix(relative, "../")
}
