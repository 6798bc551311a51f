package selftest

import (
	"context"
	"flag"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/moatproject/moat/adapters/memory"
	"github.com/moatproject/moat/contracttests"
	"github.com/moatproject/moat/contracttests/agent"
	"github.com/moatproject/moat/contracttests/internal/record"
	"github.com/moatproject/moat/core"
)

// TestMain runs many tests at once: most of the time they wait.
func TestMain(m *testing.M) {
	flag.Parse()
	_ = flag.Set("test.parallel", "8")
	m.Run()
}

const (
	pullImage        = "registry.example/tool:latest"
	unreachableImage = "unreachable.example/tool:latest"
)

// harness is the memory runtime's, with an engine that can be unreachable. change
// and down are applied to each runtime of their kind.
func harness(change, down func(*hooks)) contracttests.Harness {
	return contracttests.Harness{
		Name: "memory",
		New: func(t testing.TB) core.Runtime {
			h := hooksInto(t, memory.New(memory.Options{
				Programs:    map[string]func(*memory.Process) int{"agent": func(p *memory.Process) int { return agent.Run(p) }},
				Registry:    []memory.Image{{Ref: pullImage}},
				Unreachable: []string{unreachableImage},
			}))
			change(h)
			return h
		},
		Unreachable: func(t testing.TB) core.Runtime {
			h := hooksInto(t, memory.New(memory.Options{}))
			unavailable := &core.Error{Op: "ping", Runtime: memory.Type, Class: core.ErrUnavailable, Remedy: "Start it"}
			h.ping = func(context.Context) error { return unavailable }
			h.create = func(_ context.Context, cfg core.Config) (string, error) {
				if err := cfg.Validate(); err != nil {
					return "", err
				}
				return "", unavailable
			}
			h.buildManager = func() core.BuildManager {
				return &buildHooks{exists: func(context.Context, string) (bool, error) { return false, unavailable }}
			}
			down(h)
			return h
		},
		Image:            memory.BaseImage,
		ConfigImage:      memory.ConfigImage,
		PullImage:        pullImage,
		MissingImage:     "registry.example/missing:latest",
		UnreachableImage: unreachableImage,
	}
}

func nothing(*hooks) {}

// unsupported are the cases that the memory runtime does not support.
func unsupported() map[string]string {
	numbers := map[string]string{}
	for _, i := range allImitations() {
		if i.number != "NM-12" { // of which it shows a part
			numbers[i.number] = "it takes a kernel or a network"
		}
	}
	for _, c := range contracttests.Cases() {
		if provenOnEngines(c) {
			numbers[c.Number] = "it takes a kernel or a network"
		}
	}
	return numbers
}

func allBreakages() []breakage {
	return slices.Concat(breakages, streamBreakages, managerBreakages, buildBreakages)
}

func allImitations() []imitation {
	return slices.Concat(imitations, managerImitations, portImitations, buildImitations)
}

// run runs a case as the memory runtime supports it.
func run(t testing.TB, c contracttests.Case, h contracttests.Harness) record.Result {
	return record.Run(t, func(t testing.TB) {
		if _, lacking := unsupported()[c.Number]; lacking {
			c.RunUnsupported(t, h)
		} else {
			c.Run(t, h)
		}
	})
}

func caseOf(t testing.TB, number string) contracttests.Case {
	t.Helper()
	cases := contracttests.Cases()
	i := slices.IndexFunc(cases, func(c contracttests.Case) bool { return c.Number == number })
	if i < 0 {
		t.Fatalf("there is no case %s", number)
	}
	return cases[i]
}

// apart are cases that only their own breakages run: one counts this process's
// goroutines, one takes more time than all others together.
var apart = []string{"RT-04", "RT-72"}

// TestBreakages breaks one obligation after another. The case of that obligation
// must fail, and no other.
func TestBreakages(t *testing.T) {
	for _, b := range allBreakages() {
		do, down := b.do, b.down
		if do == nil {
			do = nothing
		}
		if down == nil {
			down = nothing
		}
		h := harness(do, down)
		t.Run(b.number+" "+b.how, func(t *testing.T) {
			if slices.Contains(apart, b.number) {
				result := run(t, caseOf(t, b.number), h)
				if !result.Failed {
					t.Error("the case passes")
				}
				t.Logf("it says:\n%s", result)
				return
			}
			t.Parallel()
			checkFailures(t, h, append([]string{b.number}, b.also...))
		})
	}
}

// checkFailures runs all cases at once but those apart, and compares which fail.
func checkFailures(t *testing.T, h contracttests.Harness, want []string) {
	t.Helper()
	var wg sync.WaitGroup
	surprises := make(chan contracttests.Case, len(contracttests.Cases()))
	for _, c := range contracttests.Cases() {
		if slices.Contains(apart, c.Number) {
			continue
		}
		wg.Go(func() {
			result := run(t, c, h)
			if result.Failed != slices.Contains(want, c.Number) {
				surprises <- c
			} else if result.Failed {
				t.Logf("%s says:\n%s", c.Name(), result) // for who reviews what a stranger would read
			}
		})
	}
	wg.Wait()
	close(surprises)
	// On a loaded machine a moment's watch may be too short to see something end, and a deadline too early: a
	// surprise is looked at again, without the others beside it.
	for c := range surprises {
		switch result := run(t, c, h); {
		case result.Failed == slices.Contains(want, c.Number):
			t.Logf("%s behaves as expected the second time only", c.Name())
		case result.Failed:
			t.Errorf("%s fails too:\n%s", c.Name(), result)
		default:
			t.Errorf("%s passes", c.Name())
		}
	}
}

// TestImitations shows that the cases that the memory runtime does not support can
// pass and can fail.
func TestImitations(t *testing.T) {
	for _, i := range allImitations() {
		t.Run(i.number+" "+i.how, func(t *testing.T) {
			t.Parallel()
			for _, half := range []struct {
				imitate func(*world)
				fails   bool
			}{{i.good, false}, {i.bad, true}} {
				var h contracttests.Harness
				h = harness(func(hooks *hooks) { half.imitate(&world{hooks: hooks, harness: &h}) }, nothing)
				h.New(t).Close() // sets Dial, before a case copies the harness
				result := record.Run(t, func(t testing.TB) { caseOf(t, i.number).Run(t, h) })
				if result.Failed != half.fails {
					t.Errorf("failed is %t, want %t:\n%s", result.Failed, half.fails, result)
				}
				if half.fails {
					t.Logf("it says:\n%s", result)
				}
			}
		})
	}
}

// provenOnEngines tells the cases whose breakages take an engine: those of adapters/docker/contract.
func provenOnEngines(c contracttests.Case) bool { return strings.HasPrefix(c.Number, "EG-") }

func TestEachCaseCanFail(t *testing.T) {
	proven := map[string]bool{}
	for _, b := range allBreakages() {
		proven[b.number] = true
	}
	for _, i := range allImitations() {
		proven[i.number] = true
	}
	for _, c := range contracttests.Cases() {
		if !proven[c.Number] && !provenOnEngines(c) {
			t.Errorf("nothing shows that %s can fail", c.Name())
		}
	}
}
