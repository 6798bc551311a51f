package cli

import (
	"context"
	"fmt"
	"os"
	"slices"
	"syscall"
)

// endingSignals end a process that does not handle them. They reach the workload of a
// foreground run once it has started, and cancel everything else. Those that crash a
// process are among them: it would leave a raw terminal behind. So is SIGPROF, which
// Go's runtime keeps to itself where it is caught.
func endingSignals() []os.Signal {
	return slices.Concat([]os.Signal{
		syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2,
		syscall.SIGABRT, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGILL, syscall.SIGSEGV, syscall.SIGSYS, syscall.SIGTRAP,
		syscall.SIGALRM, syscall.SIGVTALRM, syscall.SIGPROF, syscall.SIGXCPU, syscall.SIGXFSZ,
	}, endingSignalsOfSystem())
}

// sparingSignals do not end a process that does not handle them. They reach the workload
// as the others do, and mean to this process what they usually do while there is none.
//
// SIGCHLD, SIGPIPE and SIGURG are in neither list: they are about this process.
var sparingSignals = []os.Signal{syscall.SIGCONT, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGWINCH}

// forwardedBeside returns the sparing signals that a session forwards. With a terminal
// the kernel sends SIGTTIN and SIGTTOU to a process in the background again and again,
// until it stops; and where the terminal is the workload's as well, a new size reaches
// it in another way.
func (s *session) forwardedBeside(terminal Console) []os.Signal {
	return slices.DeleteFunc(slices.Clone(sparingSignals), func(sig os.Signal) bool {
		switch sig {
		case syscall.SIGTTIN, syscall.SIGTTOU:
			return terminal != nil
		case syscall.SIGWINCH:
			return s.console != nil
		}
		return false
	})
}

// ends reports whether a signal ends a process that does not handle it.
func ends(sig syscall.Signal) bool { return !slices.Contains(sparingSignals, os.Signal(sig)) }

// interruptedError reports the signal that ended the command.
type interruptedError struct{ signal syscall.Signal }

func (e *interruptedError) Error() string { return fmt.Sprintf("interrupted by %v", e.signal) }

func (e *interruptedError) status() int { return 128 + int(e.signal) }

// cancelOnSignal returns a context that the first signal cancels.
func (a *app) cancelOnSignal(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals, stop := a.env.Notify(endingSignals()...)
	done := make(chan struct{})
	go func() {
		select {
		case s := <-signals:
			cancel(&interruptedError{signal: s.(syscall.Signal)})
		case <-done:
		}
	}()
	return ctx, func() {
		stop()
		close(done)
		cancel(context.Canceled)
	}
}
