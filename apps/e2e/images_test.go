package e2e

import (
	"io"
	"strings"
	"testing"

	"github.com/creack/pty"
)

func TestImages(t *testing.T) {
	u := newUser(t)
	const pulled = "127.0.0.1:5000/moat/test-pull:latest"
	defer u.moat("rmi", pulled)
	u.must("rmi", pulled)
	found := u.moat("pull", pulled)
	want(u, "the exit status of pull", found.code, 0)
	want(u, "the output of pull", found.stdout, pulled+"\n")
	wantText(u, found.stderr, pulled)
	if strings.ContainsAny(found.stderr, "\r\x1b") {
		u.Errorf("pull rewrites lines where there is no terminal: %q", found.stderr)
	}
	wantText(u, u.must("images"), image)
	if len(u.rows("images", "--json")) == 0 {
		u.Error("images --json shows none")
	}
	want(u, "rmi", u.rows("rmi", "--json", pulled)[0]["image"], any(pulled))

	terminal, err := pty.Start(u.command("pull", "--json", pulled))
	if err != nil {
		u.Fatal(err)
	}
	defer terminal.Close()
	shown, _ := io.ReadAll(terminal) // Linux ends it with an error
	progress, printed, _ := strings.Cut(string(shown), "[\r\n")
	wantText(u, progress, "\r\x1b[KPulling "+pulled)
	wantText(u, printed, pulled)
	if strings.Contains(progress, "\n") || !strings.HasSuffix(progress, "\r\x1b[K") {
		u.Errorf("a line that should be rewritten stays: %q", progress)
	}

	const absent = "127.0.0.1:5000/moat/absent:latest"
	missing := u.moat("pull", absent)
	want(u, "the exit status of a pull of nothing", missing.code, 1)
	wantText(u, missing.stderr, absent, "not found")
}
