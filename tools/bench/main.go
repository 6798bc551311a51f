// Command bench measures Moat beside what one would use instead, on the engine of
// $MOAT_TEST_ENGINE and in one run: ratios and differences, never absolute times.
// Both sides of a row take turns, so that what else the machine does hits both.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	if err := command(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

var errMissed = errors.New("a gate is missed")

func command() error {
	strict := flag.Bool("strict", false, "exit with status 1 when a gate is missed")
	rows := flag.String("rows", "", "only the rows whose name matches this `regexp`")
	quick := flag.Bool("quick", false, "a tenth of the rounds")
	bin := flag.String("bin", "../bin", "the `folder` of the moat binary")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	missed, err := run(ctx, *rows, *quick, *bin)
	if err == nil && missed && *strict {
		err = errMissed
	}
	return err
}

// A row compares two ways to do the same.
type row struct {
	name    string
	measure func(ctx context.Context, b *bench) (result, error)
}

// A result is one line of the table.
type result struct {
	moat, beside string // what was measured
	compared     string // how they compare
	gate         string
	met          verdict
}

// A verdict says whether a gate is met. The larger is the worse.
type verdict int

const (
	yes   verdict = iota
	noise         // the gate is within what repetitions differ by
	no
)

func (v verdict) String() string { return [...]string{"yes", "noise", "NO"}[v] }

func verdictOf(met bool) verdict {
	if met {
		return yes
	}
	return no
}

func run(ctx context.Context, only string, quick bool, bin string) (missed bool, err error) {
	pattern, err := regexp.Compile(only)
	if err != nil {
		return false, err
	}
	b, err := newBench(ctx, bin, quick)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, b.close()) }()

	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	defer func() { err = errors.Join(err, table.Flush()) }()
	fmt.Fprintln(table, "row\tmoat\tbeside it\tcompared\tgate\tmet")
	for _, row := range rows() {
		if !pattern.MatchString(row.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "%s\n", row.name)
		found, err := row.measure(ctx, b)
		if err != nil {
			return missed, fmt.Errorf("%s: %w", row.name, err)
		}
		missed = missed || found.met == no
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", row.name, found.moat, found.beside, found.compared, found.gate, found.met)
	}
	return missed, nil
}

// rounds is how often each side is measured.
func (b *bench) rounds(n int) int {
	if b.quick {
		n /= 10
	}
	return max(n, 3)
}

// inTurns measures both sides n times, one after the other, in changing order.
func (b *bench) inTurns(ctx context.Context, n int, sides ...func() error) ([][]time.Duration, error) {
	times := make([][]time.Duration, len(sides))
	for _, side := range sides { // what happens once only: connections, page cache
		if err := side(); err != nil {
			return nil, err
		}
	}
	for i := range b.rounds(n) {
		for j := range sides {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			side := (i + j) % len(sides)
			start := time.Now()
			if err := sides[side](); err != nil {
				return nil, err
			}
			times[side] = append(times[side], time.Since(start))
		}
	}
	return times, nil
}

// median returns the middle of times, the 50th percentile.
func median[T cmp.Ordered](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// difference returns the median of a's excess over b, round by round, so that slow
// spells of the machine cancel out, and the standard error of that median.
func difference(a, b []time.Duration) (more, uncertain time.Duration) {
	each, spread := make([]time.Duration, len(a)), make([]time.Duration, len(a))
	for i := range a {
		each[i] = a[i] - b[i]
	}
	more = median(each)
	for i := range each {
		spread[i] = (each[i] - more).Abs()
	}
	// 1.4826 makes a standard deviation of the median deviation, 1.2533 a median's error of a mean's.
	return more, time.Duration(1.4826 * 1.2533 * float64(median(spread)) / math.Sqrt(float64(len(each))))
}

// atMost is the result of rows whose gate is a difference.
func atMost(moat, beside []time.Duration, than string, gate time.Duration) result {
	more, uncertain := difference(moat, beside)
	met := yes
	switch {
	case more-2*uncertain > gate:
		met = no
	case more > gate:
		met = noise
	}
	return result{
		moat: short(median(moat)), beside: short(median(beside)) + " " + than,
		compared: fmt.Sprintf("%s ± %s", signed(more), short(2*uncertain)), gate: "≤ +" + short(gate), met: met,
	}
}

func short(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
	}
	return d.Round(time.Millisecond).String()
}

func signed(d time.Duration) string {
	if d < 0 {
		return "-" + short(-d)
	}
	return "+" + short(d)
}
