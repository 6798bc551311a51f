package contracttests

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing/iotest"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

func attachCases() []Case {
	attaching, terminals := capability("Attach"), capability("TTY")
	refusedTTY, refusedHold := refusedConfig(func(cfg *core.Config) { cfg.TTY = true }), refusedConfig(func(cfg *core.Config) { cfg.Held = true })
	return []Case{
		{Number: "RT-100", Title: "attach connects the streams", check: attach, ability: attaching, unsupported: refusedAttach},
		{Number: "RT-101", Title: "attaching to what does not run", check: attachWrongState, ability: attaching, unsupported: refusedAttach},
		{Number: "RT-102", Title: "the context ends the attachment only", check: attachCancelled, ability: attaching, unsupported: refusedAttach},
		{Number: "RT-103", Title: "a slow writer delays nobody else", check: slowAttachment, ability: attaching, unsupported: refusedAttach},
		{Number: "RT-104", Title: "a writer's failure ends the attachment", check: failingAttachment, ability: attaching, unsupported: refusedAttach},
		{Number: "RT-105", Title: "start attached loses no byte", check: startAttached, ability: attaching, unsupported: refusedStartAttached},
		{
			Number: "RT-106", Title: "starting attached what cannot start", check: startAttachedFails,
			ability: attaching, unsupported: refusedStartAttached,
		},
		{Number: "RT-107", Title: "the first instruction sees the size", check: initialSize, ability: terminals, unsupported: refusedTTY},
		{Number: "RT-108", Title: "stdin arrives unchanged", check: stdinUnchanged, ability: attaching, unsupported: refusedStartAttached},
		{Number: "RT-109", Title: "a terminal has one output", check: oneOutput, ability: terminals, unsupported: refusedTTY},
		{Number: "RT-110", Title: "the process sees the new size", check: resize, ability: terminals, unsupported: refusedResize},
		{Number: "RT-111", Title: "resizing what has no terminal", check: resizeWrongState, ability: terminals, unsupported: refusedResize},
		{Number: "RT-112", Title: "sizes that no terminal has", check: resizeOutOfRange, ability: terminals, unsupported: refusedResize},
		{Number: "RT-113", Title: "attach gives the terminal its size", check: attachedSize, ability: terminals, unsupported: refusedTTY},
		{
			Number: "RT-114", Title: "how start attached ends", check: startAttachedEnds,
			ability: attaching, unsupported: refusedStartAttached,
		},
		{Number: "RT-115", Title: "releasing too late", check: lateRelease, ability: held, unsupported: refusedHold},
		{Number: "RT-116", Title: "releasing what is not held", check: releaseOfOthers, ability: held, unsupported: refusedHold},
		{
			Number: "RT-117", Title: "what ends an attachment leaves stdin open", check: stdinStaysOpen,
			unsupported: func(f *fixture, created string) error {
				if optional.CapabilitiesOf(f.rt).Attach {
					return core.ErrUnsupported // there is no call that could be refused
				}
				return refusedAttach(f, created)
			},
		},
		{Number: "RT-120", Title: "a firewall holds or is refused", check: firewall},
	}
}

func refusedAttach(f *fixture, created string) error {
	return f.rt.Attach(f.ctx, created, core.AttachOptions{})
}

func refusedStartAttached(f *fixture, created string) error {
	return f.rt.StartAttached(f.ctx, created, core.AttachOptions{})
}

func refusedResize(f *fixture, created string) error { return f.rt.ResizeTTY(f.ctx, created, 24, 80) }

// attaching begins to attach.
func (f *fixture) attaching(id string, opts core.AttachOptions) *call[struct{}] {
	return begin("Attach", func() (struct{}, error) { return struct{}{}, f.rt.Attach(f.ctx, id, opts) }).on(id).until("the container exits")
}

func attach(f *fixture) {
	cfg := f.agent("say ready", "cat", "stderr say error")
	cfg.Interactive = true
	var stdout, stderr bytes.Buffer
	_, err := f.attaching(f.ready(cfg), core.AttachOptions{Stdin: strings.NewReader("hello\n"), Stdout: &stdout, Stderr: &stderr}).result(f)
	f.must(err)
	want(f, "stdout", stdout.String(), "hello\n")
	want(f, "stderr after the end of stdin", stderr.String(), "error\n")

	_, err = f.attaching(f.ready(cfg), core.AttachOptions{Stdin: strings.NewReader("discarded\n")}).result(f)
	f.must(err)
}

func attachWrongState(f *fixture) {
	f.wantClass("attaching to what is missing", f.rt.Attach(f.ctx, f.missing(), core.AttachOptions{}), core.ErrNotFound)
	id := f.create(f.idle())
	f.wantClass("attaching to what does not run", f.rt.Attach(f.ctx, id, core.AttachOptions{}), core.ErrNotRunning)
}

// lateWriter counts what is written after it has been closed.
type lateWriter struct {
	begun  chan struct{}
	once   sync.Once
	closed atomic.Bool
	late   atomic.Int32
}

func newLateWriter() *lateWriter { return &lateWriter{begun: make(chan struct{})} }

func (w *lateWriter) Write(p []byte) (int, error) {
	w.once.Do(func() { close(w.begun) })
	if w.closed.Load() {
		w.late.Add(1)
	}
	return len(p), nil
}

// await waits for the first Write.
func (w *lateWriter) await(f *fixture) {
	f.Helper()
	select {
	case <-w.begun:
	case <-time.After(patience):
		f.Fatal("nothing has been written")
	}
}

// ticking writes until it is stopped, for streams that show that they are live.
func (f *fixture) ticking() core.Config {
	return f.agent("say ready", "every 100ms say tick")
}

// cancelled ends the context of an attachment in the middle, to a container that is
// ticking, and checks how that ends.
func (f *fixture) cancelled(id string, attach func(context.Context, string, core.AttachOptions) error) {
	f.Helper()
	ctx, cancel := context.WithCancel(f.ctx)
	defer cancel()
	output := newLateWriter()
	attached := begin("the attachment", func() (struct{}, error) {
		defer output.closed.Store(true)
		return struct{}{}, attach(ctx, id, core.AttachOptions{Stdout: output})
	})
	output.await(f)
	attached.goesOn(f)
	cancel()
	_, err := attached.on(id).until("its context has ended").result(f)
	f.wantClass("an attachment whose context ended", err, context.Canceled)
	f.wantState(id, core.StateRunning)
	const tick = "tick\n"
	f.awaitOutput(id, strings.Repeat(tick, strings.Count(f.logs(id), tick)+3))
	want(f, "how often was written after the return", output.late.Load(), 0)
}

func attachCancelled(f *fixture) {
	f.cancelled(f.ready(f.ticking()), f.rt.Attach)

	// Whoever has only listened leaves stdin to others, and nobody ends a terminal's.
	cfg := f.answering()
	id := f.ready(cfg)
	f.detach(id, nil)
	f.wantAnswer(id, cfg)
	if optional.CapabilitiesOf(f.rt).TTY {
		cfg.TTY = true
		id := f.started(cfg)
		f.awaitOutput(id, "ready")
		stdin, typed := io.Pipe()
		defer typed.Close()
		f.detach(id, stdin)
		f.wantAnswer(id, cfg)
	}
}

// answering is a configuration of a container that answers each line on its stdin.
func (f *fixture) answering() core.Config {
	cfg := f.agent("say ready", "answer", "say the end of stdin")
	cfg.Interactive = true
	return cfg
}

// detach attaches to a container until the context ends. With which error is another
// obligation's affair.
func (f *fixture) detach(id string, stdin io.Reader) {
	f.Helper()
	ctx, cancel := context.WithCancel(f.ctx)
	defer cancel()
	opts := core.AttachOptions{Stdin: stdin, Stdout: io.Discard}
	attached := begin("Attach", func() (struct{}, error) { return struct{}{}, f.rt.Attach(ctx, id, opts) }).on(id)
	attached.goesOn(f)
	cancel()
	_, _ = attached.until("its context has ended").result(f)
}

// wantAnswer checks that an answering container still reads its stdin.
func (f *fixture) wantAnswer(id string, cfg core.Config) {
	f.Helper()
	stdin, typed := io.Pipe()
	defer typed.Close()
	ctx, cancel := context.WithCancel(f.ctx)
	defer cancel()
	output := newLateWriter()
	opts := core.AttachOptions{Stdin: stdin, Stdout: output, TTY: cfg.TTY}
	attached := begin("Attach", func() (struct{}, error) { return struct{}{}, f.rt.Attach(ctx, id, opts) }).on(id)
	typing := begin("a Write to stdin", func() (int, error) { return io.WriteString(typed, "hello\n") }).on(id)
	_, err := typing.until("the next attachment reads it").result(f)
	f.must(err)
	f.awaitOutput(id, "answer to hello")
	cancel()
	_, _ = attached.until("its context has ended").result(f)
}

func stdinStaysOpen(f *fixture) {
	cfg := f.answering()
	stdin, typed := io.Pipe() // stays open
	defer typed.Close()

	id := f.ready(cfg)
	f.detach(id, stdin)
	f.wantAnswer(id, cfg)

	id = f.ready(cfg)
	broken := f.attaching(id, core.AttachOptions{Stdin: io.MultiReader(strings.NewReader("one\n"), stdin), Stdout: brokenWriter{}})
	_, _ = broken.until("its writer fails").result(f)
	f.wantAnswer(id, cfg)

	id = f.create(cfg)
	ctx, cancel := context.WithCancel(f.ctx)
	defer cancel()
	output := newLateWriter()
	opts := core.AttachOptions{Stdin: stdin, Stdout: output}
	started := begin("StartAttached", func() (struct{}, error) { return struct{}{}, f.rt.StartAttached(ctx, id, opts) }).on(id)
	output.await(f)
	cancel()
	_, _ = started.until("its context has ended").result(f)
	f.wantAnswer(id, cfg)
}

// stuckWriter blocks its first Write until it is released, or the case ends.
type stuckWriter struct {
	stuck, release chan struct{}
	once           sync.Once
	ended          <-chan struct{}
}

func (f *fixture) stuckWriter() *stuckWriter {
	return &stuckWriter{stuck: make(chan struct{}), release: make(chan struct{}), ended: f.ctx.Done()}
}

func (w *stuckWriter) Write(p []byte) (int, error) {
	w.once.Do(func() {
		close(w.stuck)
		select {
		case <-w.release:
		case <-w.ended:
		}
	})
	return len(p), nil
}

// slowAttachment holds one attachment up while another, and a reader of the logs, get as
// much as every runtime keeps for the slow one.
func slowAttachment(f *fixture) {
	const line = "0123456789abcde\n"
	const lines = core.AttachBacklog/len(line) - 1 // the first line counts too
	expected := "first\n" + strings.Repeat(line, lines)
	cfg := f.agent("say ready", "line", "say first", "line", fmt.Sprintf(`repeat %d %s\n`, lines, strings.TrimSpace(line)))
	cfg.Interactive = true
	id := f.ready(cfg)
	slow := f.stuckWriter()
	held := f.attaching(id, core.AttachOptions{Stdout: slow})
	held.goesOn(f)
	reader := f.following(id)
	var stdout bytes.Buffer
	stdin, typed := io.Pipe()
	defer typed.Close()
	fast := f.attaching(id, core.AttachOptions{Stdin: stdin, Stdout: &stdout})
	typing := begin("a Write to stdin", func() (int, error) { return io.WriteString(typed, "go\n") }).on(id)
	_, err := typing.until("the attachment reads it").result(f)
	f.must(err)
	select {
	case <-slow.stuck:
	case <-time.After(patience):
		f.Fatal("the slow attachment has received nothing of the first line")
	}
	typing = begin("a Write to stdin", func() (int, error) { return io.WriteString(typed, "go\n") }).on(id)
	_, err = typing.until("the attachment reads it").result(f)
	f.must(err)
	_ = typed.Close()
	_, err = fast.until("the container exits, although another attachment is stuck").result(f)
	f.must(err)
	if stdout.String() != expected {
		f.Errorf("beside an attachment whose writer is stuck, another got %s", firstDifference(stdout.String(), expected))
	}
	out, err := reader.until("the container exits, whoever is attached and slow").result(f)
	f.must(err)
	if out != "ready\n"+expected {
		f.Errorf("beside an attachment whose writer is stuck, a reader of the logs got %s", firstDifference(out, "ready\n"+expected))
	}
	held.goesOn(f)
	close(slow.release)
	_, err = held.until("its writer goes on, and the container has exited").result(f)
	f.must(err)
}

func failingAttachment(f *fixture) {
	cfg := f.agent("say ready", "line", "say answer", "sleep")
	cfg.Interactive = true
	id := f.ready(cfg)
	_, err := f.attaching(id, core.AttachOptions{Stdin: strings.NewReader("go\n"), Stdout: brokenWriter{}}).until("its writer fails").result(f)
	f.wantClass("an attachment to a writer that fails", err, io.ErrClosedPipe)
	f.wantState(id, core.StateRunning)

	cfg.Cmd = agentCommand("say ready", "cat", "say the end", "exit 3")
	id = f.ready(cfg)
	var stdout bytes.Buffer
	_, err = f.attaching(id, core.AttachOptions{Stdin: brokenReader("text\n"), Stdout: &stdout}).result(f)
	f.wantClass("an attachment whose stdin fails", err, io.ErrClosedPipe)
	want(f, "the output after stdin's failure", stdout.String(), "text\nthe end\n")
	code, err := f.waiting(f.ctx, id).until("the failure of stdin is its end").result(f)
	f.must(err)
	want(f, "the exit code after stdin's failure", code, 3)
}

// writersTurn counts how often one of its writers is written to while another is.
type writersTurn struct {
	busy   atomic.Bool
	broken atomic.Int32
}

// watchedWrites is how many of each stream take longer than they need.
const watchedWrites = 10

func (t *writersTurn) of(w io.Writer) io.Writer { return &turnWriter{turn: t, to: w} }

// turnWriter is a pointer, so that runtimes may compare Stdout with Stderr.
type turnWriter struct {
	turn   *writersTurn
	to     io.Writer
	writes int
}

func (w *turnWriter) Write(p []byte) (int, error) {
	if w.turn.busy.CompareAndSwap(false, true) {
		defer w.turn.busy.Store(false)
		if w.writes++; w.writes <= watchedWrites {
			time.Sleep(moment / watchedWrites) // gives the other one a chance
		}
	} else {
		w.turn.broken.Add(1)
	}
	return w.to.Write(p)
}

// startingAttached begins to start attached.
func (f *fixture) startingAttached(id string, opts core.AttachOptions) *call[struct{}] {
	return begin("StartAttached", func() (struct{}, error) { return struct{}{}, f.rt.StartAttached(f.ctx, id, opts) }).on(id).until("the container exits")
}

// shortLives is how many containers write a single line and exit at once.
const shortLives = 15

func startAttached(f *fixture) {
	var expected bytes.Buffer
	const lines = 20_000
	for n := range lines {
		fmt.Fprintln(&expected, n+1)
	}
	id := f.create(f.agent(fmt.Sprint("start count ", lines), fmt.Sprint("stderr count ", lines), "wait"))
	var stdout, stderr bytes.Buffer
	var turn writersTurn
	_, err := f.startingAttached(id, core.AttachOptions{Stdout: turn.of(&stdout), Stderr: turn.of(&stderr)}).result(f)
	f.must(err)
	for stream, got := range map[string]string{"stdout": stdout.String(), "stderr": stderr.String()} {
		if got != expected.String() {
			f.Errorf("%s: %s", stream, firstDifference(got, expected.String()))
		}
	}
	want(f, "how often stdout and stderr were written to at the same time", turn.broken.Load(), 0)
	want(f, "the exit code", f.wait(id), 0)

	const atOnce = 3 // one after the other they take long in sandboxes
	for first := 0; first < shortLives; first += atOnce {
		var lives [atOnce]*call[struct{}]
		var outputs [atOnce]bytes.Buffer
		for i := range lives {
			id := f.create(f.agent(fmt.Sprint("say line ", first+i)))
			lives[i] = f.startingAttached(id, core.AttachOptions{Stdout: &outputs[i]})
		}
		for i, life := range lives {
			_, err := life.result(f)
			f.must(err)
			want(f, "a short life's output", outputs[i].String(), fmt.Sprintf("line %d\n", first+i))
		}
	}
}

func startAttachedFails(f *fixture) {
	f.wantClass("starting attached what is missing", f.rt.StartAttached(f.ctx, f.missing(), core.AttachOptions{}), core.ErrNotFound)
	id := f.create(f.command("/no-such-program"))
	_, err := f.startingAttached(id, core.AttachOptions{}).until("its program cannot run").result(f)
	f.wantField("starting attached a program that does not exist", err, "Cmd")
	f.wantClass("starting attached a program that does not exist", err, fs.ErrNotExist)
	f.startsUnloadable()
	if !optional.CapabilitiesOf(f.rt).TTY {
		return
	}
	for program, class := range map[string]error{"/no-such-program": fs.ErrNotExist, "no-such-program": fs.ErrNotExist, "/etc/passwd": fs.ErrPermission} {
		cfg := f.command(program)
		cfg.TTY = true
		id, opts := f.create(cfg), core.AttachOptions{Stdout: io.Discard, TTY: true}
		_, err := f.startingAttached(id, opts).until("its program cannot run").result(f)
		f.wantField("starting "+program+" on a terminal", err, "Cmd")
		f.wantClass("starting "+program+" on a terminal", err, class)
		if state := f.state(id); state == core.StateRunning {
			f.Errorf("%s is running", program)
		}
	}
}

// unloadable are programs of which only loading them shows that they cannot run.
var unloadable = []struct {
	name, content string
	class         error
}{{"text", "no program\n", fs.ErrPermission}, {"orphan", "#!/no/such/interpreter\n", fs.ErrNotExist}}

// startsUnloadable starts them, where a container can be given files.
func (f *fixture) startsUnloadable() {
	f.Helper()
	if !optional.CapabilitiesOf(f.rt).Mounts {
		return
	}
	directory := f.TempDir()
	for _, program := range unloadable {
		f.must(os.WriteFile(filepath.Join(directory, program.name), []byte(program.content), 0o755))
		cfg := f.command("/mnt/" + program.name)
		cfg.Mounts = []core.MountConfig{{Source: directory, Target: "/mnt"}}
		_, err := f.startingAttached(f.create(cfg), core.AttachOptions{}).result(f)
		f.wantField("starting attached "+program.name, err, "Cmd")
		f.wantClass("starting attached "+program.name, err, program.class)
	}
}

// brokenReader fails after its text.
func brokenReader(text string) io.Reader {
	return io.MultiReader(strings.NewReader(text), iotest.ErrReader(io.ErrClosedPipe))
}

func startAttachedEnds(f *fixture) {
	id := f.create(f.agent("say ready", "sleep"))
	_, err := f.startingAttached(id, core.AttachOptions{Stdout: brokenWriter{}}).until("its writer fails").result(f)
	f.wantClass("an attachment to a writer that fails", err, io.ErrClosedPipe)
	f.wantState(id, core.StateRunning)

	cfg := f.agent("cat", "say the end", "exit 3")
	cfg.Interactive = true
	var stdout bytes.Buffer
	id = f.create(cfg)
	_, err = f.startingAttached(id, core.AttachOptions{Stdin: brokenReader("text\n"), Stdout: &stdout}).result(f)
	f.wantClass("an attachment whose stdin fails", err, io.ErrClosedPipe)
	want(f, "the output after stdin's failure", stdout.String(), "text\nthe end\n")
	want(f, "the exit code after stdin's failure", f.wait(id), 3)

	f.cancelled(f.create(f.ticking()), f.rt.StartAttached)
}

func initialSize(f *fixture) {
	for range 8 {
		cfg := f.agent("size")
		cfg.TTY = true
		var screen bytes.Buffer
		id := f.create(cfg)
		opts := core.AttachOptions{Stdout: &screen, TTY: true, InitialHeight: 40, InitialWidth: 100}
		_, err := f.startingAttached(id, opts).result(f)
		f.must(err)
		want(f, "the size that a program sees at once", strings.TrimSpace(screen.String()), "40 100")
	}
}

// everyByte is a megabyte in which each byte value follows each other one in time.
func everyByte() string {
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(i*7 + i>>8)
	}
	return string(data)
}

func stdinUnchanged(f *fixture) {
	cfg := f.agent("cat", "say the end")
	cfg.Interactive = true
	var stdout bytes.Buffer
	sent := everyByte()
	_, err := f.startingAttached(f.create(cfg), core.AttachOptions{Stdin: strings.NewReader(sent), Stdout: &stdout}).result(f)
	f.must(err)
	if expected := sent + "the end\n"; stdout.String() != expected {
		f.Errorf("what cat has read of a megabyte on stdin, and a last line, came back as %s", firstDifference(stdout.String(), expected))
	}
}

func oneOutput(f *fixture) {
	cfg := f.agent("say out", "stderr say err")
	cfg.TTY = true
	var stdout, stderr bytes.Buffer
	_, err := f.startingAttached(f.create(cfg), core.AttachOptions{Stdout: &stdout, Stderr: &stderr, TTY: true}).result(f)
	f.must(err)
	want(f, "stdout", strings.ReplaceAll(stdout.String(), "\r\n", "\n"), "out\nerr\n")
	want(f, "stderr", stderr.String(), "")
}

func resize(f *fixture) {
	cfg := f.agent("say ready", "line", "size")
	cfg.Interactive, cfg.TTY = true, true
	id := f.create(cfg)
	stdin, typed := io.Pipe()
	defer typed.Close()
	var screen bytes.Buffer
	attached := f.startingAttached(id, core.AttachOptions{Stdin: stdin, Stdout: &screen, TTY: true})
	f.awaitOutput(id, "ready")
	f.must(f.rt.ResizeTTY(f.ctx, id, 33, 111))
	_, err := io.WriteString(typed, "\n")
	f.must(err)
	_, err = attached.result(f)
	f.must(err)
	if !strings.Contains(screen.String(), "33 111") {
		f.Errorf("after the resize the terminal shows %q", screen.String())
	}
}

func attachedSize(f *fixture) {
	cfg := f.agent("say ready", "size 33 111")
	cfg.TTY = true
	id := f.started(cfg)
	f.awaitOutput(id, "ready")
	_, err := f.attaching(id, core.AttachOptions{TTY: true, InitialHeight: 33, InitialWidth: 111}).result(f)
	f.must(err)
	want(f, "the exit code", f.wait(id), 0)

	cfg.Cmd = agentCommand()
	id = f.create(cfg)
	for what, attach := range map[string]func(context.Context, string, core.AttachOptions) error{
		"Attach": f.rt.Attach, "StartAttached": f.rt.StartAttached,
	} {
		f.wantField(what+" with height 65536", attach(f.ctx, id, core.AttachOptions{TTY: true, InitialHeight: 65536, InitialWidth: 80}), "height")
		f.wantField(what+" with width 65536", attach(f.ctx, id, core.AttachOptions{TTY: true, InitialHeight: 24, InitialWidth: 65536}), "width")
	}
	f.wantState(id, core.StateCreated)
}

func resizeWrongState(f *fixture) {
	f.wantClass("resizing what is missing", f.rt.ResizeTTY(f.ctx, f.missing(), 24, 80), core.ErrNotFound)
	cfg := f.idle()
	f.wantClass("resizing what has no terminal", f.rt.ResizeTTY(f.ctx, f.started(cfg), 24, 80), core.ErrInvalidConfig)
	cfg.TTY = true
	f.wantClass("resizing what does not run", f.rt.ResizeTTY(f.ctx, f.create(cfg), 24, 80), core.ErrNotRunning)
}

func resizeOutOfRange(f *fixture) {
	cfg := f.idle()
	cfg.TTY = true
	id := f.started(cfg)
	f.wantField("height 0", f.rt.ResizeTTY(f.ctx, id, 0, 80), "height")
	f.wantField("height 65536", f.rt.ResizeTTY(f.ctx, id, 65536, 80), "height")
	f.wantField("width 0", f.rt.ResizeTTY(f.ctx, id, 24, 0), "width")
	f.wantField("width 65536", f.rt.ResizeTTY(f.ctx, id, 24, 65536), "width")
}
