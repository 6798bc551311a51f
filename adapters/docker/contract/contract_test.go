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
		{"docker", "", unsupported},
		{"docker-current", "_CURRENT", unsupported},
		{"podman", "_PODMAN", unsupportedByPodman},
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

var unsupported = map[string]string{
	"BM-15":  "builders take their DNS servers from their own settings",
	"RT-117": "the engine closes stdin together with the attachment",
}

var unsupportedByPodman = map[string]string{
	"BM-14":  "Podman takes no link that leads out of a context",
	"BM-15":  "builders take their DNS servers from their own settings",
	"CF-34":  "Podman chooses no host port from a range",
	"NM-10":  "Podman's networks let their containers reach each other",
	"RT-117": "the engine closes stdin together with the attachment",
}

// TestClassicBuilder runs the builders' cases without BuildKit.
func TestClassicBuilder(t *testing.T) {
	for _, engine := range []struct{ name, suffix string }{{"docker", ""}, {"docker-current", "_CURRENT"}} {
		t.Run(engine.name, func(t *testing.T) {
			options := docker.Options{Host: os.Getenv("MOAT_TEST_ENGINE" + engine.suffix), ClassicBuilder: true}
			builds := harness(engine.name, engine.suffix, options)
			dockertest.Need(t, engine.name, builds.Absent())
			for _, c := range contracttests.Cases() {
				if strings.HasPrefix(c.Number, "BM-") && unsupported[c.Number] == "" {
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
