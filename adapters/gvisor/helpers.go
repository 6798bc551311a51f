package gvisor

import (
	"regexp"
	"strings"
)

// lacksHelpers matches runsc's complaint about the helper programs that releases since
// September 2026 keep in the directory gvisor-bin beside it.
var lacksHelpers = regexp.MustCompile(`sidecar "[\w-]+" not usable|sidecar binary "[\w-]+" not found`)

// endedEarly is runsc's complaint about a sandbox that ended while it started. A helper of
// another release causes that.
const endedEarly = "waiting for sandbox to start: EOF"

// Remedy implements [docker.Sandbox].
func (s *Sandbox) Remedy(err error) string { return remedy(err) }

func remedy(err error) string {
	if lacksHelpers.MatchString(err.Error()) {
		return "This runsc lacks its helper programs: install gVisor's whole archive, " +
			"with the directory gvisor-bin beside runsc (docs/gvisor.md)"
	}
	return ""
}

// probeRemedy returns the remedy for a probe's failure. It may conclude more than remedy:
// none of a probe's settings ends a sandbox.
func probeRemedy(err error) string {
	if strings.Contains(err.Error(), endedEarly) {
		return "The sandbox ended while it started: install runsc and the programs in gvisor-bin beside it from one release (docs/gvisor.md)"
	}
	return remedy(err)
}
