package gvisor_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/moatproject/moat/adapters/docker"
	"github.com/moatproject/moat/adapters/gvisor"
	"github.com/moatproject/moat/contracttests"
	"github.com/moatproject/moat/core"
	"golang.org/x/sys/unix"
)

func newRuntime(t testing.TB, host string) core.Runtime {
	rt, err := gvisor.New(docker.Options{Host: host}, gvisor.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return rt
}

func TestContract(t *testing.T) {
	engine := os.Getenv("MOAT_TEST_ENGINE")
	contracttests.Run(t, contracttests.Harness{
		Name: "gvisor",
		New:  func(t testing.TB) core.Runtime { return newRuntime(t, engine) },
		Absent: func() string {
			if engine == "" {
				return "MOAT_TEST_ENGINE does not name an engine"
			}
			return ""
		},
		Unreachable: func(t testing.TB) core.Runtime {
			return newRuntime(t, "unix://"+filepath.Join(t.TempDir(), "none.sock"))
		},
		Dial: dialFromEngine,

		Image:            "moat/test-base:latest",
		ConfigImage:      "moat/test-config:latest",
		PullImage:        "127.0.0.1:5000/moat/test-pull:latest",
		MissingImage:     "127.0.0.1:5000/moat/missing:latest",
		UnreachableImage: "127.0.0.1:1/moat/unreachable:latest",
	}, contracttests.Options{
		Unsupported: map[string]string{},
		Golden:      "testdata/contract.golden",
	})
}

func dialFromEngine(ctx context.Context, network, address string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		ns, err := os.Open(os.Getenv("MOAT_TEST_NETNS"))
		if err != nil {
			done <- result{nil, err}
			return
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- result{nil, err}
			return
		}
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}
