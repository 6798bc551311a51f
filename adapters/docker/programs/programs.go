// Package programs has the helper programs that Moat runs in containers: static
// binaries of a few kilobytes for Linux, which need no library and no shell. Their
// sources, and the script that builds them, are in the directory source.
package programs

import (
	"embed"
	"fmt"
)

//go:embed check-* gate-* guard-* probe-* resolver-*
var binaries embed.FS

// Read returns a program's binary for an architecture, by Go's names of those.
func Read(name, architecture string) ([]byte, error) {
	binary, err := binaries.ReadFile(name + "-" + architecture)
	if err != nil {
		return nil, fmt.Errorf("the helper program %s does not exist for %s", name, architecture)
	}
	return binary, nil
}
