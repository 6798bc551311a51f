package e2e

import (
	"strings"
	"testing"
)

func TestTimeLimits(t *testing.T) {
	for _, sandbox := range sandboxes {
		t.Run(sandbox, func(t *testing.T) {
			u := newUser(t)
			const last = `trap "echo ended; exit 3" TERM; for i in 1 2 3; do echo $i; sleep 1; done; while :; do sleep 1; done`
			for _, test := range []struct {
				name, stdout, stderr string
				code                 int
				args                 []string
			}{
				{"time", "1\n2\n3\nended\n", "stopped the workload: it has run for 5s", 124, []string{"--timeout", "5s", image, "sh", "-c", last}},
				{"idle", "1\n2\n3\nended\n", "stopped the workload: it has had no output and no input for 4s", 124, []string{"--idle-timeout", "4s", image, "sh", "-c", last}},
				{"ignores TERM", "", "it has run for 1s", 124, []string{"--timeout", "1s", "--stop-timeout", "1", image, "sleep", "1000"}},
				{"in time", "", "", 3, []string{"--timeout", "1h", "--idle-timeout", "1h", image, "sh", "-c", "exit 3"}},
				{"detached", "", "Timeout: nothing would stop a detached run in time", 125, []string{"-d", "--timeout", "1s", image, "true"}},
				{"no time", "", "IdleTimeout: -1s is below zero", 125, []string{"--idle-timeout", "-1s", image, "true"}},
			} {
				found := u.run(append([]string{sandbox, "--rm"}, test.args...)...)
				want(u, test.name+": exit status", found.code, test.code)
				want(u, test.name+": standard output", found.stdout, test.stdout)
				if wantText(u, found.stderr, test.stderr); test.stderr == "" && strings.Contains(found.stderr, "moat:") {
					u.Errorf("%s: %s", test.name, found.stderr)
				}
			}
		})
	}
}

// TestMemoryLimit tells why a workload was killed.
func TestMemoryLimit(t *testing.T) {
	for _, sandbox := range sandboxes {
		t.Run(sandbox, func(t *testing.T) {
			u := newUser(t)
			found := u.run(sandbox, "--rm", "-m", "64m", image, "tail", "/dev/zero")
			want(u, "the exit status", found.code, 137)
			wantText(u, found.stderr, "the kernel killed the workload at its memory limit of 64 MB (-m)")
		})
	}
}
