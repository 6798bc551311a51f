package memory

import (
	"slices"
	"strconv"
	"strings"
)

// The signals of Linux, whatever system this process runs on.
const (
	sigINT   = 2
	sigKILL  = 9
	sigPIPE  = 13
	sigTERM  = 15
	sigWINCH = 28

	lastSignal = 64
)

var signalNames = strings.Fields(`EXIT HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM
	STKFLT CHLD CONT STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS`)

// signalNumber returns the number of TERM, SIGTERM or 15, and -1 for what is no signal.
func signalNumber(name string) int {
	if number, err := strconv.Atoi(name); err == nil && number >= 0 && number <= lastSignal {
		return number
	}
	return slices.Index(signalNames, strings.TrimPrefix(strings.ToUpper(name), "SIG"))
}

func named(number int, names ...string) bool {
	return number < len(signalNames) && slices.Contains(names, signalNames[number])
}

// stops tells whether a signal suspends processes by default.
func stops(number int) bool { return named(number, "STOP", "TSTP", "TTIN", "TTOU") }

// terminates tells whether a signal ends processes by default.
func terminates(number int) bool {
	return number > 0 && !stops(number) && !named(number, "CHLD", "CONT", "URG", "WINCH")
}
