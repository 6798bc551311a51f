package selftest

import (
	"context"
	"errors"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

var streamBreakages = []breakage{
	{number: "RT-100", how: "stdin is lost", also: []string{"RT-102", "RT-103", "RT-104", "RT-117"}, do: attached(func(opts *core.AttachOptions) {
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
	{number: "RT-102", how: "it is written to after the return", do: func(h *hooks) {
		h.attach = func(ctx context.Context, id string, opts core.AttachOptions) error {
			return abandoned(ctx, func(ctx context.Context) error { return h.full.Attach(ctx, id, opts) })
		}
	}},
	{number: "RT-102", how: "who listens closes stdin in the end", do: closingStdin(func(opts core.AttachOptions) bool { return opts.Stdin == nil })},
	{number: "RT-117", how: "stdin is closed with the context", do: closingStdin(func(opts core.AttachOptions) bool { return opts.Stdin != nil })},
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
	{number: "RT-104", how: "a failure of stdin is lost", do: attached(func(opts *core.AttachOptions) { opts.Stdin = endless(opts.Stdin) })},
	{number: "RT-105", how: "the first bytes are lost", also: []string{"RT-46", "RT-107", "RT-108", "RT-109", "RT-114", "RT-116", "CF-32"}, do: startedAttached(func(opts *core.AttachOptions) {
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
	{number: "RT-105", how: "stdout and stderr are written to at once", do: func(h *hooks) {
		h.startAttached = func(ctx context.Context, id string, opts core.AttachOptions) error {
			if opts.Stdout == nil || opts.Stderr == nil || opts.Stdout == opts.Stderr || opts.TTY {
				return h.full.StartAttached(ctx, id, opts)
			}
			stdout, stderr := opts.Stdout, opts.Stderr
			opts.Stderr = writerFunc(func(p []byte) (int, error) {
				written := make(chan struct{})
				go func() {
					defer close(written)
					_, _ = stdout.Write(nil)
				}()
				defer func() { <-written }()
				return stderr.Write(p)
			})
			return h.full.StartAttached(ctx, id, opts)
		}
	}},
	{number: "RT-106", how: "a program that does not exist is started", also: []string{"CF-32"}, do: func(h *hooks) {
		h.startAttached = func(ctx context.Context, id string, opts core.AttachOptions) error {
			if err := h.full.StartAttached(ctx, id, opts); core.FieldOf(err) != "Cmd" {
				return err
			}
			return nil
		}
	}},
	{number: "RT-106", how: "one on a terminal is started", do: func(h *hooks) {
		h.startAttached = func(ctx context.Context, id string, opts core.AttachOptions) error {
			if err := h.full.StartAttached(ctx, id, opts); !opts.TTY || core.FieldOf(err) != "Cmd" {
				return err
			}
			return nil
		}
	}},
	{number: "RT-106", how: "what cannot be loaded is started", do: func(h *hooks) {
		h.startAttached = func(ctx context.Context, id string, opts core.AttachOptions) error {
			err := h.full.StartAttached(ctx, id, opts)
			if errors.Is(err, syscall.ENOEXEC) {
				return nil
			}
			return err
		}
	}},
	{number: "RT-107", how: "the size comes too late", also: []string{"RT-113", "CF-32"}, do: startedAttached(func(opts *core.AttachOptions) {
		opts.InitialHeight, opts.InitialWidth = 0, 0
	})},
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
	{number: "RT-109", how: "all output is stderr's", do: startedAttached(func(opts *core.AttachOptions) {
		if opts.TTY && opts.Stderr != nil {
			opts.Stdout = opts.Stderr
		}
	})},
	{number: "RT-110", how: "the size is lost", do: resizing(func(size *optional.TerminalSize) {
		if core.ValidateTerminalSize(size.Height, size.Width) == nil {
			*size = optional.TerminalSize{Height: 24, Width: 80}
		}
	})},
	{number: "RT-111", how: "what has no terminal is resized", do: func(h *hooks) {
		h.resize = func(ctx context.Context, id string, height, width uint) error {
			if err := h.full.ResizeTTY(ctx, id, height, width); core.FieldOf(err) != "TTY" {
				return err
			}
			return nil
		}
	}},
	{number: "RT-112", how: "every size is taken", do: resizing(func(size *optional.TerminalSize) {
		size.Height = min(max(size.Height, 1), core.MaxTerminalSize)
		size.Width = min(max(size.Width, 1), core.MaxTerminalSize)
	})},
	{number: "RT-113", how: "the size is lost", do: attached(func(opts *core.AttachOptions) {
		if opts.InitialHeight <= core.MaxTerminalSize && opts.InitialWidth <= core.MaxTerminalSize {
			opts.InitialHeight, opts.InitialWidth = 0, 0
		}
	})},
	{number: "RT-113", how: "a size that no terminal has is dropped", do: startedAttached(func(opts *core.AttachOptions) {
		if opts.InitialHeight > core.MaxTerminalSize || opts.InitialWidth > core.MaxTerminalSize {
			opts.InitialHeight, opts.InitialWidth = 0, 0
		}
	})},
	{number: "RT-114", how: "a failure of its streams is lost", do: startAttachedFailure(io.ErrClosedPipe, nil)},
	{number: "RT-114", how: "a writer's failure goes on", do: startedAttached(func(opts *core.AttachOptions) { opts.Stdout = patient(opts.Stdout) })},
	{number: "RT-114", how: "a failure of stdin is lost", do: startedAttached(func(opts *core.AttachOptions) { opts.Stdin = endless(opts.Stdin) })},
	{number: "RT-114", how: "the exit code after a failure of stdin is lost", do: func(h *hooks) {
		var lost sync.Map
		h.startAttached = func(ctx context.Context, id string, opts core.AttachOptions) error {
			err := h.full.StartAttached(ctx, id, opts)
			if opts.Stdin != nil && errors.Is(err, io.ErrClosedPipe) {
				lost.Store(id, true)
			}
			return err
		}
		h.wait = func(ctx context.Context, id string) (int64, error) {
			code, err := h.full.WaitContainer(ctx, id)
			if _, ok := lost.Load(id); ok {
				code = 125
			}
			return code, err
		}
	}},
	{number: "RT-114", how: "the context's error is lost", also: []string{"RT-02", "RT-115"}, do: startAttachedFailure(context.Canceled, errors.New("interrupted"))},
	{number: "RT-114", how: "it is written to after the return", also: []string{"RT-115"}, do: func(h *hooks) {
		h.startAttached = func(ctx context.Context, id string, opts core.AttachOptions) error {
			return abandoned(ctx, func(ctx context.Context) error { return h.full.StartAttached(ctx, id, opts) })
		}
	}},
	{number: "RT-115", how: "a release is never too late", do: releasing(func(ctx context.Context, h *hooks, id string) error {
		if err := h.full.ReleaseContainer(ctx, id); !errors.Is(err, core.ErrNotRunning) {
			return err
		}
		return nil
	})},
	{number: "RT-115", how: "the attachment goes on", do: func(h *hooks) {
		var held sync.Map
		h.create = func(ctx context.Context, cfg core.Config) (string, error) {
			id, err := h.full.CreateContainer(ctx, cfg)
			held.Store(id, cfg.Held)
			return id, err
		}
		h.startAttached = func(ctx context.Context, id string, opts core.AttachOptions) error {
			start := func(ctx context.Context) error { return h.full.StartAttached(ctx, id, opts) }
			if isHeld, _ := held.Load(id); isHeld == true {
				return abandoned(ctx, start)
			}
			return start(ctx)
		}
	}},
	{number: "RT-116", how: "what is held is started", do: func(h *hooks) {
		h.start = func(ctx context.Context, id string) error {
			if err := h.full.StartContainer(ctx, id); core.FieldOf(err) != "Held" {
				return err
			}
			return nil
		}
	}},
	{number: "RT-116", how: "a release of others is dropped", do: releasing(func(ctx context.Context, h *hooks, id string) error {
		if err := h.full.ReleaseContainer(ctx, id); core.FieldOf(err) != "Held" {
			return err
		}
		return nil
	})},
	{number: "RT-116", how: "a release of what is missing is dropped", do: releasing(func(ctx context.Context, h *hooks, id string) error {
		if err := h.full.ReleaseContainer(ctx, id); !isMissing(id) {
			return err
		}
		return ctx.Err()
	})},
	{number: "RT-116", how: "a second release is refused", do: func(h *hooks) {
		var released sync.Map
		h.release = func(ctx context.Context, id string) error {
			err := h.full.ReleaseContainer(ctx, id)
			if err != nil {
				return err
			}
			if _, again := released.LoadOrStore(id, true); again {
				return &core.Error{Op: "release container", Object: id, Class: core.ErrNotRunning}
			}
			return nil
		}
	}},
	{number: "CF-32", how: "dropped", also: []string{"RT-115", "RT-116"}, do: changing(func(cfg *core.Config) { cfg.Held = false })},
	{number: "CF-32", how: "the program does not wait", also: []string{"RT-115", "RT-116"}, do: func(h *hooks) {
		h.startAttached = func(ctx context.Context, id string, opts core.AttachOptions) error {
			_ = h.full.ReleaseContainer(ctx, id)
			return h.full.StartAttached(ctx, id, opts)
		}
	}},
	{number: "RT-130", how: "the code of what has closed its output is lost", do: func(h *hooks) {
		h.exec = func(ctx context.Context, id string, opts optional.ExecOptions) (int64, error) {
			code, err := h.full.Exec(ctx, id, opts)
			if slices.Contains(opts.Cmd, "close") {
				code = 0
			}
			return code, err
		}
	}},
	{number: "RT-130", how: "the code is lost", do: func(h *hooks) {
		h.exec = func(ctx context.Context, id string, opts optional.ExecOptions) (int64, error) {
			code, err := h.full.Exec(ctx, id, opts)
			if code == 42 {
				code = 0
			}
			return code, err
		}
	}},
	{number: "RT-131", how: "the environment is lost", also: []string{"RT-135", "RT-16"}, do: executed(func(opts *optional.ExecOptions) { opts.Env = nil })},
	{number: "RT-132", how: "stdin is lost", also: []string{"RT-138"}, do: executed(func(opts *optional.ExecOptions) {
		if opts.Stdin != nil {
			opts.Stdin = strings.NewReader("")
		}
	})},
	{number: "RT-133", how: "the initial size is lost", do: executed(func(opts *optional.ExecOptions) {
		opts.InitialHeight, opts.InitialWidth = 0, 0
	})},
	{number: "RT-134", how: "the field is not named", also: []string{"RT-16"}, do: execFailure(core.ErrInvalidConfig, func(err error) error {
		if core.FieldOf(err) == "Cmd" && !strings.Contains(err.Error(), "empty") {
			return errors.New("it failed")
		}
		return err
	})},
	{number: "RT-134", how: "the class of what cannot be loaded is lost", do: execFailure(syscall.ENOEXEC, func(error) error {
		return &core.Error{Field: "Cmd", Class: core.ErrInvalidConfig}
	})},
	{number: "RT-135", how: "what does not run is no error", do: execFailure(core.ErrNotRunning, func(error) error { return nil })},
	{number: "RT-136", how: "detached programs do not run", do: func(h *hooks) {
		h.exec = func(ctx context.Context, id string, opts optional.ExecOptions) (int64, error) {
			if opts.Detach && opts.Stdout == nil {
				return 0, nil
			}
			return h.full.Exec(ctx, id, opts)
		}
	}},
	{number: "RT-137", how: "the context's error is lost", also: []string{"RT-02"}, do: execFailure(context.Canceled, func(error) error {
		return errors.New("interrupted")
	})},
	{number: "RT-137", how: "it is written to after the return", do: func(h *hooks) {
		h.exec = func(ctx context.Context, id string, opts optional.ExecOptions) (int64, error) {
			code := make(chan int64, 1)
			err := abandoned(ctx, func(ctx context.Context) error {
				exited, err := h.full.Exec(ctx, id, opts)
				code <- exited
				return err
			})
			select {
			case exited := <-code: // Stdin's failure comes with it
				return exited, err
			default:
				return 0, err
			}
		}
	}},
	{number: "RT-138", how: "a failure of its streams is lost", do: execFailure(io.ErrClosedPipe, func(error) error { return nil })},
	{number: "RT-138", how: "a failure of stdin is lost", do: executed(func(opts *optional.ExecOptions) { opts.Stdin = endless(opts.Stdin) })},
	{number: "RT-138", how: "the code after a failure of stdin is lost", do: func(h *hooks) {
		h.exec = func(ctx context.Context, id string, opts optional.ExecOptions) (int64, error) {
			code, err := h.full.Exec(ctx, id, opts)
			if err != nil {
				code = 0
			}
			return code, err
		}
	}},
	{number: "RT-139", how: "a code is taken for the engine's", do: func(h *hooks) {
		h.exec = func(ctx context.Context, id string, opts optional.ExecOptions) (int64, error) {
			code, err := h.full.Exec(ctx, id, opts)
			if code == 126 && opts.TTY {
				return 0, &core.Error{Op: "exec", Field: "Cmd", Class: core.ErrInvalidConfig}
			}
			return code, err
		}
	}},
	{number: "RT-150", how: "the code is lost", also: []string{"RT-151"}, do: watched(func(event *optional.Event) { event.ExitCode = 0 })},
	{number: "RT-151", how: "the past is lost", do: func(h *hooks) {
		h.events = func(ctx context.Context, opts optional.EventOptions) (iter.Seq2[optional.Event, error], error) {
			if opts.Since.IsZero() {
				return h.full.Events(ctx, opts)
			}
			return func(func(optional.Event, error) bool) {}, nil
		}
	}},
	{number: "RT-152", how: "the label is lost", do: watched(func(event *optional.Event) {
		event.Labels = map[string]string{core.LabelRunID: event.Labels[core.LabelRunID]}
	})},
	{number: "RT-153", how: "the end of the context is an error", do: func(h *hooks) {
		h.events = func(ctx context.Context, opts optional.EventOptions) (iter.Seq2[optional.Event, error], error) {
			events, err := h.full.Events(ctx, opts)
			return func(yield func(optional.Event, error) bool) {
				for event, err := range events {
					if !yield(event, err) {
						return
					}
				}
				yield(optional.Event{}, ctx.Err())
			}, err
		}
	}},
}

// closingStdin closes a container's stdin, where it is no terminal, when the context of
// one of these attachments has ended.
func closingStdin(of func(core.AttachOptions) bool) func(*hooks) {
	return func(h *hooks) {
		closing := func(attach func(context.Context, string, core.AttachOptions) error) func(context.Context, string, core.AttachOptions) error {
			return func(ctx context.Context, id string, opts core.AttachOptions) error {
				err := attach(ctx, id, opts)
				if details, _ := h.full.Inspect(h.t.Context(), id); errors.Is(err, context.Canceled) && of(opts) && !details.TTY {
					again, cancel := context.WithTimeout(h.t.Context(), 100*time.Millisecond)
					defer cancel()
					_ = h.full.Attach(again, id, core.AttachOptions{Stdin: strings.NewReader("")})
				}
				return err
			}
		}
		h.attach, h.startAttached = closing(h.full.Attach), closing(h.full.StartAttached)
	}
}

// abandoned returns with the context, and leaves the call to itself.
func abandoned(ctx context.Context, call func(context.Context) error) error {
	if ctx.Err() != nil {
		return call(ctx)
	}
	done := make(chan error, 1)
	go func() { done <- call(context.WithoutCancel(ctx)) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// patient is a writer that hides failures. nil stays nil.
func patient(w io.Writer) io.Writer {
	if w == nil {
		return nil
	}
	return writerFunc(func(p []byte) (int, error) {
		_, _ = w.Write(p)
		return len(p), nil
	})
}

// endless is a reader whose failure is its end. nil stays nil.
func endless(r io.Reader) io.Reader {
	if r == nil {
		return nil
	}
	return readerFunc(func(p []byte) (int, error) {
		n, err := r.Read(p)
		if err != nil {
			err = io.EOF
		}
		return n, err
	})
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

// releasing replaces the release of a held container.
func releasing(release func(ctx context.Context, h *hooks, id string) error) func(*hooks) {
	return func(h *hooks) {
		h.release = func(ctx context.Context, id string) error { return release(ctx, h, id) }
	}
}

// resizing changes the size of a resize.
func resizing(change func(*optional.TerminalSize)) func(*hooks) {
	return func(h *hooks) {
		h.resize = func(ctx context.Context, id string, height, width uint) error {
			size := optional.TerminalSize{Height: height, Width: width}
			change(&size)
			return h.full.ResizeTTY(ctx, id, size.Height, size.Width)
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

func startAttachedFailure(class, told error) func(*hooks) {
	return func(h *hooks) {
		h.startAttached = func(ctx context.Context, id string, opts core.AttachOptions) error {
			err := h.full.StartAttached(ctx, id, opts)
			if errors.Is(err, class) {
				return told
			}
			return err
		}
	}
}

func executed(change func(*optional.ExecOptions)) func(*hooks) {
	return func(h *hooks) {
		h.exec = func(ctx context.Context, id string, opts optional.ExecOptions) (int64, error) {
			change(&opts)
			return h.full.Exec(ctx, id, opts)
		}
	}
}

func execFailure(class error, told func(error) error) func(*hooks) {
	return func(h *hooks) {
		h.exec = func(ctx context.Context, id string, opts optional.ExecOptions) (int64, error) {
			code, err := h.full.Exec(ctx, id, opts)
			if errors.Is(err, class) {
				err = told(err)
			}
			return code, err
		}
	}
}

// watched changes each event.
func watched(change func(*optional.Event)) func(*hooks) {
	return func(h *hooks) {
		h.events = func(ctx context.Context, opts optional.EventOptions) (iter.Seq2[optional.Event, error], error) {
			events, err := h.full.Events(ctx, opts)
			return func(yield func(optional.Event, error) bool) {
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
