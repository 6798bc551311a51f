package docker

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/docker/docker/client"
	"github.com/moatproject/moat/core"
)

func TestNewRefusesWhatIsNoEndpoint(t *testing.T) {
	for host, why := range map[string]string{
		"ssh://user@host":                         "ssh -nNT -L",
		"/var/run/docker.sock":                    "unix:// or tcp://",
		"http://127.0.0.1:2375":                   "unix:// or tcp://",
		"unix://relative.sock":                    "not absolute",
		"unix://":                                 "not absolute",
		"tcp://127.0.0.1":                         "no port",
		"tcp://127.0.0.1:":                        "no port",
		"unix:///" + strings.Repeat("long/", 100): "too long",
	} {
		_, err := New(Options{Host: host})
		if !errors.Is(err, core.ErrInvalidConfig) || core.FieldOf(err) != "Host" || !strings.Contains(err.Error(), why) {
			t.Errorf("New with %q: %v, want an invalid Host because of %q", host, err, why)
		}
	}
	if _, err := New(Options{Host: "tcp://127.0.0.1:2376", TLS: &TLS{CA: "/nonexistent/ca.pem"}}); !errors.Is(err, core.ErrInvalidConfig) {
		t.Errorf("New with a missing CA file: %v", err)
	}
}

func TestNewUsesThePlatformsEndpoint(t *testing.T) {
	r, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got := r.engine.DaemonHost(); got != client.DefaultDockerHost {
		t.Errorf("the endpoint is %q, want %q", got, client.DefaultDockerHost)
	}
}

func TestPing(t *testing.T) {
	engine := startFake(t)
	r := engine.runtime(t)
	for want := 1; want <= 3; want++ {
		if err := r.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := engine.pings(); got != want {
			t.Fatalf("after %d calls the engine was pinged %d times", want, got)
		}
	}
	engine.wantRequests(t)
}

func TestPingAfterAnotherCallAsksAgain(t *testing.T) {
	engine := startFake(t)
	r := engine.runtime(t)
	if _, err := r.ContainerState(t.Context(), testID); err != nil {
		t.Fatal(err)
	}
	if err := r.Ping(t.Context()); err != nil || engine.pings() != 2 {
		t.Errorf("Ping: %v, after %d pings", err, engine.pings())
	}
}

func TestVersionIsNegotiatedOnce(t *testing.T) {
	engine := startFake(t)
	r := engine.runtime(t)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, err := r.ContainerState(t.Context(), testID); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := engine.pings(); got != 1 {
		t.Errorf("16 calls at once pinged %d times", got)
	}
	if got := r.engine.ClientVersion(); got != "1.41" {
		t.Errorf("the API's version is %s", got)
	}
}

// While one caller waits for the first answer, another's context may end.
func TestNegotiationIsLeftWithTheContext(t *testing.T) {
	engine := startFake(t)
	held := newGate()
	engine.on("/_ping", held.then(ping("1.41")))
	r := engine.runtime(t)
	first := begin(func() (string, error) { return r.ContainerState(t.Context(), testID) })
	await(t, held.arrived, "the ping")
	ctx, cancel := context.WithCancel(t.Context())
	second := begin(func() (string, error) { return r.ContainerState(ctx, testID) })
	cancel()
	if _, err := second.result(t); !errors.Is(err, context.Canceled) {
		t.Errorf("the second caller got %v", err)
	}
	close(held.open)
	if _, err := first.result(t); err != nil {
		t.Errorf("the first caller got %v", err)
	}
}

func TestAnEndpointWithoutAnEngineIsTold(t *testing.T) {
	engine := startFake(t)
	refused := filepath.Join(t.TempDir(), "refused.sock")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: refused, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	listener.Close()
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	go func() {
		for conn, err := other.Accept(); err == nil; conn, err = other.Accept() {
			_, _ = io.WriteString(conn, "SSH-2.0-server\r\n")
			conn.Close()
		}
	}()

	for _, test := range []struct {
		name, host string
		ping       http.HandlerFunc
		remedy     string
	}{
		{"no socket", "unix:///nonexistent/docker.sock", nil, "Start the engine"},
		{"nobody listens", "unix://" + refused, nil, "Start the engine"},
		{"a server of another protocol", "tcp://" + other.Addr().String(), nil, "Start the engine"},
		{"an engine of Docker 19.03", engine.host, ping("1.40"), "Upgrade the engine"},
		{"an engine that says no version", engine.host, status(http.StatusOK), "Upgrade the engine"},
		{"no engine", engine.host, failure(http.StatusNotFound, "page not found"), "Start the engine"},
		{"an engine that starts", engine.host, failure(http.StatusServiceUnavailable, "starting"), "Start the engine"},
		{"an engine that is broken", engine.host, failure(http.StatusInternalServerError, "broken"), "Start the engine"},
		{"an engine that dies", engine.host, die, "Start the engine"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.ping != nil {
				engine.on("/_ping", test.ping)
			}
			r := engine.runtime(t, func(o *Options) { o.Host = test.host })
			for _, call := range []method{
				{name: "the first Ping", do: func(ctx context.Context, r *Runtime) error { return r.Ping(ctx) }},
				{name: "the second Ping", do: func(ctx context.Context, r *Runtime) error { return r.Ping(ctx) }},
			} {
				err := call.do(t.Context(), r)
				failure, ok := errors.AsType[*core.Error](err)
				if !ok || !errors.Is(err, core.ErrUnavailable) || failure.Object != test.host || !strings.Contains(failure.Remedy, test.remedy) {
					t.Errorf("%s returned %v, want %v for %s with %q", call.name, err, core.ErrUnavailable, test.host, test.remedy)
				}
			}
			for _, method := range methods(test.host) {
				err := method.do(t.Context(), engine.runtime(t, func(o *Options) { o.Host = test.host }))
				failure, ok := errors.AsType[*core.Error](err)
				if !ok || failure.Class != core.ErrUnavailable || failure.Object != method.object || !strings.Contains(failure.Remedy, test.remedy) {
					t.Errorf("%s as the first call returned %v, want %v about %s with %q", method.name, err, core.ErrUnavailable, method.object, test.remedy)
				}
			}
		})
	}
}

func TestPingTellsThatTheSocketIsForbidden(t *testing.T) {
	r := startFake(t).runtime(t)
	forbidden, err := client.NewClientWithOpts(
		client.WithAPIVersionNegotiation(),
		client.WithDialContext(func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", syscall.EACCES)}
		}))
	if err != nil {
		t.Fatal(err)
	}
	r.engine = forbidden
	err = r.Ping(t.Context())
	if !errors.Is(err, core.ErrUnavailable) || !strings.Contains(err.Error(), "usermod -aG docker") {
		t.Errorf("Ping of a socket that is forbidden: %v", err)
	}
}

func TestCloseEndsEverything(t *testing.T) {
	engine := startFake(t)
	held := openGate()
	engine.on("POST /containers/{id}/wait", held.then(hang))
	engine.on("GET /containers/{id}/logs", hang)
	r := engine.started(t)
	stream, err := r.ContainerLogs(t.Context(), testID)
	if err != nil {
		t.Fatal(err)
	}
	reading := begin(func() (int, error) { return stream.Read(make([]byte, 1)) })
	waiting := begin(func() (int64, error) { return r.WaitContainer(t.Context(), testID) })
	await(t, held.arrived, "the wait")
	for range 2 {
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := reading.result(t); !errors.Is(err, core.ErrUnavailable) {
		t.Errorf("Read after Close: %v", err)
	}
	if _, err := waiting.result(t); !errors.Is(err, core.ErrUnavailable) {
		t.Errorf("WaitContainer when the runtime was closed: %v", err)
	}
	for _, method := range methods(engine.host) {
		if err := method.do(t.Context(), r); !errors.Is(err, core.ErrUnavailable) {
			t.Errorf("%s after Close: %v", method.name, err)
		}
	}
	if r.Type() != core.RuntimeDocker || r.GetHostAddress() != "" || r.SupportsHostNetwork() {
		t.Error("what a closed runtime says of itself is wrong")
	}
	if got := len(engine.requests()); got != 2 {
		t.Errorf("a closed runtime has asked for %q", engine.requests()[2:])
	}
}
