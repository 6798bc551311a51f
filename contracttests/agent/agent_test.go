package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// process is a test's.
type process struct {
	args           []string
	input          io.Reader
	stdout, stderr bytes.Buffer
	ended          chan struct{}
	arrived        chan<- int
	wanted         []int      // signals
	started        [][]string // the arguments of further processes
	running        chan int   // its last status, which nothing has received
	height         int        // of the terminal, if it is positive
	killed         int        // the signal
}

func (p *process) Args() []string        { return append([]string{"agent"}, p.args...) }
func (p *process) Stdin() io.Reader      { return p.input }
func (p *process) Stdout() io.Writer     { return &p.stdout }
func (p *process) Stderr() io.Writer     { return &p.stderr }
func (p *process) Done() <-chan struct{} { return p.ended }

func (p *process) Notify(arrived chan<- int, signals ...int) {
	p.arrived, p.wanted = arrived, append(p.wanted, signals...)
}

func (p *process) Start(args ...string) (<-chan int, error) {
	p.started = append(p.started, args)
	p.running = make(chan int, 1)
	p.running <- 0
	return p.running, nil
}

func (p *process) Kill(signal int) error {
	p.killed = signal
	close(p.ended)
	return nil
}

func (p *process) Environ() []string                             { return []string{"A=a=a", "EMPTY="} }
func (p *process) Dir() (string, error)                          { return "/work", nil }
func (p *process) Hostname() (string, error)                     { return "host", nil }
func (p *process) User() (uid, gid int, groups []int, err error) { return 1, 2, []int{3, 4}, nil }

// TerminalSize returns a size that grows each time.
func (p *process) TerminalSize(int) (height, width int, err error) {
	if p.height == 0 {
		return 0, 0, errors.New("no terminal")
	}
	p.height++
	return p.height, 80, nil
}

func (p *process) OpenFile(name string, flag int, mode fs.FileMode) (io.ReadWriteCloser, error) {
	return os.OpenFile(name, flag, mode)
}

func TestRun(t *testing.T) {
	for _, test := range []struct {
		steps          []string
		stdout, stderr string
		status         int
	}{
		{steps: nil},
		{steps: []string{"say two  words ", "say"}, stdout: "two  words \n\n"},
		{steps: []string{`print a\n\xff"`}, stderr: "agent: print a\\n\\xff\": invalid syntax\n", status: 1},
		{steps: []string{`print a\n\xff\"`}, stdout: "a\n\xff\""},
		{steps: []string{"exit 7", "say more"}, status: 7},
		{steps: []string{"fly"}, stderr: "agent: fly: there is no such verb\n", status: 1},
		{steps: []string{`repeat 3 a\n`, "repeat 0 b"}, stdout: "a\na\na\n"},
		{steps: []string{"repeat 100001 ab"}, stdout: strings.Repeat("ab", 100001)},
		{steps: []string{"stderr say one", "say two"}, stdout: "two\n", stderr: "one\n"},
		{steps: []string{"cat"}, stdout: "one\ntwo\nthree"},
		{steps: []string{"line", "say then", "cat"}, stdout: "then\ntwo\nthree"},
		{steps: []string{"answer"}, stdout: "answer to one\nanswer to two\nanswer to three\n"},
		{steps: []string{"cat", "line"}, stdout: "one\ntwo\nthree", stderr: "agent: line: EOF\n", status: 1},
		{steps: []string{"count 3", "count 0"}, stdout: "1\n2\n3\n"},
		{steps: []string{"words", "", "exit 3", "a b"}, stdout: "<>\n<exit 3>\n<a b>\n"},
		{steps: []string{"env A", "env EMPTY", "try env B"}, stdout: "a=a\n\nfailed\n"},
		{steps: []string{"env"}, stdout: "A=a=a\nEMPTY=\n"},
		{steps: []string{"dir", "hostname", "user", "groups"}, stdout: "/work\nhost\n1 2\n3 4\n"},
		{steps: []string{"stderr start say child", "wait", "say parent"}, stdout: "parent\n"},
		{steps: []string{"try exit 4"}, status: 4},
		{steps: []string{"retry 2 stderr exit 5"}, status: 5},
		{steps: []string{"try terminal", "try size"}, stdout: "failed\nfailed\n"},
		{steps: []string{"try serve 1", "try ask host 1", "try find host"}, stdout: "failed\nfailed\nfailed\n"},
		{steps: []string{"try hear 1", "try send udp 127.0.0.1:1 x", "try change address 192.0.2.1/32 x", "try tunnel 127.0.0.1:1 - host:1 x"}, stdout: "failed\nfailed\nfailed\nfailed\n"},
		{steps: []string{"try cat /no/such/file", "try say fine"}, stdout: "failed\nfine\n"},
		{steps: []string{"try on BREAKFAST exit 1", "try sleep long", "try exit now"}, stdout: "failed\nfailed\nfailed\n"},
	} {
		p := &process{args: test.steps, input: strings.NewReader("one\ntwo\nthree")}
		status := Run(p)
		if len(p.running) > 0 {
			t.Errorf("the steps %q do not wait", test.steps)
		}
		if status != test.status || p.stdout.String() != test.stdout || p.stderr.String() != test.stderr {
			t.Errorf("the steps %q exit with %d and write %.99q and %.99q, want %d, %.99q and %.99q",
				test.steps, status, &p.stdout, &p.stderr, test.status, test.stdout, test.stderr)
		}
	}
}

func TestFiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	p := &process{args: []string{"append " + file + ` one\n`, "log " + file + " two", "cat " + file, "grep o " + file, "grep w " + file}}
	if status := Run(p); status != 0 || p.stdout.String() != "two\none\ntwo\none\ntwo\ntwo\n" {
		t.Errorf("exit status %d, and the file has %q: %s", status, &p.stdout, &p.stderr)
	}
}

func TestAwaitAndRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		p := &process{args: []string{"try retry 3 cat " + file, "await " + file, "retry 2 cat " + file}}
		time.AfterFunc(450*time.Millisecond, func() { _ = os.WriteFile(file, []byte("there"), 0o644) })
		begun := time.Now()
		status := Run(p)
		if took := time.Since(begun); status != 0 || p.stdout.String() != "failed\nthere" || took != 500*time.Millisecond {
			t.Errorf("it exits with %d after %s and writes %q and %q", status, took, &p.stdout, &p.stderr)
		}
	})
}

// networked is a process whose network has a name for 127.0.0.1.
type networked struct {
	process
	listening chan net.Addr
}

func (p *networked) Listen(network, _ string) (net.Listener, error) {
	listener, err := net.Listen(network, "127.0.0.1:0")
	if err == nil {
		p.listening <- listener.Addr()
	}
	return listener, err
}

func (p *networked) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, strings.Replace(address, "server", "127.0.0.1", 1))
}

func (p *networked) LookupIP(_ context.Context, network, host string) ([]net.IP, error) {
	if network != "ip4" || host != "server" {
		return nil, errors.New("unknown")
	}
	return []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(127, 0, 0, 2)}, nil
}

func TestNetwork(t *testing.T) {
	server := &networked{process: process{args: []string{"serve 1 2"}, ended: make(chan struct{})}, listening: make(chan net.Addr, 2)}
	served := make(chan int)
	go func() { served <- Run(server) }()
	client := &networked{process: process{args: []string{"find server", "try find other"}}}
	for range 2 {
		_, port, _ := net.SplitHostPort((<-server.listening).String())
		client.args = append(client.args, "ask server "+port, "ask server "+port)
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		connection, err := silent.Accept()
		if err == nil {
			connection.Close()
		}
	}()
	_, port, _ := net.SplitHostPort(silent.Addr().String())
	client.args = append(client.args, "try ask server "+port)
	status := Run(client)
	silent.Close()
	if want := "127.0.0.1\n127.0.0.2\nfailed\n" + strings.Repeat("hello\n", 4) + "failed\n"; status != 0 || client.stdout.String() != want {
		t.Errorf("it exits with %d and writes %q and %q", status, &client.stdout, &client.stderr)
	}
	close(server.ended)
	<-served
}

func TestSignals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		p := &process{args: []string{"on USR1 say heard", "on TERM after 2s exit 7", "ignore INT", "start sleep", "every 1s say tick"}}
		status := make(chan int)
		go func() { status <- Run(p) }()
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		for _, number := range []int{2, 10, 15} {
			p.arrived <- number
		}
		if got, took := <-status, time.Since(begun); got != 7 || took != 3500*time.Millisecond {
			t.Errorf("it exits with %d after %s", got, took)
		}
		if got, want := p.stdout.String(), "tick\ntick\nheard\n"; got != want {
			t.Errorf("it writes %q, want %q", got, want)
		}
		if want := []int{10, 15, 2}; !slices.Equal(p.wanted, want) {
			t.Errorf("it handles the signals %v, want %v", p.wanted, want)
		}
		if len(p.started) != 1 {
			t.Fatalf("it starts %q", p.started)
		}
		slices.Sort(p.started[0])
		if want := []string{"agent", "on INT ", "on TERM after 2s exit 7", "on USR1 say heard", "sleep"}; !slices.Equal(p.started[0], want) {
			t.Errorf("it starts %q, want %q", p.started[0], want)
		}
	})
}

// A process that has been ended stops at once, and says nothing.
func TestEnded(t *testing.T) {
	for _, step := range []string{"sleep", "busy", "serve 0", "every 1h sleep 1h", "try sleep"} {
		p := &process{args: []string{step, "say more"}, ended: make(chan struct{})}
		close(p.ended)
		if status := Run(p); status == 0 || p.stdout.Len()+p.stderr.Len() > 0 {
			t.Errorf("%s: it exits with %d and writes %q and %q", step, status, &p.stdout, &p.stderr)
		}
	}
}

func TestTerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &process{args: []string{"terminal", "size", "size 9 80", "size"}, height: 1}
		if status := Run(p); status != 0 || p.stdout.String() != "5 80\n10 80\n" {
			t.Errorf("it exits with %d and writes %q and %q", status, &p.stdout, &p.stderr)
		}
	})
}

func TestDie(t *testing.T) {
	p := &process{args: []string{"die KILL", "say more"}, ended: make(chan struct{})}
	if status := Run(p); status == 0 || p.killed != 9 || p.stdout.Len()+p.stderr.Len() > 0 {
		t.Errorf("it exits with %d after signal %d and writes %q and %q", status, p.killed, &p.stdout, &p.stderr)
	}
}
