package contracttests

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// Case tests one obligation.
type Case struct {
	Number string // the obligation's: "RT-21"
	Title  string

	// Serial cases must not run beside others: they count goroutines, load the
	// machine, remove an image, or observe what others disturb.
	Serial bool

	check func(*fixture)

	fields      []string                               // of core.Config that the case observes
	ability     *ability                               // what tells whether a runtime supports it; nil: nothing does
	unsupported func(f *fixture, created string) error // a call for RunUnsupported, nil: every runtime supports it
}

// ability tells whether a runtime supports a case.
type ability struct {
	name string
	of   func(core.Runtime) bool
}

// serially makes a case Serial.
func serially(c Case) Case {
	c.Serial = true
	return c
}

// Cases returns all cases, ordered by number.
func Cases() []Case {
	all := slices.Concat(
		generalCases(), creationCases(), lifecycleCases(), waitCases(), listCases(), logCases(),
		imageCases(), portCases(), attachCases(), execCases(), copyCases(), eventCases(), statsCases(), configCases(), limitCases(), networkCases(), networkManagerCases(), egressCases(), sidecarCases(), serviceCases(), buildCases(),
	)
	slices.SortFunc(all, func(a, b Case) int { return compareNumbers(a.Number, b.Number) })
	return all
}

func compareNumbers(a, b string) int {
	kindA, digitsA, _ := strings.Cut(a, "-")
	kindB, digitsB, _ := strings.Cut(b, "-")
	numberA, _ := strconv.Atoi(digitsA)
	numberB, _ := strconv.Atoi(digitsB)
	return cmp.Or(cmp.Compare(kindA, kindB), cmp.Compare(numberA, numberB))
}

// Name returns number and title.
func (c Case) Name() string { return c.Number + " " + c.Title }

// Run runs the case. A failure is t's.
func (c Case) Run(t testing.TB, h Harness) {
	c.citeOnFailure(t)
	f := newFixture(t, h)
	if c.ability != nil && !c.ability.of(f.rt) {
		f.Fatalf("%s is not declared unsupported, but %s says that it is", c.Name(), c.ability.name)
	}
	c.check(f)
}

// RunUnsupported checks that the runtime refuses what the case is about, and that
// the refused call changes nothing.
func (c Case) RunUnsupported(t testing.TB, h Harness) {
	c.citeOnFailure(t)
	f := newFixture(t, h)
	if c.ability != nil && c.ability.of(f.rt) {
		f.Errorf("%s is declared unsupported, but %s says that it is supported", c.Name(), c.ability.name)
	}
	f.refuse([]Case{c})
}

// citeOnFailure ends the output of a failed case with the obligation's words.
func (c Case) citeOnFailure(t testing.TB) {
	t.Cleanup(func() {
		if words, known := obligations[c.Number]; known && t.Failed() {
			t.Logf("the contract (package core, %s) says: %s: %s", words.of, c.Number, words.text)
		}
	})
}

// refuse makes the call of each case, which must do nothing but fail.
func (f *fixture) refuse(cases []Case) {
	f.Helper()
	if len(cases) == 0 {
		return
	}
	created := f.create(f.agent()) // one for all: the cost of a list grows with the containers
	before := f.objects()
	for _, c := range cases {
		if err := c.unsupported(f, created); !errors.Is(err, core.ErrUnsupported) {
			f.Errorf("%s: the call returned %v, want %v", c.Name(), err, core.ErrUnsupported)
		}
		after := f.objects()
		if changes := differences(before, after); len(changes) > 0 {
			f.Errorf("%s: the refused call changed something:\n\t%s", c.Name(), strings.Join(changes, "\n\t"))
		}
		before = after
	}
}

// objects returns the states of the case's containers and networks.
func (f *fixture) objects() map[string]string {
	f.Helper()
	objects := map[string]string{}
	for _, info := range f.list() {
		objects["container "+info.ID] = info.Status
	}
	networks, err := f.networksOf(f.ctx, f.rt)
	f.must(err)
	for _, info := range networks {
		objects["network "+info.Name] = "there"
	}
	return objects
}

// differences tells what has changed between two sets of states, one change a line.
func differences(before, after map[string]string) (changes []string) {
	all := maps.Clone(before)
	maps.Copy(all, after)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		was, is := cmp.Or(before[name], "missing"), cmp.Or(after[name], "missing")
		if was != is {
			changes = append(changes, fmt.Sprintf("%s was %s and is %s", name, was, is))
		}
	}
	return changes
}

// capability is the ability that a field of optional.Capabilities tells.
func capability(field string) *ability {
	return &ability{"Capabilities." + field, func(rt core.Runtime) bool {
		return reflect.ValueOf(optional.CapabilitiesOf(rt)).FieldByName(field).Bool()
	}}
}

// implements is the ability to be an optional interface.
func implements[P any]() *ability {
	return &ability{"whether it is a " + reflect.TypeFor[P]().String(), func(rt core.Runtime) bool {
		_, ok := core.As[P](rt)
		return ok
	}}
}

// refusedConfig is the unsupported call of a setting.
func refusedConfig(set func(*core.Config)) func(*fixture, string) error {
	return func(f *fixture, _ string) error {
		cfg := f.agent()
		set(&cfg)
		_, err := f.tryCreate(cfg)
		return err
	}
}

// noPort is the unsupported call of an optional interface: there is none to be made.
func noPort(*fixture, string) error { return core.ErrUnsupported }
