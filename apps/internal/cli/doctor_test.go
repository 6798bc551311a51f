package cli

import (
	"strings"
	"testing"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/detect"
)

func TestDoctorAnswersForTheRuntimeThatRunWouldTake(t *testing.T) {
	gvisor, docker := detect.Candidate{Type: "gvisor", Endpoint: "a"}, detect.Candidate{Type: core.RuntimeDocker, Endpoint: "a"}
	elsewhere := detect.Candidate{Type: core.RuntimeDocker, Endpoint: "b"}
	all := []diagnosis{{Runtime: "gvisor", Endpoint: "a"}, {Runtime: "docker", Endpoint: "a", Usable: true}, {Runtime: "docker", Endpoint: "b"}}
	for _, test := range []struct {
		plan   []detect.Candidate
		usable bool
	}{
		{[]detect.Candidate{docker}, true},
		{[]detect.Candidate{elsewhere, docker}, true},
		{[]detect.Candidate{gvisor}, false},
		{[]detect.Candidate{elsewhere}, false},
	} {
		err := noneUsable(test.plan, all)
		if (err == nil) != test.usable {
			t.Errorf("%v: %v", test.plan, err)
		}
		if err != nil && !strings.Contains(err.Error(), string(test.plan[0].Type)) {
			t.Errorf("%v does not name %s", err, test.plan[0].Type)
		}
	}
}
