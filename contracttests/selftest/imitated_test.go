package selftest

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/moatproject/moat/contracttests"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// imitation makes the memory runtime pretend what it cannot do, just well enough for
// one case, and then badly, so that the case must fail.
type imitation struct {
	number string
	how    string // what is bad
	good   func(*world)
	bad    func(*world)
}

// world is what a case of an imitation runs in.
type world struct {
	*hooks
	harness *contracttests.Harness
}

var imitations = []imitation{
	{"RT-25", "a port is given twice", publishing(takenPorts(true)), publishing(takenPorts(false))},
	{"RT-85", "nobody answers", publishing(answering("hello\n")), publishing(answering(""))},
	{"RT-85", "another port answers", publishing(answering("hello\n")), publishing(func(w *world) {
		answering("hello\n")(w)
		w.ports = func(context.Context, string) (map[int]int, error) { return map[int]int{1: 1}, nil }
	})},
	{"RT-87", "nobody answers there", publishing(publishedOn(hostIP)), publishing(publishedOn("127.0.0.1"))},
	{"CF-35", "on all addresses", publishing(publishedOn(hostIP)), publishing(publishedOn(hostIP, "127.0.0.1"))},
	{"CF-12", "nobody answers", onHostNetwork("hello\n"), onHostNetwork("")},
	{"CF-13", "another host port", publishing(answering("hello\n")), publishing(func(w *world) {
		answering("hello\n")(w)
		w.ports = func(context.Context, string) (map[int]int, error) { return map[int]int{8080: 1}, nil }
	})},
	{"CF-14", "UDP is not published", publishing(takenPorts(true)), publishing(takenPorts(false))},
	{"CF-33", "only one is told", publishing(answering("hello\n")), publishing(func(w *world) {
		answering("hello\n")(w)
		list := w.list
		w.list = func(ctx context.Context) ([]core.Info, error) {
			infos, err := list(ctx)
			for i := range infos {
				infos[i].Published = infos[i].Published[:1]
			}
			return infos, err
		}
	})},
	{"CF-33", "nobody answers", publishing(answering("hello\n")), publishing(answering(""))},
	{"CF-34", "the first of a range is given twice", publishing(func(w *world) {
		answering("hello\n")(w)
		takenPorts(true)(w)
	}), publishing(answering("hello\n"))},
	{"CF-15", "dropped", writing("LinuxCaps", "CapEff:\t00000000a80c25fb\n"), writing("LinuxCaps", "CapEff:\t00000000a80425fb\n")},
	{"CF-16", "NET_RAW is kept", writing("LinuxCaps", "CapEff:\t00000000a80405fb\n"), writing("LinuxCaps", "CapEff:\t00000000a80425fb\n")},
	{"CF-18", "dropped", writing("Privileged", "CapEff:\t000001ffffffffff\n"), writing("Privileged", "CapEff:\t00000000a80425fb\n")},
	{"CF-21", "dropped (cgroups 2)", writing("MemoryLimit", "bytes 67108864\nMemTotal: 16000000 kB\n"), writing("MemoryLimit", "bytes max\nMemTotal: 16000000 kB\n")},
	{"CF-21", "dropped (sandbox)", writing("MemoryLimit", "MemTotal: 65536 kB\n"), writing("MemoryLimit", "MemTotal: 16000000 kB\n")},
	{"CF-21", "swap beyond it (cgroups 1)", writing("MemoryLimit", "bytes 67108864\nboth 67108864\n"), writing("MemoryLimit", "bytes 67108864\nboth 134217728\n")},
	{"CF-21", "swap beyond it (cgroups 2)", writing("MemoryLimit", "bytes 67108864\nswap 0\n"), writing("MemoryLimit", "bytes 67108864\nswap max\n")},
	{"CF-21", "swap beyond it, where only the engine tells", swapping("", 64), swapping("", 128)},
	{"CF-21", "swap without a limit, where there is some", swapping("", -1), swapping("SwapTotal: 1000000 kB\n", -1)},
	{"CF-21", "it is told, and does not hold", writing("MemoryLimit", "MemTotal: 65536 kB\n"), writing("MemoryLimit", "MemTotal: 65536 kB\nfilled\n")},
	{"CF-22", "two instead of one", writing("CPULimit", "quota 100000 100000\n"), writing("CPULimit", "quota 200000 100000\n")},
	{"CF-22", "dropped, where no quota shows", inspecting("CPULimit", 1e9), inspecting("CPULimit", 0)},
	{"CF-23", "dropped", writing("CPULimit", "1.0 3.6\n0m0.20s 0m0.06s\n"), writing("CPULimit", "1.0 1.27\n0m0.20s 0m0.06s\n")},
	{"CF-24", "dropped", limitingPids("sh: can't fork\n", core.DefaultPidsLimit), limitingPids("all\n", core.DefaultPidsLimit)},
	{"CF-24", "no default", limitingPids("sh: can't fork\n", core.DefaultPidsLimit), limitingPids("sh: can't fork\n", -1)},
	{"CF-24", "the engine's default", limitingPids("sh: can't fork\n", core.DefaultPidsLimit), limitingPids("sh: can't fork\n", 2048)},
	{"CF-30", "dropped", writing("", "NoNewPrivs:\t0\n"), writing("", "NoNewPrivs:\t1\n")},
	{"CF-30", "dropped, where only BusyBox tells", writing("", "crontab: no such file\n"), writing("", "crontab: must be suid to work properly\n")},
}

// claims makes the runtime tell a capability.
func (w *world) claims(field string) {
	if field == "" {
		return
	}
	told := w.capabilities
	w.capabilities = func() optional.Capabilities {
		capabilities := told()
		reflect.ValueOf(&capabilities).Elem().FieldByName(field).SetBool(true)
		return capabilities
	}
}

// replaces makes each container one that the memory runtime can run, with this command.
func (w *world) replaces(cmd ...string) {
	w.create = func(ctx context.Context, cfg core.Config) (string, error) {
		return w.full.CreateContainer(ctx, core.Config{Image: cfg.Image, Cmd: cmd, RunID: cfg.RunID})
	}
}

// writing imitates a capability by what a container would write.
func writing(capability, text string) func(*world) {
	return func(w *world) {
		w.claims(capability)
		w.replaces("true")
		w.logsAll = func(context.Context, string) ([]byte, error) { return []byte(text), nil }
	}
}

// inspecting imitates a limit of CPU time by what the engine would tell.
func inspecting(capability string, quota int64) func(*world) {
	return func(w *world) {
		writing(capability, "")(w)
		w.inspect = func(ctx context.Context, id string) (optional.Details, error) {
			details, err := w.full.Inspect(ctx, id)
			details.NanoCPUs = quota
			return details, err
		}
	}
}

func publishing(how func(*world)) func(*world) {
	return func(w *world) {
		w.claims("PublishedPorts")
		w.replaces("sleep", "1000")
		how(w)
	}
}

// answering imitates published ports, and who listens there.
func answering(text string) func(*world) {
	return func(w *world) {
		var published sync.Map
		create := w.create
		w.create = func(ctx context.Context, cfg core.Config) (string, error) {
			id, err := create(ctx, cfg)
			ports := cfg.PublishedPorts()
			slices.SortFunc(ports, func(a, b core.PortMapping) int { return a.HostPort - b.HostPort })
			published.Store(id, ports)
			return id, err
		}
		publishedOf := func(id string) []core.PortMapping {
			ports, _ := published.Load(id)
			return ports.([]core.PortMapping)
		}
		w.ports = func(_ context.Context, id string) (map[int]int, error) {
			ports := map[int]int{}
			for _, port := range publishedOf(id) {
				ports[port.ContainerPort] = max(port.HostPort, 1)
			}
			return ports, nil
		}
		w.list = func(ctx context.Context) ([]core.Info, error) {
			infos, err := w.full.ListContainers(ctx)
			for i := range infos {
				infos[i].Published = publishedOf(infos[i].ID)
			}
			return infos, err
		}
		w.harness.Dial = func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() {
				defer theirs.Close()
				_, _ = io.WriteString(theirs, text)
			}()
			return ours, nil
		}
	}
}

// hostIP is the address of the host for the imitations.
const hostIP = "192.0.2.1"

// publishedOn imitates ports that a container can reach, where they are published on one
// of these addresses.
func publishedOn(reachable ...string) func(*world) {
	return func(w *world) {
		answering("hello\n")(w)
		w.hostAddress = func() string { return hostIP }
		var addresses, asked sync.Map // of published ports, and of containers that ask
		create := w.create
		w.create = func(ctx context.Context, cfg core.Config) (string, error) {
			for _, port := range cfg.PublishedPorts() {
				addresses.Store(fmt.Sprint(max(port.HostPort, 1)), port.HostIP)
			}
			id, err := create(ctx, cfg)
			if _, after, asks := strings.Cut(fmt.Sprint(cfg.Cmd), " ask "+hostIP+" "); asks && !cfg.OnNamedNetwork() {
				port := strings.TrimSuffix(after, "]")
				asked.Store(id, port)
			}
			return id, err
		}
		w.wait = func(context.Context, string) (int64, error) { return 0, nil }
		w.logsAll = func(_ context.Context, id string) ([]byte, error) {
			port, _ := asked.Load(id)
			if address, _ := addresses.Load(port); slices.Contains(reachable, fmt.Sprint(address)) {
				return []byte("hello\n"), nil
			}
			return []byte("failed\n"), nil
		}
	}
}

// swapping imitates a limit of memory whose swap only the engine tells.
func swapping(shown string, told int) func(*world) {
	return func(w *world) {
		writing("MemoryLimit", "MemTotal: 65536 kB\n"+shown)(w)
		w.inspect = func(ctx context.Context, id string) (optional.Details, error) {
			details, err := w.full.Inspect(ctx, id)
			details.MemorySwapMB = told
			return details, err
		}
	}
}

// limitingPids imitates a limit of processes by what a container that forks would write,
// and by the limit where none is asked for.
func limitingPids(forked string, byDefault int64) func(*world) {
	return func(w *world) {
		writing("PidsLimit", forked)(w)
		var limits sync.Map
		create := w.create
		w.create = func(ctx context.Context, cfg core.Config) (string, error) {
			id, err := create(ctx, cfg)
			limits.Store(id, cmp.Or(cfg.PidsLimit, byDefault))
			return id, err
		}
		w.inspect = func(ctx context.Context, id string) (optional.Details, error) {
			details, err := w.full.Inspect(ctx, id)
			limit, _ := limits.Load(id)
			details.PidsLimit = limit.(int64)
			return details, err
		}
	}
}

func onHostNetwork(text string) func(*world) {
	return func(w *world) {
		w.replaces("sleep", "1000")
		w.supportsHostNet = func() bool { return true }
		answering(text)(w)
	}
}

// takenPorts imitates host ports, which only an honest engine gives once.
func takenPorts(honest bool) func(*world) {
	return func(w *world) {
		var taken []core.PortMapping
		create := w.create
		w.create = func(ctx context.Context, cfg core.Config) (string, error) {
			cfg.Ports = cfg.PublishedPorts()
			for i, port := range cfg.Ports {
				last := port.HostPortEnd
				port.HostPortEnd = 0
				for honest && slices.Contains(taken, port) && port.HostPort < last {
					port.HostPort++
				}
				if honest && slices.Contains(taken, port) {
					return "", core.ErrInUse
				}
				taken, cfg.Ports[i] = append(taken, port), port
			}
			cfg.PortBindings = nil
			return create(ctx, cfg)
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
