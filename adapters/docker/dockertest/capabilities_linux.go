package dockertest

import "golang.org/x/sys/unix"

// LackingCapabilities tells why privileged containers cannot start where this test
// runs, beside the engine: old engines give them all capabilities that there are.
func LackingCapabilities() string {
	for number := range unix.CAP_LAST_CAP + 1 {
		if held, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(number), 0, 0, 0); err == nil && held == 0 {
			return "this machine lacks capabilities"
		}
	}
	return ""
}
