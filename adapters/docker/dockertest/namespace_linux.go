package dockertest

import (
	"context"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// DialIn connects from inside the network namespace that a file stands for, "" for
// this process's own. It takes root.
func DialIn(namespace string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		return in(namespace, func() (net.Conn, error) { return new(net.Dialer).DialContext(ctx, network, address) })
	}
}

// ListenIn listens inside a network namespace, as [DialIn] connects.
func ListenIn(namespace, network, address string) (net.Listener, error) {
	return in(namespace, func() (net.Listener, error) { return net.Listen(network, address) })
}

// in opens a socket in a namespace, to which it then belongs for ever.
func in[T any](namespace string, open func() (T, error)) (socket T, err error) {
	if namespace == "" {
		return open()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for ever: the thread ends with this goroutine
		if err = enter(namespace); err == nil {
			socket, err = open()
		}
	}()
	<-done
	return socket, err
}

func enter(namespace string) error {
	file, err := os.Open(namespace)
	if err != nil {
		return err
	}
	defer file.Close()
	return unix.Setns(int(file.Fd()), unix.CLONE_NEWNET)
}
