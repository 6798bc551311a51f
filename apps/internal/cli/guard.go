package cli

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/moby/term"
)

// guardName is the name of a guard's process.
const guardName = "moat: guards the terminal"

// guard is a process beside this one. It restores the terminal if this process ends without
// doing so: a panic in any goroutine ends a process at once, as SIGKILL does.
type guard struct {
	command *exec.Cmd
	life    *os.File // the guard reads it to its end, which is that of this process
}

// errUnready reports a guard that ended before it had read the terminal's state.
var errUnready = errors.New("the terminal's guard has ended")

// startGuard starts a guard and returns when it has read the terminal's state.
func startGuard(terminal *os.File) (g *guard, err error) {
	program := "/proc/self/exe" // also where its file has been replaced
	if runtime.GOOS != "linux" {
		if program, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	read, life, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer read.Close()
	g = &guard{exec.Command(program), life}
	g.command.Args, g.command.Dir = []string{guardName}, "/"
	g.command.Stdin, g.command.ExtraFiles = terminal, []*os.File{read}
	ready, err := g.command.StdoutPipe()
	if err == nil {
		err = g.command.Start()
	}
	if err != nil {
		life.Close()
		return nil, err
	}
	if _, err := io.ReadFull(ready, make([]byte, 1)); err != nil {
		g.dismiss()
		return nil, errUnready
	}
	return g, nil
}

// dismiss ends the guard, which leaves the terminal as it is.
func (g *guard) dismiss() {
	_, _ = g.life.Write([]byte{'\n'})
	g.life.Close()
	_ = g.command.Wait()
}

// GuardTerminal is the main function of a guard's process. In any other process it returns
// false at once.
func GuardTerminal() bool {
	if os.Args[0] != guardName {
		return false
	}
	// The guard outlives the other process, and may be in the background by then.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGTSTP, syscall.SIGTTOU)
	state, err := term.SaveState(os.Stdin.Fd())
	if err != nil {
		return true
	}
	if _, err := os.Stdout.Write([]byte{'\n'}); err != nil {
		return true
	}
	const firstExtraFile = 3
	life := os.NewFile(firstExtraFile, "life")
	if _, err := io.ReadFull(life, make([]byte, 1)); err != nil {
		_ = term.RestoreTerminal(os.Stdin.Fd(), state)
	}
	return true
}
