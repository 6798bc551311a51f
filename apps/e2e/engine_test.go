package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/moatproject/moat/adapters/docker/dockertest"
)

// TestWithoutAnEngine is about what works anyway, and what is said of the rest.
func TestWithoutAnEngine(t *testing.T) {
	u := newUser(t)
	for _, test := range []struct{ host, text string }{
		{"unix://" + filepath.Join(u.home, "nobody.sock"), "DOCKER_HOST"},
		{"tcp://127.0.0.1:1", "DOCKER_HOST"},
		{"nonsense", "unix://"},
	} {
		u.engine = test.host
		for _, args := range [][]string{{"--version"}, {"version"}, {"--help"}, {"run", "--help"}, {"completion", "bash"}} {
			if out := u.must(args...); out == "" {
				u.Errorf("moat %q prints nothing", args)
			}
		}
		want(u, "version --json", len(u.rows("version", "--json")), 1)
		for _, command := range []struct {
			code int
			args []string
		}{
			{125, []string{"run", image, "true"}},
			{125, []string{"run", "--no-sandbox", image, "true"}},
			{1, []string{"ps"}},
			{1, []string{"doctor"}},
			{1, []string{"--runtime", "docker", "--no-sandbox", "doctor"}},
		} {
			found := u.moat(command.args...)
			want(u, fmt.Sprintf("%s: the exit status of %q", test.host, command.args), found.code, command.code)
			wantText(u, found.stdout+found.stderr, test.host, test.text)
		}
	}
}

func TestDoctor(t *testing.T) {
	u := newUser(t)
	if rows := u.rows("doctor", "--json"); len(rows) == 0 || rows[0]["usable"] != true {
		u.Errorf("doctor --json: %v", rows)
	}
	for _, test := range []struct {
		code  int
		args  []string
		texts []string
	}{
		{1, []string{"--runtime", "memory"}, []string{"memory", "auto, docker, gvisor"}},
		{1, []string{"--runtime", "apple"}, []string{"apple", "--runtime"}},
		{1, []string{"--runtime", "lxc"}, []string{"lxc", "docker, gvisor"}},
	} {
		found := u.moat(append([]string{"doctor"}, test.args...)...)
		want(u, fmt.Sprintf("the exit status of doctor %q (%s)", test.args, found.stderr), found.code, test.code)
		wantText(u, found.stdout+found.stderr, test.texts...)
	}
}

// TestWithoutPermission runs as somebody who may not use the socket.
func TestWithoutPermission(t *testing.T) {
	u := newUser(t)
	u.becomeNobody()
	u.engine = os.Getenv(engine)
	found := u.moat("run", "--no-sandbox", image, "true")
	want(u, "the exit status", found.code, 125)
	wantText(u, found.stderr, "permission denied", "group")
}

// becomeNobody makes the user one who is not root. The engine is reached by a cable.
func (u *user) becomeNobody() {
	u.Helper()
	if os.Getuid() != 0 {
		dockertest.Need(u.T, "docker", "only root can run a process as somebody else")
	}
	home, err := os.MkdirTemp("", "moat-e2e-nobody-") // the folders around t.TempDir are root's
	if err != nil {
		u.Fatal(err)
	}
	u.Cleanup(func() { os.RemoveAll(home) })
	if err := os.Chmod(home, 0o777); err != nil {
		u.Fatal(err)
	}
	u.home, u.credential = home, &syscall.Credential{Uid: 65534, Gid: 65534}
	u.cable()
}
