package rules

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestRepository needs -count=1: the go command would repeat a pass from its cache,
// because the files that are checked lie outside of this module.
func TestRepository(t *testing.T) {
	for _, check := range []func(string) ([]string, error){Check, CheckPage} {
		breaches, err := check("../..")
		if err != nil {
			t.Fatal(err)
		}
		for _, breach := range breaches {
			t.Error(breach)
		}
	}
}

func TestCoreIsAModuleAlone(t *testing.T) {
	list := exec.Command("go", "list", "-m", "all")
	list.Dir = "../../core"
	list.Env = append(os.Environ(), "GOWORK=off")
	output, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(string(output)); got != prefix+"core" {
		t.Errorf("go list -m all prints\n%s", got)
	}
}

// TestEmbeddersNeedNoSuite lists what `go mod tidy` of an embedder looks for: the packages
// that the adapters and their own tests import.
func TestEmbeddersNeedNoSuite(t *testing.T) {
	modules, err := filepath.Glob("../../adapters/*/go.mod")
	if err != nil || len(modules) == 0 {
		t.Fatal("no adapters:", err)
	}
	for _, mod := range modules {
		list := exec.Command("go", "list", "-deps", "-test", "./...")
		list.Dir = filepath.Dir(mod)
		list.Env = append(os.Environ(), "GOWORK=off")
		output, err := list.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", mod, err, output)
		}
		if strings.Contains(string(output), prefix+"contracttests") {
			t.Errorf("an embedder of %s would need %scontracttests: keep the suite's test in a module of its own, such as adapters/docker/contract", list.Dir, prefix)
		}
	}
}

func module(folder, directives string) string {
	return "module " + prefix + folder + "\n\ngo 1.26.0\n" + directives
}

func imports(paths ...string) string {
	source := "package p\n"
	for _, imported := range paths {
		source += "import _ \"" + imported + "\"\n"
	}
	return source
}

const requireCore = "require " + prefix + "core v0.0.0\nreplace " + prefix + "core => ../../core\n"

// good is a made-up repository that keeps the rules, close to their limits.
var good = map[string]string{
	"core/go.mod":                module("core", ""),
	"core/a.go":                  imports("fmt", "io/fs", "net/netip", "path/filepath", prefix+"core/internal/x"),
	"core/a_test.go":             imports("os", "net/http"),
	"core/internal/x/x.go":       imports("time"),
	"core/testdata/bad.go":       imports("os"),
	".cache/go.mod":              "module example.com/cached\n",
	"contracttests/go.mod":       module("contracttests", "require "+prefix+"core v0.0.0\nreplace "+prefix+"core => ../core\n"),
	"contracttests/a.go":         imports("os", "net", prefix+"core"),
	"adapters/docker/go.mod":     module("adapters/docker", requireCore+"require example.com/engine v1.0.0\n"),
	"adapters/docker/a.go":       imports("net/http", "example.com/engine", prefix+"core", prefix+"adapters/docker/internal/y"),
	"adapters/docker/a_test.go":  imports(prefix + "adapters/docker/dockertest"),
	"adapters/gvisor/go.mod":     module("adapters/gvisor", requireCore),
	"adapters/gvisor/a.go":       imports(prefix+"adapters/docker", prefix+"core"),
	"adapters/memory/go.mod":     module("adapters/memory", requireCore),
	"adapters/memory/a.go":       imports(prefix + "core"),
	"adapters/container/go.mod":  module("adapters/container", requireCore),
	"adapters/container/a.go":    imports(prefix+"adapters/docker", prefix+"adapters/gvisor", prefix+"adapters/memory"),
	"apps/go.mod":                module("apps", ""),
	"apps/cmd/moat/main.go":      imports("go.uber.org/fx", "go.uber.org/fx/fxevent", "github.com/rs/zerolog", prefix+"adapters/container", prefix+"core"),
	"apps/cmd/moat-conform/a.go": imports(prefix+"contracttests/conform", prefix+"adapters/memory/contract"),
	"apps/e2e/go.mod":            module("apps/e2e", "require github.com/testcontainers/testcontainers-go v0.41.0\n"),
	"apps/e2e/a_test.go":         imports("github.com/testcontainers/testcontainers-go", prefix+"adapters/docker/dockertest"),
	"tools/go.mod":               module("tools", ""),
	"tools/rules/a.go":           imports("os"),

	"adapters/gvisor/contract/go.mod": module("adapters/gvisor/contract", "require "+prefix+"contracttests v0.0.0\nreplace "+prefix+"contracttests => ../../../contracttests\n"),
	"adapters/gvisor/contract/a.go":   imports(prefix+"contracttests", prefix+"core", prefix+"adapters/gvisor", prefix+"adapters/docker"),

	"apps/cmd/moat-proxy/a.go":       imports("os", prefix+"apps/internal/egressproxy"),
	"apps/internal/egressproxy/a.go": imports("net/http", prefix+"adapters/egress", prefix+"core/egress"),

	"contracttests/selftest/go.mod": module("contracttests/selftest", requireCore+"require example.com/lib v1.0.0 // indirect\n"),
	"contracttests/selftest/a.go":   imports(prefix+"contracttests", prefix+"adapters/memory"),
}

func TestCheck(t *testing.T) {
	tests := []struct {
		name    string
		file    string // replaces or adds a file of good
		content string
		want    string // the one breach
	}{
		{"core uses the file system", "core/b.go", imports("os"), "core/b.go: imports os: core does no I/O"},
		{"core starts programs", "core/b.go", imports("os/exec"), "core/b.go: imports os/exec: core does no I/O"},
		{"core uses the network", "core/b.go", imports("net"), "core/b.go: imports net: core does no I/O"},
		{"core speaks HTTP", "core/b.go", imports("net/http"), "core/b.go: imports net/http: core does no I/O"},
		{"core calls the kernel", "core/b.go", imports("syscall"), "core/b.go: imports syscall: core does no I/O"},
		{"core uses C", "core/b.go", imports("C"), "core/b.go: imports C: core does no I/O"},
		{"core below its folder", "core/internal/x/y.go", imports("os"), "core/internal/x/y.go: imports os: core does no I/O"},
		{"core elsewhere", "core/b_plan9.go", imports("os"), "core/b_plan9.go: imports os: core does no I/O"},
		{
			"core uses a library", "core/b.go", imports("example.com/lib"),
			"core/b.go: imports example.com/lib: core depends on the standard library alone",
		},
		{
			"core's test uses a library", "core/b_test.go", imports("example.com/lib"),
			"core/b_test.go: imports example.com/lib: core depends on the standard library alone",
		},
		{
			"core uses an adapter", "core/b.go", imports(prefix + "adapters/memory"),
			"core/b.go: imports " + prefix + "adapters/memory: core may import of this repository only []",
		},
		{
			"core requires a library", "core/go.mod", module("core", "require example.com/lib v1.0.0\n"),
			"core/go.mod: requires example.com/lib: core depends on the standard library alone",
		},
		{
			"contracttests uses a library", "contracttests/b.go", imports("example.com/lib"),
			"contracttests/b.go: imports example.com/lib: contracttests depends on the standard library alone",
		},
		{
			"contracttests's test uses an adapter", "contracttests/b_test.go", imports(prefix + "adapters/memory"),
			"contracttests/b_test.go: imports " + prefix + `adapters/memory: contracttests may import of this repository only ["core"]`,
		},
		{
			"the suite's own test uses a library", "contracttests/selftest/b.go", imports("example.com/lib"),
			"contracttests/selftest/b.go: imports example.com/lib: contracttests/selftest depends on the standard library alone",
		},
		{
			"the suite's own test uses an engine", "contracttests/selftest/b.go", imports(prefix + "adapters/docker"),
			"contracttests/selftest/b.go: imports " + prefix +
				`adapters/docker: contracttests/selftest may import of this repository only ["core" "contracttests" "adapters/memory"]`,
		},
		{
			"an adapter uses another", "adapters/memory/b.go", imports(prefix + "adapters/docker/internal/y"),
			"adapters/memory/b.go: imports " + prefix + `adapters/docker/internal/y: adapters/memory may import of this repository only ["core"]`,
		},
		{
			"docker uses gvisor", "adapters/docker/b.go", imports(prefix + "adapters/gvisor"),
			"adapters/docker/b.go: imports " + prefix + `adapters/gvisor: adapters/docker may import of this repository only ["core"]`,
		},
		{
			"gvisor uses memory", "adapters/gvisor/b.go", imports(prefix + "adapters/memory"),
			"adapters/gvisor/b.go: imports " + prefix + `adapters/memory: adapters/gvisor may import of this repository only ["core" "adapters/docker"]`,
		},
		{
			"an adapter's test uses another", "adapters/docker/b_test.go", imports(prefix + "adapters/memory"),
			"adapters/docker/b_test.go: imports " + prefix + `adapters/memory: adapters/docker may import of this repository only ["core"]`,
		},
		{
			"an adapter's own tests carry the suite", "adapters/docker/b_test.go", imports(prefix + "contracttests"),
			"adapters/docker/b_test.go: imports " + prefix + `contracttests: adapters/docker may import of this repository only ["core"]`,
		},
		{
			"an adapter carries the suite", "adapters/docker/b.go", imports(prefix + "contracttests"),
			"adapters/docker/b.go: imports " + prefix + `contracttests: adapters/docker may import of this repository only ["core"]`,
		},
		{
			"an adapter uses an app", "adapters/container/b.go", imports(prefix + "apps/internal/cli"),
			"adapters/container/b.go: imports " + prefix + `apps/internal/cli: adapters/container may import of this repository only ["core" "adapters/*"]`,
		},
		{
			"an app carries the suite", "apps/b.go", imports(prefix + "contracttests"),
			"apps/b.go: imports " + prefix + "contracttests: it is for apps/cmd/moat-conform only",
		},
		{
			"an app carries an adapter's run of the suite", "apps/cmd/moat/b.go", imports(prefix + "adapters/gvisor/contract"),
			"apps/cmd/moat/b.go: imports " + prefix + "adapters/gvisor/contract: it is for apps/cmd/moat-conform only",
		},
		{
			"the egress proxy's program uses a library", "apps/cmd/moat-proxy/b.go", imports("github.com/rs/zerolog"),
			"apps/cmd/moat-proxy/b.go: imports github.com/rs/zerolog: the egress proxy's program stays small",
		},
		{
			"the egress proxy's package uses another", "apps/internal/egressproxy/b.go", imports(prefix + "adapters/container"),
			"apps/internal/egressproxy/b.go: imports " + prefix + "adapters/container: the egress proxy's program stays small",
		},
		{
			"an adapter uses fx", "adapters/docker/b.go", imports("go.uber.org/fx/fxevent"),
			"adapters/docker/b.go: imports go.uber.org/fx/fxevent: it is for apps only",
		},
		{
			"a tool uses zerolog", "tools/rules/b.go", imports("github.com/rs/zerolog"),
			"tools/rules/b.go: imports github.com/rs/zerolog: it is for apps only",
		},
		{
			"an app's test uses the tests' containers", "apps/b_test.go", imports("github.com/testcontainers/testcontainers-go/wait"),
			"apps/b_test.go: imports github.com/testcontainers/testcontainers-go/wait: it is for apps/e2e only",
		},
		{
			"an app requires the tests' containers", "apps/go.mod", module("apps", "require github.com/testcontainers/testcontainers-go v0.41.0\n"),
			"apps/go.mod: requires github.com/testcontainers/testcontainers-go: it is for apps/e2e only",
		},
		{
			"the end-to-end tests look inside", "apps/e2e/b_test.go", imports(prefix + "apps/internal/cli"),
			"apps/e2e/b_test.go: imports " + prefix + `apps/internal/cli: apps/e2e may import of this repository only ["core" "adapters/docker"]`,
		},

		{
			"a module at the root", "go.mod", "module example.com/root\n",
			"./go.mod: a module at the root makes `go test ./...` there pass without a test",
		},
		{"a file outside", "main.go", imports(), "main.go: lies in no module"},
		{"a module without a rule", "extra/go.mod", module("extra", ""), "extra/go.mod: no rule tells what this module may import"},
		{
			"a module of another name", "apps/go.mod", module("app", ""),
			"apps/go.mod: module " + prefix + "app should be " + prefix + "apps",
		},
		{
			"a sibling that is not replaced", "adapters/memory/go.mod", module("adapters/memory", "require "+prefix+"core v0.0.0\n"),
			"adapters/memory/go.mod: " + prefix + "core is required and not replaced",
		},
		{
			"an indirect sibling that is not replaced", "apps/go.mod", module("apps", "require "+prefix+"core v0.0.0 // indirect\n"),
			"apps/go.mod: " + prefix + "core is required and not replaced",
		},
		{
			"a sibling of some version", "adapters/memory/go.mod", module("adapters/memory", strings.Replace(requireCore, "v0.0.0", "v0.1.0", 1)),
			"adapters/memory/go.mod: " + prefix + "core is required at v0.1.0 instead of v0.0.0",
		},
		{
			"a sibling of an absolute path", "adapters/memory/go.mod", module("adapters/memory", strings.Replace(requireCore, "../../core", "/src/core", 1)),
			"adapters/memory/go.mod: " + prefix + "core is replaced by /src/core instead of ../../core",
		},
		{
			"a sibling of another folder", "adapters/memory/go.mod", module("adapters/memory", strings.Replace(requireCore, "../../core", "../docker", 1)),
			"adapters/memory/go.mod: " + prefix + "core is replaced by ../docker instead of ../../core",
		},
		{
			"a library of another version", "adapters/memory/go.mod", module("adapters/memory", requireCore+"require example.com/engine v1.1.0 // indirect\n"),
			"adapters/memory/go.mod: requires example.com/engine v1.1.0, and adapters/docker requires v1.0.0: `go work sync` makes it one version",
		},
		{
			"a library that is replaced", "apps/go.mod", module("apps", "replace example.com/lib => example.com/fork v1.0.0\n"),
			"apps/go.mod: example.com/lib is replaced, which whoever imports the module does not see",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			files := neighbours(test.file)
			files[test.file] = test.content
			breaches, err := Check(write(t, files))
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(breaches, "\n"); got != test.want {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
		})
	}
}

func TestCheckAcceptsWhatKeepsTheRules(t *testing.T) {
	if breaches, err := Check(write(t, good)); err != nil || len(breaches) > 0 {
		t.Errorf("breaches %q, %v", breaches, err)
	}
}

// neighbours returns what good has in core and in the file's top folder: reading
// more modules than that takes time and shows nothing.
func neighbours(file string) map[string]string {
	files := maps.Clone(good)
	top, _, _ := strings.Cut(file, "/")
	maps.DeleteFunc(files, func(name, _ string) bool {
		return !strings.HasPrefix(name, "core/") && !strings.HasPrefix(name, top+"/")
	})
	return files
}

func TestCheckPage(t *testing.T) {
	files := map[string]string{
		"core/go.mod": module("core", "require (\n\texample.com/a v1.0.0\n\texample.com/b v1.0.0\n\texample.com/c v1.0.0 // indirect\n"+
			"\texample.com/d v1.0.0\n\texample.com/e v1.0.0\n)\n"),
		dependencies: "| module | for |\n|---|---|\n| `example.com/a`, `example.com/b` (x) | y |\n| `example.com/c` | y |\n| `example.com/e` | y |\n| `example.com/e` | z |\n",
	}
	breaches, err := CheckPage(write(t, files))
	want := []string{
		dependencies + ": 0 rows for example.com/d", dependencies + ": 2 rows for example.com/e",
		dependencies + ": no module requires example.com/c",
	}
	if err != nil || !slices.Equal(breaches, want) {
		t.Errorf("got %q, %v", breaches, err)
	}
}

func TestCheckFailsWhereItCannotRead(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"no module":     {"README.md": ""},
		"broken go.mod": {"core/go.mod": "modul x\n"},
		"broken source": {"core/go.mod": module("core", ""), "core/a.go": "package"},
	} {
		t.Run(name, func(t *testing.T) {
			if breaches, err := Check(write(t, files)); err == nil {
				t.Errorf("breaches %q and no error", breaches)
			}
		})
	}
}

// write makes a folder with these files and returns its path.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}
