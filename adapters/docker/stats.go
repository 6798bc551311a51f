package docker

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// Stats measures a running container once. Under gVisor it is the sandbox that the
// engine measures, with the kernel in it: its memory, and its threads as processes.
func (r *Runtime) Stats(ctx context.Context, id string) (optional.Stats, error) {
	c, err := r.on(ctx, r.timeout, "measure container", id)
	if err != nil {
		return optional.Stats{}, err
	}
	defer c.end()
	response, err := r.engine.ContainerStatsOneShot(c.ctx, id)
	if err != nil {
		return optional.Stats{}, c.failed(err)
	}
	defer response.Body.Close()
	var measured container.StatsResponse
	// Podman's answer has no content where there is nothing to measure.
	if err := json.NewDecoder(response.Body).Decode(&measured); err != nil && !errors.Is(err, io.EOF) {
		return optional.Stats{}, c.failed(err)
	}
	if measured.Read.IsZero() {
		return optional.Stats{}, c.wrong(core.ErrNotRunning, "", "there is nothing to measure", "Start it first")
	}
	return statsOf(measured), nil
}

func statsOf(measured container.StatsResponse) optional.Stats {
	stats := optional.Stats{
		Time:        measured.Read,
		CPU:         time.Duration(measured.CPUStats.CPUUsage.TotalUsage),
		Memory:      usedMemory(measured.MemoryStats),
		MemoryLimit: measured.MemoryStats.Limit,
		PIDs:        measured.PidsStats.Current,
	}
	for _, network := range measured.Networks {
		stats.NetworkIn += network.RxBytes
		stats.NetworkOut += network.TxBytes
	}
	for _, entry := range measured.BlkioStats.IoServiceBytesRecursive {
		switch entry.Op {
		case "Read", "read":
			stats.BlockRead += entry.Value
		case "Write", "write":
			stats.BlockWrite += entry.Value
		}
	}
	return stats
}

// usedMemory leaves the page cache out that the kernel takes back first, by its name
// in cgroup v1 or v2.
func usedMemory(memory container.MemoryStats) uint64 {
	cache, v1 := memory.Stats["total_inactive_file"]
	if !v1 {
		cache = memory.Stats["inactive_file"]
	}
	return memory.Usage - min(cache, memory.Usage)
}
