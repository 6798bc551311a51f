package e2e

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestSignals(t *testing.T) {
	for name, test := range map[string]struct {
		trap   string
		signal syscall.Signal
		times  int
		code   int
	}{
		"Ctrl-C":                  {"trap 'exit 130' INT", syscall.SIGINT, 1, 130},
		"the third Ctrl-C kills":  {"trap 'echo again' INT", syscall.SIGINT, 3, 137},
		"SIGTERM":                 {"trap 'exit 15' TERM", syscall.SIGTERM, 1, 15},
		"a terminal that is gone": {"trap 'exit 1' HUP", syscall.SIGHUP, 1, 1},
		"SIGUSR1":                 {"trap 'exit 10' USR1", syscall.SIGUSR1, 1, 10},
		"no trap":                 {":", syscall.SIGINT, 1, 130},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUser(t)
			command := u.reading(u.labelled("--rm", "--no-sandbox", image, "sh", "-c", test.trap+"; echo ready; while :; do sleep 0.1; done")...)
			command.await(u, "ready")
			for i := range test.times {
				if i > 0 {
					command.await(u, "again")
				}
				u.signal(command.Cmd, test.signal)
			}
			want(u, "the exit status", u.finish(command.Cmd).code, test.code)
			want(u, "what is left", u.left(), "")
		})
	}
}

// TestEverySignal sends all signals that a process can catch and hand on, apart from
// SIGCHLD, SIGPIPE and SIGURG, which are about this process, SIGPROF, which Go's runtime
// keeps, and the ones of C libraries.
func TestEverySignal(t *testing.T) {
	for _, sandbox := range sandboxes {
		for _, verb := range []string{"run", "run -t", "attach"} {
			t.Run(sandbox+verb, func(t *testing.T) {
				u := newUser(t)
				others := []syscall.Signal{
					syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGCHLD, syscall.SIGPIPE, syscall.SIGURG, syscall.SIGPROF, 32, 33, 34,
				}
				script := "n=1; while test $n -le 64; do case $n in 9|19|17|32|33) ;; *) trap \"echo got $n\" $n;; esac; n=$((n+1)); done; while :; do echo ready; sleep 0.1; done"
				name := unique(t)
				args, end := u.labelled("--rm", sandbox, "--name", name, image, "sh", "-c", script), ""
				switch verb {
				case "run -t":
					args, end = slices.Insert(args, 1, "-t"), "\r"
				case "attach":
					u.must(slices.Insert(args, 1, "-d")...)
					args = []string{"attach", "--no-stdin", name}
				}
				command := u.reading(args...)
				command.until(u, "ready"+end)
				last := syscall.Signal(64)
				if sandbox != "--no-sandbox" {
					last = syscall.SIGSYS // runsc knows no real-time signals by number
				}
				for sig := syscall.Signal(1); sig <= last; sig++ {
					if !slices.Contains(others, sig) {
						u.signal(command.Cmd, sig)
						command.until(u, fmt.Sprintf("got %d%s", sig, end))
					}
				}
				u.docker("rm", "-f", name)
				u.finish(command.Cmd)
			})
		}
	}
}

// TestInterrupted sends Ctrl-C before the engine's answer to a request is there.
func TestInterrupted(t *testing.T) {
	for phase, test := range map[string]struct {
		request  string
		answered bool // after the Ctrl-C
		code     int
	}{
		"connecting": {"/_ping$", false, 130},
		"pulling":    {"POST .*/images/create$", false, 130},
		"creating":   {"POST .*/containers/create$", true, 130},
		"starting":   {"POST .*/start$", false, 130},
		"waiting":    {"POST .*/wait$", true, 7},
		"removing":   {"DELETE .*/containers/", true, 7},
	} {
		t.Run(phase, func(t *testing.T) {
			u := newUser(t)
			args, image := u.labelled("--rm", "--no-sandbox"), image
			if phase == "pulling" {
				args, image = append(args, "--pull", "always"), "127.0.0.1:5000/moat/test-pull-small"
			}
			script := "exit 7"
			if phase == "creating" { // the answer may overtake the signal, which then ends the program
				script = "exec sleep 1000"
			}
			gate := u.gate(test.request, false)
			command := u.start(u.command(append(args, image, "sh", "-c", script)...))
			gate.await(u)
			if phase == "starting" { // or the program may get the signal, and then nothing ends but itself
				u.eventually("the program has exited", func() bool { return strings.Contains(u.left(), "Exited") })
			}
			u.signal(command, syscall.SIGINT)
			if test.answered {
				gate.pass()
			}
			found := u.finish(command)
			want(u, "the exit status ("+found.stderr+")", found.code, test.code)
			// What the engine was asked just before the end may take it a little longer.
			u.eventually("nothing is left", func() bool { return u.left() == "" })
		})
	}
}
