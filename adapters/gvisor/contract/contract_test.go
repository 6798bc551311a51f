package contract

import (
	"os"
	"testing"

	"github.com/moatproject/moat/adapters/docker"
	"github.com/moatproject/moat/adapters/docker/dockertest"
	"github.com/moatproject/moat/adapters/gvisor"
	"github.com/moatproject/moat/contracttests"
	"github.com/moatproject/moat/core"
)

// TestContract runs the suite against the two ends of the engine versions that are
// supported.
func TestContract(t *testing.T) {
	for _, engine := range []struct{ name, suffix string }{{"gvisor", ""}, {"gvisor-current", "_CURRENT"}} {
		t.Run(engine.name, func(t *testing.T) {
			contracttests.Run(t, harness(engine.name, engine.suffix), contracttests.Options{
				Unsupported: Unsupported,
				Golden:      "testdata/" + engine.name + ".golden",
			})
		})
	}
}

func harness(name, suffix string) contracttests.Harness {
	host := os.Getenv("MOAT_TEST_ENGINE" + suffix)
	cache := &Cache{} // or every case's runtime would verify anew
	open := func(t testing.TB, host string) core.Runtime {
		rt, err := gvisor.New(docker.Options{Host: host}, gvisor.Options{Cache: cache})
		if err != nil {
			t.Fatal(err)
		}
		return rt
	}
	return contracttests.Harness{
		Name:        name,
		Others:      dockertest.Harnesses,
		New:         func(t testing.TB) core.Runtime { return open(t, host) },
		Absent:      func() string { return dockertest.Absence(host, "MOAT_TEST_ENGINE"+suffix) },
		Unreachable: func(t testing.TB) core.Runtime { return open(t, "unix:///nonexistent/docker.sock") },

		Image:            "moat/test-base:latest",
		ConfigImage:      "moat/test-config:latest",
		PullImage:        "127.0.0.1:5000/moat/test-pull:latest",
		MissingImage:     "127.0.0.1:5000/moat/missing:latest",
		UnreachableImage: "127.0.0.1:1/moat/unreachable:latest",

		Unprivileged: dockertest.LackingCapabilities,
		EgressProxy:  dockertest.EgressProxy,
		OnHost: func(t testing.TB) core.Runtime {
			rt, err := docker.New(docker.Options{Host: host})
			if err != nil {
				t.Fatal(err)
			}
			return rt
		},
		Dial: dockertest.DialIn(os.Getenv("MOAT_TEST_NETNS" + suffix)),
	}
}
