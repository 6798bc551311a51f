// Package rules checks how the modules of this repository depend on each other.
package rules

import (
	"encoding/json"
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const prefix = "github.com/moatproject/moat/"

// A rule is what the modules whose folder matches may import beside the standard
// library and themselves. The first match counts.
type rule struct {
	folder     string   // a pattern of [path.Match]
	siblings   []string // patterns of folders
	thirdParty bool
	noIO       bool // outside of tests
}

var table = []rule{
	{folder: "core", noIO: true},
	{folder: "contracttests", siblings: []string{"core"}},
	{folder: "contracttests/selftest", siblings: []string{"core", "contracttests", "adapters/memory"}},
	{folder: "adapters/gvisor", siblings: []string{"core", "adapters/docker"}, thirdParty: true},
	{folder: "adapters/container", siblings: []string{"core", "adapters/*"}, thirdParty: true},
	{folder: "adapters/*/contract", siblings: []string{"core", "contracttests", "adapters/*"}, thirdParty: true},
	{folder: "adapters/*", siblings: []string{"core"}, thirdParty: true},
	{folder: "apps", siblings: []string{"core", "adapters/*", "contracttests"}, thirdParty: true},
	{folder: "apps/e2e", siblings: []string{"core", "adapters/docker"}, thirdParty: true},
	{folder: "tools", siblings: []string{"core", "contracttests", "adapters/*"}, thirdParty: true},
}

// reserved are libraries that one module alone may use.
var reserved = map[string]string{
	"go.uber.org/fx": "apps", "github.com/rs/zerolog": "apps", "github.com/testcontainers/testcontainers-go": "apps/e2e",
}

// In apps, conformer alone may use the suite and what belongs to it.
var (
	conformer = "apps/cmd/moat-conform"
	suite     = []string{"contracttests", "adapters/*/contract"}
)

// The egress proxy's program runs beside each run, so it has nothing that makes it large.
var (
	small        = []string{"apps/cmd/moat-proxy", "apps/internal/egressproxy"}
	smallImports = []string{prefix + "apps/internal/egressproxy", prefix + "adapters/egress", prefix + "core/egress"}
)

// Packages of the standard library by which core would reach out of its process.
// What lies below them does so too, but for the exceptions.
var (
	ioPackages   = []string{"os", "net", "syscall", "io/ioutil", "log", "plugin", "C"}
	ioExceptions = []string{"net/netip", "net/url", "log/slog"}
)

// Check returns each breach of the rules in the repository at root.
func Check(root string) ([]string, error) {
	repository, err := scan(root)
	if err != nil {
		return nil, err
	}
	var breaches []string
	versions := map[string]requirement{}
	for _, folder := range repository.modules {
		found, err := checkModule(root, folder, versions)
		if err != nil {
			return nil, err
		}
		breaches = append(breaches, found...)
	}
	for _, file := range repository.files {
		found, err := checkFile(root, file, repository.moduleOf(file))
		if err != nil {
			return nil, err
		}
		breaches = append(breaches, found...)
	}
	return breaches, nil
}

// dependencies is the page that has a row for each library that a module requires itself.
const dependencies = "docs/dependencies.md"

var firstCell = regexp.MustCompile("(?m)^\\| (`[^|]*`)")

// CheckPage returns what the page of dependencies lacks, has twice, or has without need.
func CheckPage(root string) ([]string, error) {
	repository, err := scan(root)
	if err != nil {
		return nil, err
	}
	page, err := os.ReadFile(filepath.Join(root, dependencies))
	if err != nil {
		return nil, err
	}
	rows := map[string]int{}
	for _, cell := range firstCell.FindAllStringSubmatch(string(page), -1) {
		for library := range strings.SplitSeq(cell[1], ", ") {
			rows[strings.Trim(library, "`")]++
		}
	}
	required := map[string]bool{}
	for _, folder := range repository.modules {
		mod, err := readGoMod(filepath.Join(root, folder, "go.mod"))
		if err != nil {
			return nil, err
		}
		for _, require := range mod.Require {
			if !require.Indirect && !strings.HasPrefix(require.Path, prefix) {
				required[require.Path] = true
			}
		}
	}
	var breaches []string
	for library := range required {
		if rows[library] != 1 {
			breaches = append(breaches, fmt.Sprintf("%s: %d rows for %s", dependencies, rows[library], library))
		}
	}
	for library := range rows {
		if !required[library] {
			breaches = append(breaches, fmt.Sprintf("%s: no module requires %s", dependencies, library))
		}
	}
	slices.Sort(breaches)
	return breaches, nil
}

// A tree is a repository's files, by slash-separated paths in it.
type tree struct {
	modules []string // folders with a go.mod
	files   []string // Go files
}

func scan(root string) (tree, error) {
	var found tree
	err := filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() {
			if file != root && (name == "testdata" || name[0] == '.' || name[0] == '_') {
				return fs.SkipDir
			}
			return nil
		}
		relative, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		switch {
		case name == "go.mod":
			found.modules = append(found.modules, filepath.ToSlash(filepath.Dir(relative)))
		case strings.HasSuffix(name, ".go"):
			found.files = append(found.files, filepath.ToSlash(relative))
		}
		return nil
	})
	if err == nil && len(found.modules) == 0 {
		err = fmt.Errorf("no module in %s", root)
	}
	return found, err
}

// moduleOf returns the folder of the innermost module that a file lies in, or "".
func (t tree) moduleOf(file string) string {
	innermost := ""
	for _, folder := range t.modules {
		if strings.HasPrefix(file, folder+"/") && len(folder) > len(innermost) {
			innermost = folder
		}
	}
	return innermost
}

func ruleOf(folder string) (rule, bool) {
	i := slices.IndexFunc(table, func(r rule) bool { return matches(folder, r.folder) })
	if i < 0 {
		return rule{}, false
	}
	return table[i], true
}

func matches(folder string, patterns ...string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		ok, _ := path.Match(pattern, folder)
		return ok
	})
}

// goMod is what `go mod edit -json` tells that concerns us.
type goMod struct {
	Module  struct{ Path string }
	Require []struct {
		Path, Version string
		Indirect      bool // follows from what the others require
	}
	Replace []struct {
		Old, New struct{ Path, Version string }
	}
}

// A requirement is the version of a library that a module requires.
type requirement struct{ version, folder string }

func readGoMod(file string) (goMod, error) {
	var mod goMod
	output, err := exec.Command("go", "mod", "edit", "-json", file).Output()
	if err != nil {
		return mod, fmt.Errorf("go mod edit -json %s: %w", file, err)
	}
	return mod, json.Unmarshal(output, &mod)
}

// checkModule checks a module's go.mod: it builds in this tree by its relative
// replacements, and elsewhere without them. Versions has what the modules before it require.
func checkModule(root, folder string, versions map[string]requirement) (breaches []string, err error) {
	breach := func(format string, args ...any) {
		breaches = append(breaches, fmt.Sprintf("%s/go.mod: ", folder)+fmt.Sprintf(format, args...))
	}
	if folder == "." {
		breach("a module at the root makes `go test ./...` there pass without a test")
		return breaches, nil
	}
	r, known := ruleOf(folder)
	if !known {
		breach("no rule tells what this module may import")
		return breaches, nil
	}
	mod, err := readGoMod(filepath.Join(root, folder, "go.mod"))
	if err != nil {
		return nil, err
	}
	if mod.Module.Path != prefix+folder {
		breach("module %s should be %s", mod.Module.Path, prefix+folder)
	}
	replaced := map[string]bool{}
	for _, replace := range mod.Replace {
		sibling, ok := strings.CutPrefix(replace.Old.Path, prefix)
		if !ok {
			breach("%s is replaced, which whoever imports the module does not see", replace.Old.Path)
			continue
		}
		replaced[replace.Old.Path] = true
		want, err := filepath.Rel(folder, sibling)
		if err != nil {
			return nil, err
		}
		if want = filepath.ToSlash(want); replace.New.Path != want {
			breach("%s is replaced by %s instead of %s", replace.Old.Path, replace.New.Path, want)
		}
	}
	for _, require := range mod.Require {
		if why := r.refuses(require.Path, folder, true); why != "" && !require.Indirect {
			breach("requires %s: %s", require.Path, why)
		}
		if !strings.HasPrefix(require.Path, prefix) {
			first, known := versions[require.Path]
			if known && first.version != require.Version {
				breach("requires %s %s, and %s requires %s: `go work sync` makes it one version", require.Path, require.Version, first.folder, first.version)
			}
			if !known {
				versions[require.Path] = requirement{require.Version, folder}
			}
			continue
		}
		if !replaced[require.Path] {
			breach("%s is required and not replaced", require.Path)
		}
		if require.Version != "v0.0.0" {
			breach("%s is required at %s instead of v0.0.0", require.Path, require.Version)
		}
	}
	return breaches, nil
}

func checkFile(root, file, module string) (breaches []string, err error) {
	if module == "" {
		return []string{file + ": lies in no module"}, nil
	}
	r, known := ruleOf(module)
	if !known {
		return nil, nil // reported with the module
	}
	parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, file), nil, parser.ImportsOnly)
	if err != nil {
		return nil, err
	}
	for _, spec := range parsed.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, err
		}
		why := r.refuses(imported, module, strings.HasSuffix(file, "_test.go"))
		if why == "" && module == "apps" && path.Dir(file) != conformer && isSuite(imported) {
			why = "it is for " + conformer + " only"
		}
		if why == "" && slices.Contains(small, path.Dir(file)) && !isStandard(imported) && !slices.Contains(smallImports, imported) {
			why = "the egress proxy's program stays small"
		}
		if why != "" {
			breaches = append(breaches, fmt.Sprintf("%s: imports %s: %s", file, imported, why))
		}
	}
	return breaches, nil
}

// refuses tells why a file of a module may not import a package, or "".
func (r rule) refuses(imported, module string, test bool) string {
	switch sibling, ok := strings.CutPrefix(imported, prefix); {
	case below(imported, prefix+module):
		return ""
	case ok:
		if !slices.ContainsFunc(parents(sibling), func(folder string) bool { return matches(folder, r.siblings...) }) {
			return fmt.Sprintf("%s may import of this repository only %q", module, r.siblings)
		}
	case isStandard(imported):
		if r.noIO && !test && below(imported, ioPackages...) && !below(imported, ioExceptions...) {
			return module + " does no I/O"
		}
	case !r.thirdParty:
		return module + " depends on the standard library alone"
	}
	for library, folder := range reserved {
		if module != folder && below(imported, library) {
			return "it is for " + folder + " only"
		}
	}
	return ""
}

// isSuite tells whether a package is the suite's, or of an adapter's run of it.
func isSuite(imported string) bool {
	sibling, ok := strings.CutPrefix(imported, prefix)
	return ok && slices.ContainsFunc(parents(sibling), func(folder string) bool { return matches(folder, suite...) })
}

// below tells whether a package is one of those that are named, or lies below it.
func below(imported string, names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		return imported == name || strings.HasPrefix(imported, name+"/")
	})
}

// parents returns "a", "a/b" and "a/b/c" for "a/b/c".
func parents(folder string) []string {
	folders := []string{folder}
	for i, r := range folder {
		if r == '/' {
			folders = append(folders, folder[:i])
		}
	}
	return folders
}

// isStandard goes by what the go command reserves: a first element without a dot.
func isStandard(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	return !strings.Contains(first, ".")
}
