package contracttests

import (
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// goroutines returns the stacks of all goroutines but the caller's, by their IDs.
func goroutines() map[string]string {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	stacks := map[string]string{}
	for i, stack := range strings.Split(string(buf), "\n\n") {
		if i > 0 { // the first is the caller's
			id, _, _ := strings.Cut(stack, " [")
			stacks[id] = stack
		}
	}
	return stacks
}

// newGoroutines returns the stacks of those that are not in before.
func newGoroutines(before map[string]string) []string {
	now := goroutines()
	maps.DeleteFunc(now, func(id, _ string) bool {
		_, old := before[id]
		return old
	})
	return slices.Sorted(maps.Values(now))
}

// failOnNewGoroutines gives the goroutines that are not in before time to end.
func failOnNewGoroutines(t testing.TB, before map[string]string) {
	t.Helper()
	if eventually(func() bool { return len(newGoroutines(before)) == 0 }) {
		return
	}
	left := newGoroutines(before)
	t.Errorf("%d goroutines go on that were not there before:\n%s", len(left), strings.Join(left, "\n\n"))
}
