package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/hinshun/vt10x"
	"github.com/moby/term"
)

// person sits at a terminal of their own, in which a command is the session's leader.
type person struct {
	*exec.Cmd
	*user
	keyboard *os.File
	tty      *os.File
	before   term.State
	changed  chan struct{}
	ended    chan struct{} // closed when nothing more can be written

	mu      sync.Mutex
	screen  vt10x.Terminal
	written bytes.Buffer
}

const (
	rows    = 30
	columns = 90
)

// sit starts a command at a terminal of the constants' size.
func (u *user) sit(args ...string) *person {
	u.Helper()
	return u.sitAt([2]int{rows, columns}, args...)
}

func (u *user) sitAt(size [2]int, args ...string) *person {
	u.Helper()
	keyboard, tty, err := pty.Open()
	if err != nil {
		u.Fatal(err)
	}
	// The library leaves it blocking: no Close would then end a Read.
	if err := syscall.SetNonblock(int(keyboard.Fd()), true); err != nil {
		u.Fatal(err)
	}
	p := &person{
		Cmd: u.command(args...), user: u, keyboard: keyboard, tty: tty,
		changed: make(chan struct{}, 1), ended: make(chan struct{}),
		screen: vt10x.New(vt10x.WithSize(size[1], size[0]), vt10x.WithWriter(keyboard)),
	}
	u.Cleanup(p.hangUp)
	p.resize(uint16(size[0]), uint16(size[1]))
	p.before = p.state()
	p.Env = append(p.Env, "TERM=xterm")
	p.Stdin, p.Stdout, p.Stderr = tty, tty, tty
	p.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := p.Start(); err != nil {
		u.Fatal(err)
	}
	go p.watch()
	return p
}

func (p *person) watch() {
	defer close(p.ended)
	buffer := make([]byte, 32<<10)
	for {
		n, err := p.keyboard.Read(buffer)
		p.mu.Lock()
		p.written.Write(buffer[:n])
		_, _ = p.screen.Write(buffer[:n])
		p.mu.Unlock()
		select {
		case p.changed <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

func (p *person) hangUp() {
	p.tty.Close()
	p.keyboard.Close()
}

func (p *person) resize(rows, columns uint16) {
	p.Helper()
	p.mu.Lock()
	p.screen.Resize(int(columns), int(rows))
	p.mu.Unlock()
	if err := pty.Setsize(p.tty, &pty.Winsize{Rows: rows, Cols: columns}); err != nil {
		p.Fatal(err)
	}
}

func (p *person) state() term.State {
	p.Helper()
	state, err := term.SaveState(p.tty.Fd())
	if err != nil {
		p.Fatal(err)
	}
	return *state
}

func (p *person) types(text string) {
	p.Helper()
	if _, err := p.keyboard.WriteString(text); err != nil {
		p.Fatal(err)
	}
}

// looks returns the screen's rows, without the space at their ends.
func (p *person) looks() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	lines := strings.Split(strings.TrimSuffix(p.screen.String(), "\n"), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimRight(line, " ")
	}
	return lines
}

// sees waits until the screen is as it should be.
func (p *person) sees(what string, holds func(rows []string) bool) {
	p.Helper()
	p.seesAfter(what, "", holds)
}

// seesAfter is sees by somebody who types keys as often as the screen stays as it is.
func (p *person) seesAfter(what, keys string, holds func(rows []string) bool) {
	p.Helper()
	deadline, impatient := time.After(patience), time.NewTicker(patience/6)
	defer impatient.Stop()
	for !holds(p.looks()) {
		select {
		case <-p.changed:
		case <-impatient.C:
			p.types(keys)
		case <-deadline:
			p.Fatalf("%q does not show %s:\n%s", p.Args, what, strings.Join(p.looks(), "\n"))
		}
	}
}

// reads waits for a text somewhere on the screen.
func (p *person) reads(text string) {
	p.Helper()
	p.sees(fmt.Sprintf("%q", text), func(rows []string) bool { return strings.Contains(strings.Join(rows, "\n"), text) })
}

// leaves waits for the command's end, and returns its exit status.
func (p *person) leaves() int {
	p.Helper()
	_ = p.Wait()
	if p.state() != p.before {
		p.Errorf("%q left the terminal in another mode than before", p.Args)
	}
	p.tty.Close()
	<-p.ended
	p.keyboard.Close()
	return p.ProcessState.ExitCode()
}

// isPrompted waits until the shell does.
func (p *person) isPrompted() {
	p.Helper()
	p.sees("a prompt", func(rows []string) bool {
		return strings.HasSuffix(strings.TrimRight(strings.Join(rows, "\n"), "\n"), "\n/ #")
	})
}

// isFilled tells whether a program shows the beginning of the test's file, and below it
// what it draws last, a line of its own.
func isFilled(rows []string, size [2]int) bool {
	last := len(rows) - 1
	for i, row := range rows[:last] {
		if row != fmt.Sprintf("%03d%0*d", i+1, size[1]-3, 0) {
			return false
		}
	}
	return len(rows) == size[0] && rows[last] != ""
}

func TestTerminalFullScreen(t *testing.T) {
	for _, sandbox := range sandboxes {
		t.Run(sandbox, func(t *testing.T) {
			u := newUser(t)
			p := u.sit(u.labelled("-it", "--rm", sandbox, image, "sh")...)
			p.isPrompted()
			if p.state() == p.before {
				p.Error("the terminal is not raw")
			}
			p.types(fileOfLines + "\r")
			initial := [2]int{rows, columns}
			for _, program := range []struct {
				start, again, quit string
				sizes              [][2]int
			}{
				{"less -S f", "r", "q", [][2]int{initial}}, // it passes over a resize just before it waits for a key
				// After a resize it and the emulator do not always agree on a row, as with real ones: it can draw again.
				{"vi f", "0\f", ":q\r", [][2]int{initial, {40, 100}, {20, 70}, initial}},
			} {
				p.types("clear; " + program.start + "\r")
				for i, size := range program.sizes {
					if i > 0 {
						p.resize(uint16(size[0]), uint16(size[1]))
					}
					p.seesAfter(fmt.Sprintf("%s at %v", program.start, size), program.again, func(rows []string) bool { return isFilled(rows, size) })
				}
				p.types(program.quit)
			}
			p.types("clear; exit\r")
			want(u, "the exit status", p.leaves(), 0)
		})
	}
}

// TestTerminalSize is about programs that look once.
func TestTerminalSize(t *testing.T) {
	for _, sandbox := range sandboxes {
		t.Run(sandbox, func(t *testing.T) {
			u := newUser(t)
			size := fmt.Sprintf("%d %d", rows, columns)
			p := u.sit(u.labelled("-it", "--rm", sandbox, image, "stty", "size")...)
			p.reads(size)
			want(u, "the exit status of run", p.leaves(), 0)

			name := u.background(sandbox)
			p = u.sit("exec", "-it", name, "sh", "-c", fmt.Sprintf(`stty size; while [ "$(stty size)" = "%s" ]; do sleep 0.1; done; stty size; exit 4`, size))
			p.reads(size)
			p.resize(20, 70)
			p.reads("20 70")
			want(u, "the exit status of exec", p.leaves(), 4)
		})
	}
}

// fileOfLines is a shell's line that fills the file f for isFilled.
const fileOfLines = `printf "%03d$(printf %0200d)\n" $(seq 100) >f`

func TestTerminalDetach(t *testing.T) {
	for _, test := range []struct {
		keys  string
		flags []string
	}{{"\x10\x11", nil}, {"\x10\x11", []string{"--detach-keys", ""}}, {"\x18q", []string{"--detach-keys", "ctrl-x,q"}}} {
		t.Run(fmt.Sprintf("%q %v", test.keys, test.flags), func(t *testing.T) {
			u := newUser(t)
			name := unique(t)
			p := u.sit(slices.Concat(u.labelled("-it", "--rm", "--no-sandbox", "--name", name), test.flags, []string{image, "sh"})...)
			p.isPrompted()
			p.types("echo q $((6 * 7))\r") // a part of the keys is none of them
			p.reads("q 42")
			p.types("echo >/last\r" + test.keys)
			want(u, "the exit status of what is detached", p.leaves(), 0)
			wantText(u, p.written.String(), "moat attach "+name)
			want(u, "the state of what is detached", u.docker("inspect", "-f", "{{.State.Status}}", name), "running")
			want(u, "what is cleaned", len(u.cleaned()), 0)
			u.eventually("what was typed before the keys has arrived", func() bool { return u.moat("exec", name, "test", "-e", "/last").code == 0 })

			p = u.sit(slices.Concat([]string{"attach"}, test.flags, []string{name})...)
			p.types("echo again $((6 * 7))\r")
			p.reads("again 42")
			p.types(test.keys)
			want(u, "the exit status of what is detached again", p.leaves(), 0)

			p = u.sit(slices.Concat([]string{"exec", "-it"}, test.flags, []string{name, "sh"})...)
			p.isPrompted()
			p.types(test.keys)
			want(u, "the exit status of a detached exec", p.leaves(), 0)

			p = u.sit("attach", name)
			p.types("exit 3\r")
			want(u, "the exit status", p.leaves(), 3)
			u.must("rm", name)
		})
	}
}

// TestTerminalAttach comes back to a program that draws only when it is told to.
func TestTerminalAttach(t *testing.T) {
	for _, sandbox := range sandboxes {
		t.Run(sandbox, func(t *testing.T) {
			u := newUser(t)
			name := unique(t)
			p := u.sit(u.labelled("-it", "--rm", sandbox, "--name", name, image, "sh", "-c", fileOfLines+"; vi f; exit 5")...)
			shows := func(size [2]int) {
				p.sees(fmt.Sprintf("the file at %v", size), func(rows []string) bool { return isFilled(rows, size) })
			}
			shows([2]int{rows, columns})
			for _, size := range [][2]int{{rows, columns}, {20, 70}} {
				p.types("\x10\x11")
				want(u, "the exit status of what is detached", p.leaves(), 0)
				p = u.sitAt(size, "attach", name)
				shows(size)
			}
			// What has no size, as some terminals for a moment, is no news.
			if err := pty.Setsize(p.tty, &pty.Winsize{}); err != nil {
				u.Fatal(err)
			}
			p.types(":q\r")
			want(u, "the exit status", p.leaves(), 5)
			if strings.Contains(p.written.String(), "height") {
				u.Errorf("the screen shows %q", p.written.String())
			}
			u.must("rm", name)
		})
	}
}

// TestTerminalResizedBeforeTheStart changes the size after it has been looked at.
func TestTerminalResizedBeforeTheStart(t *testing.T) {
	u := newUser(t)
	gate := u.gate("POST .*/attach$", false)
	p := u.sit(u.labelled("-it", "--rm", "--no-sandbox", image, "sh", "-c", `while [ "$(stty size)" != "20 70" ]; do sleep 0.1; done; echo so`)...)
	gate.await(u)
	p.resize(20, 70)
	u.eventually("there is no terminal yet to resize", func() bool { return gate.answers("POST .*/resize$") })
	gate.pass()
	p.reads("so")
	want(u, "the exit status", p.leaves(), 0)
}

// TestTerminalSignals ends the command line by something else than its keys.
func TestTerminalSignals(t *testing.T) {
	ends := []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT}
	crashes := []syscall.Signal{syscall.SIGABRT, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGILL, syscall.SIGSEGV, syscall.SIGSYS, syscall.SIGTRAP}
	const waits, writes = "while :; do echo ready; sleep 0.1; done", "yes ready"
	for phase, test := range map[string]struct {
		command, script string
		request         string // whose answer is held up
		signals         []syscall.Signal
	}{
		"run, creating":      {"run", waits, "POST .*/containers/create$", ends},
		"run, attaching":     {"run", waits, "POST .*/attach$", ends},
		"run, starting":      {"run", waits, "POST .*/start$", ends},
		"run, running":       {"run", waits, "", slices.Concat(ends, crashes)},
		"run, writing":       {"run", writes, "", ends},
		"run, waiting":       {"run", "true", "POST .*/wait$", ends},
		"attach, inspecting": {"attach", waits, "GET .*/containers/[0-9a-f]+/json$", ends[:1]},
		"attach, attaching":  {"attach", waits, "POST .*/attach$", ends[:2]},
		"attach, running":    {"attach", waits, "", append(crashes[:1:1], ends...)},
		"attach, writing":    {"attach", writes, "", ends[:2]},
		"attach, waiting":    {"attach", "read line", "POST .*/wait$", ends[:2]},
		"exec, creating":     {"exec", waits, "POST .*/containers/[^/]+/exec$", ends[:2]},
		"exec, starting":     {"exec", waits, "POST .*/exec/[^/]+/start$", ends[:2]},
		"exec, running":      {"exec", waits, "", append(crashes[:1:1], ends...)},
		"exec, writing":      {"exec", writes, "", ends[:2]},
		"exec, waiting":      {"exec", "true", "GET .*/exec/[^/]+/json$", ends[:2]},
	} {
		for _, signal := range test.signals {
			t.Run(phase+" "+signal.String(), func(t *testing.T) {
				u := newUser(t)
				args, name := u.labelled("-it", "--rm", "--no-sandbox", image, "sh", "-c", test.script), ""
				switch test.command {
				case "attach":
					name = unique(t)
					u.must(u.labelled("-dit", "--no-sandbox", "--name", name, image, "sh", "-c", test.script)...)
					u.Cleanup(func() { u.docker("rm", "-f", name) })
					args = []string{"attach", "--no-sandbox", name} // the proof of a sandbox has requests of its own
				case "exec":
					name = u.background("--no-sandbox")
					args = []string{"exec", "--no-sandbox", "-it", name, "sh", "-c", test.script}
				}
				gate := &gate{}
				if test.request != "" {
					gate = u.gate(test.request, false)
				}
				p := u.sit(args...)
				switch phase {
				case "run, running", "run, writing", "attach, running", "attach, writing", "exec, running", "exec, writing":
					p.reads("ready")
					if p.state() == p.before {
						p.Error("the terminal is not raw")
					}
				case "attach, waiting":
					gate.await(u)
					p.types("\r")
					u.eventually("the output ends", func() bool { return u.docker("inspect", "-f", "{{.State.Status}}", name) == "exited" })
				default:
					gate.await(u)
				}
				u.signal(p.Cmd, signal)
				if phase == "run, creating" {
					gate.pass()
				}
				want(u, "the exit status", p.leaves(), 128+int(signal))
				if name == "" {
					u.eventually("nothing is left", func() bool { return u.left() == "" })
				} else if phase != "attach, waiting" {
					want(u, "the state of what is somebody else's", u.docker("inspect", "-f", "{{.State.Status}}", name), "running")
				}
			})
		}
	}
}

func TestTerminalGone(t *testing.T) {
	for _, sandbox := range sandboxes {
		t.Run(sandbox, func(t *testing.T) {
			u := newUser(t)
			p := u.sit(u.labelled("-it", "--rm", sandbox, image, "sh")...)
			p.isPrompted()
			p.hangUp()
			_ = p.Wait()
			want(u, "the exit status", p.ProcessState.ExitCode(), 128+int(syscall.SIGHUP))
			want(u, "what is left", u.left(), "")

			name := unique(t)
			u.must(u.labelled("-dit", sandbox, "--name", name, image, "sh")...)
			u.Cleanup(func() { u.docker("rm", "-f", name) })
			for _, command := range [][]string{{"exec", "-it", name, "sh"}, {"attach", name}} {
				p := u.sit(command...)
				p.types("echo $((6 * 7))\r")
				p.reads("42")
				p.hangUp()
				_ = p.Wait()
				want(u, fmt.Sprintf("the exit status of %v", command), p.ProcessState.ExitCode(), 128+int(syscall.SIGHUP))
				want(u, "the state of the container", u.docker("inspect", "-f", "{{.State.Status}}", name), "running")
			}
		})
	}
}

func TestTerminalWithoutEngine(t *testing.T) {
	for op, test := range map[string]struct {
		command []string
		code    int
	}{
		"start attached": {[]string{"run", "-it", "--no-sandbox", image, "sh"}, 125},
		"attach to":      {[]string{"attach", "NAME"}, 1},
		"exec in":        {[]string{"exec", "-it", "NAME", "sh"}, 1},
	} {
		t.Run(op, func(t *testing.T) {
			u := newUser(t)
			name := unique(t)
			u.Cleanup(func() { u.docker("rm", "-f", name) })
			command := test.command
			if command[0] == "run" {
				command = slices.Concat(u.labelled("--name", name), command[1:])
			} else {
				u.must(u.labelled("-dit", "--no-sandbox", "--name", name, image, "sh")...)
				command = slices.Clone(command)
				command[slices.Index(command, "NAME")] = name
			}
			cut := u.cable()
			p := u.sit(command...)
			p.types("echo $((6 * 7))\r")
			p.reads("42")
			cut()
			want(u, "the exit status", p.leaves(), test.code)
			wantText(u, p.written.String(), "moat: docker: "+op, strings.TrimPrefix(u.engine, "tcp://"))
			if strings.Contains(p.written.String(), "remove") {
				u.Errorf("nobody has asked to remove anything: %q", p.written.String())
			}
			want(u, "the state of the workload", u.docker("inspect", "-f", "{{.State.Status}}", name), "running")
			if command[0] == "run" {
				u.engine = os.Getenv(engine)
				u.must("rm", "-f", name)
			}
		})
	}
}

// cable leads to the engine, until it is cut.
func (u *user) cable() (cut func()) {
	u.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		u.Fatal(err)
	}
	ctx, cut := context.WithCancel(u.Context())
	context.AfterFunc(ctx, func() { listener.Close() })
	socket := strings.TrimPrefix(u.engine, "unix://")
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("unix", socket)
			if err != nil {
				near.Close()
				continue
			}
			context.AfterFunc(ctx, func() { near.Close(); far.Close() })
			go func() { _, _ = io.Copy(far, near); _ = far.(*net.UnixConn).CloseWrite() }()
			go func() { _, _ = io.Copy(near, far); near.Close() }()
		}
	}()
	u.engine = "tcp://" + listener.Addr().String()
	return cut
}

// TestTerminalJobControl types the keys that a terminal in another mode would keep.
func TestTerminalJobControl(t *testing.T) {
	for _, sandbox := range sandboxes {
		t.Run(sandbox, func(t *testing.T) {
			u := newUser(t)
			p := u.sit(u.labelled("-it", "--rm", sandbox, image, "sh")...)
			p.isPrompted()
			p.types("echo its; cat\r")
			p.reads("\nits") // before that the shell would have the rest as well
			p.types("first\r")
			p.reads("first\nfirst")
			p.types("\x1a")
			p.reads("Stopped")
			p.isPrompted()
			p.types("fg\r")
			p.reads("fg\ncat")
			p.types("second\r")
			p.reads("second\nsecond")
			p.types("\x03")
			p.isPrompted()
			p.types("echo $((128 + 2)) is $?\r")
			p.reads("130 is 130")
			p.isPrompted()
			p.types("\x04")
			want(u, "the exit status", p.leaves(), 0)
		})
	}
}

// TestTerminalBytes passes on what is no key: all bytes, and text.
func TestTerminalBytes(t *testing.T) {
	for _, sandbox := range sandboxes {
		t.Run(sandbox, func(t *testing.T) {
			u := newUser(t)
			payload := "aäß€😀 "
			for b := 255; b >= 0; b-- { // upwards, the detach keys are among them
				payload += string([]byte{byte(b)})
			}
			p := u.sit(u.labelled("-it", "--rm", sandbox, image, "sh", "-c", fmt.Sprintf("stty raw -echo; echo ready; head -c %d", len(payload)))...)
			p.reads("ready")
			p.types(payload)
			want(u, "the exit status", p.leaves(), 0)
			if got := p.written.String(); !strings.HasSuffix(got, "ready\n"+payload) {
				u.Errorf("got %q, want %q at its end", got, payload)
			}
		})
	}
}
