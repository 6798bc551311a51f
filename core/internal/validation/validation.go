// Package validation has what the packages of core check settings with.
package validation

import (
	"cmp"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"
)

// Pattern compiles an expression when it is first needed: a process needs few of them,
// and would pay for all at its start.
func Pattern(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}

// Patterns that several packages need.
var (
	// ServiceName becomes a host name, and part of variables' names.
	ServiceName = Pattern(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

	// NetworkName is a network's name or ID.
	NetworkName = Pattern(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

	// Tag is an image's tag as the OCI distribution specification has it.
	Tag = Pattern(`^[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}$`)
)

// Flaw tells why a text cannot arrive unchanged, "" where it can: engines take JSON,
// which would replace what is not UTF-8, and programs see no text beyond a NUL byte.
func Flaw(text string) string {
	switch {
	case !utf8.ValidString(text):
		return "is not UTF-8"
	case strings.ContainsRune(text, 0):
		return "contains a NUL byte"
	}
	return ""
}

// SortedKeys returns the keys of m in order.
func SortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	return slices.Sorted(maps.Keys(m))
}
