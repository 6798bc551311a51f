package contracttests

import (
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"testing"

	"github.com/moatproject/moat/core"
)

var obligationPattern = regexp.MustCompile(`\b([A-Z]{2}-\d+): `)

// obligations returns the numbers in the comments of package core, in order.
func obligations(t *testing.T) []string {
	files, err := filepath.Glob("../core/*.go")
	if err != nil || len(files) == 0 {
		t.Fatal("no files of package core:", err)
	}
	numbers := map[string]bool{}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, comment := range file.Comments {
			for _, match := range obligationPattern.FindAllStringSubmatch(comment.Text(), -1) {
				numbers[match[1]] = true
			}
		}
	}
	return slices.SortedFunc(maps.Keys(numbers), compareNumbers)
}

func TestEachObligationHasItsCase(t *testing.T) {
	var tested []string
	for _, c := range Cases() {
		tested = append(tested, c.Number)
	}
	owed := obligations(t)
	for _, number := range owed {
		if !slices.Contains(tested, number) {
			t.Errorf("%s is an obligation in core's comments and no case", number)
		}
	}
	for _, number := range tested {
		if !slices.Contains(owed, number) {
			t.Errorf("%s is a case and no obligation in core's comments", number)
		}
	}
	if len(tested) != len(slices.Compact(slices.Clone(tested))) {
		t.Error("a number has several cases")
	}
}

func TestEachSettingHasACase(t *testing.T) {
	observed := map[string]bool{
		"HasMoatUser": true, // tells adapters of the image and changes nothing that a workload sees
	}
	for _, c := range Cases() {
		for _, field := range c.fields {
			observed[field] = true
		}
	}
	checkFields[core.Config](t, observed)
}

func TestEachCapabilityHasACase(t *testing.T) {
	judged := map[string]bool{
		"Isolation":      true, // what it is called is RT-62's; how strong it is no case can tell
		"ExitCodes":      true, // RT-45
		"EnforcedEgress": true, // RT-120
		"NetworkManager": true, // RT-90, as the next three
		"SidecarManager": true,
		"BuildManager":   true,
		"ServiceManager": true,
		"UserNamespaces": true, // seen from the host only
	}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[core.Capabilities]()) {
		for _, c := range Cases() {
			if c.ability != nil && c.ability.name == "Capabilities."+field.Name {
				judged[field.Name] = true
			}
		}
	}
	checkFields[core.Capabilities](t, judged)
}

// checkFields compares the fields of a struct with a set of names.
func checkFields[S any](t *testing.T, names map[string]bool) {
	t.Helper()
	kind := reflect.TypeFor[S]()
	for name := range names {
		if _, ok := kind.FieldByName(name); !ok {
			t.Errorf("%s has no field %s", kind, name)
		}
	}
	for _, field := range reflect.VisibleFields(kind) {
		if field.IsExported() && !names[field.Name] {
			t.Errorf("no case is about %s.%s", kind, field.Name)
		}
	}
}

func TestCasesAreComplete(t *testing.T) {
	for _, c := range Cases() {
		switch {
		case c.check == nil || c.Title == "":
			t.Errorf("%s checks nothing or has no title", c.Number)
		case c.ability != nil && c.unsupported == nil:
			t.Errorf("%s may be unsupported, but has no call that shows it", c.Number)
		case regexp.MustCompile(`[/:\n]`).MatchString(c.Title):
			t.Errorf("%s: the title separates subtests or fields of the golden file", c.Number)
		}
	}
}
