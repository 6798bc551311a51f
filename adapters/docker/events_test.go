package docker

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/moatproject/moat/core"
)

// happened is a container's event, some nanoseconds after a time.
func happened(action events.Action, after int64, attributes ...string) events.Message {
	message := events.Message{Type: "container", Action: action, TimeNano: time.Date(2100, 1, 2, 3, 4, 5, 0, time.UTC).UnixNano() + after}
	message.Actor.ID = testID
	message.Actor.Attributes = map[string]string{"name": "named", "image": "image", "team": "blue"}
	for i := 0; i+1 < len(attributes); i += 2 {
		message.Actor.Attributes[attributes[i]] = attributes[i+1]
	}
	return message
}

// sends answers with events, and stays, or ends the connection.
func sends(stays bool, messages ...events.Message) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for _, message := range messages {
			_ = json.NewEncoder(w).Encode(message)
		}
		if stays {
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}
	}
}

// watched collects what a subscription brings, until enough has come.
func watched(t *testing.T, r *Runtime, opts core.EventOptions, enough int) (got []core.Event, last error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	all, err := r.Events(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	for event, err := range all {
		if err != nil {
			return got, err
		}
		if got = append(got, event); len(got) == enough {
			break
		}
	}
	return got, nil
}

func kinds(all []core.Event) (kinds []core.EventType) {
	for _, event := range all {
		kinds = append(kinds, event.Type)
	}
	return kinds
}

func TestEventsRequest(t *testing.T) {
	engine := startFake(t)
	engine.on("GET /events", sends(true, happened("start", 0), happened("die", 1, "exitCode", "7", "execDuration", "3")))
	got, _ := watched(t, engine.runtime(t), core.EventOptions{Container: "named", Since: time.Unix(1, 5)}, 2)
	if len(got) != 2 || got[1].ExitCode != 7 || got[1].Name != "named" || got[1].Image != "image" || len(got[1].Labels) != 1 || got[1].Labels["team"] != "blue" {
		t.Errorf("got %+v", got)
	}
	request, err := url.Parse(strings.TrimPrefix(engine.requests()[0], "GET "))
	if err != nil {
		t.Fatal(err)
	}
	var filter map[string]map[string]bool
	if err := json.Unmarshal([]byte(request.Query().Get("filters")), &filter); err != nil {
		t.Fatal(err)
	}
	if request.Query().Get("since") != "1.000000005" || !filter["label"]["moat.managed=true"] || !filter["container"]["named"] ||
		!filter["type"]["container"] || len(filter["event"]) != len(eventTypes) || len(engine.requests()) != 1 {
		t.Errorf("it asked for %q", engine.requests())
	}
}

// TestEventsAcrossABrokenConnection has the engine replay what it has sent.
func TestEventsAcrossABrokenConnection(t *testing.T) {
	engine := startFake(t)
	first := []events.Message{happened("start", 0), happened("die", 5, "exitCode", "1")}
	engine.on("GET /events", inOrder(
		sends(false, first...),
		sends(false, append(first[1:], happened("start", 5), happened("start", 9))...),
		sends(true, happened("start", 9), happened("die", 12, "exitCode", "2"), happened("destroy", 13)),
	))
	got, err := watched(t, engine.runtime(t), core.EventOptions{}, 6)
	want := []core.EventType{core.EventStarted, core.EventDied, core.EventStarted, core.EventStarted, core.EventDied, core.EventRemoved}
	if !slices.Equal(kinds(got), want) || err != nil {
		t.Errorf("got %v, %v; want %v", kinds(got), err, want)
	}
}

// TestEventsAcrossARestart has the engine forget what happened while it was away.
func TestEventsAcrossARestart(t *testing.T) {
	for name, test := range map[string]struct {
		inspect http.HandlerFunc
		kind    core.EventType
		code    int64
	}{"it has exited": {inspected("exited"), core.EventDied, 3}, "it is gone": {gone, core.EventRemoved, 0}} {
		t.Run(name, func(t *testing.T) {
			engine := startFake(t)
			engine.on("GET /events", inOrder(sends(false, happened("start", 0)), die, die, hang))
			engine.on(inspectRoute, test.inspect)
			got, err := watched(t, engine.runtime(t), core.EventOptions{}, 2)
			if len(got) != 2 || err != nil || got[1].Type != test.kind || got[1].ExitCode != test.code {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
	t.Run("it runs", func(t *testing.T) {
		engine := startFake(t)
		engine.on("GET /events", inOrder(sends(false, happened("start", 0)), die, die, sends(true, happened("destroy", 7))))
		engine.on(inspectRoute, inspected("running"))
		got, _ := watched(t, engine.runtime(t), core.EventOptions{}, 2)
		if !slices.Equal(kinds(got), []core.EventType{core.EventStarted, core.EventRemoved}) {
			t.Errorf("got %+v", got)
		}
	})
}

func TestEventsFaults(t *testing.T) {
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		class   error
	}{
		"no engine":   {die, core.ErrUnavailable},
		"a bad query": {failure(http.StatusBadRequest, "wrong"), core.ErrInvalidConfig},
	} {
		engine := startFake(t)
		engine.on("GET /events", test.handler)
		if _, err := engine.runtime(t).Events(t.Context(), core.EventOptions{}); !errors.Is(err, test.class) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEventsEnd(t *testing.T) {
	engine := startFake(t)
	r := engine.runtime(t)
	ctx, cancel := context.WithCancel(t.Context())
	all, err := r.Events(ctx, core.EventOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	for event, err := range all {
		t.Errorf("after the end of the context: %+v, %v", event, err)
	}
	all, err = r.Events(t.Context(), core.EventOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	var last error
	for _, err := range all {
		last = err
	}
	if !errors.Is(last, core.ErrUnavailable) {
		t.Errorf("after Close: %v", last)
	}
}

func TestCopyRefusals(t *testing.T) {
	engine := startFake(t)
	engine.on("PUT /containers/{id}/archive", func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	r := engine.runtime(t)
	if err := r.CopyTo(t.Context(), testID, "/tmp", strings.NewReader("no archive at all")); core.FieldOf(err) != "archive" {
		t.Errorf("no archive: %v", err)
	}
	broken := errors.New("broken")
	if err := r.CopyTo(t.Context(), testID, "/tmp", io.MultiReader(strings.NewReader("x"), failingReader{broken})); !errors.Is(err, broken) {
		t.Errorf("the caller's failure became %v", err)
	}
	engine = startFake(t)
	r = engine.runtime(t)
	for field, err := range map[string]error{
		"dir":  r.CopyTo(t.Context(), testID, "tmp", strings.NewReader("")),
		"path": func() error { _, err := r.CopyFrom(t.Context(), testID, "tmp"); return err }(),
	} {
		if core.FieldOf(err) != field {
			t.Errorf("a relative %s: %v", field, err)
		}
	}
	if _, err := r.StatPath(t.Context(), testID, ""); core.FieldOf(err) != "path" {
		t.Errorf("no path: %v", err)
	}
	engine.wantRequests(t)
}

type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) { return 0, r.err }

func TestStatsOfWhatDoesNotRun(t *testing.T) {
	engine := startFake(t)
	engine.on("GET /containers/{id}/stats", answer(http.StatusOK, container.StatsResponse{}))
	if _, err := engine.runtime(t).Stats(t.Context(), testID); !errors.Is(err, core.ErrNotRunning) {
		t.Errorf("got %v", err)
	}
}

func TestStatsOf(t *testing.T) {
	got := statsOf(container.StatsResponse{
		CPUStats:    container.CPUStats{CPUUsage: container.CPUUsage{TotalUsage: 7}},
		MemoryStats: container.MemoryStats{Usage: 100, Limit: 200, Stats: map[string]uint64{"inactive_file": 30}},
		PidsStats:   container.PidsStats{Current: 3},
		Networks:    map[string]container.NetworkStats{"eth0": {RxBytes: 1, TxBytes: 2}, "eth1": {RxBytes: 10, TxBytes: 20}},
		BlkioStats: container.BlkioStats{IoServiceBytesRecursive: []container.BlkioStatEntry{
			{Op: "Read", Value: 1}, {Op: "read", Value: 2}, {Op: "Write", Value: 4}, {Op: "write", Value: 8}, {Op: "Total", Value: 99},
		}},
	})
	if got != (core.Stats{CPU: 7, Memory: 70, MemoryLimit: 200, PIDs: 3, NetworkIn: 11, NetworkOut: 22, BlockRead: 3, BlockWrite: 12}) {
		t.Errorf("got %+v", got)
	}
	for cache, want := range map[uint64]uint64{30: 70, 300: 0} {
		if got := usedMemory(container.MemoryStats{Usage: 100, Stats: map[string]uint64{"total_inactive_file": cache}}); got != want {
			t.Errorf("of 100 bytes with a cache of %d, %d are used", cache, got)
		}
	}
}
