package docker

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/moatproject/moat/core"
)

const attachRoute = "POST /containers/{id}/attach"

// upgraded turns a request's connection into a stream, and ends it after talk.
func upgraded(talk func(conn io.ReadWriter)) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
		talk(struct {
			io.Reader
			io.Writer
		}{buffered, conn})
	}
}

// TestStartAttachedRequests attaches before the start, and waits once after the end.
func TestStartAttachedRequests(t *testing.T) {
	engine := startFake(t)
	engine.on(attachRoute, upgraded(func(conn io.ReadWriter) {
		_, _ = conn.Write(frame(streamStdout, "out"))
		_, _ = conn.Write(frame(streamStderr, "err"))
	}))
	r := engine.created(t)
	var stdout, stderr bytes.Buffer
	if err := r.StartAttached(t.Context(), testID, core.AttachOptions{Stdout: &stdout, Stderr: &stderr}); err != nil {
		t.Fatal(err)
	}
	if stdout.String() != "out" || stderr.String() != "err" {
		t.Errorf("stdout is %q, stderr %q", stdout.String(), stderr.String())
	}
	engine.wantRequests(t,
		"POST /containers/"+testID+"/attach?detachKeys=%FF%2C%FE%2C%FF%2C%FE%2C%FF%2C%FE%2C%FF%2C%FE&stderr=1&stdout=1&stream=1",
		"POST /containers/"+testID+"/start",
		"POST /containers/"+testID+"/wait?condition=not-running")
}

func TestAttachFaults(t *testing.T) {
	silent := func(io.ReadWriter) {}
	for name, test := range map[string]struct {
		attach  http.HandlerFunc
		inspect http.HandlerFunc
		wait    http.HandlerFunc
		class   error
	}{
		"the engine refuses":                     {failure(http.StatusNotFound, "No such container: x"), inspected("running"), exits(0), core.ErrNotFound},
		"it is paused":                           {failure(http.StatusConflict, "container x is paused"), inspected("paused"), exits(0), core.ErrInUse},
		"it does not run":                        {upgraded(silent), inspected("exited"), exits(0), core.ErrNotRunning},
		"the engine does not upgrade":            {status(http.StatusInternalServerError), inspected("running"), exits(0), nil},
		"the engine dies instead":                {die, inspected("running"), exits(0), core.ErrUnavailable},
		"the engine dies in the attachment":      {upgraded(silent), inspected("running"), die, core.ErrUnavailable},
		"the engine dies in a frame":             {upgraded(func(conn io.ReadWriter) { _, _ = conn.Write(frame(streamStdout, "cut")[:9]) }), inspected("running"), exits(0), core.ErrUnavailable},
		"the engine reports its own failure":     {upgraded(func(conn io.ReadWriter) { _, _ = conn.Write(frame(streamSystem, "lost")) }), inspected("running"), exits(0), nil},
		"the stream is not multiplexed":          {upgraded(func(conn io.ReadWriter) { _, _ = conn.Write([]byte("plain text")) }), inspected("running"), exits(0), nil},
		"it is gone before it can be waited for": {upgraded(silent), inspected("running"), gone, errNone},
	} {
		t.Run(name, func(t *testing.T) {
			engine := startFake(t)
			engine.on(attachRoute, test.attach)
			engine.on(inspectRoute, test.inspect)
			engine.on("POST /containers/{id}/wait", test.wait)
			err := engine.runtime(t).Attach(t.Context(), testID, core.AttachOptions{})
			switch {
			case errors.Is(test.class, errNone):
				if err != nil {
					t.Error(err)
				}
			case err == nil || (test.class != nil && !errors.Is(err, test.class)):
				t.Errorf("got %v, want %v", err, test.class)
			}
		})
	}
}

// errNone stands for success in tables of failures.
var errNone = errors.New("none")

// TestEndOfStdin closes the container's stdin only where the engine does not take
// that for the end of the attachment.
func TestEndOfStdin(t *testing.T) {
	engine := startFake(t)
	engine.on(attachRoute, upgraded(func(conn io.ReadWriter) {
		sent, _ := io.ReadAll(conn) // to the half-close
		_, _ = conn.Write(frame(streamStdout, "got "+string(sent)))
	}))
	r := engine.runtime(t)
	if _, err := r.CreateContainer(t.Context(), core.Config{Image: "image", Interactive: true}); err != nil {
		t.Fatal(err)
	}
	var stdout bytes.Buffer
	if err := r.StartAttached(t.Context(), testID, core.AttachOptions{Stdin: strings.NewReader("input"), Stdout: &stdout}); err != nil {
		t.Fatal(err)
	}
	if stdout.String() != "got input" {
		t.Errorf("after the end of stdin came %q", stdout.String())
	}
}
