package docker

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/moatproject/moat/core"
)

const imageRoute = "GET /images/{name...}"

// ofArchitecture is an image with an entrypoint and a command.
func ofArchitecture(architecture string) http.HandlerFunc {
	return answer(http.StatusOK, map[string]any{
		"Os": "linux", "Architecture": architecture, "Config": map[string]any{"Entrypoint": []string{"entry"}, "Cmd": []string{"usual"}},
	})
}

// TestGateRequests compares the process that is asked for: its command, and its input.
func TestGateRequests(t *testing.T) {
	for _, test := range []struct {
		tty, held, interactive bool
		architecture           string
		want                   string
	}{
		{false, false, false, "amd64", `[] [] stdin false false`},
		{true, false, false, "amd64", `["/.moat-gate" "s" "entry"] ["usual"] stdin false false`},
		{true, false, true, "arm64", `["/.moat-gate" "s" "entry"] ["usual"] stdin true false`},
		{true, false, false, "s390x", `[] [] stdin false false`},
		{false, true, false, "amd64", `["/.moat-gate" "L" "entry"] ["usual"] stdin true true`},
		{false, true, true, "arm64", `["/.moat-gate" "l" "entry"] ["usual"] stdin true true`},
		{true, true, false, "amd64", `["/.moat-gate" "S" "entry"] ["usual"] stdin false false`},
		{false, true, false, "s390x", `Held`},
	} {
		engine := startFake(t)
		engine.on(imageRoute, ofArchitecture(test.architecture))
		var sent container.Config
		engine.on(createRoute, func(w http.ResponseWriter, r *http.Request) {
			if err := json.NewDecoder(r.Body).Decode(&sent); err != nil {
				t.Error(err)
			}
			answer(http.StatusCreated, container.CreateResponse{ID: testID})(w, r)
		})
		cfg := core.Config{Image: "image", TTY: test.tty, Held: test.held, Interactive: test.interactive}
		_, err := engine.runtime(t).CreateContainer(t.Context(), cfg)
		if len(sent.Entrypoint) > 1 { // without the mark
			sent.Entrypoint[1] = sent.Entrypoint[1][:1]
		}
		got := fmt.Sprintf("%q %q stdin %t %t", sent.Entrypoint, sent.Cmd, sent.OpenStdin, sent.StdinOnce)
		if errors.Is(err, core.ErrUnsupported) {
			got = core.FieldOf(err)
		} else if err != nil {
			t.Error(err)
		}
		if got != test.want {
			t.Errorf("%+v: %s", test, got)
		}
		put := slices.ContainsFunc(engine.requests(), func(request string) bool { return strings.HasPrefix(request, "PUT ") })
		if put != strings.Contains(test.want, gatePath) {
			t.Errorf("%+v: the engine was asked for %q", test, engine.requests())
		}
	}
}

// gated takes a byte of a stream's beginning, which must not come before the release,
// tells what its program reads from then on, and ends when that has an end.
func gated(t *testing.T, released *atomic.Bool, read chan<- string) http.HandlerFunc {
	return upgraded(func(conn io.ReadWriter) {
		input := bufio.NewReader(conn)
		for range 2 { // the end of what others have typed, and the mark
			if _, err := input.ReadString('\n'); err != nil {
				return
			}
		}
		if !released.Load() {
			t.Error("the program has begun before its release")
		}
		_, _ = conn.Write(frame(streamStdout, "begun"))
		rest, _ := io.ReadAll(input)
		read <- string(rest)
	})
}

// TestReleaseRequests holds a container that this process has created, and one that it
// has to ask about.
func TestReleaseRequests(t *testing.T) {
	const attach = "POST /containers/" + testID + "/attach?detachKeys=%FF%2C%FE%2C%FF%2C%FE%2C%FF%2C%FE%2C%FF%2C%FE&stderr=1&stdin=1&stdout=1&stream=1"
	const start, wait = "POST /containers/" + testID + "/start", "POST /containers/" + testID + "/wait?condition=not-running"
	const inspect = "GET /containers/" + testID + "/json"
	for _, known := range []bool{true, false} {
		engine := startFake(t)
		engine.on(imageRoute, ofArchitecture("amd64"))
		engine.on(inspectRoute, gatedContainer(gateLine, false))
		var released atomic.Bool
		read, starting := make(chan string, 1), openGate()
		engine.on(attachRoute, gated(t, &released, read))
		engine.on("POST /containers/{id}/start", starting.then(status(http.StatusNoContent)))
		r, want := engine.runtime(t), []string{attach, start, wait}
		if known {
			if _, err := r.CreateContainer(t.Context(), core.Config{Image: "image", Held: true, Interactive: true}); err != nil {
				t.Fatal(err)
			}
		} else {
			want = []string{inspect, attach, inspect, start, inspect, wait}
		}
		before := len(engine.requests())
		var stdout bytes.Buffer
		attached := make(chan error, 1)
		go func() {
			attached <- r.StartAttached(t.Context(), testID, core.AttachOptions{Stdin: strings.NewReader("typed"), Stdout: &stdout})
		}()
		await(t, starting.arrived, "the start")
		released.Store(true)
		if err := r.ReleaseContainer(t.Context(), testID); err != nil {
			t.Fatal(err)
		}
		if err := <-attached; err != nil {
			t.Fatal(err)
		}
		if typed := <-read; stdout.String() != "begun" || typed != "typed" {
			t.Errorf("output %q, input %q", stdout.String(), typed)
		}
		if got := engine.requests()[before:]; !slices.Equal(got, want) {
			t.Errorf("the engine was asked for\n%q, want\n%q", got, want)
		}
	}
}

// gatedContainer describes one that was created with a gate.
func gatedContainer(gate string, tty bool) http.HandlerFunc {
	return answer(http.StatusOK, container.InspectResponse{
		ContainerJSONBase: &container.ContainerJSONBase{ID: testID, State: &container.State{Status: "created"}, HostConfig: &container.HostConfig{}},
		Config: &container.Config{
			Entrypoint: []string{gatePath, gate}, Cmd: []string{"x"}, Tty: tty, OpenStdin: gate == gateLine || gate == gateLastLine, StdinOnce: !tty,
		},
	})
}

// TestReleaseOfATerminal resizes after the release, which is what the gate waits for.
func TestReleaseOfATerminal(t *testing.T) {
	engine := startFake(t)
	starting, resized := openGate(), openGate()
	engine.on("POST /containers/{id}/start", starting.then(status(http.StatusNoContent)))
	engine.on("POST /containers/{id}/resize", resized.then(status(http.StatusOK)))
	engine.on(inspectRoute, gatedContainer(gateHeldSize, true))
	engine.on(attachRoute, upgraded(func(io.ReadWriter) { await(t, resized.arrived, "the resize") }))
	r, attached := engine.runtime(t), make(chan error, 1)
	go func() {
		attached <- r.StartAttached(t.Context(), testID, core.AttachOptions{TTY: true, InitialHeight: 30, InitialWidth: 90})
	}()
	await(t, starting.arrived, "the start")
	select {
	case <-resized.arrived:
		t.Error("the terminal has a size before the release")
	default:
	}
	if err := r.known.holds.AwaitStart(t.Context(), testID); err != nil { // the answer to the start may be on its way
		t.Fatal(err)
	}
	if err := r.ReleaseContainer(t.Context(), testID); err != nil {
		t.Fatal(err)
	}
	err := <-attached
	if err != nil || !slices.Contains(engine.requests(), "POST /containers/"+testID+"/resize?h=30&w=90") {
		t.Errorf("got %v, with %q", err, engine.requests())
	}
}

// TestInputBehindTheGate tells who reads what an attachment types.
func TestInputBehindTheGate(t *testing.T) {
	for gate, want := range map[string]bool{noGate: true, gateLine: true, gateLastLine: false} {
		config := &container.Config{OpenStdin: true, StdinOnce: true}
		if gate != noGate {
			config.Entrypoint = []string{gatePath, gate + "MARK"}
		}
		if got := stdioOf(config); got.stdin != want || got.gate != gate {
			t.Errorf("behind %q: %+v", gate, got)
		}
	}
}
