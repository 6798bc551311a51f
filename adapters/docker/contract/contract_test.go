package contract

import (
	"os"
	"strings"
	"testing"

	"github.com/moatproject/moat/adapters/docker"
	"github.com/moatproject/moat/adapters/docker/dockertest"
	"github.com/moatproject/moat/contracttests"
	"github.com/moatproject/moat/core"
)

// TestContract runs the suite against the two ends of the engine versions that are
// supported, and against Podman.
func TestContract(t *testing.T) {
	for _, engine := range []struct {
		name, suffix string
		unsupported  map[string]string
	}{
		{"docker", "", Unsupported},
		{"docker-current", "_CURRENT", Unsupported},
		{"podman", "_PODMAN", UnsupportedByPodman},
	} {
		t.Run(engine.name, func(t *testing.T) {
			host := os.Getenv("MOAT_TEST_ENGINE" + engine.suffix)
			contracttests.Run(t, harness(engine.name, engine.suffix, docker.Options{Host: host}), contracttests.Options{
				Unsupported: engine.unsupported,
				Golden:      "testdata/" + engine.name + ".golden",
			})
		})
	}
}

// TestClassicBuilder runs the builders' cases without BuildKit.
func TestClassicBuilder(t *testing.T) {
	for _, engine := range []struct{ name, suffix string }{{"docker", ""}, {"docker-current", "_CURRENT"}} {
		t.Run(engine.name, func(t *testing.T) {
			options := docker.Options{Host: os.Getenv("MOAT_TEST_ENGINE" + engine.suffix), ClassicBuilder: true}
			builds := harness(engine.name, engine.suffix, options)
			dockertest.Need(t, engine.name, builds.Absent())
			for _, c := range contracttests.Cases() {
				if strings.HasPrefix(c.Number, "BM-") && Unsupported[c.Number] == "" {
					t.Run(c.Name(), func(t *testing.T) {
						if !c.Serial {
							t.Parallel()
						}
						c.Run(t, builds)
					})
				}
			}
		})
	}
}

func harness(name, suffix string, options docker.Options) contracttests.Harness {
	return contracttests.Harness{
		Name:   name,
		Others: dockertest.Harnesses,
		New:    func(t testing.TB) core.Runtime { return newRuntime(t, options) },
		Absent: func() string { return dockertest.Absence(options.Host, "MOAT_TEST_ENGINE"+suffix) },
		Unreachable: func(t testing.TB) core.Runtime {
			return newRuntime(t, docker.Options{Host: "unix:///nonexistent/docker.sock"})
		},

		Image:            "moat/test-base:latest",
		ConfigImage:      "moat/test-config:latest",
		PullImage:        "127.0.0.1:5000/moat/test-pull:latest",
		MissingImage:     "127.0.0.1:5000/moat/missing:latest",
		UnreachableImage: "127.0.0.1:1/moat/unreachable:latest",

		Unprivileged: dockertest.LackingCapabilities,
		EgressProxy:  dockertest.EgressProxy,
		Dial:         dockertest.DialIn(os.Getenv("MOAT_TEST_NETNS" + suffix)),
	}
}

func newRuntime(t testing.TB, options docker.Options) core.Runtime {
	rt, err := docker.New(options)
	if err != nil {
		t.Fatal(err)
	}
	return rt
}
