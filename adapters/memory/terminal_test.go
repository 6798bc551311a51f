package memory_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/moatproject/moat/adapters/memory"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

func onTerminal(script string) core.Config {
	cfg := shell(script)
	cfg.Image, cfg.TTY, cfg.Interactive = memory.BaseImage, true, true
	return cfg
}

func create(t testing.TB, rt core.Runtime, cfg core.Config) string {
	t.Helper()
	id, err := rt.CreateContainer(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// typing attaches to a new container whose script writes ready, and then has text typed.
// Unlike keys, the text's end is no Ctrl-D. It returns what was shown after ready.
func typing(t testing.TB, rt core.Runtime, cfg core.Config, text string) string {
	t.Helper()
	id := create(t, rt, cfg)
	var screen bytes.Buffer
	ready := make(chan struct{})
	keys := io.MultiReader(readerFunc(func([]byte) (int, error) { <-ready; return 0, io.EOF }), strings.NewReader(text))
	ended := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	go func() {
		ended <- rt.StartAttached(ctx, id, core.AttachOptions{Stdin: keys, Stdout: &screen, TTY: true})
	}()
	awaitOutput(t, rt, id, "ready\r\n")
	close(ready)
	if err := <-ended; err != nil {
		t.Fatalf("%q, then %v", screen.String(), err)
	}
	_, shown, _ := strings.Cut(screen.String(), "ready\r\n")
	return shown
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestTerminalOutput(t *testing.T) {
	rt := newRuntime(t, memory.Options{})
	id := create(t, rt, onTerminal("echo out; echo err >&2; printf 'a\\r\\n'"))
	const want = "out\r\nerr\r\na\r\r\n"
	var stdout, stderr, loggedOut, loggedErr bytes.Buffer
	if err := rt.StartAttached(t.Context(), id, core.AttachOptions{Stdout: &stdout, Stderr: &stderr}); err != nil {
		t.Fatal(err)
	}
	if err := rt.StreamLogs(t.Context(), id, optional.LogOptions{Stdout: &loggedOut, Stderr: &loggedErr}); err != nil {
		t.Fatal(err)
	}
	_, all := finish(t, rt, id)
	for where, got := range map[string]string{"attached": stdout.String(), "logs": loggedOut.String(), "all logs": all} {
		if got != want {
			t.Errorf("%s: %q, want %q", where, got, want)
		}
	}
	if stderr.Len() > 0 || loggedErr.Len() > 0 {
		t.Errorf("stderr has %q and %q", stderr.String(), loggedErr.String())
	}
}

func TestTerminalIsSeen(t *testing.T) {
	rt := withProgram(t, showSize)
	for _, test := range []struct {
		script string
		tty    bool
		out    string
	}{
		{"program", true, "24 80\r\n"},
		{"x=$(program); echo $x", true, "24 80\r\n"},
		{"program", false, "inappropriate ioctl for device\n"},
		{"program </dev/null", true, "inappropriate ioctl for device\r\n"},
		{"echo | program", true, "inappropriate ioctl for device\r\n"},
		{"echo $TERM", true, "xterm\r\n"},
		{"echo $TERM", false, "\n"},
	} {
		cfg := onTerminal(test.script)
		cfg.TTY = test.tty
		if _, out := finish(t, rt, start(t, rt, cfg)); out != test.out {
			t.Errorf("%s: %q, want %q", test.script, out, test.out)
		}
	}
}

// showSize is a program that writes the size of the terminal, and again whenever it has
// another one.
func showSize(p *memory.Process) int {
	changed := make(chan int, 1)
	p.Notify(changed, 28)
	show := func() {
		height, width, err := p.TerminalSize(0)
		if err != nil {
			fmt.Fprintln(p.Stdout(), err)
		} else {
			fmt.Fprintln(p.Stdout(), height, width)
		}
	}
	show()
	for len(p.Args()) > 1 { // on and on
		select {
		case <-changed:
			show()
		case <-p.Done():
			return 0
		}
	}
	return 0
}

func TestTyping(t *testing.T) {
	rt := newRuntime(t, memory.Options{})
	for _, test := range []struct{ name, script, keys, shown string }{
		{"a line is shown", "echo ready; read line; echo got $line", "abc\r", "abc\r\ngot abc\r\n"},
		{"ctrl-d ends the input", "echo ready; cat >/dev/null; echo end", "abc\n\x04", "abc\r\nend\r\n"},
		{"ctrl-d within a line does not", "echo ready; cat >/dev/null; echo end", "ab\x04c\r\x04", "abc\r\nend\r\n"},
		{"ctrl-c kills", "echo ready; sleep 1000; echo no", "abc\x03", "abc"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if shown := typing(t, rt, onTerminal(test.script), test.keys); shown != test.shown {
				t.Errorf("%q, want %q", shown, test.shown)
			}
		})
	}
}

func TestEndOfStdinLeavesTerminalOpen(t *testing.T) {
	rt := newRuntime(t, memory.Options{})
	id := start(t, rt, onTerminal("echo ready; read line; echo got $line"))
	awaitOutput(t, rt, id, "ready\r\n")
	silent, left := make(chan error, 1), make(chan struct{})
	go func() {
		silent <- rt.Attach(t.Context(), id, core.AttachOptions{Stdin: readerFunc(func([]byte) (int, error) {
			close(left)
			return 0, io.EOF
		})})
	}()
	<-left
	if err := rt.Attach(t.Context(), id, core.AttachOptions{Stdin: strings.NewReader("line\n")}); err != nil {
		t.Error(err)
	}
	if err := <-silent; err != nil {
		t.Error(err)
	}
	if _, out := finish(t, rt, id); out != "ready\r\nline\r\ngot line\r\n" {
		t.Errorf("%q", out)
	}
}

// TestReadAfterAttachment has a Read of stdin return after its attachment has ended.
func TestReadAfterAttachment(t *testing.T) {
	rt := newRuntime(t, memory.Options{})
	cfg := shell("echo ready; read line; echo got $line")
	cfg.Interactive = true
	id := start(t, rt, cfg)
	awaitReady(t, rt, id)
	ctx, cancel := context.WithCancel(t.Context())
	late := make(chan struct{})
	text := io.MultiReader(readerFunc(func([]byte) (int, error) {
		cancel()
		<-late
		return 0, io.EOF
	}), strings.NewReader("lost\n"))
	if err := rt.Attach(ctx, id, core.AttachOptions{Stdin: text}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	close(late)
	if err := rt.Attach(t.Context(), id, core.AttachOptions{Stdin: strings.NewReader("kept\n")}); err != nil {
		t.Fatal(err)
	}
	if _, out := finish(t, rt, id); out != "ready\ngot kept\n" {
		t.Errorf("%q", out)
	}
}

func TestTerminalWithoutInteractive(t *testing.T) {
	rt := newRuntime(t, memory.Options{})
	cfg := onTerminal("echo ready; read line; echo no")
	cfg.Interactive = false
	id := create(t, rt, cfg)
	attached := make(chan error, 1)
	go func() {
		attached <- rt.StartAttached(t.Context(), id, core.AttachOptions{Stdin: readerFunc(func([]byte) (int, error) {
			t.Error("stdin is read")
			return 0, io.EOF
		})})
	}()
	awaitOutput(t, rt, id, "ready\r\n")
	if err := rt.StopContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := <-attached; err != nil {
		t.Error(err)
	}
	if _, out := finish(t, rt, id); out != "ready\r\n" {
		t.Errorf("%q", out)
	}
}

func TestResizesAreTold(t *testing.T) {
	rt := withProgram(t, showSize)
	cfg := program("for ever")
	cfg.TTY = true
	id := start(t, rt, cfg)
	awaitOutput(t, rt, id, "24 80\r\n")
	for _, size := range []optional.TerminalSize{{Height: 24, Width: 80}, {Height: 1, Width: 65535}, {Height: 1, Width: 65535}, {Height: 2, Width: 3}} {
		if err := rt.ResizeTTY(t.Context(), id, size.Height, size.Width); err != nil {
			t.Fatal(err)
		}
		if size.Width == 65535 {
			awaitOutput(t, rt, id, "1 65535\r\n")
		}
	}
	awaitOutput(t, rt, id, "2 3\r\n")
	if out, err := rt.ContainerLogsAll(t.Context(), id); err != nil || string(out) != "24 80\r\n1 65535\r\n2 3\r\n" {
		t.Errorf("%q, %v: a size that stays is no news", out, err)
	}

	var screen bytes.Buffer
	if _, err := rt.Exec(t.Context(), id, optional.ExecOptions{Cmd: []string{"program"}, AttachOptions: core.AttachOptions{Stdout: &screen}}); err != nil {
		t.Fatal(err)
	}
	if screen.String() != "inappropriate ioctl for device\n" {
		t.Errorf("without a terminal of its own a program sees %q", screen.String())
	}
}

func TestTypingToExec(t *testing.T) {
	rt := withProgram(t, showSize)
	id := start(t, rt, core.Config{Image: memory.BaseImage, Cmd: []string{"sleep", "1000"}})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	sizes := make(chan optional.TerminalSize)
	resized := readerFunc(func([]byte) (int, error) {
		for _, size := range []optional.TerminalSize{{Height: 5, Width: 6}, {}, {Height: 1 << 16, Width: 80}} {
			sizes <- size
		}
		close(sizes) // by now the first two have been dealt with
		return 0, io.EOF
	})
	var screen bytes.Buffer
	opts := optional.ExecOptions{Cmd: []string{"sh", "-c", "read line; read more; echo $line $more $TERM; program"}, Resize: sizes}
	opts.TTY, opts.Stdin, opts.Stdout = true, io.MultiReader(resized, strings.NewReader("a\rb\r")), &screen
	if code, err := rt.Exec(ctx, id, opts); code != 0 || err != nil || screen.String() != "a\r\nb\r\na b xterm\r\n5 6\r\n" {
		t.Errorf("%d, %v, %q", code, err, screen.String())
	}
	opts.Cmd, opts.Stdin, opts.Resize = []string{"sleep", "1000"}, strings.NewReader("\x03"), nil
	if code, err := rt.Exec(ctx, id, opts); code != 130 || err != nil {
		t.Errorf("%d, %v after ctrl-c", code, err)
	}
	if state, err := rt.ContainerState(ctx, id); state != core.StateRunning {
		t.Errorf("the container, which has no terminal, is %s, %v", state, err)
	}
}

func TestImpossibleInitialSize(t *testing.T) {
	rt := newRuntime(t, memory.Options{})
	id := create(t, rt, onTerminal("true"))
	tooHigh := core.AttachOptions{TTY: true, InitialHeight: 1 << 16, InitialWidth: 80}
	if err := rt.StartAttached(t.Context(), id, tooHigh); !errors.Is(err, core.ErrInvalidConfig) || core.FieldOf(err) != "height" {
		t.Errorf("StartAttached: %v", err)
	}
	if state, err := rt.ContainerState(t.Context(), id); state != core.StateCreated {
		t.Errorf("the container is %s, %v", state, err)
	}
	if _, err := rt.Exec(t.Context(), id, optional.ExecOptions{Cmd: []string{"true"}, AttachOptions: tooHigh}); core.FieldOf(err) != "height" {
		t.Errorf("Exec: %v", err)
	}
	if details, err := rt.Inspect(t.Context(), id); !details.TTY {
		t.Errorf("the details know no terminal: %v", err)
	}
}
