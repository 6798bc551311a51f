package contracttests

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moatproject/moat/contracttests/internal/record"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// fake is a runtime that creates, lists and removes containers; cases that ask for
// more panic.
type fake struct {
	core.Runtime
	attach       error // what Attach returns
	capabilities optional.Capabilities
	removal      error // what RemoveContainer returns
	closing      error // what Close returns
	sticky       bool  // RemoveContainer does not remove
	starts       bool  // Attach starts the container
	networks     core.NetworkManager
	images       []core.ImageInfo

	containers map[string]core.Info
}

func (r *fake) CreateContainer(_ context.Context, cfg core.Config) (string, error) {
	r.containers["id"] = core.Info{ID: "id", Status: core.StateCreated, Labels: cfg.ContainerLabels()}
	return "id", nil
}

func (r *fake) ListContainers(context.Context) (all []core.Info, err error) {
	for _, info := range r.containers {
		all = append(all, info)
	}
	return all, nil
}

func (r *fake) RemoveContainer(_ context.Context, id string) error {
	if !r.sticky {
		delete(r.containers, id)
	}
	return r.removal
}

func (r *fake) Attach(_ context.Context, id string, _ core.AttachOptions) error {
	if r.starts {
		info := r.containers[id]
		info.Status = core.StateRunning
		r.containers[id] = info
	}
	return r.attach
}

func (r *fake) Capabilities() optional.Capabilities { return r.capabilities }

func (r *fake) NetworkManager() core.NetworkManager { return r.networks }

func (r *fake) ListImages(context.Context) ([]core.ImageInfo, error) { return r.images, nil }

// fakeNetworks lists networks.
type fakeNetworks struct {
	core.NetworkManager
	all []core.NetworkInfo
}

func (n fakeNetworks) ListNetworks(context.Context) ([]core.NetworkInfo, error) { return n.all, nil }

func TestLeftoversOfOtherRunsAreNamed(t *testing.T) {
	rt := &fake{
		containers: map[string]core.Info{
			"id1": {ID: "id1", Name: "moat-1", Status: core.StateRunning, Labels: map[string]string{core.LabelRunID: "contract-killed"}},
			"id2": {ID: "id2", Labels: map[string]string{core.LabelRunID: "of-a-person"}},
		},
		networks: fakeNetworks{all: []core.NetworkInfo{{ID: "n1", Name: "contract-killed-2"}, {ID: "n2", Name: "of-a-person"}}},
		images:   []core.ImageInfo{{Tag: "moat/contract-killed:x"}, {Tag: "moat/test-base:latest"}},
	}
	result := record.Run(t, func(t testing.TB) { Harness{New: func(testing.TB) core.Runtime { return rt }}.nameLeftovers(t) })
	if result.Failed {
		t.Errorf("it fails: %s", result)
	}
	for _, text := range []string{"3 objects", "container id1 moat-1 of the run contract-killed: running", "network n1 contract-killed-2", "image moat/contract-killed:x"} {
		if !strings.Contains(result.String(), text) {
			t.Errorf("%q is missing from %s", text, result)
		}
	}
	rt.containers, rt.networks, rt.images = nil, nil, nil
	if result := record.Run(t, func(t testing.TB) { Harness{New: func(testing.TB) core.Runtime { return rt }}.nameLeftovers(t) }); result.String() != "" {
		t.Errorf("without leftovers it says %s", result)
	}
}

func (r *fake) Close() error { return r.closing }

func (r *fake) harness() Harness {
	r.containers = map[string]core.Info{}
	return Harness{New: func(testing.TB) core.Runtime { return r }}
}

func TestRunUnsupported(t *testing.T) {
	refusal := &core.Error{Op: "attach", Class: core.ErrUnsupported}
	for _, test := range []struct {
		name string
		rt   *fake
		want string // in the failure; "": none
	}{
		{"refused", &fake{attach: refusal}, ""},
		{"accepted", &fake{}, "returned <nil>"},
		{"another error", &fake{attach: errors.New("something")}, "returned something"},
		{"refused after a change", &fake{attach: refusal, starts: true}, "changed something"},
		{"told to be supported", &fake{attach: refusal, capabilities: optional.Capabilities{Attach: true}}, "Capabilities.Attach says that it is supported"},
		{"clean-up fails", &fake{attach: refusal, removal: errors.New("no removal")}, "no removal"},
		{"clean-up does nothing", &fake{attach: refusal, sticky: true}, "left the container id behind"},
		{"Close fails", &fake{attach: refusal, closing: errors.New("no close")}, "no close"},
	} {
		t.Run(test.name, func(t *testing.T) {
			result := record.Run(t, func(t testing.TB) { caseOf(t, "RT-100").RunUnsupported(t, test.rt.harness()) })
			checkResult(t, result, test.want)
		})
	}
}

func TestRunChecksTheCapability(t *testing.T) {
	result := record.Run(t, func(t testing.TB) { caseOf(t, "RT-100").Run(t, (&fake{}).harness()) })
	checkResult(t, result, "Capabilities.Attach says that it is")
}

func caseOf(t testing.TB, number string) Case {
	for _, c := range Cases() {
		if c.Number == number {
			return c
		}
	}
	t.Fatalf("there is no case %s", number)
	return Case{}
}

func checkResult(t *testing.T, result record.Result, want string) {
	t.Helper()
	if result.Failed != (want != "") || !strings.Contains(result.String(), want) {
		t.Errorf("failed is %t with %q, want %q", result.Failed, result, want)
	}
}

func TestOptionsProblems(t *testing.T) {
	for _, test := range []struct {
		name, number, reason, want string
	}{
		{"declared", "RT-100", "attach comes later", ""},
		{"unknown", "RT-999", "x", "no such case"},
		{"not to be declared", "RT-10", "x", "every runtime"},
		{"no reason", "RT-100", " ", "without a reason"},
		{"two lines", "RT-100", "a\nb", "without a reason"},
	} {
		t.Run(test.name, func(t *testing.T) {
			problems := Options{Unsupported: map[string]string{test.number: test.reason}}.Problems()
			if text := strings.Join(problems, "\n"); (text == "") != (test.want == "") || !strings.Contains(text, test.want) {
				t.Errorf("got %q, want %q", text, test.want)
			}
		})
	}
}

func TestHarnessProblems(t *testing.T) {
	if got := len(Harness{}.problems()); got != 7 {
		t.Errorf("an empty harness has %d problems", got)
	}
	complete := Harness{
		Name: "x", New: func(testing.TB) core.Runtime { return nil }, Image: "moat/x", ConfigImage: "moat/y",
		PullImage: "a", MissingImage: "b", UnreachableImage: "c",
	}
	if problems := complete.problems(); len(problems) > 0 {
		t.Errorf("a complete harness has the problems %q", problems)
	}
}

func TestIsRequired(t *testing.T) {
	for required, want := range map[string]bool{"": false, "docker": true, "memory, docker": true, "dockers": false} {
		t.Setenv("CONTRACT_REQUIRED", required)
		if got := isRequired("docker"); got != want {
			t.Errorf("CONTRACT_REQUIRED=%s requires docker: %t", required, got)
		}
	}
}

func TestJudge(t *testing.T) {
	one, two := Case{Number: "RT-01", Title: "one"}, Case{Number: "RT-02", Title: "two"}
	const table = "RT-01 one: pass\nRT-02 two: unsupported: later\n"
	for _, test := range []struct {
		name    string
		golden  string // its content; "": there is none
		ran     []Case
		failed  bool
		update  bool
		want    string // in the failure; "": none
		written string // the golden file's content afterwards
	}{
		{"as expected", table, []Case{one, two}, false, false, "", table},
		{"drift", "RT-01 one: pass\nRT-02 two: pass\n", []Case{one, two}, false, false, "new:  RT-02 two: unsupported: later\ngone: RT-02 two: pass", "RT-01 one: pass\nRT-02 two: pass\n"},
		{"a line is gone", table + "RT-03 three: pass\n", []Case{one, two}, false, false, "gone: RT-03 three: pass", table + "RT-03 three: pass\n"},
		{"another order", "RT-02 two: unsupported: later\nRT-01 one: pass\n", []Case{one, two}, false, false, "differ", "RT-02 two: unsupported: later\nRT-01 one: pass\n"},
		{"no file", "", []Case{one, two}, false, false, "CONTRACT_UPDATE", ""},
		{"written", "", []Case{one, two}, false, true, "", table},
		{"rewritten", "old", []Case{one, two}, false, true, "", table},
		{"a part", "old", []Case{one}, false, false, "", "old"},
		{"a part is not written", "old", []Case{one}, false, true, "", "old"},
		{"a failure is not written", "old", []Case{one, two}, true, true, "", "old"},
		{"a failure is not compared", "old", []Case{one, two}, true, false, "", "old"},
		{"none", table, nil, false, false, "no case has run", table},
	} {
		t.Run(test.name, func(t *testing.T) {
			golden := filepath.Join(t.TempDir(), "folder", "contract.golden")
			if test.golden != "" {
				if err := writeFile(golden, test.golden); err != nil {
					t.Fatal(err)
				}
			}
			r := newResults([]Case{one, two})
			for _, c := range test.ran {
				r.record(c, map[string]string{"RT-02": "later"}[c.Number], test.failed)
			}
			result := record.Run(t, func(t testing.TB) { r.judge(t, golden, test.update) })
			checkResult(t, result, test.want)
			if written, _ := os.ReadFile(golden); string(written) != test.written {
				t.Errorf("the golden file is %q, want %q", written, test.written)
			}
		})
	}
}

func TestNewGoroutinesAreFound(t *testing.T) {
	before := goroutines()
	end := make(chan struct{})
	go func() { <-end }()
	if left := newGoroutines(before); len(left) != 1 || !strings.Contains(left[0], "TestNewGoroutinesAreFound") {
		t.Errorf("the new goroutines are %q", left)
	}
	close(end)
	failOnNewGoroutines(t, before)
}
