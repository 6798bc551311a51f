package contracttests

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/moatproject/moat/core"
)

func limitCases() []Case {
	return []Case{
		{
			Number: "CF-21", Title: "MemoryMB is what the workload sees", check: memoryLimit, fields: []string{"MemoryMB"},
			ability: capability("MemoryLimit"), unsupported: refusedConfig(func(c *core.Config) { c.MemoryMB = 64 }),
		},
		{
			Number: "CF-22", Title: "CPUs is the quota", check: cpuLimit, fields: []string{"CPUs"},
			ability: capability("CPULimit"), unsupported: refusedConfig(func(c *core.Config) { c.CPUs = 1 }),
		},
		{
			Number: "CF-23", Title: "NanoCPUs throttles", Serial: true, check: cpuFraction, fields: []string{"NanoCPUs"},
			ability: capability("CPULimit"), unsupported: refusedConfig(func(c *core.Config) { c.NanoCPUs = 1e8 }),
		},
		{
			Number: "CF-24", Title: "PidsLimit stops a fork bomb", check: pidsLimit, fields: []string{"PidsLimit"},
			ability: capability("PidsLimit"), unsupported: refusedConfig(func(c *core.Config) { c.PidsLimit = 100 }),
		},
	}
}

// Where the limits can be read: cgroups version 2 and 1, and a sandbox's own kernel.
const readMemory = `for file in /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes; do
	[ -r $file ] && echo bytes $(cat $file)
done
grep MemTotal: /proc/meminfo`

func memoryLimit(f *fixture) {
	cfg := f.shell(readMemory)
	cfg.MemoryMB = 64
	out := f.output(cfg)
	least := int64(-1)
	for line := range strings.Lines(out) {
		words := strings.Fields(line)
		value, err := strconv.ParseInt(words[1], 10, 64)
		if err != nil {
			continue // "max"
		}
		if words[0] == "MemTotal:" {
			value *= 1024
		}
		if least < 0 || value < least {
			least = value
		}
	}
	if least != 64<<20 {
		f.Errorf("a workload limited to 64 MB sees %d bytes:\n%s", least, out)
	}
}

const readQuota = `for file in /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us; do
	[ -r $file ] && echo quota $(cat $file) $(cat /sys/fs/cgroup/cpu/cpu.cfs_period_us 2>/dev/null)
done
true`

func cpuLimit(f *fixture) {
	cfg := f.shell(readQuota)
	cfg.CPUs = 1
	id := f.started(cfg)
	want(f, "the exit code", f.wait(id), 0)
	out := f.logs(id)
	var quota, period int
	if n, _ := fmt.Sscanf(out, "quota %d %d", &quota, &period); n == 2 && quota > 0 {
		want(f, "the quota, in periods", quota, period)
		return
	}
	// A sandbox's kernel shows no quota. The engine tells it; that it holds, CF-23 shows.
	want(f, "the quota of the container's details", f.inspect(id).NanoCPUs, 1e9)
}

const burn = `read began rest </proc/uptime
i=0; while [ $i -lt 40000 ]; do i=$((i+1)); done
read ended rest </proc/uptime
echo $began $ended
times`

// cpuFraction compares the time that work takes with the CPU time that it gets.
func cpuFraction(f *fixture) {
	cfg := f.shell(burn)
	cfg.NanoCPUs = 1e8
	out := f.output(cfg)
	words := strings.Fields(out)
	if len(words) < 4 {
		f.Fatalf("the container wrote %q", out)
	}
	began, errBegan := strconv.ParseFloat(words[0], 64)
	ended, errEnded := strconv.ParseFloat(words[1], 64)
	user, errUser := time.ParseDuration(words[2])
	system, errSystem := time.ParseDuration(words[3])
	for _, err := range []error{errBegan, errEnded, errUser, errSystem} {
		f.must(err)
	}
	if got := (user + system).Seconds(); got > (ended-began)/2 {
		f.Errorf("a workload limited to a tenth of a CPU got %.2f s of CPU time in %.2f s", got, ended-began)
	}
}

func pidsLimit(f *fixture) {
	cfg := f.shell(`i=0; while [ $i -lt 200 ]; do sleep 1000 & i=$((i+1)); done; echo all`)
	cfg.PidsLimit = 100
	id := f.started(cfg)
	f.wait(id)
	if out := f.logs(id); strings.Contains(out, "all\n") {
		f.Errorf("a workload limited to 100 processes started 200")
	}
}
