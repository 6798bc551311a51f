package cli

import (
	"os"
	"syscall"
)

// The real-time signals that Go delivers. The ones before belong to C libraries.
const (
	firstRealtime = 35
	lastRealtime  = 64
)

func endingSignalsOfSystem() []os.Signal {
	signals := []os.Signal{syscall.SIGIO, syscall.SIGPWR, syscall.SIGSTKFLT}
	for sig := syscall.Signal(firstRealtime); sig <= lastRealtime; sig++ {
		signals = append(signals, sig)
	}
	return signals
}
