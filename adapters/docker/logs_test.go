package docker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

const (
	logsRoute   = "GET /containers/{id}/logs"
	eventsRoute = "GET /events"
)

// withTTY describes a running container with a terminal.
var withTTY = answer(http.StatusOK, container.InspectResponse{
	ContainerJSONBase: &container.ContainerJSONBase{ID: testID, State: &container.State{Running: true, StartedAt: "2026-01-02T03:04:05Z"}},
	Config:            &container.Config{Tty: true},
})

func TestLogsInOrderAndApart(t *testing.T) {
	framed := logs(frame(streamStdout, "out "), frame(streamStderr, "err "), frame(streamStdout, "more"))
	for name, test := range map[string]struct {
		inspect        http.HandlerFunc
		logs           http.HandlerFunc
		stdout, stderr string
		all            string
	}{
		"frames":     {inspected("exited"), framed, "out more", "err ", "out err more"},
		"a terminal": {withTTY, raw("plain\r\n"), "plain\r\n", "", "plain\r\n"},
		"nothing":    {inspected("exited"), raw(""), "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			engine := startFake(t)
			engine.on(inspectRoute, test.inspect)
			engine.on(logsRoute, test.logs)
			r := engine.runtime(t)
			if all, err := r.ContainerLogsAll(t.Context(), testID); string(all) != test.all || err != nil {
				t.Errorf("ContainerLogsAll: %q, %v", all, err)
			}
			stream, err := r.ContainerLogs(t.Context(), testID)
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Close()
			if all, err := io.ReadAll(stream); string(all) != test.all || err != nil {
				t.Errorf("ContainerLogs: %q, %v", all, err)
			}
			var stdout, stderr bytes.Buffer
			err = r.StreamLogs(t.Context(), testID, optional.LogOptions{Stdout: &stdout, Stderr: &stderr})
			if stdout.String() != test.stdout || stderr.String() != test.stderr || err != nil {
				t.Errorf("StreamLogs: %q, %q, %v", stdout.String(), stderr.String(), err)
			}
			if err := r.StreamLogs(t.Context(), testID, optional.LogOptions{}); err != nil {
				t.Errorf("StreamLogs to nobody: %v", err)
			}
		})
	}
}

func TestLogsThatBreakOffAreErrors(t *testing.T) {
	half := frame(streamStdout, "half")[:10]
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		class   error
	}{
		"the connection ends":          {cut(logs(frame(streamStdout, "whole"))), core.ErrUnavailable},
		"the frame does not":           {logs(half), core.ErrUnavailable},
		"the connection and the frame": {cut(logs(half)), core.ErrUnavailable},
		"an error of the engine's":     {logs(frame(streamSystem, "disk on fire")), errEngineStream},
		"no frames":                    {raw("plain text"), errAny},
	} {
		t.Run(name, func(t *testing.T) {
			engine := startFake(t)
			r := engine.started(t)
			engine.on(logsRoute, test.handler)
			var stdout bytes.Buffer
			_, errAll := r.ContainerLogsAll(t.Context(), testID)
			stream, err := r.ContainerLogs(t.Context(), testID)
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Close()
			_, errRead := io.Copy(io.Discard, stream)
			errStream := r.StreamLogs(t.Context(), testID, optional.LogOptions{Follow: true, Stdout: &stdout})
			for call, err := range map[string]error{"ContainerLogsAll": errAll, "ContainerLogs": errRead, "StreamLogs": errStream} {
				if !matches(err, test.class) || !errors.As(err, new(*core.Error)) {
					t.Errorf("%s: %v, want %v", call, err, test.class)
				}
			}
		})
	}
}

// failingWriter fails as a connection of the caller's would.
type failingWriter struct{ err error }

func (f failingWriter) Write([]byte) (int, error) { return 0, f.err }

func TestTheCallersWriterIsNotTheEngine(t *testing.T) {
	engine := startFake(t)
	closed := &net.OpError{Op: "write", Err: net.ErrClosed}
	for name, describe := range map[string]http.HandlerFunc{"frames": inspected("running"), "a terminal": withTTY} {
		engine.on(inspectRoute, describe)
		err := engine.runtime(t).StreamLogs(t.Context(), testID, optional.LogOptions{Stdout: failingWriter{closed}})
		if !errors.Is(err, net.ErrClosed) || errors.Is(err, core.ErrUnavailable) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestReadsEndWithCloseAndContext(t *testing.T) {
	engine := startFake(t)
	r := engine.started(t)
	engine.on(logsRoute, hang)
	for name, test := range map[string]struct {
		end  func(stream io.Closer, cancel func())
		want error
	}{
		"Close":               {func(stream io.Closer, _ func()) { stream.Close(); stream.Close() }, errStreamClosed},
		"the context":         {func(_ io.Closer, cancel func()) { cancel() }, context.Canceled},
		"the context, closed": {func(stream io.Closer, cancel func()) { cancel(); stream.Close() }, context.Canceled},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := r.ContainerLogs(ctx, testID)
		if err != nil {
			t.Fatal(err)
		}
		reading := begin(func() (int, error) { return stream.Read(make([]byte, 1)) })
		test.end(stream, cancel)
		if n, err := reading.result(t); n != 0 || !errors.Is(err, test.want) {
			t.Errorf("the Read that %s ended returned %d, %v", name, n, err)
		}
		cancel()
		stream.Close()
	}
}

// event is what an engine tells of testID.
func event(action string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		raw(`{"Type":"container","Action":"`+action+`","Actor":{"ID":"`+testID+`"}}`)(w, r)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
}

// TestFollowingACreatedContainer follows one whose logs the engine ends at once.
func TestFollowingACreatedContainer(t *testing.T) {
	answers := func(handlers ...http.HandlerFunc) func() http.HandlerFunc {
		return func() http.HandlerFunc { return inOrder(handlers...) }
	}
	ended, output := raw(""), logs(frame(streamStdout, "output"))
	for name, test := range map[string]struct {
		inspect http.HandlerFunc
		events  http.HandlerFunc
		logs    func() http.HandlerFunc
		want    string
		class   error
	}{
		"it is started":                       {inspected("created"), event("start"), answers(ended, output), "output", nil},
		"it was started meanwhile":            {inspected("running"), hang, answers(ended, output), "output", nil},
		"it has exited without output":        {inspected("exited"), hang, answers(ended), "", nil},
		"it is removed":                       {inspected("created"), event("destroy"), answers(ended), "", nil},
		"it was removed meanwhile":            {gone, hang, answers(ended), "", nil},
		"it is started and its logs are gone": {inspected("created"), event("start"), answers(ended, gone), "", core.ErrNotFound},
		"the engine dies":                     {inspected("created"), cut(hangNot), answers(ended), "", core.ErrUnavailable},
		"the engine dies before the look":     {die, hang, answers(ended), "", core.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			engine := startFake(t)
			engine.on(inspectRoute, test.inspect)
			engine.on(eventsRoute, test.events)
			engine.on(logsRoute, test.logs())
			stream, err := engine.created(t).ContainerLogs(t.Context(), testID)
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Close()
			reading := begin(func() ([]byte, error) { return io.ReadAll(stream) })
			if got, err := reading.result(t); string(got) != test.want || !errors.Is(err, test.class) || errors.Is(err, io.EOF) {
				t.Errorf("read: got %q, %v; want %q, %v", got, err, test.want, test.class)
			}
			engine.on(logsRoute, test.logs()) // from the beginning again
			copying := begin(func() (string, error) {
				var stdout bytes.Buffer
				err := engine.created(t).StreamLogs(t.Context(), testID, optional.LogOptions{Follow: true, Stdout: &stdout})
				return stdout.String(), err
			})
			if got, err := copying.result(t); got != test.want || !errors.Is(err, test.class) {
				t.Errorf("copied: got %q, %v; want %q, %v", got, err, test.want, test.class)
			}
			filters := `GET /events?filters=%7B%22container%22%3A%7B%22` + testID + `%22%3Atrue%7D%2C%22event%22%3A%7B%22destroy%22%3Atrue%2C%22start%22%3Atrue%7D%7D`
			if !slices.Contains(engine.requests(), filters) {
				t.Errorf("the engine was asked for %q, not for the events of the container", engine.requests())
			}
		})
	}
}

// hangNot answers with nothing.
func hangNot(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }

func TestFollowingACreatedContainerEnds(t *testing.T) {
	engine := startFake(t)
	engine.on(inspectRoute, inspected("created"))
	engine.on(logsRoute, raw(""))
	for name, end := range map[string]func(stream io.Closer, cancel func()){
		"Close":       func(stream io.Closer, _ func()) { stream.Close() },
		"the context": func(_ io.Closer, cancel func()) { cancel() },
	} {
		ctx, cancel := context.WithCancel(t.Context())
		held := openGate()
		engine.on(eventsRoute, held.then(hang))
		stream, err := engine.created(t).ContainerLogs(ctx, testID)
		if err != nil {
			t.Fatal(err)
		}
		reading := begin(func() (int, error) { return stream.Read(make([]byte, 1)) })
		await(t, held.arrived, "the wait for the start")
		end(stream, cancel)
		if _, err := reading.result(t); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("the Read that %s ended returned %v", name, err)
		}
		cancel()
		stream.Close()
	}
}

func TestLogsWithoutFollowingDoNotWait(t *testing.T) {
	engine := startFake(t)
	r := engine.created(t)
	engine.on(logsRoute, raw(""))
	if err := r.StreamLogs(t.Context(), testID, optional.LogOptions{Tail: 5}); err != nil {
		t.Error(err)
	}
	engine.wantRequests(t, strings.TrimSuffix(inspectURI, "json")+"logs?stderr=1&stdout=1&tail=5")
}
