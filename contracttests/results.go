package contracttests

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// results collects what became of the cases, for the golden file.
type results struct {
	cases []Case

	mu       sync.Mutex
	outcomes map[string]string // by number
	failed   bool
}

func newResults(cases []Case) *results {
	return &results{cases: cases, outcomes: map[string]string{}}
}

// record notes that a case has run; an empty reason says that it is supported.
func (r *results) record(c Case, reason string, failed bool) {
	outcome := "pass"
	if reason != "" {
		outcome = "unsupported: " + reason
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.outcomes[c.Number] = outcome
	r.failed = r.failed || failed
}

// judge compares the results with the golden file, or writes it. Only whole runs
// without a failure count: a part of them says nothing of the rest.
func (r *results) judge(t testing.TB, golden string, update bool) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case len(r.outcomes) == 0:
		t.Error("no case has run")
	case golden == "" || r.failed:
	case len(r.outcomes) < len(r.cases):
		t.Logf("%d of %d cases have run: not compared with %s", len(r.outcomes), len(r.cases), golden)
	case update:
		if err := writeFile(golden, r.table()); err != nil {
			t.Error(err)
		}
	default:
		r.compare(t, golden)
	}
}

func (r *results) table() string {
	var b strings.Builder
	for _, c := range r.cases {
		fmt.Fprintf(&b, "%s: %s\n", c.Name(), r.outcomes[c.Number])
	}
	return b.String()
}

func (r *results) compare(t testing.TB, golden string) {
	t.Helper()
	content, err := os.ReadFile(golden)
	if err != nil {
		t.Errorf("%v; CONTRACT_UPDATE=1 writes it", err)
		return
	}
	got, want := r.table(), string(content)
	if got == want {
		return
	}
	t.Errorf("the results differ from %s; CONTRACT_UPDATE=1 rewrites it", golden)
	for line := range strings.Lines(got) {
		if !strings.Contains("\n"+want, "\n"+line) {
			t.Errorf("new:  %s", line)
		}
	}
	for line := range strings.Lines(want) {
		if !strings.Contains("\n"+got, "\n"+line) {
			t.Errorf("gone: %s", line)
		}
	}
}

func writeFile(name, content string) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, []byte(content), 0o644)
}
