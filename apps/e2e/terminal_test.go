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
		screen: vt10x.New(vt10x.WithSize(columns, rows), vt10x.WithWriter(keyboard)),
	}
	u.Cleanup(p.hangUp)
	p.resize(rows, columns)
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
	deadline := time.After(patience)
	for !holds(p.looks()) {
		select {
		case <-p.changed:
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
			p.types("printf \"%03d$(printf %0200d)\\n\" $(seq 100) >f\r")
			initial := [2]int{rows, columns}
			for _, program := range []struct {
				start, quit string
				sizes       [][2]int
			}{
				{"less -S f", "q", [][2]int{initial}}, // it passes over a resize just before it waits for a key
				{"vi f", ":q\r", [][2]int{initial, {40, 100}, {20, 70}, initial}},
			} {
				p.types("clear; " + program.start + "\r")
				for i, size := range program.sizes {
					if i > 0 {
						p.resize(uint16(size[0]), uint16(size[1]))
					}
					p.sees(fmt.Sprintf("%s at %v", program.start, size), func(rows []string) bool { return isFilled(rows, size) })
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

func TestTerminalDetach(t *testing.T) {
	for keys, flags := range map[string][]string{"\x10\x11": nil, "\x18q": {"--detach-keys", "ctrl-x,q"}} {
		t.Run(fmt.Sprintf("%q", keys), func(t *testing.T) {
			u := newUser(t)
			name := unique(t)
			p := u.sit(slices.Concat(u.labelled("-it", "--rm", "--no-sandbox", "--name", name), flags, []string{image, "sh"})...)
			p.isPrompted()
			p.types("echo q $((6 * 7))\r") // a part of the keys is none of them
			p.reads("q 42")
			p.types(keys)
			want(u, "the exit status of what is detached", p.leaves(), 0)
			wantText(u, p.written.String(), "moat attach "+name)
			want(u, "the state of what is detached", u.docker("inspect", "-f", "{{.State.Status}}", name), "running")
			want(u, "what is cleaned", len(u.rows("clean", "--json")), 0)

			p = u.sit(slices.Concat([]string{"attach"}, flags, []string{name})...)
			p.types("echo again $((6 * 7))\r")
			p.reads("again 42")
			p.types(keys)
			want(u, "the exit status of what is detached again", p.leaves(), 0)

			p = u.sit("attach", name)
			p.types("exit 3\r")
			want(u, "the exit status", p.leaves(), 3)
			u.must("rm", name)
		})
	}
}

// TestTerminalSignals ends the command line by something else than its keys.
func TestTerminalSignals(t *testing.T) {
	for phase, request := range map[string]string{
		"creating": "POST .*/containers/create$", "attaching": "POST .*/attach$", "starting": "POST .*/start$", "running": "", "writing": "",
	} {
		for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT} {
			t.Run(phase+" "+signal.String(), func(t *testing.T) {
				u := newUser(t)
				script := "echo ready; cat"
				if phase == "writing" {
					script = "yes ready"
				}
				var gate *gate
				if request != "" {
					gate = u.gate(request, false)
				}
				p := u.sit(u.labelled("-it", "--rm", "--no-sandbox", image, "sh", "-c", script)...)
				if gate != nil {
					gate.await(u)
				} else {
					p.reads("ready")
					if p.state() == p.before {
						p.Error("the terminal is not raw")
					}
				}
				u.signal(p.Cmd, signal)
				if phase == "creating" {
					gate.pass()
				}
				want(u, "the exit status", p.leaves(), 128+int(signal))
				u.eventually("nothing is left", func() bool { return u.left() == "" })
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
		})
	}
}

func TestTerminalWithoutEngine(t *testing.T) {
	u := newUser(t)
	cut := u.cable()
	name := unique(t)
	p := u.sit(u.labelled("-it", "--no-sandbox", "--name", name, image, "sh")...)
	p.isPrompted()
	cut()
	want(u, "the exit status", p.leaves(), 125)
	wantText(u, p.written.String(), "moat: docker: start attached", u.engine)
	if strings.Contains(p.written.String(), "remove") {
		u.Errorf("nobody has asked to remove anything: %q", p.written.String())
	}
	want(u, "the state of the workload", u.docker("inspect", "-f", "{{.State.Status}}", name), "running")
	u.engine = os.Getenv(engine)
	u.must("rm", "-f", name)
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
