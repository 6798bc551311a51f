package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moatproject/moat/core"
)

// TestOnlyRunNeedsTheSandbox is about an engine that answers and has no gVisor.
func TestOnlyRunNeedsTheSandbox(t *testing.T) {
	c := newCommands(t)
	c.engine.verify = &core.Error{Op: "find the sandbox", Class: core.ErrGVisorNotAvailable}
	c.started("web", "old")
	dockerfile := filepath.Join(t.TempDir(), "Dockerfile")
	if err := os.WriteFile(dockerfile, []byte("FROM redis:7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"ps"}, {"ps", "-a", "--json"}, {"inspect", "web"}, {"logs", "web"}, {"exec", "web", "true"}, {"stop", "web"}, {"wait", "web"},
		{"rm", "web"}, {"rm", "-f", "old"}, {"images"}, {"build", "-t", "moat/built", "-f", dockerfile, filepath.Dir(dockerfile)}, {"rmi", "moat/built"},
		{"network", "create", "net"}, {"network", "ls"}, {"network", "rm", "net"}, {"clean"},
	} {
		code, stdout, stderr := c.moat(args...)
		if code != 0 || strings.Contains(stdout+stderr, "gVisor") {
			t.Errorf("moat %q: status %d, %q, %q", args, code, stdout, stderr)
		}
	}
	code, _, stderr := c.moat("run", "--rm", "redis:7", "true")
	if code != statusMoatFailed || !strings.Contains(stderr, core.ErrGVisorNotAvailable.Error()) {
		t.Errorf("moat run: status %d, %q", code, stderr)
	}
}
