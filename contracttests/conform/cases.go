package conform

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/moatproject/moat/contracttests"
	"github.com/moatproject/moat/contracttests/internal/record"
	"github.com/moatproject/moat/core"
)

// What can become of a case.
const (
	passed      = "pass"
	unsupported = "unsupported"
	untested    = "untested"
	failed      = "FAIL"
)

// result is what became of a case.
type result struct {
	Number  string  `json:"number"`
	Title   string  `json:"title"`
	Result  string  `json:"result"`
	Reason  string  `json:"reason,omitempty"` // why it is unsupported or untested
	Output  string  `json:"output,omitempty"` // of a case that failed
	Seconds float64 `json:"seconds"`
}

// runAll runs the cases, and returns their results in the same order. Those that an
// interruption leaves out are missing.
func (s *session) runAll(ctx context.Context, cases []contracttests.Case, h contracttests.Harness) []result {
	results := make([]*result, len(cases))
	var printing sync.Mutex
	runOne := func(i int) {
		if ctx.Err() != nil {
			return
		}
		r := s.runCase(ctx, cases[i], h)
		results[i] = &r
		printing.Lock()
		defer printing.Unlock()
		fmt.Fprintf(s.stderr, "%-11s %s (%.1fs)\n", r.Result, cases[i].Name(), r.Seconds)
		if r.Output != "" {
			fmt.Fprintf(s.stderr, "\t%s\n", strings.ReplaceAll(r.Output, "\n", "\n\t"))
		}
	}
	// As with `go test`, the parallel cases come after the others.
	places := make(chan struct{}, s.parallel)
	for _, serial := range []bool{true, false} {
		var running sync.WaitGroup
		for i, c := range cases {
			switch {
			case c.Serial != serial:
			case serial:
				runOne(i)
			default:
				places <- struct{}{}
				running.Go(func() {
					defer func() { <-places }()
					runOne(i)
				})
			}
		}
		running.Wait()
	}
	var finished []result
	for _, r := range slices.DeleteFunc(results, func(r *result) bool { return r == nil }) {
		finished = append(finished, *r)
	}
	return finished
}

func (s *session) runCase(ctx context.Context, c contracttests.Case, h contracttests.Harness) result {
	reason, declared := s.Unsupported[c.Number]
	begun := time.Now()
	recorded := record.RunAlone(ctx, testName(c), func(t testing.TB) {
		if declared {
			c.RunUnsupported(t, h)
		} else {
			c.Run(t, h)
		}
	})
	r := result{Number: c.Number, Title: c.Title, Result: passed, Seconds: time.Since(begun).Seconds()}
	switch {
	case recorded.Failed:
		r.Result, r.Output = failed, recorded.String()
	case declared:
		r.Result, r.Reason = unsupported, reason
	case len(recorded.Untested) > 0:
		r.Result, r.Reason = untested, strings.Join(recorded.Untested, "; ")
	}
	return r
}

func statusOf(results []result) int {
	has := func(what string) bool {
		return slices.ContainsFunc(results, func(r result) bool { return r.Result == what })
	}
	switch {
	case has(failed):
		return StatusFailed
	case has(untested):
		return StatusUntested
	}
	return StatusPassed
}

// report prints the results: a table of the cases, and their numbers.
func report(w io.Writer, name core.RuntimeType, results []result, asJSON bool) error {
	if asJSON {
		content, err := json.MarshalIndent(append([]result{}, results...), "", "  ")
		if err == nil {
			_, err = fmt.Fprintf(w, "%s\n", content)
		}
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	count := map[string]int{}
	for _, r := range results {
		count[r.Result]++
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", r.Result, r.Number, r.Title, r.Reason)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(table, "\nruntime\tpass\tunsupported\tfail\tuntested\tnot run\n")
	fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%d\t%d\n", name, count[passed], count[unsupported], count[failed], count[untested], len(contracttests.Cases())-len(results))
	return table.Flush()
}
