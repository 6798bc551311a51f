package selftest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moatproject/moat/contracttests"
	"github.com/moatproject/moat/core"
)

// TestSound runs the suite against the sound runtime; TestRun runs this test in
// processes of its own, where the environment changes it.
func TestSound(t *testing.T) {
	h := harness(nothing, nothing)
	o := contracttests.Options{Unsupported: unsupported(), Golden: os.Getenv("SELFTEST_GOLDEN")}
	switch os.Getenv("SELFTEST_SCENARIO") {
	case "absent":
		h.Absent = func() string { return "nobody has started it" }
		h.Others = []string{"docker"}
	case "broken":
		h = harness(changing(func(cfg *core.Config) { cfg.GroupAdd = nil }), nothing)
	case "leaking":
		h = harness(func(*hooks) { go func() { select {} }() }, nothing)
	case "undeclared":
		delete(o.Unsupported, "CF-15")
	case "unknown":
		o.Unsupported["RT-999"] = "a slip of the pen"
	}
	contracttests.Run(t, h, o)
}

func TestRun(t *testing.T) {
	const complete, part = "^TestSound$", "^TestSound$/^RT-1"
	for _, test := range []struct {
		name, scenario, cases string
		env                   []string
		golden                string // its content before; "sound" stands for what is right
		fails                 bool
		says                  string
		writes                bool // the golden file is right afterwards; otherwise it is as it was
	}{
		{name: "as expected", cases: complete, golden: "sound"},
		{name: "drift", cases: complete, golden: "RT-01 x: pass\n", fails: true, says: "new:  RT-02"},
		{name: "update", cases: complete, env: []string{"CONTRACT_UPDATE=1"}, golden: "RT-01 x: pass\n", writes: true},
		{name: "part", cases: part, golden: "RT-01 x: pass\n", says: "not compared"},
		{name: "update of a part", cases: part, env: []string{"CONTRACT_UPDATE=1"}, golden: "RT-01 x: pass\n"},
		{name: "no case", cases: "^TestSound$/^XX", fails: true, says: "no case has run"},
		{name: "failure", scenario: "broken", cases: complete, golden: "sound", fails: true, says: "--- FAIL: TestSound/CF-17"},
		{name: "update with a failure", scenario: "broken", cases: complete, env: []string{"CONTRACT_UPDATE=1"}, golden: "old", fails: true},
		{name: "leak", scenario: "leaking", cases: part, fails: true, says: "goroutines go on that were not there before"},
		{name: "absent", scenario: "absent", cases: complete, says: "nobody has started it"},
		{name: "another is required", scenario: "absent", cases: complete, env: []string{"CONTRACT_REQUIRED=docker"}, says: "SKIP: TestSound"},
		{name: "a misspelt name is required", scenario: "absent", cases: complete, env: []string{"CONTRACT_REQUIRED=docker,memroy"}, fails: true, says: `names of no harness: ["memroy"]`},
		{name: "required", scenario: "absent", cases: complete, env: []string{"CONTRACT_REQUIRED=docker,memory"}, fails: true, says: "is required"},
		{name: "undeclared", scenario: "undeclared", cases: "^TestSound$/^CF-15", fails: true, says: "Capabilities.LinuxCaps says"},
		{name: "unknown case", scenario: "unknown", cases: complete, fails: true, says: "no such case"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			golden := filepath.Join(t.TempDir(), "contract.golden")
			before := strings.Replace(test.golden, "sound", soundResults(), 1)
			if err := os.WriteFile(golden, []byte(before), 0o644); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.run="+test.cases)
			cmd.Env = append(os.Environ(), "SELFTEST_GOLDEN="+golden, "SELFTEST_SCENARIO="+test.scenario, "CONTRACT_REQUIRED=", "CONTRACT_UPDATE=")
			cmd.Env = append(cmd.Env, test.env...)
			out, err := cmd.CombinedOutput()
			if (err != nil) != test.fails || !strings.Contains(string(out), test.says) {
				t.Errorf("%v, want a failure: %t, and %q in\n%s", err, test.fails, test.says, out)
			}
			after, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if want := map[bool]string{true: soundResults(), false: before}[test.writes]; string(after) != want {
				t.Errorf("the golden file is\n%s\nwant\n%s", after, want)
			}
		})
	}
}

// soundResults is the golden file of the sound runtime.
func soundResults() string {
	var b strings.Builder
	reasons := unsupported()
	for _, c := range contracttests.Cases() {
		b.WriteString(c.Name() + ": ")
		if reason, lacking := reasons[c.Number]; lacking {
			b.WriteString("unsupported: " + reason + "\n")
		} else {
			b.WriteString("pass\n")
		}
	}
	return b.String()
}
