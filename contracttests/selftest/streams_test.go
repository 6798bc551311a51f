package selftest

import (
	"context"
	"errors"
	"io"
	"iter"
	"strings"
	"sync"

	"github.com/moatproject/moat/core"
)

// unproven are cases of ports that the memory runtime has not got, and that nothing
// imitates: their failing has been seen on real engines only.
var unproven = map[string]string{
	"RT-140": noCopier, "RT-141": noCopier, "RT-142": noCopier, "RT-143": noCopier, "RT-144": noCopier, "RT-145": noCopier,
	"RT-160": noStats, "RT-161": noStats,
}

const (
	noCopier = "the memory runtime's files have neither owners nor links"
	noStats  = "the memory runtime counts nothing"
)

var streamBreakages = []breakage{
	{number: "RT-100", how: "stdin is lost", do: attached(func(opts *core.AttachOptions) {
		if opts.Stdin != nil {
			opts.Stdin = strings.NewReader("")
		}
	})},
	{number: "RT-100", how: "the end of stdin ends all", also: []string{"RT-103", "RT-104"}, do: func(h *hooks) {
		h.attach = func(ctx context.Context, id string, opts core.AttachOptions) error {
			if opts.Stdin == nil {
				return h.full.Attach(ctx, id, opts)
			}
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			stdin := opts.Stdin
			opts.Stdin = readerFunc(func(p []byte) (int, error) {
				n, err := stdin.Read(p)
				if err != nil {
					cancel()
				}
				return n, err
			})
			if err := h.full.Attach(ctx, id, opts); !errors.Is(err, context.Canceled) {
				return err
			}
			return nil
		}
	}},
	{number: "RT-101", how: "what does not run is attached to", do: attachFailure(core.ErrNotRunning, nil)},
	{number: "RT-102", how: "the context's error is lost", also: []string{"RT-02"}, do: attachFailure(context.Canceled, errors.New("interrupted"))},
	{number: "RT-103", how: "attachments wait for each other", do: func(h *hooks) {
		var turn sync.Mutex
		attached(func(opts *core.AttachOptions) {
			stdout := opts.Stdout
			if stdout == nil {
				return
			}
			opts.Stdout = writerFunc(func(p []byte) (int, error) {
				turn.Lock()
				defer turn.Unlock()
				return stdout.Write(p)
			})
		})(h)
	}},
	{number: "RT-104", how: "a writer's failure is lost", do: attachFailure(io.ErrClosedPipe, nil)},
	{number: "RT-105", how: "the first bytes are lost", also: []string{"RT-108"}, do: startedAttached(func(opts *core.AttachOptions) {
		left, stdout := 3, opts.Stdout
		if stdout == nil {
			return
		}
		opts.Stdout = writerFunc(func(p []byte) (int, error) {
			skipped := min(left, len(p))
			left -= skipped
			_, err := stdout.Write(p[skipped:])
			return len(p), err
		})
	})},
	{number: "RT-106", how: "a program that does not exist is started", do: func(h *hooks) {
		h.startAttached = func(ctx context.Context, id string, opts core.AttachOptions) error {
			if err := h.full.StartAttached(ctx, id, opts); core.FieldOf(err) != "Cmd" {
				return err
			}
			return nil
		}
	}},
	{number: "RT-108", how: "stdin has seven bits", do: startedAttached(func(opts *core.AttachOptions) {
		stdin := opts.Stdin
		if stdin == nil {
			return
		}
		opts.Stdin = readerFunc(func(p []byte) (int, error) {
			n, err := stdin.Read(p)
			for i := range p[:n] {
				p[i] &= 0x7f
			}
			return n, err
		})
	})},
	{number: "RT-130", how: "the code is lost", do: func(h *hooks) {
		h.exec = func(ctx context.Context, id string, opts core.ExecOptions) (int64, error) {
			code, err := h.full.Exec(ctx, id, opts)
			if code == 42 {
				code = 0
			}
			return code, err
		}
	}},
	{number: "RT-131", how: "the environment is lost", also: []string{"RT-135"}, do: executed(func(opts *core.ExecOptions) { opts.Env = nil })},
	{number: "RT-132", how: "stdin is lost", do: executed(func(opts *core.ExecOptions) {
		if opts.Stdin != nil {
			opts.Stdin = strings.NewReader("")
		}
	})},
	{number: "RT-134", how: "the field is not named", do: execFailure(core.ErrInvalidConfig, func(err error) error {
		if core.FieldOf(err) == "Cmd" && !strings.Contains(err.Error(), "empty") {
			return errors.New("it failed")
		}
		return err
	})},
	{number: "RT-135", how: "what does not run is no error", do: execFailure(core.ErrNotRunning, func(error) error { return nil })},
	{number: "RT-136", how: "detached programs do not run", do: func(h *hooks) {
		h.exec = func(ctx context.Context, id string, opts core.ExecOptions) (int64, error) {
			if opts.Detach && opts.Stdout == nil {
				return 0, nil
			}
			return h.full.Exec(ctx, id, opts)
		}
	}},
	{number: "RT-137", how: "the context's error is lost", do: execFailure(context.Canceled, func(error) error {
		return errors.New("interrupted")
	})},
	{number: "RT-150", how: "the code is lost", also: []string{"RT-151"}, do: watched(func(event *core.Event) { event.ExitCode = 0 })},
	{number: "RT-151", how: "the past is lost", do: func(h *hooks) {
		h.events = func(ctx context.Context, opts core.EventOptions) (iter.Seq2[core.Event, error], error) {
			if opts.Since.IsZero() {
				return h.full.Events(ctx, opts)
			}
			return func(func(core.Event, error) bool) {}, nil
		}
	}},
	{number: "RT-152", how: "the label is lost", do: watched(func(event *core.Event) {
		event.Labels = map[string]string{core.LabelRunID: event.Labels[core.LabelRunID]}
	})},
	{number: "RT-153", how: "the end of the context is an error", do: func(h *hooks) {
		h.events = func(ctx context.Context, opts core.EventOptions) (iter.Seq2[core.Event, error], error) {
			events, err := h.full.Events(ctx, opts)
			return func(yield func(core.Event, error) bool) {
				for event, err := range events {
					if !yield(event, err) {
						return
					}
				}
				yield(core.Event{}, ctx.Err())
			}, err
		}
	}},
}

// attached changes the options of an attachment.
func attached(change func(*core.AttachOptions)) func(*hooks) {
	return func(h *hooks) {
		h.attach = func(ctx context.Context, id string, opts core.AttachOptions) error {
			change(&opts)
			return h.full.Attach(ctx, id, opts)
		}
	}
}

func startedAttached(change func(*core.AttachOptions)) func(*hooks) {
	return func(h *hooks) {
		h.startAttached = func(ctx context.Context, id string, opts core.AttachOptions) error {
			change(&opts)
			return h.full.StartAttached(ctx, id, opts)
		}
	}
}

// attachFailure replaces the failures of a class.
func attachFailure(class, told error) func(*hooks) {
	return func(h *hooks) {
		h.attach = func(ctx context.Context, id string, opts core.AttachOptions) error {
			err := h.full.Attach(ctx, id, opts)
			if errors.Is(err, class) {
				return told
			}
			return err
		}
	}
}

func executed(change func(*core.ExecOptions)) func(*hooks) {
	return func(h *hooks) {
		h.exec = func(ctx context.Context, id string, opts core.ExecOptions) (int64, error) {
			change(&opts)
			return h.full.Exec(ctx, id, opts)
		}
	}
}

func execFailure(class error, told func(error) error) func(*hooks) {
	return func(h *hooks) {
		h.exec = func(ctx context.Context, id string, opts core.ExecOptions) (int64, error) {
			code, err := h.full.Exec(ctx, id, opts)
			if errors.Is(err, class) {
				err = told(err)
			}
			return code, err
		}
	}
}

// watched changes each event.
func watched(change func(*core.Event)) func(*hooks) {
	return func(h *hooks) {
		h.events = func(ctx context.Context, opts core.EventOptions) (iter.Seq2[core.Event, error], error) {
			events, err := h.full.Events(ctx, opts)
			return func(yield func(core.Event, error) bool) {
				for event, err := range events {
					change(&event)
					if !yield(event, err) {
						return
					}
				}
			}, err
		}
	}
}

var terminalImitations = []imitation{
	{"RT-107", "the size comes too late", onTerminal("40 100\r\n", ""), onTerminal("0 0\r\n", "")},
	{"RT-109", "stderr is apart", onTerminal("out\r\nerr\r\n", ""), onTerminal("out\r\n", "err\r\n")},
	{"RT-110", "the size is lost", terminal("%d %d\r\n"), terminal("24 80\r\n")},
	{"RT-111", "what has no terminal is resized", resizeStates(core.ErrInvalidConfig), resizeStates(nil)},
	{"RT-112", "every size is taken", resizing(core.ValidateTerminalSize), resizing(func(uint, uint) error { return nil })},
	{"RT-133", "the size is lost", executing("40 100\r\n"), executing("0 0\r\n")},
}

// onTerminal imitates what a program writes to its terminal.
func onTerminal(stdout, stderr string) func(*world) {
	return func(w *world) {
		w.claims("TTY")
		w.replaces("true")
		w.startAttached = func(_ context.Context, _ string, opts core.AttachOptions) error {
			_, err := io.WriteString(opts.Stdout, stdout)
			if opts.Stderr != nil {
				_, _ = io.WriteString(opts.Stderr, stderr)
			}
			return err
		}
	}
}

func resizing(check func(height, width uint) error) func(*world) {
	return func(w *world) {
		w.claims("TTY")
		w.replaces("sleep", "1000")
		w.resize = func(_ context.Context, _ string, height, width uint) error { return check(height, width) }
	}
}

// executing imitates a program that waits for the second size, and one that shows the first.
func executing(initial string) func(*world) {
	return func(w *world) {
		w.claims("TTY")
		w.exec = func(_ context.Context, _ string, opts core.ExecOptions) (int64, error) {
			text := initial
			if opts.Resize != nil {
				text = "resized\r\n"
			}
			_, err := io.WriteString(opts.Stdout, text)
			return 0, err
		}
	}
}
