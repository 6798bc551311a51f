package optional

import (
	"context"
	"time"
)

// StatsReader is the optional interface for what a container uses.
type StatsReader interface {
	// Stats measures a running container once.
	//
	//   - RT-160: CPU time grows with work, memory counts what is held, processes are counted.
	//   - RT-161: missing: [core.ErrNotFound]; not running: [core.ErrNotRunning].
	Stats(ctx context.Context, id string) (Stats, error)
}

// Stats is what a container uses. Counters begin with its start.
type Stats struct {
	Time        time.Time     `json:"time"`        // of the measurement
	CPU         time.Duration `json:"cpu"`         // time on all processors together, in nanoseconds
	Memory      uint64        `json:"memory"`      // bytes, without the page cache that can be reclaimed
	MemoryLimit uint64        `json:"memorylimit"` // bytes; without a limit, the machine's memory
	PIDs        uint64        `json:"pids"`
	NetworkIn   uint64        `json:"networkin"` // bytes, of all interfaces
	NetworkOut  uint64        `json:"networkout"`
	BlockRead   uint64        `json:"blockread"` // bytes
	BlockWrite  uint64        `json:"blockwrite"`
}
