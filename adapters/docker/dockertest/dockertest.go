// Package dockertest helps tests on the engines of tools/engine.sh.
package dockertest

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moatproject/moat/adapters/docker"
)

// Absence tells why there is no engine to test with at host, or "". A variable of the
// environment is where host comes from.
func Absence(host, variable string) string {
	if host == "" {
		return variable + " is not set"
	}
	rt, err := docker.New(docker.Options{Host: host})
	if err != nil {
		return err.Error()
	}
	defer func() { _ = rt.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := rt.Ping(ctx); err != nil {
		return err.Error()
	}
	return ""
}

// Harnesses are the names that CONTRACT_REQUIRED may have in this repository.
var Harnesses = []string{"docker", "docker-current", "dockercli", "gvisor", "gvisor-current", "memory", "podman"}

// Need skips the test for the reason absence, unless that is "". Where
// CONTRACT_REQUIRED lists the adapter it fails the test instead.
func Need(t testing.TB, adapter, absence string) {
	t.Helper()
	if absence == "" {
		return
	}
	for required := range strings.SplitSeq(os.Getenv("CONTRACT_REQUIRED"), ",") {
		switch required = strings.TrimSpace(required); {
		case required == adapter:
			t.Fatalf("%s, and CONTRACT_REQUIRED lists %s", absence, adapter)
		case required != "" && !slices.Contains(Harnesses, required):
			t.Fatalf("%s, and CONTRACT_REQUIRED lists %q, which is none of %q", absence, required, Harnesses)
		}
	}
	t.Skip(absence)
}
