package docker_test

import (
	"os"
	"testing"

	"github.com/moatproject/moat/adapters/docker"
	"github.com/moatproject/moat/adapters/docker/dockertest"
	"github.com/moatproject/moat/contracttests"
	"github.com/moatproject/moat/core"
)

// TestContract runs the suite against the two ends of the engine versions that are
// supported.
func TestContract(t *testing.T) {
	for _, engine := range []struct{ name, suffix string }{{"docker", ""}, {"docker-current", "_CURRENT"}} {
		t.Run(engine.name, func(t *testing.T) {
			host := os.Getenv("MOAT_TEST_ENGINE" + engine.suffix)
			contracttests.Run(t, contracttests.Harness{
				Name:        engine.name,
				New:         func(t testing.TB) core.Runtime { return newRuntime(t, host) },
				Absent:      func() string { return dockertest.Absence(host, "MOAT_TEST_ENGINE"+engine.suffix) },
				Unreachable: func(t testing.TB) core.Runtime { return newRuntime(t, "unix:///nonexistent/docker.sock") },

				Image:            "moat/test-base:latest",
				ConfigImage:      "moat/test-config:latest",
				PullImage:        "127.0.0.1:5000/moat/test-pull:latest",
				MissingImage:     "127.0.0.1:5000/moat/missing:latest",
				UnreachableImage: "127.0.0.1:1/moat/unreachable:latest",

				Unprivileged: dockertest.LackingCapabilities,
				Dial:         dockertest.DialIn(os.Getenv("MOAT_TEST_NETNS" + engine.suffix)),
			}, contracttests.Options{
				Golden: "testdata/contract.golden",
			})
		})
	}
}

func newRuntime(t testing.TB, host string) core.Runtime {
	rt, err := docker.New(docker.Options{Host: host})
	if err != nil {
		t.Fatal(err)
	}
	return rt
}
