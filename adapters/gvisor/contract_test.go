package gvisor

import (
	"os"
	"testing"

	"github.com/docker/docker/client"
	"github.com/moatproject/moat/adapters/docker"
	"github.com/moatproject/moat/adapters/docker/dockertest"
	"github.com/moatproject/moat/contracttests"
	"github.com/moatproject/moat/core"
)

const (
	baseImage   = "moat/test-base:latest"
	harnessName = "gvisor"
)

func TestContract(t *testing.T) {
	host := os.Getenv("MOAT_TEST_ENGINE")
	cache := &memoryCache{} // or every case's runtime would verify anew
	open := func(t testing.TB, host string) core.Runtime {
		rt, err := New(docker.Options{Host: host}, Options{Cache: cache})
		if err != nil {
			t.Fatal(err)
		}
		return rt
	}
	contracttests.Run(t, contracttests.Harness{
		Name:        harnessName,
		New:         func(t testing.TB) core.Runtime { return open(t, host) },
		Absent:      absence,
		Unreachable: func(t testing.TB) core.Runtime { return open(t, "unix:///nonexistent/docker.sock") },

		Image:            baseImage,
		ConfigImage:      "moat/test-config:latest",
		PullImage:        "127.0.0.1:5000/moat/test-pull:latest",
		MissingImage:     "127.0.0.1:5000/moat/missing:latest",
		UnreachableImage: "127.0.0.1:1/moat/unreachable:latest",

		Unprivileged: dockertest.LackingCapabilities,
		Dial:         dockertest.DialIn(os.Getenv("MOAT_TEST_NETNS")),
	}, contracttests.Options{
		Unsupported: map[string]string{
			"BM-15": "builders take their DNS servers from their own settings",
			"CF-12": "gVisor has a network stack of its own",
		},
		Golden: "testdata/contract.golden",
	})
}

func absence() string { return dockertest.Absence(os.Getenv("MOAT_TEST_ENGINE"), "MOAT_TEST_ENGINE") }

// realEngine returns a client of the engine to test with. Its absence skips the
// test, unless CONTRACT_REQUIRED names this adapter.
func realEngine(t *testing.T) client.APIClient {
	t.Helper()
	dockertest.Need(t, harnessName, absence())
	return newClient(t, os.Getenv("MOAT_TEST_ENGINE"))
}
