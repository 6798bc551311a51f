package memory

import "slices"

// The signals of Linux, whatever system this process runs on.
const (
	sigINT   = 2
	sigKILL  = 9
	sigPIPE  = 13
	sigTERM  = 15
	sigCHLD  = 17
	sigCONT  = 18
	sigSTOP  = 19
	sigTSTP  = 20
	sigTTIN  = 21
	sigTTOU  = 22
	sigURG   = 23
	sigWINCH = 28

	lastSignal = 64
)

// stops tells whether a signal suspends processes by default.
func stops(number int) bool {
	return slices.Contains([]int{sigSTOP, sigTSTP, sigTTIN, sigTTOU}, number)
}

// terminates tells whether a signal ends processes by default.
func terminates(number int) bool {
	return number > 0 && !stops(number) && !slices.Contains([]int{sigCHLD, sigCONT, sigURG, sigWINCH}, number)
}
