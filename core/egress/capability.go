package egress

import (
	"slices"
	"strings"
)

// escapeCapabilities lead past a restriction of a container's network.
var escapeCapabilities = []string{"ALL", "BPF", "DAC_READ_SEARCH", "NET_ADMIN", "NET_RAW", "SYS_ADMIN", "SYS_MODULE", "SYS_RAWIO"}

// IsEscape reports whether a workload with this Linux capability could change or leave its
// network. The name is case-insensitive and may begin with "CAP_".
func IsEscape(capability string) bool {
	return slices.Contains(escapeCapabilities, strings.TrimPrefix(strings.ToUpper(capability), "CAP_"))
}
