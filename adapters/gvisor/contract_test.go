package gvisor

import (
	"context"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/docker/docker/client"
	"github.com/moatproject/moat/adapters/docker"
	"github.com/moatproject/moat/contracttests"
	"github.com/moatproject/moat/core"
	"golang.org/x/sys/unix"
)

const (
	baseImage   = "moat/test-base:latest"
	harnessName = "gvisor"
)

func TestContract(t *testing.T) {
	host := os.Getenv("MOAT_TEST_ENGINE")
	cache := &memoryCache{} // or every case's runtime would verify anew
	open := func(t testing.TB, host string) core.Runtime {
		rt, err := New(docker.Options{Host: host}, Options{Cache: cache})
		if err != nil {
			t.Fatal(err)
		}
		return rt
	}
	contracttests.Run(t, contracttests.Harness{
		Name:        harnessName,
		New:         func(t testing.TB) core.Runtime { return open(t, host) },
		Absent:      absence,
		Unreachable: func(t testing.TB) core.Runtime { return open(t, "unix:///nonexistent/docker.sock") },

		Image:            baseImage,
		ConfigImage:      "moat/test-config:latest",
		PullImage:        "127.0.0.1:5000/moat/test-pull:latest",
		MissingImage:     "127.0.0.1:5000/moat/missing:latest",
		UnreachableImage: "127.0.0.1:1/moat/unreachable:latest",

		Dial: dialIn(os.Getenv("MOAT_TEST_NETNS")),
	}, contracttests.Options{
		Unsupported: map[string]string{
			"CF-12": "gVisor has a network stack of its own",
		},
		Golden: "testdata/contract.golden",
	})
}

// absence tells why there is no engine to test with, or "".
func absence() string {
	host := os.Getenv("MOAT_TEST_ENGINE")
	if host == "" {
		return "MOAT_TEST_ENGINE is not set"
	}
	api, err := client.NewClientWithOpts(client.WithHost(host))
	if err != nil {
		return err.Error()
	}
	defer api.Close()
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	if _, err := api.Ping(ctx); err != nil {
		return err.Error()
	}
	return ""
}

// realEngine returns a client of the engine to test with. Its absence skips the
// test, unless CONTRACT_REQUIRED names this adapter.
func realEngine(t *testing.T) client.APIClient {
	t.Helper()
	if reason := absence(); reason != "" {
		if slices.Contains(strings.Split(os.Getenv("CONTRACT_REQUIRED"), ","), harnessName) {
			t.Fatal(reason)
		}
		t.Skip(reason)
	}
	return newClient(t, os.Getenv("MOAT_TEST_ENGINE"))
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
