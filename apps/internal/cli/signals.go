package cli

import (
	"context"
	"fmt"
	"os"
	"syscall"
)

// forwardedSignals reach the workload of a foreground run, and cancel everything else.
// Those that crash a process are among them: it would leave a raw terminal behind.
var forwardedSignals = []os.Signal{
	syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2,
	syscall.SIGABRT, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGILL, syscall.SIGSEGV, syscall.SIGSYS, syscall.SIGTRAP,
}

// interruptedError says that a signal ended the command.
type interruptedError struct{ signal syscall.Signal }

func (e *interruptedError) Error() string { return fmt.Sprintf("interrupted by %v", e.signal) }

func (e *interruptedError) status() int { return 128 + int(e.signal) }

// cancelOnSignal returns a context that the first signal cancels.
func (a *app) cancelOnSignal(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals, stop := a.env.Notify()
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
