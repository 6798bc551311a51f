package selftest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// breakage is a way of not keeping an obligation.
type breakage struct {
	number string // the case that must fail
	how    string
	also   []string // cases that cannot but see it too

	do   func(*hooks) // breaks the runtime
	down func(*hooks) // breaks the one whose engine does not answer
}

var breakages = []breakage{
	{number: "RT-01", how: "not more than thirty containers at once", also: []string{"RT-16"}, do: func(h *hooks) {
		var alive atomic.Int32
		h.create = func(ctx context.Context, cfg core.Config) (string, error) {
			if alive.Add(1) > 30 {
				return "", errors.New("too many")
			}
			return h.full.CreateContainer(ctx, cfg)
		}
		h.remove = func(ctx context.Context, id string) error {
			alive.Add(-1)
			return h.full.RemoveContainer(ctx, id)
		}
	}},
	{number: "RT-02", how: "a call does not look at its context", do: func(h *hooks) {
		h.list = func(ctx context.Context) ([]core.Info, error) {
			return h.full.ListContainers(context.WithoutCancel(ctx))
		}
	}},
	{number: "RT-02", how: "a network is created whatever the context says", do: networking(func(n *networkHooks) {
		create := n.create
		n.create = func(ctx context.Context, cfg optional.NetworkConfig) (string, error) {
			return create(context.WithoutCancel(ctx), cfg)
		}
	})},
	{number: "RT-02", how: "a wait returns late and without the context's error", do: func(h *hooks) {
		h.wait = func(ctx context.Context, id string) (int64, error) {
			code, err := h.full.WaitContainer(ctx, id)
			if errors.Is(err, context.Canceled) {
				return 0, errors.New("interrupted")
			}
			return code, err
		}
	}},
	{number: "RT-03", how: "Close closes nothing", do: func(h *hooks) {
		h.close = func() error {
			h.t.Cleanup(func() { _ = h.full.Close() })
			return nil
		}
	}},
	{number: "RT-03", how: "the second Close fails", do: func(h *hooks) {
		var closed atomic.Bool
		h.close = func() error {
			if closed.Swap(true) {
				return errors.New("closed already")
			}
			return h.full.Close()
		}
	}},
	{number: "RT-03", how: "Close does not end an attachment", do: func(h *hooks) {
		h.attach = func(ctx context.Context, id string, opts core.AttachOptions) error {
			err := h.full.Attach(ctx, id, opts)
			if h.full.Ping(context.Background()) != nil { // it is closed
				<-h.ended()
			}
			return err
		}
	}},
	{number: "RT-03", how: "Close does not end an exec", do: func(h *hooks) {
		h.exec = func(ctx context.Context, id string, opts optional.ExecOptions) (int64, error) {
			code, err := h.full.Exec(ctx, id, opts)
			if opts.Stdout != nil && h.full.Ping(context.Background()) != nil {
				<-h.ended()
			}
			return code, err
		}
	}},
	{number: "RT-04", how: "an attachment leaves a goroutine", do: func(h *hooks) {
		h.attach = func(ctx context.Context, id string, opts core.AttachOptions) error {
			if opts.Stdout != nil {
				go func() { <-h.ended() }()
			}
			return h.full.Attach(ctx, id, opts)
		}
	}},
	{number: "RT-04", how: "events leave a goroutine", do: func(h *hooks) {
		h.events = func(ctx context.Context, opts optional.EventOptions) (iter.Seq2[optional.Event, error], error) {
			events, err := h.full.Events(ctx, opts)
			return func(yield func(optional.Event, error) bool) {
				go func() { <-h.ended() }()
				events(yield)
			}, err
		}
	}},
	{number: "RT-04", how: "each wait leaves a goroutine", do: func(h *hooks) {
		h.wait = func(ctx context.Context, id string) (int64, error) {
			go func() { <-h.ended() }()
			return h.full.WaitContainer(ctx, id)
		}
	}},
	{number: "RT-05", how: "an error without operation, runtime and object", do: func(h *hooks) {
		h.state = func(ctx context.Context, id string) (string, error) {
			state, err := h.full.ContainerState(ctx, id)
			if errors.Is(err, core.ErrNotFound) {
				err = core.ErrNotFound
			}
			return state, err
		}
	}},
	{number: "RT-06", how: "ports are dropped", also: []string{"RT-07", "RT-25", "CF-13", "CF-14", "CF-33", "CF-34"}, do: changing(func(cfg *core.Config) { cfg.Ports = nil })},
	{number: "RT-07", how: "a user that the image does not know becomes root", do: changing(func(cfg *core.Config) {
		if strings.HasPrefix(cfg.User, "nobody") {
			cfg.User = ""
		}
	})},
	{number: "RT-07", how: "a limit is dropped", also: []string{"CF-24"}, do: changing(func(cfg *core.Config) { cfg.PidsLimit = 0 })},
	{number: "RT-08", how: "the type is forgotten", do: func(h *hooks) {
		h.close = func() error {
			h.kind = func() core.RuntimeType { return "" }
			return h.full.Close()
		}
	}},
	{number: "RT-09", how: "a usable runtime does not answer", do: func(h *hooks) {
		h.ping = func(ctx context.Context) error {
			return errors.Join(h.full.Ping(ctx), &core.Error{Op: "ping", Class: core.ErrUnavailable})
		}
	}},
	{number: "RT-09", how: "no remedy", down: func(h *hooks) {
		h.ping = func(context.Context) error { return &core.Error{Op: "ping", Class: core.ErrUnavailable} }
	}},
	{number: "RT-10", how: "no version label", also: []string{"SM-03", "SV-11"}, do: listing(func(info *core.Info) { delete(info.Labels, core.LabelVersion) })},
	{number: "RT-10", how: "no role where none is asked for", also: []string{"BM-01"}, do: listing(func(info *core.Info) {
		if info.Labels[core.LabelRole] == core.RoleMain {
			delete(info.Labels, core.LabelRole)
		}
	})},
	{number: "RT-11", how: "a taken name is dropped", do: func(h *hooks) {
		h.create = func(ctx context.Context, cfg core.Config) (string, error) {
			id, err := h.full.CreateContainer(ctx, cfg)
			if errors.Is(err, core.ErrAlreadyExists) {
				cfg.Name = ""
				return h.full.CreateContainer(ctx, cfg)
			}
			return id, err
		}
	}},
	{number: "RT-12", how: "the field is not named", also: []string{"RT-16"}, do: failing(core.ErrInvalidConfig, func(cfg core.Config, err error) error {
		if core.FieldOf(err) == "Env" {
			return core.ErrInvalidConfig
		}
		return err
	})},
	{number: "RT-12", how: "the engine is asked first", down: func(h *hooks) {
		h.create = func(context.Context, core.Config) (string, error) { return "", core.ErrUnavailable }
	}},
	{number: "RT-13", how: "what is not found is not named", do: failing(core.ErrNotFound, func(core.Config, error) error {
		return core.ErrNotFound
	})},
	{number: "RT-14", how: "a missing source is made", do: changing(func(cfg *core.Config) {
		for _, mount := range cfg.Mounts {
			_ = os.MkdirAll(mount.Source, 0o755)
		}
	})},
	{number: "RT-15", how: "a creation out of time leaves its container", do: func(h *hooks) {
		h.create = func(ctx context.Context, cfg core.Config) (string, error) {
			id, err := h.full.CreateContainer(ctx, cfg)
			if end, ok := ctx.Deadline(); ok && time.Until(end) < time.Second {
				<-ctx.Done()
				return "", ctx.Err()
			}
			return id, err
		}
	}},
	{number: "RT-16", how: "arguments arrive with replaced bytes", do: func(h *hooks) {
		h.create = func(ctx context.Context, cfg core.Config) (string, error) {
			cfg.Cmd = inJSON(cfg.Cmd)
			return h.full.CreateContainer(ctx, cfg)
		}
	}},
	{number: "RT-16", how: "labels arrive with replaced bytes", do: func(h *hooks) {
		h.create = func(ctx context.Context, cfg core.Config) (string, error) {
			cfg.Labels = inJSON(cfg.Labels)
			return h.full.CreateContainer(ctx, cfg)
		}
	}},
	{number: "RT-16", how: "a further program's environment arrives with replaced bytes", do: func(h *hooks) {
		h.exec = func(ctx context.Context, id string, opts optional.ExecOptions) (int64, error) {
			opts.Env = inJSON(opts.Env)
			return h.full.Exec(ctx, id, opts)
		}
	}},
	{number: "RT-20", how: "start starts nothing", do: func(h *hooks) {
		h.start = func(ctx context.Context, id string) error {
			if details, err := h.full.Inspect(ctx, id); err == nil && slices.Contains(details.Cmd, "say it ran") {
				return nil // only this one: a runtime that starts nothing at all fails nearly every case
			}
			return h.full.StartContainer(ctx, id)
		}
	}},
	{number: "RT-21", how: "a second start restarts", also: []string{"CF-01"}, do: func(h *hooks) {
		h.start = func(ctx context.Context, id string) error {
			if state, _ := h.full.ContainerState(ctx, id); state == core.StateRunning {
				_ = h.full.StopContainer(ctx, id)
			}
			return h.full.StartContainer(ctx, id)
		}
	}},
	{number: "RT-22", how: "a container starts only once", do: func(h *hooks) {
		h.start = func(ctx context.Context, id string) error {
			if state, _ := h.full.ContainerState(ctx, id); state == core.StateExited {
				return nil
			}
			return h.full.StartContainer(ctx, id)
		}
	}},
	{number: "RT-23", how: "the cause is lost", do: func(h *hooks) {
		h.start = func(ctx context.Context, id string) error {
			err := h.full.StartContainer(ctx, id)
			if errors.Is(err, core.ErrInvalidConfig) {
				return &core.Error{Op: "start", Field: core.FieldOf(err), Class: core.ErrInvalidConfig}
			}
			return err
		}
	}},
	{number: "RT-24", how: "starting what is missing succeeds", do: func(h *hooks) { h.start = forgiving(h.start) }},
	{number: "RT-30", how: "SIGKILL comes at once", also: []string{"RT-02", "RT-31"}, do: func(h *hooks) {
		h.stop = func(ctx context.Context, id string) error {
			if state, _ := h.full.ContainerState(ctx, id); state == core.StateRunning {
				return h.full.StopContainerTimeout(ctx, id, 0)
			}
			return h.full.StopContainer(ctx, id)
		}
	}},
	{number: "RT-31", how: "the timeout is dropped", do: changing(func(cfg *core.Config) { cfg.StopTimeout = 0 })},
	{number: "RT-31", how: "a second is enough where none is given", do: changing(func(cfg *core.Config) {
		if cfg.StopTimeout == 0 {
			cfg.StopTimeout = time.Second
		}
	})},
	{number: "RT-31", how: "what was stopped goes on", do: func(h *hooks) {
		h.stop = func(ctx context.Context, id string) error {
			if h.beats(ctx, id) {
				return nil
			}
			return h.full.StopContainer(ctx, id)
		}
	}},
	{number: "RT-32", how: "a created container cannot be stopped", do: func(h *hooks) {
		h.stop = func(ctx context.Context, id string) error {
			if state, _ := h.full.ContainerState(ctx, id); state == core.StateCreated {
				return core.ErrNotRunning
			}
			return h.full.StopContainer(ctx, id)
		}
	}},
	{number: "RT-33", how: "stopping what is missing succeeds", do: func(h *hooks) { h.stop = forgiving(h.stop) }},
	{number: "RT-34", how: "the container's timeout counts", do: func(h *hooks) {
		h.stopTimeout = func(ctx context.Context, id string, _ time.Duration) error { return h.full.StopContainer(ctx, id) }
	}},
	{number: "RT-36", how: "the signal is not sent", do: func(h *hooks) {
		h.signal = func(ctx context.Context, id string, signal int) error {
			if state, _ := h.full.ContainerState(ctx, id); state == core.StateRunning && signal == 10 {
				return ctx.Err()
			}
			return h.full.SignalContainer(ctx, id, signal)
		}
	}},
	{number: "RT-37", how: "a signal that does not exist is sent", do: func(h *hooks) {
		h.signal = func(ctx context.Context, id string, signal int) error {
			if err := h.full.SignalContainer(ctx, id, signal); !errors.Is(err, core.ErrInvalidConfig) {
				return err
			}
			return nil
		}
	}},
	{number: "RT-40", how: "a code becomes negative", do: waiting(func(_ *hooks, _ string, code int64, err error) (int64, error) {
		return int64(int8(code)), err
	}), also: []string{"RT-41", "RT-44"}},
	{number: "RT-41", how: "128 is not added", do: func(h *hooks) {
		var stopped sync.Map
		h.stop = func(ctx context.Context, id string) error {
			stopped.Store(id, true)
			return h.full.StopContainer(ctx, id)
		}
		h.wait = func(ctx context.Context, id string) (int64, error) {
			code, err := h.full.WaitContainer(ctx, id)
			if _, ok := stopped.Load(id); ok && code > 128 { // one that is removed may die as it likes
				code -= 128
			}
			return code, err
		}
	}},
	{number: "RT-42", how: "not more than five waiters at once", do: func(h *hooks) {
		var waiters sync.Map // their number, by container
		h.wait = func(ctx context.Context, id string) (int64, error) {
			number, _ := waiters.LoadOrStore(id, new(atomic.Int32))
			defer number.(*atomic.Int32).Add(-1)
			if number.(*atomic.Int32).Add(1) > 5 {
				return 0, errors.New("too many")
			}
			return h.full.WaitContainer(ctx, id)
		}
	}},
	{number: "RT-42", how: "a created container is not waited for", also: []string{"CF-28"}, do: func(h *hooks) {
		h.wait = func(ctx context.Context, id string) (int64, error) {
			if state, _ := h.full.ContainerState(ctx, id); state == core.StateCreated {
				return 0, nil
			}
			return h.full.WaitContainer(ctx, id)
		}
	}},
	{number: "RT-43", how: "the wait's end stops the container", do: waiting(func(h *hooks, id string, code int64, err error) (int64, error) {
		if errors.Is(err, context.DeadlineExceeded) {
			_ = h.full.StopContainer(context.Background(), id)
		}
		return code, err
	})},
	{number: "RT-44", how: "the code of what is missing is 0", do: waiting(func(_ *hooks, id string, code int64, err error) (int64, error) {
		if isMissing(id) && errors.Is(err, core.ErrNotFound) {
			return 0, nil
		}
		return code, err
	})},
	{number: "RT-45", how: "an unknown code is 0", do: waiting(func(_ *hooks, id string, code int64, err error) (int64, error) {
		if !isMissing(id) && errors.Is(err, core.ErrNotFound) {
			return 0, nil
		}
		return code, err
	})},
	{number: "RT-46", how: "a code is taken for the engine's", do: waiting(func(_ *hooks, _ string, code int64, err error) (int64, error) {
		if code == 126 {
			return 0, &core.Error{Op: "wait", Field: "Cmd", Class: core.ErrInvalidConfig}
		}
		return code, err
	})},
	{number: "RT-46", how: "words are taken for the engine's", do: func(h *hooks) {
		h.startAttached = func(ctx context.Context, id string, opts core.AttachOptions) error {
			if err := h.full.StartAttached(ctx, id, opts); err != nil {
				return err
			}
			if out, _ := h.full.ContainerLogsAll(ctx, id); bytes.HasPrefix(out, []byte("Error: ")) {
				return &core.Error{Op: "start attached", Field: "Cmd", Class: core.ErrInvalidConfig}
			}
			return nil
		}
	}},
	{number: "RT-50", how: "what is missing cannot be removed", do: func(h *hooks) {
		h.remove = func(ctx context.Context, id string) error {
			if isMissing(id) {
				return errors.Join(ctx.Err(), core.ErrNotFound)
			}
			return h.full.RemoveContainer(ctx, id)
		}
	}},
	{number: "RT-51", how: "a killed container has an afterlife", do: func(h *hooks) {
		var killed sync.Map
		h.remove = func(ctx context.Context, id string) error {
			if state, _ := h.full.ContainerState(ctx, id); state == core.StateRunning {
				killed.Store(id, true)
			}
			return h.full.RemoveContainer(ctx, id)
		}
		h.state = func(ctx context.Context, id string) (string, error) {
			if _, ok := killed.Load(id); ok {
				return core.StateDead, nil
			}
			return h.full.ContainerState(ctx, id)
		}
	}},
	{number: "RT-51", how: "a removed container goes on", do: func(h *hooks) {
		var hidden sync.Map
		h.remove = func(ctx context.Context, id string) error {
			if h.beats(ctx, id) && h.t.Context().Err() == nil {
				hidden.Store(id, true)
				h.t.Cleanup(func() { _ = h.full.RemoveContainer(context.Background(), id) })
				return nil
			}
			return h.full.RemoveContainer(ctx, id)
		}
		h.list = func(ctx context.Context) ([]core.Info, error) {
			all, err := h.full.ListContainers(ctx)
			return slices.DeleteFunc(all, func(info core.Info) bool { _, gone := hidden.Load(info.ID); return gone }), err
		}
	}},
	{number: "RT-52", how: "a killed container keeps its name", do: func(h *hooks) {
		var taken sync.Map
		h.remove = func(ctx context.Context, id string) error {
			if details, err := h.full.Inspect(ctx, id); err == nil && details.Status == core.StateRunning {
				taken.Store(details.Name, true)
			}
			return h.full.RemoveContainer(ctx, id)
		}
		h.create = func(ctx context.Context, cfg core.Config) (string, error) {
			if _, ok := taken.Load(cfg.Name); ok {
				return "", core.ErrAlreadyExists
			}
			return h.full.CreateContainer(ctx, cfg)
		}
	}},
	{number: "RT-60", how: "an engine's own word", also: []string{"RT-31", "RT-32", "RT-34"}, do: func(h *hooks) {
		h.state = func(ctx context.Context, id string) (string, error) {
			state, err := h.full.ContainerState(ctx, id)
			if state == core.StateExited {
				state = "stopped"
			}
			return state, err
		}
	}},
	{number: "RT-61", how: "what is missing has a state", do: func(h *hooks) {
		h.state = func(ctx context.Context, id string) (string, error) {
			state, err := h.full.ContainerState(ctx, id)
			if isMissing(id) && errors.Is(err, core.ErrNotFound) {
				return core.StateDead, nil
			}
			return state, err
		}
	}},
	{number: "RT-62", how: "no exit code", do: func(h *hooks) {
		h.inspect = func(ctx context.Context, id string) (optional.Details, error) {
			details, err := h.full.Inspect(ctx, id)
			details.State.ExitCode = 0
			return details, err
		}
	}},
	{number: "RT-62", how: "a terminal is not told", do: func(h *hooks) {
		h.inspect = func(ctx context.Context, id string) (optional.Details, error) {
			details, err := h.full.Inspect(ctx, id)
			details.TTY = false
			return details, err
		}
	}},
	{number: "RT-65", how: "an engine's own form of names", also: []string{"SM-03", "SV-11", "BM-01"}, do: listing(func(info *core.Info) { info.Name = "/" + info.Name })},
	{number: "RT-65", how: "oldest first", do: func(h *hooks) {
		h.list = func(ctx context.Context) ([]core.Info, error) {
			all, err := h.full.ListContainers(ctx)
			slices.Reverse(all)
			return all, err
		}
	}},
	{number: "RT-65", how: "what is not ours is listed", do: func(h *hooks) {
		h.list = func(ctx context.Context) ([]core.Info, error) {
			all, err := h.full.ListContainers(ctx)
			return append(all, core.Info{ID: "foreign", Name: "somebody-elses"}), err
		}
	}},
	{number: "RT-66", how: "the list is late", do: func(h *hooks) {
		var removed []core.Info
		h.remove = func(ctx context.Context, id string) error {
			all, _ := h.full.ListContainers(ctx)
			for _, info := range all {
				if info.ID == id && h.t.Context().Err() == nil { // the clean-up comes after that
					removed = append(removed, info)
				}
			}
			return h.full.RemoveContainer(ctx, id)
		}
		h.list = func(ctx context.Context) ([]core.Info, error) {
			all, err := h.full.ListContainers(ctx)
			if h.t.Context().Err() == nil {
				all = append(all, removed...)
			}
			return all, err
		}
	}},
	{number: "RT-70", how: "nothing to follow after the exit", do: func(h *hooks) {
		h.logs = func(ctx context.Context, id string) (io.ReadCloser, error) {
			if state, _ := h.full.ContainerState(ctx, id); state == core.StateExited {
				return io.NopCloser(strings.NewReader("")), nil
			}
			return h.full.ContainerLogs(ctx, id)
		}
	}},
	{number: "RT-71", how: "Close does not end a Read", do: reading(func(h *hooks, _ string, stream io.ReadCloser) io.ReadCloser {
		h.t.Cleanup(func() { _ = stream.Close() })
		return io.NopCloser(stream)
	})},
	{number: "RT-72", how: "a byte is lost", do: func(h *hooks) {
		h.logsAll = func(ctx context.Context, id string) ([]byte, error) {
			out, err := h.full.ContainerLogsAll(ctx, id)
			if len(out) > 1<<20 {
				out = slices.Delete(out, 1<<20, 1<<20+1)
			}
			return out, err
		}
	}},
	{number: "RT-72", how: "the stream is cut", do: reading(func(_ *hooks, _ string, stream io.ReadCloser) io.ReadCloser {
		return readCloser{io.LimitReader(stream, 5<<20), stream}
	})},
	{number: "RT-73", how: "the start is not waited for", do: func(h *hooks) {
		h.logs = func(ctx context.Context, id string) (io.ReadCloser, error) {
			// RT-110 follows one with a terminal while it starts, and would fail now and then.
			if details, _ := h.full.Inspect(ctx, id); details.State.Status == core.StateCreated && !details.TTY {
				return io.NopCloser(strings.NewReader("")), nil
			}
			return h.full.ContainerLogs(ctx, id)
		}
	}},
	{number: "RT-74", how: "the stream of what is gone goes on", do: func(h *hooks) {
		var removed sync.Map
		h.remove = func(ctx context.Context, id string) error {
			if ctx.Err() == nil {
				removed.Store(id, true)
			}
			return h.full.RemoveContainer(ctx, id)
		}
		reading(func(h *hooks, id string, stream io.ReadCloser) io.ReadCloser {
			return readCloser{readerFunc(func(p []byte) (int, error) {
				n, err := stream.Read(p)
				if _, ok := removed.Load(id); ok {
					<-h.ended()
				}
				return n, err
			}), stream}
		})(h)
	}},
	{number: "RT-75", how: "stderr comes last", do: func(h *hooks) {
		h.logsAll = func(ctx context.Context, id string) ([]byte, error) {
			var stdout, stderr bytes.Buffer
			err := h.full.StreamLogs(ctx, id, optional.LogOptions{Stdout: &stdout, Stderr: &stderr})
			return append(stdout.Bytes(), stderr.Bytes()...), err
		}
	}},
	{number: "RT-76", how: "only text passes", also: []string{"BM-02"}, do: output(func(out []byte) []byte { return bytes.ToValidUTF8(out, []byte("?")) })},
	{number: "RT-77", how: "what is missing wrote nothing", do: func(h *hooks) {
		h.logsAll = func(ctx context.Context, id string) ([]byte, error) {
			out, err := h.full.ContainerLogsAll(ctx, id)
			if isMissing(id) && errors.Is(err, core.ErrNotFound) {
				return nil, nil
			}
			return out, err
		}
	}},
	{number: "RT-78", how: "the streams are exchanged", do: streaming(func(opts *optional.LogOptions) {
		opts.Stdout, opts.Stderr = opts.Stderr, opts.Stdout
	})},
	{number: "RT-79", how: "all lines are the last", do: streaming(func(opts *optional.LogOptions) { opts.Tail = 0 })},
	{number: "RT-78", how: "a terminal's output is stderr's", do: func(h *hooks) {
		h.stream = func(ctx context.Context, id string, opts optional.LogOptions) error {
			if details, err := h.full.Inspect(ctx, id); err == nil && details.TTY {
				opts.Stdout, opts.Stderr = opts.Stderr, opts.Stdout
			}
			return h.full.StreamLogs(ctx, id, opts)
		}
	}},
	{number: "RT-79", how: "a last line without a newline is none", do: func(h *hooks) {
		h.stream = func(ctx context.Context, id string, opts optional.LogOptions) error {
			if out, err := h.full.ContainerLogsAll(ctx, id); err == nil && opts.Tail > 0 && !bytes.HasSuffix(out, []byte("\n")) {
				opts.Tail++
			}
			return h.full.StreamLogs(ctx, id, opts)
		}
	}},
	{number: "RT-80", how: "no size", also: []string{"BM-01"}, do: func(h *hooks) {
		h.images = func(ctx context.Context) ([]core.ImageInfo, error) {
			all, err := h.full.ListImages(ctx)
			for i := range all {
				all[i].Size = 0
			}
			return all, err
		}
	}},
	{number: "RT-81", how: "what is missing cannot be removed", do: func(h *hooks) {
		h.removeImage = func(ctx context.Context, ref string) error {
			if err := h.full.RemoveImage(ctx, ref); err != nil || !strings.Contains(ref, "missing-") {
				return err
			}
			return core.ErrNotFound
		}
	}},
	{number: "RT-82", how: "an image in use is removed", do: func(h *hooks) {
		h.removeImage = func(ctx context.Context, ref string) error {
			if err := h.full.RemoveImage(ctx, ref); !errors.Is(err, core.ErrInUse) {
				return err
			}
			return nil
		}
	}},
	{number: "RT-83", how: "no progress", do: func(h *hooks) {
		h.pull = func(ctx context.Context, ref string, _ optional.PullSink) error {
			return h.full.PullImage(ctx, ref, nil)
		}
	}},
	{number: "RT-83", how: "no progress of a creation's pull", do: func(h *hooks) {
		create := h.create
		h.create = func(ctx context.Context, cfg core.Config) (string, error) {
			return create(optional.WithPullProgress(ctx, nil), cfg)
		}
	}},
	{number: "RT-84", how: "a registry without the image is out of reach", do: func(h *hooks) {
		h.pull = func(ctx context.Context, ref string, sink optional.PullSink) error {
			err := h.full.PullImage(ctx, ref, sink)
			if errors.Is(err, core.ErrNotFound) {
				return core.ErrUnavailable
			}
			return err
		}
	}},
	{number: "RT-86", how: "no ports are nil", do: func(h *hooks) {
		h.ports = func(ctx context.Context, id string) (map[int]int, error) {
			_, err := h.full.GetPortBindings(ctx, id)
			return nil, err
		}
	}},
	{number: "RT-88", how: "the host's network is some other", also: []string{"RT-07", "CF-12"}, do: changing(func(cfg *core.Config) {
		if cfg.NetworkMode == "host" {
			cfg.NetworkMode = ""
		}
	})},
	{number: "RT-90", how: "a manager is nil and not nil", also: []string{"RT-06", "SM-01", "SM-02", "SM-03", "SM-04", "SM-05", "SM-06", "SM-07"}, do: func(h *hooks) {
		h.sidecarManager = func() core.SidecarManager { return (*noManager)(nil) }
		h.capabilities = func() optional.Capabilities {
			told := h.full.Capabilities()
			told.SidecarManager = false
			return told
		}
	}},
	{number: "RT-120", how: "a port that does not exist", do: func(h *hooks) {
		h.firewall = func(ctx context.Context, id, host string, port int) error {
			return h.full.SetupFirewall(ctx, id, host, port&0xffff)
		}
	}},
	{number: "RT-120", how: "a firewall without effect", do: func(h *hooks) {
		h.firewall = func(_ context.Context, _, host string, port int) error { return core.ValidateProxy(host, port) }
	}},

	{number: "CF-01", how: "logs know no names", do: func(h *hooks) {
		h.logsAll = func(ctx context.Context, id string) ([]byte, error) {
			if strings.HasPrefix(id, "name-") {
				return nil, core.ErrNotFound
			}
			return h.full.ContainerLogsAll(ctx, id)
		}
	}},
	{number: "CF-01", how: "ports know no names", do: func(h *hooks) {
		h.ports = func(ctx context.Context, id string) (map[int]int, error) {
			if strings.HasPrefix(id, "every-call-") {
				return nil, core.ErrNotFound
			}
			return h.full.GetPortBindings(ctx, id)
		}
	}},
	{number: "CF-02", how: "the image's user is not taken", also: []string{"BM-01"}, do: changing(func(cfg *core.Config) {
		if cfg.User == "" {
			cfg.User = "root"
		}
	})},
	{number: "CF-03", how: "empty arguments are dropped", do: changing(func(cfg *core.Config) {
		cfg.Cmd = slices.DeleteFunc(slices.Clone(cfg.Cmd), func(word string) bool { return word == "" })
	})},
	{number: "CF-04", how: "values are trimmed", do: changing(func(cfg *core.Config) {
		cfg.Env = slices.Clone(cfg.Env)
		for i, entry := range cfg.Env {
			key, value, _ := strings.Cut(entry, "=")
			cfg.Env[i] = key + "=" + strings.TrimSpace(value)
		}
	})},
	{number: "CF-05", how: "dropped", also: []string{"RT-131"}, do: changing(func(cfg *core.Config) { cfg.WorkingDir = "" })},
	{number: "CF-06", how: "the group is dropped", do: changing(func(cfg *core.Config) { cfg.User, _, _ = strings.Cut(cfg.User, ":") })},
	{number: "CF-07", how: "all mounts are read-only", also: []string{"RT-31", "RT-51"}, do: mounting(func(mount *core.MountConfig) { mount.ReadOnly = true })},
	{number: "CF-08", how: "no mount is read-only", also: []string{"RT-62"}, do: mounting(func(mount *core.MountConfig) { mount.ReadOnly = false })},
	{number: "CF-09", how: "only the first", do: changing(func(cfg *core.Config) { cfg.ExtraHosts = cfg.ExtraHosts[:min(1, len(cfg.ExtraHosts))] })},
	{number: "CF-10", how: "bridge is no network", do: changing(func(cfg *core.Config) {
		if cfg.NetworkMode == "bridge" {
			cfg.NetworkMode = "none"
		}
	})},
	{number: "CF-11", how: "none is a network", do: changing(func(cfg *core.Config) {
		if cfg.NetworkMode == "none" {
			cfg.NetworkMode = ""
		}
	})},
	{number: "CF-17", how: "dropped", do: changing(func(cfg *core.Config) { cfg.GroupAdd = nil })},
	{number: "CF-19", how: "dropped without a terminal", also: []string{"RT-100", "RT-103", "RT-104", "RT-108", "RT-114", "CF-32", "RT-102", "RT-117"}, do: changing(func(cfg *core.Config) {
		cfg.Interactive = cfg.TTY
	})},
	{number: "CF-20", how: "dropped", also: []string{"RT-107", "RT-109", "RT-110", "RT-111", "RT-113", "CF-32", "RT-62", "RT-78", "CF-01"}, do: changing(func(cfg *core.Config) { cfg.TTY = false })},
	{number: "CF-25", how: "one server more", do: changing(func(cfg *core.Config) {
		if len(cfg.DNS) > 0 {
			cfg.DNS = append(slices.Clone(cfg.DNS), "192.0.2.99")
		}
	})},
	{number: "CF-25", how: "none where none is asked for", do: output(func(out []byte) []byte {
		return bytes.ReplaceAll(out, []byte("nameserver 8.8."), []byte("# 8.8."))
	})},
	{number: "CF-36", how: "the host's proxy is passed on", do: changing(func(cfg *core.Config) {
		if proxy := os.Getenv("HTTP_PROXY"); proxy != "" {
			cfg.Env = append(slices.Clone(cfg.Env), "HTTP_PROXY="+proxy)
		}
	})},
	{number: "CF-26", how: "the caller's labels are dropped", also: []string{"BM-01"}, do: changing(func(cfg *core.Config) { cfg.Labels = nil })},
	{number: "CF-27", how: "always is missing", do: changing(func(cfg *core.Config) {
		if cfg.Pull == core.PullAlways {
			cfg.Pull = core.PullMissing
		}
	})},
	{number: "CF-27", how: "nothing is pulled where nothing is said", do: changing(func(cfg *core.Config) {
		if cfg.Pull == "" {
			cfg.Pull = core.PullNever
		}
	})},
	{number: "CF-28", how: "dropped", do: changing(func(cfg *core.Config) { cfg.AutoRemove = false })},
	{number: "CF-31", how: "dropped", do: changing(func(cfg *core.Config) { cfg.Hostname = "" })},
	{number: "CF-29", how: "programs gain privileges", do: output(func(out []byte) []byte {
		return bytes.ReplaceAll(out, []byte("NoNewPrivs:\t1"), []byte("NoNewPrivs:\t0"))
	})},
}

// beats recognises the suite's container whose process writes into a file of the host's.
func (h *hooks) beats(ctx context.Context, id string) bool {
	details, err := h.full.Inspect(ctx, id)
	return err == nil && strings.Contains(strings.Join(details.Cmd, " "), "append /mnt/shared/heart beat")
}

// isMissing recognises the suite's name of a container that does not exist.
func isMissing(id string) bool { return strings.HasPrefix(id, "missing-") }

// changing breaks how valid configurations are carried out.
func changing(change func(*core.Config)) func(*hooks) {
	return func(h *hooks) {
		h.create = func(ctx context.Context, cfg core.Config) (string, error) {
			if cfg.Validate() == nil {
				change(&cfg)
			}
			return h.full.CreateContainer(ctx, cfg)
		}
	}
}

// inJSON returns what arrives of a value that is sent as JSON.
func inJSON[T any](value T) (arrived T) {
	data, _ := json.Marshal(value)
	_ = json.Unmarshal(data, &arrived)
	return arrived
}

func mounting(change func(*core.MountConfig)) func(*hooks) {
	return changing(func(cfg *core.Config) {
		cfg.Mounts = slices.Clone(cfg.Mounts)
		for i := range cfg.Mounts {
			change(&cfg.Mounts[i])
		}
	})
}

// failing breaks how a class of failures of CreateContainer is told.
func failing(class error, told func(core.Config, error) error) func(*hooks) {
	return func(h *hooks) {
		h.create = func(ctx context.Context, cfg core.Config) (string, error) {
			id, err := h.full.CreateContainer(ctx, cfg)
			if errors.Is(err, class) {
				err = told(cfg, err)
			}
			return id, err
		}
	}
}

func waiting(result func(h *hooks, id string, code int64, err error) (int64, error)) func(*hooks) {
	return func(h *hooks) {
		h.wait = func(ctx context.Context, id string) (int64, error) {
			code, err := h.full.WaitContainer(ctx, id)
			return result(h, id, code, err)
		}
	}
}

func listing(change func(*core.Info)) func(*hooks) {
	return func(h *hooks) {
		h.list = func(ctx context.Context) ([]core.Info, error) {
			all, err := h.full.ListContainers(ctx)
			for i := range all {
				change(&all[i])
			}
			return all, err
		}
	}
}

func reading(wrap func(h *hooks, id string, stream io.ReadCloser) io.ReadCloser) func(*hooks) {
	return func(h *hooks) {
		h.logs = func(ctx context.Context, id string) (io.ReadCloser, error) {
			stream, err := h.full.ContainerLogs(ctx, id)
			if err != nil {
				return nil, err
			}
			return wrap(h, id, stream), nil
		}
	}
}

func streaming(change func(*optional.LogOptions)) func(*hooks) {
	return func(h *hooks) {
		h.stream = func(ctx context.Context, id string, opts optional.LogOptions) error {
			change(&opts)
			return h.full.StreamLogs(ctx, id, opts)
		}
	}
}

func output(change func([]byte) []byte) func(*hooks) {
	return func(h *hooks) {
		h.logsAll = func(ctx context.Context, id string) ([]byte, error) {
			out, err := h.full.ContainerLogsAll(ctx, id)
			return change(out), err
		}
	}
}

// forgiving makes a call on a container succeed where there is none.
func forgiving(call func(context.Context, string) error) func(context.Context, string) error {
	return func(ctx context.Context, id string) error {
		err := call(ctx, id)
		if isMissing(id) && errors.Is(err, core.ErrNotFound) {
			return nil
		}
		return err
	}
}

// noManager is a manager that is nil.
type noManager struct{ core.SidecarManager }

type readCloser struct {
	io.Reader
	io.Closer
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
