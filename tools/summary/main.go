// Command summary reads `go test -json` of all modules on standard input, shows the
// output of what failed, and closes with a table of the contract suite. It exits
// with 1 where a test failed, a package did not build, no test ran, or CONTRACT_REQUIRED
// has a name that no test has.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
)

// event is one line of `go test -json`.
type event struct {
	Action     string
	Package    string
	ImportPath string
	Test       string
	Output     string
}

// suite counts what became of one adapter's contract cases.
type suite struct {
	passed, unsupported, failed int
	absent                      string
}

type summary struct {
	passed, failed, skipped int
	output                  map[string][]string // of each test, until it has passed
	suites                  map[string]*suite
	names                   map[string]bool // of tests and packages, without what is above them
}

func main() {
	s := &summary{output: map[string][]string{}, suites: map[string]*suite{}, names: map[string]bool{}}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Println(lines.Text()) // not from go test: make's own words
			continue
		}
		s.add(os.Stdout, e)
	}
	if err := lines.Err(); err != nil {
		fmt.Fprintln(os.Stderr, "summary:", err)
		os.Exit(1)
	}
	s.print(os.Stdout)
	unknown := s.unknown(os.Getenv("CONTRACT_REQUIRED"))
	if len(unknown) > 0 {
		fmt.Fprintf(os.Stderr, "summary: CONTRACT_REQUIRED has names of no test: %q. Correct them\n", unknown)
	}
	if s.failed > 0 || s.passed == 0 || len(unknown) > 0 {
		os.Exit(1)
	}
}

// unknown returns the required names that no test has: an adapter's that was misspelt
// would be skipped instead of failed.
func (s *summary) unknown(required string) (unknown []string) {
	for name := range strings.SplitSeq(required, ",") {
		if name = strings.TrimSpace(name); name != "" && !s.names[name] {
			unknown = append(unknown, name)
		}
	}
	return unknown
}

func (s *summary) add(w io.Writer, e event) {
	key := e.Package + " " + e.Test
	for name := range strings.SplitSeq(path.Base(strings.TrimSuffix(e.Package, "/contract"))+"/"+e.Test, "/") {
		s.names[name] = true
	}
	switch e.Action {
	case "output":
		s.output[key] = append(s.output[key], e.Output)
		return
	case "build-output":
		fmt.Fprint(w, e.Output)
		return
	case "pass", "fail", "skip":
	default:
		return
	}
	output := strings.Join(s.output[key], "")
	delete(s.output, key)
	if e.Action == "fail" {
		fmt.Fprintf(w, "--- %s %s\n%s", e.Package, e.Test, output)
	}
	if e.Test == "" {
		s.addPackage(w, e)
		return
	}
	s.count(e.Action)
	if name, isCase, ok := contract(e); ok {
		s.addCase(name, e.Action, output, isCase)
	}
}

// caseName is how the name of a contract case begins.
var caseName = regexp.MustCompile(`^[A-Z]{2}-[0-9]+_`)

// contract tells which adapter's suite a test is, or is a case of: the package is the
// adapter's, or contract below it. A package with several adapters has a subtest for
// each: TestContract/NAME/RT-01_….
func contract(e event) (adapter string, isCase, ok bool) {
	parts := strings.Split(e.Test, "/")
	adapter = path.Base(strings.TrimSuffix(e.Package, "/contract"))
	if parts[0] != "TestContract" {
		return "", false, false
	}
	if len(parts) > 1 && !caseName.MatchString(parts[1]) {
		adapter, parts = parts[1], parts[1:]
	} else if len(parts) == 1 && e.Action == "pass" {
		return "", false, false // only holds what was counted
	}
	return adapter, len(parts) == 2, len(parts) <= 2
}

func (s *summary) addPackage(w io.Writer, e event) {
	if e.Action == "fail" {
		s.failed++
	}
	if e.Action != "skip" { // a package without tests
		fmt.Fprintf(w, "%-4s %s\n", e.Action, e.Package)
	}
}

func (s *summary) count(action string) {
	switch action {
	case "pass":
		s.passed++
	case "fail":
		s.failed++
	case "skip":
		s.skipped++
	}
}

func (s *summary) addCase(name, action, output string, isCase bool) {
	if s.suites[name] == nil {
		s.suites[name] = &suite{}
	}
	current := s.suites[name]
	switch {
	case !isCase && action == "skip":
		_, reason, _ := strings.Cut(output, "is absent: ")
		current.absent = strings.TrimSpace(strings.SplitN(reason, "\n", 2)[0])
	case !isCase:
	case action == "fail":
		current.failed++
	case strings.Contains(output, "unsupported: "):
		current.unsupported++
	default:
		current.passed++
	}
}

func (s *summary) print(w io.Writer) {
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "\nadapter\tpass\tunsupported\tfail\tabsent")
	names := make([]string, 0, len(s.suites))
	for name := range s.suites {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		c := s.suites[name]
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%s\n", name, c.passed, c.unsupported, c.failed, c.absent)
	}
	_ = table.Flush()
	fmt.Fprintf(w, "\n%d passed, %d failed, %d skipped\n", s.passed, s.failed, s.skipped)
}
