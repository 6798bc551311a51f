// Command bench measures Moat beside what one would use instead, on the engine of
// $MOAT_TEST_ENGINE and in one run: ratios and differences, never absolute times.
// Both sides of a row take turns, so that what else the machine does hits both.
package main

import (
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
	noise         // too uncertain to tell
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
	// Rows look at ctx between their rounds: what is interrupted in one would be left behind.
	uninterrupted := context.WithoutCancel(ctx)
	b, err := newBench(uninterrupted, bin, quick)
	if err != nil {
		return false, err
	}
	b.interrupted = ctx
	defer func() { err = errors.Join(err, b.close(uninterrupted)) }()

	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	defer func() { err = errors.Join(err, table.Flush()) }()
	fmt.Fprintln(table, "row\tmoat\tbeside it\tcompared\tgate\tmet")
	for _, row := range rows() {
		if !pattern.MatchString(row.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "%s\n", row.name)
		found, err := row.measure(uninterrupted, b)
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
	return max(n, fewestRounds)
}

const (
	fewestRounds = 2
	rowTime      = 8 * time.Second // after which no round begins, so that a slow machine has its table as well
)

// inTurns measures both sides up to n times, one after the other, in changing order.
// The first round is as slow as what happens only once; the medians pass over it.
func (b *bench) inTurns(n int, sides ...func() error) ([][]time.Duration, error) {
	timed := make([]func() (time.Duration, error), len(sides))
	for i, side := range sides {
		timed[i] = func() (time.Duration, error) {
			start := time.Now()
			err := side()
			return time.Since(start), err
		}
	}
	return b.inTimedTurns(n, fewestRounds, timed...)
}

// inTimedTurns is inTurns for sides that know which of their time counts, at least fewest
// times, however long they take.
func (b *bench) inTimedTurns(n, fewest int, sides ...func() (time.Duration, error)) ([][]time.Duration, error) {
	times := make([][]time.Duration, len(sides))
	begin := time.Now()
	for i := 0; i < b.rounds(n) && (i < fewest || time.Since(begin) < rowTime); i++ {
		for j := range sides {
			if err := b.interrupted.Err(); err != nil {
				return nil, err
			}
			side := (i + j) % len(sides)
			took, err := sides[side]()
			if err != nil {
				return nil, err
			}
			times[side] = append(times[side], took)
		}
	}
	return times, nil
}

// median returns the 50th percentile.
func median[T ~int64 | ~float64](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// compare returns the median of what both sides' rounds come to in pairs, so that slow
// spells of the machine cancel out, and twice the standard error of that median.
func compare(a, b []time.Duration, of func(a, b float64) float64) (middle, uncertain float64) {
	each, spread := make([]float64, len(a)), make([]float64, len(a))
	for i := range a {
		each[i] = of(float64(a[i]), float64(b[i]))
	}
	middle = median(each)
	for i := range each {
		spread[i] = math.Abs(each[i] - middle)
	}
	// 1.4826 makes a standard deviation of the median deviation, 1.2533 a median's error of a
	// mean's, and the last factor, nearly Student's, tells how little few rounds say.
	n := float64(len(each))
	return middle, 2 * 1.4826 * 1.2533 * median(spread) / math.Sqrt(n) * n / (n - 1.6)
}

// within judges a figure that may be at most limit.
func within(figure, uncertain, limit float64) verdict {
	switch {
	case figure+uncertain <= limit:
		return yes
	case figure-uncertain > limit:
		return no
	}
	return noise
}

// atMost is the result of rows whose gate is a difference.
func atMost(moat, beside []time.Duration, than string, gate time.Duration) result {
	more, uncertain := compare(moat, beside, func(a, b float64) float64 { return a - b })
	return result{
		moat: short(median(moat)), beside: short(median(beside)) + " " + than,
		compared: fmt.Sprintf("%s ± %s", signed(time.Duration(more)), short(time.Duration(uncertain))),
		gate:     "≤ " + signed(gate), met: within(more, uncertain, float64(gate)),
	}
}

// asFast is the result of rows whose gate is 95 % of another's speed, in units a second.
func asFast(moat, beside []time.Duration, than, unit string, units float64) result {
	return atSpeed(0.95, moat, beside, than, unit, units)
}

// atSpeed is asFast with another gate.
func atSpeed(gate float64, moat, beside []time.Duration, than, unit string, units float64) result {
	ratio, uncertain := compare(moat, beside, func(a, b float64) float64 { return b / a })
	return result{
		moat: rate(moat, unit, units), beside: rate(beside, unit, units) + " " + than,
		compared: fmt.Sprintf("%.2f × ± %.2f", ratio, uncertain), gate: fmt.Sprintf("≥ %.2f ×", gate),
		met: within(-ratio, uncertain, -gate),
	}
}

func rate(times []time.Duration, unit string, units float64) string {
	return fmt.Sprintf("%.1f %s/s", units/median(times).Seconds(), unit)
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
