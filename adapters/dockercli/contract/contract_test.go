package contract

import (
	"os"
	"strings"
	"testing"

	"github.com/moatproject/moat/adapters/docker/dockertest"
	"github.com/moatproject/moat/adapters/dockercli"
	"github.com/moatproject/moat/contracttests"
	"github.com/moatproject/moat/core"
)

func TestContract(t *testing.T) {
	host := os.Getenv("MOAT_TEST_ENGINE_CURRENT")
	contracttests.Run(t, contracttests.Harness{
		Name:   "dockercli",
		Others: dockertest.Harnesses,
		New:    func(testing.TB) core.Runtime { return dockercli.New(dockercli.Options{Host: host}) },
		Absent: func() string { return dockertest.Absence(host, "MOAT_TEST_ENGINE_CURRENT") },
		Unreachable: func(testing.TB) core.Runtime {
			return dockercli.New(dockercli.Options{Host: "unix:///nonexistent/docker.sock"})
		},

		Image:            "moat/test-base:latest",
		ConfigImage:      "moat/test-config:latest",
		PullImage:        "127.0.0.1:5000/moat/test-pull:latest",
		MissingImage:     "127.0.0.1:5000/moat/missing:latest",
		UnreachableImage: "127.0.0.1:1/moat/unreachable:latest",

		Dial: dockertest.DialIn(os.Getenv("MOAT_TEST_NETNS_CURRENT")),
	}, contracttests.Options{
		Unsupported: unsupported(),
		Golden:      "testdata/contract.golden",
	})
}

const (
	noAttach  = "the example does not attach"
	noFiles   = "the example copies no files"
	noExec    = "the example runs no further programs"
	noManager = "the example has no such manager"
)

// unsupported has each case of what the example leaves out.
func unsupported() map[string]string {
	reasons := map[string]string{
		"CF-12": "the example has no host network",
		"CF-15": "the example adds no capabilities",
		"CF-16": "the example leaves the engine's capabilities",
		"CF-18": "the example starts no privileged containers",
		"CF-25": "the example leaves the engine's DNS servers",
		"RT-83": "the example pulls as it creates",
		"RT-84": "the example pulls as it creates",
	}
	for _, c := range contracttests.Cases() {
		for prefix, reason := range map[string]string{
			"NM-": noManager, "SM-": noManager, "SV-": noManager, "BM-": noManager, "EG-": noManager,
			"RT-10": noAttach, "RT-11": noAttach, "CF-20": noAttach, "CF-32": noAttach,
			"RT-13": noExec, "RT-14": noFiles, "RT-15": "the example watches no events", "RT-16": "the example measures nothing",
		} {
			if strings.HasPrefix(c.Number, prefix) && (len(c.Number) == len("RT-100") || !strings.HasPrefix(prefix, "RT-")) {
				reasons[c.Number] = reason
			}
		}
	}
	return reasons
}
