package docker_test

import (
	"context"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/moatproject/moat/adapters/docker"
	"github.com/moatproject/moat/contracttests"
	"github.com/moatproject/moat/core"
	"golang.org/x/sys/unix"
)

// TestContract runs the suite against the two ends of the engine versions that are
// supported.
func TestContract(t *testing.T) {
	for _, engine := range []struct{ name, suffix string }{{"docker", ""}, {"docker-current", "_CURRENT"}} {
		t.Run(engine.name, func(t *testing.T) {
			host := os.Getenv("MOAT_TEST_ENGINE" + engine.suffix)
			contracttests.Run(t, contracttests.Harness{
				Name:        engine.name,
				New:         func(t testing.TB) core.Runtime { return newRuntime(t, host) },
				Absent:      func() string { return absence(host, "MOAT_TEST_ENGINE"+engine.suffix) },
				Unreachable: func(t testing.TB) core.Runtime { return newRuntime(t, "unix:///nonexistent/docker.sock") },

				Image:            "moat/test-base:latest",
				ConfigImage:      "moat/test-config:latest",
				PullImage:        "127.0.0.1:5000/moat/test-pull:latest",
				MissingImage:     "127.0.0.1:5000/moat/missing:latest",
				UnreachableImage: "127.0.0.1:1/moat/unreachable:latest",

				Unprivileged: lackingCapabilities,
				Dial:         dialIn(os.Getenv("MOAT_TEST_NETNS" + engine.suffix)),
			}, contracttests.Options{
				Golden: "testdata/contract.golden",
			})
		})
	}
}

func newRuntime(t testing.TB, host string) core.Runtime {
	rt, err := docker.New(docker.Options{Host: host})
	if err != nil {
		t.Fatal(err)
	}
	return rt
}

// absence tells why there is no engine to test with, or "".
func absence(host, variable string) string {
	if host == "" {
		return variable + " is not set"
	}
	rt, err := docker.New(docker.Options{Host: host})
	if err != nil {
		return err.Error()
	}
	defer rt.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := rt.Ping(ctx); err != nil {
		return err.Error()
	}
	return ""
}

// lackingCapabilities tells why privileged containers cannot start where this test
// runs, beside the engine: old engines give them all capabilities that there are.
func lackingCapabilities() string {
	for number := range unix.CAP_LAST_CAP + 1 {
		if held, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(number), 0, 0, 0); err == nil && held == 0 {
			return "this machine lacks capabilities"
		}
	}
	return ""
}

// dialIn connects from inside a network namespace, "" for this process's own.
func dialIn(namespace string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		if namespace == "" {
			return new(net.Dialer).DialContext(ctx, network, address)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // for ever: the thread ends with this goroutine
			if err = enter(namespace); err == nil {
				conn, err = new(net.Dialer).DialContext(ctx, network, address)
			}
		}()
		<-done
		return conn, err
	}
}

func enter(namespace string) error {
	file, err := os.Open(namespace)
	if err != nil {
		return err
	}
	defer file.Close()
	return unix.Setns(int(file.Fd()), unix.CLONE_NEWNET)
}
