package docker

import (
	"slices"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/versions"
)

// Sockets of the family AF_VSOCK lead from a virtual machine to what runs it, past every
// network. The default seccomp profile refuses them since Docker Engine 23, whose API is
// the first of blocksVsock. Older engines are given the newer profile with each container.
const (
	blocksVsock   = "1.42"
	seccompPrefix = "seccomp="
)

// seccompOptions returns what a container without a sandbox needs for a profile that refuses
// AF_VSOCK.
func (r *Runtime) seccompOptions() []string {
	option := seccompOption()
	if !r.kind().takesSeccomp || option == "" || versions.GreaterThanOrEqualTo(r.engine.ClientVersion(), blocksVsock) {
		return nil
	}
	return []string{option}
}

// hasSeccomp reports whether a container was created with the profile that its engine needs.
func (r *Runtime) hasSeccomp(config *container.HostConfig) bool {
	return len(r.seccompOptions()) == 0 || slices.ContainsFunc(config.SecurityOpt, func(option string) bool {
		return strings.HasPrefix(option, seccompPrefix+"{")
	})
}
