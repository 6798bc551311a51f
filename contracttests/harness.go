package contracttests

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moatproject/moat/core"
)

// Harness is what the suite needs to know of an adapter.
type Harness struct {
	// Name is what CONTRACT_REQUIRED calls this harness.
	Name string

	// Others are the names of harnesses in other test binaries, which CONTRACT_REQUIRED may
	// contain as well. Any other name in CONTRACT_REQUIRED is taken for a typing error: Run
	// fails, because it would otherwise skip a harness that was meant to be required.
	Others []string

	// New returns a fresh runtime, which the suite closes. It is called at least once
	// for each case, from several goroutines. Runtimes of one harness may share an
	// engine, or have one each.
	New func(t testing.TB) core.Runtime

	// Absent tells why the engine is not there, "" when it is. nil: it always is.
	Absent func() string

	// Unreachable returns a runtime whose engine does not answer, such as one with a
	// socket that nobody listens on; the suite closes it. nil: there is no engine
	// that could be down.
	Unreachable func(t testing.TB) core.Runtime

	// Image is present, its tag begins with [core.ImagePrefix], and no registry that
	// the engine reaches has it.
	Image string

	// ConfigImage is present too. It sets what a configuration may replace.
	ConfigImage string

	// PullImage is served by a registry. Cases remove and pull it, so nothing else may
	// use it meanwhile. MissingImage is a reference that this registry does not have,
	// UnreachableImage one of a registry that does not answer.
	PullImage, MissingImage, UnreachableImage string

	// Unprivileged tells why the engine's machine cannot start privileged containers,
	// "" when it can. nil: it can. (A machine that is a container itself often cannot.)
	Unprivileged func() string

	// EgressProxy returns the program moat-proxy for an architecture by Go's name of it. It is
	// required where the network manager is an [optional.EgressRestricter].
	EgressProxy func(architecture string) ([]byte, error)

	// OnHost returns a runtime on the same engine that starts containers of Image in the
	// network of the engine's host. The suite closes it. nil: the runtime of New is used.
	OnHost func(t testing.TB) core.Runtime

	// Dial connects to an address of the engine's machine, where ports are
	// published. nil: a [net.Dialer].
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Options says what a runtime does not do, and where its results are kept.
type Options struct {
	// Unsupported maps the number of a case, such as "RT-100", to the reason why the
	// runtime does not support it.
	Unsupported map[string]string

	// Golden is the file of the expected results, relative to the test's directory.
	// "": results are not compared.
	Golden string
}

// Run runs every case as a subtest whose name begins with the case's number.
func Run(t *testing.T, h Harness, o Options) {
	t.Helper()
	if reason := h.absence(); reason != "" {
		if isRequired(h.Name) {
			t.Fatalf("%s is required by CONTRACT_REQUIRED and absent: %s", h.Name, reason)
		}
		if unknown := h.unknownRequired(); len(unknown) > 0 {
			t.Fatalf("%s is absent, and CONTRACT_REQUIRED has names of no harness: %q. Known are %q", h.Name, unknown, append([]string{h.Name}, h.Others...))
		}
		t.Skipf("%s is absent: %s", h.Name, reason)
	}
	cases := Cases()
	for _, problem := range append(h.problems(), o.Problems()...) {
		t.Error(problem)
	}
	if t.Failed() {
		return
	}

	h.nameLeftovers(t)
	results := newResults(cases)
	before := goroutines()
	t.Cleanup(func() { // after the parallel subtests
		results.judge(t, o.Golden, os.Getenv("CONTRACT_UPDATE") == "1")
		if !results.failed { // or they are those of a case that gave up in the middle
			failOnNewGoroutines(t, before)
		}
	})
	for _, c := range cases {
		reason, unsupported := o.Unsupported[c.Number]
		t.Run(c.Name(), func(t *testing.T) {
			t.Cleanup(func() { results.record(c, reason, t.Failed()) })
			if !c.Serial {
				t.Parallel()
			}
			if unsupported {
				t.Log("unsupported: " + reason)
				c.RunUnsupported(t, h)
			} else {
				c.Run(t, h)
			}
		})
	}
}

func (h Harness) absence() string {
	if h.Absent == nil {
		return ""
	}
	return h.Absent()
}

func isRequired(name string) bool { return slices.Contains(requiredNames(), name) }

// requiredNames returns the entries of CONTRACT_REQUIRED.
func requiredNames() (names []string) {
	for entry := range strings.SplitSeq(os.Getenv("CONTRACT_REQUIRED"), ",") {
		if entry = strings.TrimSpace(entry); entry != "" {
			names = append(names, entry)
		}
	}
	return names
}

// unknownRequired returns the required names that are of no harness.
func (h Harness) unknownRequired() []string {
	return slices.DeleteFunc(requiredNames(), func(name string) bool { return name == h.Name || slices.Contains(h.Others, name) })
}

// nameLeftovers tells what other runs of the suite have on the engine: it may explain a
// failure, and nobody else will tell.
func (h Harness) nameLeftovers(t testing.TB) {
	t.Helper()
	rt := h.New(t)
	defer func() {
		if err := rt.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}()
	if left := Leftovers(t.Context(), rt); len(left) > 0 {
		t.Logf("on the engine are %d objects of other runs of the suite. Those of a run that was killed remain until you remove them with the engine's own command:\n\t%s",
			len(left), strings.Join(left, "\n\t"))
	}
}

// Leftovers describes the objects of earlier or running suites on an engine, one per
// element. A list that the engine cannot return counts as empty: the cases report that.
func Leftovers(ctx context.Context, rt core.Runtime) (left []string) {
	containers, _ := rt.ListContainers(ctx)
	for _, info := range containers {
		if run := info.Labels[core.LabelRunID]; strings.HasPrefix(run, runPrefix) {
			left = append(left, fmt.Sprintf("container %s %s of the run %s: %s, created %s", info.ID, info.Name, run, info.Status, info.Created.Format(time.DateTime)))
		}
	}
	if manager, err := core.NetworkManagerOf(rt); err == nil {
		networks, _ := manager.ListNetworks(ctx)
		for _, info := range networks {
			if strings.HasPrefix(strings.TrimPrefix(info.Name, "a-"), runPrefix) {
				left = append(left, fmt.Sprintf("network %s %s", info.ID, info.Name))
			}
		}
	}
	images, _ := rt.ListImages(ctx)
	for _, info := range images {
		if strings.HasPrefix(info.Tag, core.ImagePrefix+runPrefix) {
			left = append(left, "image "+info.Tag)
		}
	}
	return left
}

// problems tells what the harness lacks.
func (h Harness) problems() (problems []string) {
	for field, missing := range map[string]bool{
		"Name":             h.Name == "",
		"New":              h.New == nil,
		"Image":            !strings.HasPrefix(h.Image, core.ImagePrefix),
		"ConfigImage":      h.ConfigImage == "",
		"PullImage":        h.PullImage == "",
		"MissingImage":     h.MissingImage == "",
		"UnreachableImage": h.UnreachableImage == "",
	} {
		if missing {
			problems = append(problems, "the harness's field "+field+" is not as its comment says")
		}
	}
	slices.Sort(problems)
	return problems
}

// Problems tells which declarations make no sense.
func (o Options) Problems() (problems []string) {
	cases := Cases()
	for number, reason := range o.Unsupported {
		i := slices.IndexFunc(cases, func(c Case) bool { return c.Number == number })
		switch {
		case i < 0:
			problems = append(problems, fmt.Sprintf("%s is declared unsupported, but there is no such case", number))
		case cases[i].unsupported == nil:
			problems = append(problems, fmt.Sprintf("%s cannot be declared unsupported: every runtime can do it", cases[i].Name()))
		case strings.TrimSpace(reason) == "" || strings.Contains(reason, "\n"):
			problems = append(problems, fmt.Sprintf("%s is declared unsupported without a reason of one line", cases[i].Name()))
		}
	}
	slices.Sort(problems)
	return problems
}
