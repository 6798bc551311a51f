package selftest

import (
	"context"
	"io"
	"net"
	"reflect"
	"slices"
	"sync"

	"github.com/moatproject/moat/contracttests"
	"github.com/moatproject/moat/core"
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
	{"CF-12", "nobody answers", onHostNetwork("hello\n"), onHostNetwork("")},
	{"CF-13", "another host port", publishing(answering("hello\n")), publishing(func(w *world) {
		answering("hello\n")(w)
		w.ports = func(context.Context, string) (map[int]int, error) { return map[int]int{8080: 1}, nil }
	})},
	{"CF-14", "UDP is not published", publishing(takenPorts(true)), publishing(takenPorts(false))},
	{"CF-15", "dropped", writing("LinuxCaps", "CapEff:\t00000000a80c25fb\n"), writing("LinuxCaps", "CapEff:\t00000000a80425fb\n")},
	{"CF-16", "NET_RAW is kept", writing("LinuxCaps", "CapEff:\t00000000a80405fb\n"), writing("LinuxCaps", "CapEff:\t00000000a80425fb\n")},
	{"CF-18", "dropped", writing("Privileged", "CapEff:\t000001ffffffffff\n"), writing("Privileged", "CapEff:\t00000000a80425fb\n")},
	{"CF-21", "dropped (cgroups 2)", writing("MemoryLimit", "bytes 67108864\nMemTotal: 16000000 kB\n"), writing("MemoryLimit", "bytes max\nMemTotal: 16000000 kB\n")},
	{"CF-21", "dropped (sandbox)", writing("MemoryLimit", "MemTotal: 65536 kB\n"), writing("MemoryLimit", "MemTotal: 16000000 kB\n")},
	{"CF-22", "two instead of one", writing("CPULimit", "quota 100000 100000\n"), writing("CPULimit", "quota 200000 100000\n")},
	{"CF-22", "dropped, where no quota shows", inspecting("CPULimit", 1e9), inspecting("CPULimit", 0)},
	{"CF-23", "dropped", writing("CPULimit", "1.0 3.6\n0m0.20s 0m0.06s\n"), writing("CPULimit", "1.0 1.27\n0m0.20s 0m0.06s\n")},
	{"CF-24", "dropped", writing("PidsLimit", "sh: can't fork\n"), writing("PidsLimit", "all\n")},
	{"CF-30", "dropped", writing("", "NoNewPrivs:\t0\n"), writing("", "NoNewPrivs:\t1\n")},
	{"CF-30", "dropped, where only BusyBox tells", writing("", "crontab: no such file\n"), writing("", "crontab: must be suid to work properly\n")},
}

// claims makes the runtime tell a capability.
func (w *world) claims(field string) {
	if field == "" {
		return
	}
	told := w.capabilities
	w.capabilities = func() core.Capabilities {
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
		w.inspect = func(ctx context.Context, id string) (core.Details, error) {
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
			for _, port := range cfg.PublishedPorts() {
				published.Store(id, map[int]int{port.ContainerPort: max(port.HostPort, 1)})
			}
			return id, err
		}
		w.ports = func(_ context.Context, id string) (map[int]int, error) {
			ports, _ := published.Load(id)
			return ports.(map[int]int), nil
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
			for _, port := range cfg.PublishedPorts() {
				if honest && slices.Contains(taken, port) {
					return "", core.ErrInUse
				}
				taken = append(taken, port)
			}
			return create(ctx, cfg)
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
