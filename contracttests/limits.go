package contracttests

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
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
[ -r /sys/fs/cgroup/memory.swap.max ] && echo swap $(cat /sys/fs/cgroup/memory.swap.max)
[ -r /sys/fs/cgroup/memory/memory.memsw.limit_in_bytes ] && echo both $(cat /sys/fs/cgroup/memory/memory.memsw.limit_in_bytes)
grep -E '^(MemTotal|SwapTotal):' /proc/meminfo`

const limitMB = 64 // of the cases of memory

func memoryLimit(f *fixture) {
	cfg := f.shell(readMemory)
	cfg.MemoryMB = limitMB
	id := f.started(cfg)
	want(f, "the exit code", f.wait(id), 0)
	out := f.logs(id)
	least, swap := int64(-1), map[string]int64{}
	for line := range strings.Lines(out) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		value, err := strconv.ParseInt(words[1], 10, 64)
		if err != nil {
			value = -1 // "max"
		}
		switch words[0] {
		case "MemTotal:":
			value *= 1024
		case "bytes":
		default:
			swap[words[0]] = value
			continue
		}
		if value >= 0 && (least < 0 || value < least) {
			least = value
		}
	}
	if least != limitMB<<20 {
		f.Errorf("a workload limited to %d MB sees %d bytes:\n%s", limitMB, least, out)
	}
	f.wantNoSwap(id, swap)

	// 100 MB are more than that, however much swap there is.
	filler := f.shell(`dd if=/dev/zero of=/dev/null bs=100000000 count=1 && echo filled`)
	filler.MemoryMB = limitMB
	id = f.started(filler)
	_, _ = f.waiting(f.ctx, id).until("it has written 100 MB to its memory, or was killed").result(f)
	if strings.Contains(f.logs(id), "filled") {
		f.Errorf("a workload limited to %d MB, swap included, has written to 100 MB of memory", limitMB)
	}
}

// wantNoSwap checks that a container's limit of memory includes swap: by what its cgroup
// shows, and by what the engine tells where it shows nothing. Where there is no swap at
// all, nothing has to be limited.
func (f *fixture) wantNoSwap(id string, seen map[string]int64) {
	f.Helper()
	swap, version2 := seen["swap"]
	both, version1 := seen["both"]
	switch {
	case version2:
		want(f, "the limit of swap beside 64 MB of memory, which is to include it, in memory.swap.max", swap, 0)
	case version1:
		want(f, "the limit of memory and swap together in memory.memsw.limit_in_bytes", both, limitMB<<20)
	default:
		if inspector, ok := core.As[optional.Inspector](f.rt); ok {
			details, err := inspector.Inspect(f.ctx, id)
			f.must(err)
			if told := details.MemorySwapMB; told > 0 || (told < 0 && seen["SwapTotal:"] > 0) {
				want(f, "Details.MemorySwapMB of a container with a MemoryMB of 64", told, limitMB)
			}
		}
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
	f.wantPids(core.DefaultPidsLimit, "without a PidsLimit", func(*core.Config) {})
	f.wantPids(-1, "with a PidsLimit of -1", func(c *core.Config) { c.PidsLimit = -1 })
}

const readPids = `for file in /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max; do
	[ -r $file ] && echo pids $(cat $file)
done
true`

// wantPids checks the limit of a container, -1 for none: by what the engine tells and by
// what the cgroup shows. A sandbox's own kernel shows none, whatever stands around it.
func (f *fixture) wantPids(limit int64, when string, change func(*core.Config)) {
	f.Helper()
	cfg := f.shell(readPids)
	change(&cfg)
	id := f.started(cfg)
	want(f, "the exit code", f.wait(id), 0)
	told := int64(0)
	if inspector, ok := core.As[optional.Inspector](f.rt); ok {
		details, err := inspector.Inspect(f.ctx, id)
		f.must(err)
		told = details.PidsLimit
	}
	if told != 0 {
		want(f, "Details.PidsLimit of a container "+when, told, limit)
	}
	var text string
	if n, _ := fmt.Sscanf(f.logs(id), "pids %s", &text); n == 0 {
		return
	}
	seen, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		seen = -1 // "max"
	}
	if seen >= 0 || optional.CapabilitiesOf(f.rt).Isolation == optional.IsolationContainer {
		want(f, "the limit in pids.max of a container "+when, seen, limit)
	}
}
