package contracttests

import (
	"cmp"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/moatproject/moat/core"
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

// Cases returns all cases, ordered by number.
func Cases() []Case {
	all := slices.Concat(
		generalCases(), creationCases(), lifecycleCases(), waitCases(), listCases(), logCases(),
		imageCases(), portCases(), attachCases(), execCases(), copyCases(), eventCases(), statsCases(), configCases(), limitCases(), networkCases(), networkManagerCases(), sidecarCases(), serviceCases(), buildCases(),
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
	f := newFixture(t, h)
	if c.ability != nil && !c.ability.of(f.rt) {
		f.Fatalf("%s is not declared unsupported, but %s says that it is", c.Name(), c.ability.name)
	}
	c.check(f)
}

// RunUnsupported checks that the runtime refuses what the case is about, and that
// the refused call changes nothing.
func (c Case) RunUnsupported(t testing.TB, h Harness) {
	f := newFixture(t, h)
	if c.ability != nil && c.ability.of(f.rt) {
		f.Errorf("%s is declared unsupported, but %s says that it is supported", c.Name(), c.ability.name)
	}
	f.refuses(c)
}

// refuses makes the case's call, which must do nothing but fail.
func (f *fixture) refuses(c Case) {
	f.Helper()
	created := f.create(f.command("true"))
	before := f.runStates()
	if err := c.unsupported(f, created); !errors.Is(err, core.ErrUnsupported) {
		f.Errorf("%s: the call returned %v, want %v", c.Name(), err, core.ErrUnsupported)
	}
	if after := f.runStates(); !maps.Equal(after, before) {
		f.Errorf("%s: the refused call changed the containers from %v to %v", c.Name(), before, after)
	}
}

// capability is the ability that a field of core.Capabilities tells.
func capability(field string) *ability {
	return &ability{"Capabilities." + field, func(rt core.Runtime) bool {
		return reflect.ValueOf(core.CapabilitiesOf(rt)).FieldByName(field).Bool()
	}}
}

// optional is the ability to be an optional port.
func optional[P any]() *ability {
	return &ability{"whether it is a " + reflect.TypeFor[P]().String(), func(rt core.Runtime) bool {
		_, ok := core.As[P](rt)
		return ok
	}}
}

// refusedConfig is the unsupported call of a setting.
func refusedConfig(set func(*core.Config)) func(*fixture, string) error {
	return func(f *fixture, _ string) error {
		cfg := f.command("true")
		set(&cfg)
		_, err := f.tryCreate(cfg)
		return err
	}
}

// noPort is the unsupported call of an optional port: there is none to be made.
func noPort(*fixture, string) error { return core.ErrUnsupported }
