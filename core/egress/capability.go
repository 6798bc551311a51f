package egress

import (
	"slices"
	"strings"
)

// escapes are the Linux capabilities that lead past a restriction of a container's network.
var escapes = []string{"ALL", "BPF", "DAC_READ_SEARCH", "NET_ADMIN", "NET_RAW", "SYS_ADMIN", "SYS_MODULE", "SYS_RAWIO"}

// IsEscape reports whether a workload with this Linux capability could change or leave its
// network. The name may have the prefix "CAP_", in either case.
func IsEscape(capability string) bool {
	return slices.Contains(escapes, strings.TrimPrefix(strings.ToUpper(capability), "CAP_"))
}
