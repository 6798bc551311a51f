package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
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
	if err := pty.Setsize(p.keyboard, &pty.Winsize{Rows: rows, Cols: columns}); err != nil {
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
	return p.ProcessState.ExitCode()
}

const prompt = "/ #"

func TestTerminalFullScreen(t *testing.T) {
	for _, sandbox := range sandboxes {
		t.Run(sandbox, func(t *testing.T) {
			u := newUser(t)
			p := u.sit(u.labelled("-it", "--rm", sandbox, image, "sh")...)
			p.reads(prompt)
			if p.state() == p.before {
				p.Error("the terminal is not raw")
			}
			p.types("printf \"%03d$(printf %0200d)\\n\" $(seq 100) >f\r")
			for _, program := range []struct{ start, quit string }{{"less -S f", "q"}, {"vi f", ":q\r"}} {
				p.types("clear; " + program.start + "\r")
				for _, size := range [][2]int{{rows, columns}, {40, 100}, {20, 70}, {rows, columns}} {
					p.resize(uint16(size[0]), uint16(size[1]))
					p.sees(fmt.Sprintf("%s at %v", program.start, size), func(rows []string) bool {
						for i, row := range rows[:len(rows)-1] {
							if row != fmt.Sprintf("%03d%0*d", i+1, size[1]-3, 0) {
								return false
							}
						}
						return len(rows) == size[0]
					})
				}
				p.types(program.quit)
			}
			p.types("clear; exit\r")
			want(u, "the exit status", p.leaves(), 0)
		})
	}
}
