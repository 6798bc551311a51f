package e2e

import (
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
			gate := u.gate(test.request, false)
			command := u.start(u.command(append(args, image, "sh", "-c", "exit 7")...))
			gate.await(u)
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
