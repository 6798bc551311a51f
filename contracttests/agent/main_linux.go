package agent

import (
	"context"
	"io"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"syscall"
	"unsafe"
)

// Main is the main function of the program agent: it takes the steps that the process's
// arguments are, and exits.
func Main() {
	unhandled := make(chan os.Signal, 1)
	signal.Notify(unhandled, syscall.SIGTERM) // which would not end a container's first process
	go func() {
		<-unhandled
		os.Exit(128 + int(syscall.SIGTERM))
	}()
	os.Exit(Run(operatingSystem{}))
}

// operatingSystem is a process of the operating system.
type operatingSystem struct{}

func (operatingSystem) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, address)
}

func (operatingSystem) LookupIP(ctx context.Context, network, host string) ([]net.IP, error) {
	return net.DefaultResolver.LookupIP(ctx, network, host)
}

func (operatingSystem) Listen(network, address string) (net.Listener, error) {
	return net.Listen(network, address)
}

func (operatingSystem) Args() []string        { return os.Args }
func (operatingSystem) Stdin() io.Reader      { return os.Stdin }
func (operatingSystem) Stdout() io.Writer     { return os.Stdout }
func (operatingSystem) Stderr() io.Writer     { return os.Stderr }
func (operatingSystem) Done() <-chan struct{} { return nil }

func (operatingSystem) Notify(arrived chan<- int, signals ...int) {
	for _, number := range signals {
		caught := make(chan os.Signal, 1)
		signal.Reset(syscall.Signal(number)) // of what main has set
		signal.Notify(caught, syscall.Signal(number))
		go func() {
			for range caught {
				arrived <- number
			}
		}()
	}
}

func (operatingSystem) Kill(number int) error {
	return syscall.Kill(os.Getpid(), syscall.Signal(number))
}

func (operatingSystem) Start(args ...string) (<-chan int, error) {
	child, err := os.StartProcess("/proc/self/exe", args, &os.ProcAttr{Files: []*os.File{nil, os.Stdout, os.Stderr}})
	if err != nil {
		return nil, err
	}
	ended := make(chan int, 1)
	go func() {
		state, _ := child.Wait() // it fails for what is no child only
		ended <- state.ExitCode()
	}()
	return ended, nil
}

func (operatingSystem) Environ() []string         { return os.Environ() }
func (operatingSystem) Dir() (string, error)      { return os.Getwd() }
func (operatingSystem) Hostname() (string, error) { return os.Hostname() }

func (operatingSystem) User() (uid, gid int, groups []int, err error) {
	groups, err = os.Getgroups()
	return os.Getuid(), os.Getgid(), groups, err
}

func (operatingSystem) TerminalSize(stream int) (height, width int, err error) {
	var size struct{ height, width, x, y uint16 } // the kernel's struct winsize
	_, _, failed := syscall.Syscall(syscall.SYS_IOCTL, uintptr(stream), syscall.TIOCGWINSZ, uintptr(unsafe.Pointer(&size)))
	if failed != 0 {
		return 0, 0, failed
	}
	return int(size.height), int(size.width), nil
}

func (operatingSystem) OpenFile(name string, flag int, mode fs.FileMode) (io.ReadWriteCloser, error) {
	return os.OpenFile(name, flag, mode)
}
