package contracttests

import (
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

var obligationPattern = regexp.MustCompile(`\b([A-Z]{2}-\d+): `)

// readObligations returns the obligations in the comments of packages core and optional, by number.
func readObligations(t *testing.T) map[string]obligation {
	var files []string
	for _, pattern := range []string{"../core/*.go", "../core/optional/*.go"} {
		matching, err := filepath.Glob(pattern)
		if err != nil || len(matching) == 0 {
			t.Fatalf("no files are %s: %v", pattern, err)
		}
		files = append(files, matching...)
	}
	found := map[string]obligation{}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		read := func(of string, comment *ast.CommentGroup) {
			text := comment.Text()
			starts := obligationPattern.FindAllStringSubmatchIndex(text, -1)
			for i, start := range starts {
				words := text[start[1]:]
				if i+1 < len(starts) {
					words = text[start[1]:starts[i+1][0]]
				}
				words, _, _ = strings.Cut(words, "\n\n")
				words = strings.TrimSuffix(strings.Join(strings.Fields(words), " "), " -")
				found[text[start[2]:start[3]]] = obligation{of, words}
			}
		}
		read("its package comment", file.Doc)
		ast.Inspect(file, func(node ast.Node) bool {
			switch node := node.(type) {
			case *ast.GenDecl:
				if len(node.Specs) == 1 {
					if spec, ok := node.Specs[0].(*ast.TypeSpec); ok {
						read(spec.Name.Name, node.Doc)
					}
				}
			case *ast.TypeSpec:
				if methods, ok := node.Type.(*ast.InterfaceType); ok {
					for _, method := range methods.Methods.List {
						if len(method.Names) == 1 {
							read(node.Name.Name+"."+method.Names[0].Name, method.Doc)
						}
					}
				}
			}
			return true
		})
	}
	return found
}

// TestObligationsAreCurrent compares the words that failures cite with core's comments.
func TestObligationsAreCurrent(t *testing.T) {
	const name = "obligations.go"
	var b strings.Builder
	b.WriteString("package contracttests\n\n// Made of the comments of package core: `CONTRACT_UPDATE=1 go test -run TestObligationsAreCurrent .`\n\n" +
		"// obligation is what failures cite.\ntype obligation struct {\n\tof   string // what its comment is about\n\ttext string\n}\n\nvar obligations = map[string]obligation{\n")
	found := readObligations(t)
	for _, number := range slices.SortedFunc(maps.Keys(found), compareNumbers) {
		fmt.Fprintf(&b, "\t%q: {%q, %q},\n", number, found[number].of, found[number].text)
	}
	want, err := format.Source([]byte(b.String() + "}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("CONTRACT_UPDATE") == "1" {
		if err := os.WriteFile(name, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(name); err != nil || string(got) != string(want) {
		t.Errorf("%s differs from core's comments (%v). Run `CONTRACT_UPDATE=1 go test -run %s .`", name, err, t.Name())
	}
}

func TestEachObligationHasItsCase(t *testing.T) {
	var tested []string
	for _, c := range Cases() {
		tested = append(tested, c.Number)
	}
	owed := slices.SortedFunc(maps.Keys(readObligations(t)), compareNumbers)
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
	for _, field := range reflect.VisibleFields(reflect.TypeFor[optional.Capabilities]()) {
		for _, c := range Cases() {
			if c.ability != nil && c.ability.name == "Capabilities."+field.Name {
				judged[field.Name] = true
			}
		}
	}
	checkFields[optional.Capabilities](t, judged)
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
