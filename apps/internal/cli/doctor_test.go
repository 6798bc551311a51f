package cli

import (
	"strings"
	"testing"

	"github.com/moatproject/moat/core"
)

func TestDoctorAnswersForTheRuntimeThatRunWouldTake(t *testing.T) {
	gvisor, docker := core.Candidate{Type: core.RuntimeGVisor, Endpoint: "a"}, core.Candidate{Type: core.RuntimeDocker, Endpoint: "a"}
	elsewhere := core.Candidate{Type: core.RuntimeDocker, Endpoint: "b"}
	all := []diagnosis{{Runtime: "gvisor", Endpoint: "a"}, {Runtime: "docker", Endpoint: "a", Usable: true}, {Runtime: "docker", Endpoint: "b"}}
	for _, test := range []struct {
		plan   []core.Candidate
		usable bool
	}{
		{[]core.Candidate{docker}, true},
		{[]core.Candidate{elsewhere, docker}, true},
		{[]core.Candidate{gvisor}, false},
		{[]core.Candidate{elsewhere}, false},
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
