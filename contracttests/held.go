package contracttests

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/moatproject/moat/core"
)

var held = capability("HeldStart")

// screen is an output that may be looked at while it is written.
type screen struct {
	mu   sync.Mutex
	seen bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.ReplaceAll(s.seen.String(), "\r\n", "\n")
}

// watched is a Release that sees to it that the container runs, its program has not
// begun to write, and its terminal has no size that could be changed. Then it returns err.
func (f *fixture) watched(id string, output *screen, err error) func(context.Context) error {
	return func(ctx context.Context) error {
		f.wantState(id, core.StateRunning)
		select {
		case <-time.After(moment):
		case <-ctx.Done():
			f.Error("the attachment ended before the release")
		}
		want(f, "the output before the release", output.String(), "")
		return err
	}
}

// heldRun starts what is held, releases it, and returns what it wrote.
func (f *fixture) heldRun(cfg core.Config, opts core.AttachOptions) (id string, output *screen, err error) {
	f.Helper()
	cfg.Held = true
	id, output = f.create(cfg), &screen{}
	opts.Stdout, opts.Stderr, opts.Release = output, output, f.watched(id, output, nil)
	_, err = f.startingAttached(id, opts).result(f)
	return id, output, err
}

func heldStart(f *fixture) {
	cfg := f.shell(`echo $ENTRYPOINT_RAN "$@"; cat; echo the end of stdin; exit 7`)
	cfg.Cmd = append(cfg.Cmd, "sh", "-x", "a b")
	cfg.Image = f.h.ConfigImage
	id, output, err := f.heldRun(cfg, core.AttachOptions{Stdin: strings.NewReader("nobody reads this\n")})
	f.must(err)
	want(f, "the output without stdin", output.String(), "yes -x a b\nthe end of stdin\n")
	want(f, "the exit code", f.wait(id), 7)

	cfg = f.command("cat")
	cfg.Interactive = true
	const sent = "\n\x00 first line\nlast"
	_, output, err = f.heldRun(cfg, core.AttachOptions{Stdin: strings.NewReader(sent)})
	f.must(err)
	want(f, "stdin", output.String(), sent)

	_, output, err = f.heldRun(f.command("/no-such-program"), core.AttachOptions{})
	f.wantField("releasing a program that does not exist", err, "Cmd")
	want(f, "the output of a program that does not exist", output.String(), "")

	cfg.Cmd, cfg.Held = []string{"echo", "at once"}, true
	output = &screen{}
	_, err = f.startingAttached(f.create(cfg), core.AttachOptions{Stdout: output}).result(f)
	f.must(err)
	want(f, "the output without a Release", output.String(), "at once\n")

	if !core.CapabilitiesOf(f.rt).TTY {
		return
	}
	cfg = f.command("stty", "size")
	cfg.TTY, cfg.Held = true, true
	id, output = f.create(cfg), &screen{}
	opts := core.AttachOptions{Stdout: output, TTY: true, InitialHeight: 40, InitialWidth: 100}
	opts.Release = func(ctx context.Context) error {
		f.wantClass("resizing what is held", f.rt.ResizeTTY(ctx, id, 33, 111), core.ErrNotRunning)
		return f.watched(id, output, nil)(ctx)
	}
	_, err = f.startingAttached(id, opts).result(f)
	f.must(err)
	want(f, "the terminal's size", output.String(), "40 100\n")
}

// heldWays are a program that tells that it has begun, without and with a terminal.
func (f *fixture) heldWays() []core.Config {
	cfg := f.shell("echo began; sleep 1000")
	cfg.Held = true
	ways := []core.Config{cfg}
	if core.CapabilitiesOf(f.rt).TTY {
		cfg.TTY = true
		ways = append(ways, cfg)
	}
	return ways
}

func failedRelease(f *fixture) {
	for _, cfg := range f.heldWays() {
		id, output := f.create(cfg), &screen{}
		opts := core.AttachOptions{Stdout: output, TTY: cfg.TTY, Release: f.watched(id, output, io.ErrClosedPipe)}
		_, err := f.startingAttached(id, opts).result(f)
		f.wantClass("a release that fails", err, io.ErrClosedPipe)
		f.wantNotBegun(id)

		id = f.create(cfg)
		ctx, cancel := context.WithCancel(f.ctx)
		defer cancel()
		opts.Release = func(ctx context.Context) error {
			cancel()
			<-ctx.Done()
			return nil
		}
		_, err = begin("StartAttached", func() (struct{}, error) { return struct{}{}, f.rt.StartAttached(ctx, id, opts) }).result(f)
		f.wantClass("a release when the context has ended", err, context.Canceled)
		f.wantNotBegun(id)

		id = f.create(cfg)
		released := make(chan struct{})
		opts.Release = func(ctx context.Context) error {
			defer close(released)
			f.remove(id)
			<-ctx.Done() // or this call never returns
			return nil
		}
		_, err = f.startingAttached(id, opts).result(f)
		if err != nil {
			f.Errorf("the removal of what is held: %v", err)
		}
		select {
		case <-released:
		case <-time.After(patience):
			f.Fatal("Release's context has not ended with the container")
		}
		want(f, "the output of what was never released", output.String(), "")
	}
}

// wantNotBegun watches a container whose program must not begin any more.
func (f *fixture) wantNotBegun(id string) {
	f.Helper()
	select {
	case <-time.After(moment):
	case <-f.ctx.Done():
	}
	want(f, "the output of what was never released", f.logs(id), "")
}

func releaseOfOthers(f *fixture) {
	opts := core.AttachOptions{Release: func(context.Context) error { return nil }}
	id := f.create(f.idle())
	_, err := f.startingAttached(id, opts).result(f)
	f.wantField("releasing what is not held", err, "Release")
	f.wantState(id, core.StateCreated)
	f.start(id)
	_, err = f.attaching(id, opts).result(f)
	f.wantField("releasing by Attach", err, "Release")

	for _, cfg := range f.heldWays() {
		id := f.create(cfg)
		f.wantField("starting what is held", f.rt.StartContainer(f.ctx, id), "Held")
		f.wantState(id, core.StateCreated)
	}
}
