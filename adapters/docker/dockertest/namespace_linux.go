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
	return func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		if namespace == "" {
			return new(net.Dialer).DialContext(ctx, network, address)
		}
		err = inside(namespace, func() error {
			conn, err = new(net.Dialer).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
}

// inside does something in a network namespace: sockets that it opens stay there.
func inside(namespace string, do func() error) (err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for ever: the thread ends with this goroutine
		if err = enter(namespace); err == nil {
			err = do()
		}
	}()
	<-done
	return err
}

func enter(namespace string) error {
	file, err := os.Open(namespace)
	if err != nil {
		return err
	}
	defer file.Close()
	return unix.Setns(int(file.Fd()), unix.CLONE_NEWNET)
}

// ListenIn listens inside the network namespace that a file stands for, "" for this
// process's own. It takes root.
func ListenIn(namespace, network, address string) (listener net.Listener, err error) {
	if namespace == "" {
		return net.Listen(network, address)
	}
	err = inside(namespace, func() error {
		listener, err = net.Listen(network, address)
		return err
	})
	return listener, err
}
