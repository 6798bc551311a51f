package docker

import (
	"slices"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/versions"
)

// Sockets of the family AF_VSOCK lead from a virtual machine to its host, past every
// network. The default seccomp profile refuses them since Docker Engine 23, whose API is
// the first of blocksVsock. Older engines are given the newer profile with each container.
const (
	blocksVsock   = "1.42"
	seccompPrefix = "seccomp="
)

// seccompOptions returns the security options of a container without a sandbox, for a
// profile that refuses AF_VSOCK. On other systems than Linux this program knows none.
func (r *Runtime) seccompOptions() []string {
	option := seccompOption()
	if !r.kind().takesSeccomp || option == "" || versions.GreaterThanOrEqualTo(r.engine.ClientVersion(), blocksVsock) {
		return nil
	}
	return []string{option}
}

// hasSeccomp reports whether a container has a seccomp profile of Moat's, where its engine
// needs one.
func (r *Runtime) hasSeccomp(config *container.HostConfig) bool {
	return len(r.seccompOptions()) == 0 || slices.ContainsFunc(config.SecurityOpt, func(option string) bool {
		return strings.HasPrefix(option, seccompPrefix+"{")
	})
}
