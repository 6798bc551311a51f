package cli

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"
	"github.com/moby/term"
)

// dying is how a process of this test is to end, which has made its terminal raw.
const dying = "MOAT_TEST_DYING"

func TestMain(m *testing.M) {
	switch {
	case GuardTerminal():
	case os.Getenv(dying) != "":
		die(os.Getenv(dying))
	default:
		os.Exit(m.Run())
	}
}

func die(how string) {
	a := &app{env: ProcessEnv()}
	s := a.openSession(true, true, defaultDetachKeys(), func(error) {})
	if err := s.begin(nil); err != nil {
		panic(err)
	}
	_, _ = os.Stdout.WriteString("raw\n")
	_, _ = os.Stdin.Read(make([]byte, 1))
	switch how {
	case "panic":
		go func() { panic("in a goroutine that nobody looks after") }()
		select {}
	case "kill":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case "exit":
		os.Exit(3)
	}
	if err := s.restore(); err != nil {
		panic(err)
	}
}

// TestTerminalSurvives looks at the terminal of processes that end with it in raw mode.
func TestTerminalSurvives(t *testing.T) {
	for how, words := range map[string]string{"panic": "panic: in a goroutine", "kill": "", "exit": "", "order": ""} {
		t.Run(how, func(t *testing.T) {
			keyboard, terminal, err := pty.Open()
			must(t, err)
			defer keyboard.Close()
			before, err := term.SaveState(terminal.Fd())
			must(t, err)
			command := exec.Command(os.Args[0])
			command.Env = append(os.Environ(), dying+"="+how)
			command.Stdin, command.Stderr = terminal, new(strings.Builder)
			// Not the terminal's session leader: with one the kernel would reset the terminal.
			out, err := command.StdoutPipe()
			must(t, err)
			must(t, command.Start())
			_, err = io.ReadFull(out, make([]byte, len("raw\n")))
			must(t, err)
			if raw, err := term.SaveState(terminal.Fd()); err != nil || *raw == *before {
				t.Fatalf("the terminal is not raw: %v", err)
			}
			_, err = keyboard.WriteString("x")
			must(t, err)
			err = command.Wait()
			if _, died := errors.AsType[*exec.ExitError](err); died != (how != "order") {
				t.Errorf("it ended with %v", err)
			}
			if said := command.Stderr.(*strings.Builder).String(); !strings.Contains(said, words) {
				t.Errorf("it said %q", said)
			}
			// When the guard has ended as well, nobody has the terminal open.
			must(t, terminal.Close())
			if _, err := io.Copy(io.Discard, keyboard); !errors.Is(err, syscall.EIO) {
				t.Errorf("the terminal's end: %v", err)
			}
			if after, err := term.SaveState(keyboard.Fd()); err != nil || *after != *before {
				t.Errorf("the terminal is left raw: %v", err)
			}
		})
	}
}
