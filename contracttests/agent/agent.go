// Package agent is the program of the suite's containers. Each of its arguments is a step,
// which begins with a verb:
//
//	agent "say ready" "sleep 1s" "exit 42"
//
// writes a line, waits for a second and exits with 42. An argument is one step whatever it
// contains, so nothing has to be quoted. Verbs look at the process by system calls, and need
// neither a shell nor another file of the image. Some take a step themselves:
//
//	agent "on TERM after 2s exit 7" "stderr say ready" "sleep"
//
// The same functions run in a container of the in-process runtime: [Run] needs a [Process],
// which is one of the operating system's in Main.
package agent

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"strconv"
	"strings"
	"time"
)

// Process is what the agent needs of the process that it runs in.
type Process interface {
	Args() []string // with the program's name
	Environ() []string
	Dir() (string, error)
	Hostname() (string, error)
	User() (uid, gid int, groups []int, err error)
	Stdin() io.Reader
	Stdout() io.Writer
	Stderr() io.Writer

	// Done is closed when something has ended the process from outside, where the process
	// is a function that has to return then.
	Done() <-chan struct{}

	// Notify sends the numbers of signals that arrive from now on to a channel. They no
	// longer end the process.
	Notify(arrived chan<- int, signals ...int)

	// Kill sends this process a signal.
	Kill(signal int) error

	// Start begins a process beside this one: args has its program and arguments. Its exit
	// status comes through the channel.
	Start(args ...string) (<-chan int, error)

	// TerminalSize returns the size of the terminal that a stream is connected to: 0 is
	// stdin, 1 is stdout, and 2 is stderr. An error says that it is none.
	TerminalSize(stream int) (height, width int, err error)

	OpenFile(name string, flag int, mode fs.FileMode) (io.ReadWriteCloser, error)
}

// Network is what a process has that is on one.
type Network interface {
	Listen(network, address string) (net.Listener, error)
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
	LookupIP(ctx context.Context, network, host string) ([]net.IP, error)
}

// Run takes the steps in turn, and returns the exit status: that of a step "exit", 1 after a
// step that fails, which it reports on stderr, and otherwise 0.
func Run(p Process) int {
	a := &agent{
		Process: p, out: p.Stdout(), todo: p.Args()[1:],
		arrived: make(chan int, 8), handlers: map[int]string{},
	}
	for len(a.todo) > 0 {
		step := a.todo[0]
		a.todo = a.todo[1:]
		err := a.take(step)
		if a.isFailure(err) {
			_, _ = io.WriteString(p.Stderr(), "agent: "+step+": "+err.Error()+"\n")
		}
		if exit, exits := errors.AsType[exitError](err); exits {
			return int(exit)
		}
		if err != nil {
			return 1
		}
	}
	return 0
}

// agent is a run of the program.
type agent struct {
	Process
	out      io.Writer      // where verbs write to
	todo     []string       // the steps that follow
	arrived  chan int       // signals that have a handler
	handlers map[int]string // signal → step, "" ignores it
	started  []<-chan int   // processes that nothing has waited for
}

// hasEnded tells whether something has ended the process from outside.
func (a *agent) hasEnded() bool {
	select {
	case <-a.Done():
		return true
	default:
		return false
	}
}

// isFailure tells whether an error is a step's own: not the end of the process.
func (a *agent) isFailure(err error) bool {
	_, exits := errors.AsType[exitError](err)
	return err != nil && !exits && !a.hasEnded()
}

// exitError is the error that ends a run.
type exitError int

func (s exitError) Error() string { return "exit " + strconv.Itoa(int(s)) }

// errEnded is the error of a step that could not go on because the process has ended.
var errEnded = errors.New("the process has been ended")

// take takes a step.
func (a *agent) take(step string) error {
	name, text, _ := strings.Cut(step, " ")
	do, known := verbs[name]
	if !known {
		return errors.New("there is no such verb")
	}
	return do(a, text)
}

// pause waits, for ever if timer is nil, and handles the signals that arrive meanwhile.
func (a *agent) pause(timer <-chan time.Time) error {
	for {
		select {
		case <-timer:
			return nil
		case <-a.Done():
			return errEnded
		case number := <-a.arrived:
			if step := a.handlers[number]; step != "" {
				if err := a.take(step); err != nil {
					return err
				}
			}
		}
	}
}
