package contracttests

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
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

// release releases a held container.
func (f *fixture) release(ctx context.Context, id string) error {
	f.Helper()
	return portOf[optional.Releaser](f).ReleaseContainer(ctx, id)
}

// heldAttachment starts what is held, and sees to it that the container runs and its
// program does not begin.
func (f *fixture) heldAttachment(ctx context.Context, id string, opts core.AttachOptions, output *screen) *call[struct{}] {
	f.Helper()
	attached := begin("StartAttached", func() (struct{}, error) { return struct{}{}, f.rt.StartAttached(ctx, id, opts) }).on(id)
	if !eventually(func() bool { return f.state(id) == core.StateRunning }) {
		f.Fatalf("StartAttached has not started what is held%s", f.lately(id))
	}
	attached.goesOn(f)
	want(f, "the output before the release", output.String(), "")
	return attached
}

// heldRun starts what is held, releases it, and returns what it wrote.
func (f *fixture) heldRun(cfg core.Config, opts core.AttachOptions) (id string, output *screen, err error) {
	f.Helper()
	cfg.Held = true
	id, output = f.create(cfg), &screen{}
	opts.Stdout, opts.Stderr = output, output
	attached := f.heldAttachment(f.ctx, id, opts, output)
	f.must(f.release(f.ctx, id))
	_, err = attached.until("the container exits").result(f)
	return id, output, err
}

func heldStart(f *fixture) {
	cfg := f.agent("env ENTRYPOINT_RAN", "say -x  a b", "cat", "say the end of stdin", "exit 7")
	cfg.Image = f.h.ConfigImage
	id, output, err := f.heldRun(cfg, core.AttachOptions{Stdin: strings.NewReader("nobody reads this\n")})
	f.must(err)
	want(f, "the output without stdin", output.String(), "yes\n-x  a b\nthe end of stdin\n")
	want(f, "the exit code", f.wait(id), 7)

	cfg = f.agent("cat")
	cfg.Interactive = true
	const sent = "\n\x00 first line\nlast"
	_, output, err = f.heldRun(cfg, core.AttachOptions{Stdin: strings.NewReader(sent)})
	f.must(err)
	want(f, "stdin", output.String(), sent)

	missing := f.command("/no-such-program")
	missing.Held = true
	id = f.create(missing)
	f.must(f.release(f.ctx, id))
	_, err = f.startingAttached(id, core.AttachOptions{}).until("the program does not exist").result(f)
	f.wantField("releasing a program that does not exist", err, "Cmd")

	cfg.Cmd, cfg.Held = agentCommand("say at once"), true
	id, output = f.create(cfg), &screen{}
	f.must(f.release(f.ctx, id))
	_, err = f.startingAttached(id, core.AttachOptions{Stdout: output}).until("it was released before its start").result(f)
	f.must(err)
	want(f, "the output of what was released before its start", output.String(), "at once\n")

	if !optional.CapabilitiesOf(f.rt).TTY {
		return
	}
	cfg = f.agent("size")
	cfg.TTY, cfg.Held = true, true
	id, output = f.create(cfg), &screen{}
	opts := core.AttachOptions{Stdout: output, TTY: true, InitialHeight: 40, InitialWidth: 100}
	attached := f.heldAttachment(f.ctx, id, opts, output)
	f.wantClass("resizing what is held", f.rt.ResizeTTY(f.ctx, id, 33, 111), core.ErrNotRunning)
	want(f, "the output after the refused resize", output.String(), "")
	f.must(f.release(f.ctx, id))
	_, err = attached.until("the container exits").result(f)
	f.must(err)
	want(f, "the terminal's size", output.String(), "40 100\n")
}

// heldWays are a program that tells that it has begun, without and with a terminal.
func (f *fixture) heldWays() []core.Config {
	cfg := f.agent("say began", "sleep")
	cfg.Held = true
	ways := []core.Config{cfg}
	if optional.CapabilitiesOf(f.rt).TTY {
		cfg.TTY = true
		ways = append(ways, cfg)
	}
	return ways
}

func lateRelease(f *fixture) {
	for _, cfg := range f.heldWays() {
		id, output := f.create(cfg), &screen{}
		opts := core.AttachOptions{Stdout: output, TTY: cfg.TTY}
		ctx, cancel := context.WithCancel(f.ctx)
		defer cancel()
		attached := f.heldAttachment(ctx, id, opts, output)
		cancel()
		_, err := attached.until("its context has ended").result(f)
		f.wantClass("holding when the context has ended", err, context.Canceled)
		f.wantClass("releasing after StartAttached", f.release(f.ctx, id), core.ErrNotRunning)
		f.wantNotBegun(id)

		id, output = f.create(cfg), &screen{}
		opts.Stdout = output
		attached = f.heldAttachment(f.ctx, id, opts, output)
		f.remove(id)
		if _, err = attached.until("the held container is removed").result(f); err != nil {
			f.Errorf("the removal of what is held: %v", err)
		}
		f.wantClass("releasing what was removed", f.release(f.ctx, id), core.ErrNotFound)
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
	f.wantClass("releasing what is missing", f.release(f.ctx, f.missing()), core.ErrNotFound)
	id := f.create(f.idle())
	f.wantField("releasing what is not held", f.release(f.ctx, id), "Held")
	f.wantState(id, core.StateCreated)

	f.repeatedRelease()
	for _, cfg := range f.heldWays() {
		id := f.create(cfg)
		f.wantField("starting what is held", f.rt.StartContainer(f.ctx, id), "Held")
		f.wantState(id, core.StateCreated)
	}
}

func (f *fixture) repeatedRelease() {
	f.Helper()
	for _, cfg := range f.heldWays() {
		id, output := f.create(cfg), &screen{}
		attached := f.heldAttachment(f.ctx, id, core.AttachOptions{Stdout: output, TTY: cfg.TTY}, output)
		f.must(f.release(f.ctx, id))
		f.must(f.release(f.ctx, id))
		f.awaitOutput(id, "began")
		f.must(f.release(f.ctx, id))
		f.remove(id)
		_, err := attached.until("the container is removed").result(f)
		f.must(err)
		want(f, "the output", output.String(), "began\n")
	}
}
