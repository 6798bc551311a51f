package docker

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
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

func happenedAt(at time.Time, action events.Action) events.Message {
	message := happened(action, 0)
	message.TimeNano = at.UnixNano()
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
func watched(t *testing.T, r *Runtime, opts optional.EventOptions, enough int) (got []optional.Event, last error) {
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

func kinds(all []optional.Event) (kinds []optional.EventType) {
	for _, event := range all {
		kinds = append(kinds, event.Type)
	}
	return kinds
}

func TestEventsRequest(t *testing.T) {
	engine := startFake(t)
	engine.on("GET /events", sends(true, happened("start", 0), happened("die", 1, "exitCode", "7", "execDuration", "3")))
	got, _ := watched(t, engine.runtime(t), optional.EventOptions{Container: "named", Since: time.Unix(1, 5)}, 2)
	if len(got) != 2 || got[1].ExitCode != 7 || got[1].Name != "named" || got[1].Image != "image" || len(got[1].Labels) != 1 || got[1].Labels["team"] != "blue" {
		t.Errorf("got %+v", got)
	}
	request, err := url.Parse(strings.TrimPrefix(engine.requests()[1], "GET "))
	if err != nil {
		t.Fatal(err)
	}
	var filter map[string]map[string]bool
	if err := json.Unmarshal([]byte(request.Query().Get("filters")), &filter); err != nil {
		t.Fatal(err)
	}
	if request.Query().Get("since") != "1.000000005" || !filter["label"]["moat.managed=true"] || !filter["container"]["named"] ||
		!filter["type"]["container"] || len(filter["event"]) != len(eventTypes) || len(engine.requests()) != 2 {
		t.Errorf("it asked for %q", engine.requests())
	}
}

// sinceOf returns the time from which on a request asks for events.
func sinceOf(t *testing.T, r *http.Request) time.Time {
	t.Helper()
	seconds, nanoseconds, _ := strings.Cut(r.URL.Query().Get("since"), ".")
	s, err := strconv.ParseInt(seconds, 10, 64)
	n, err2 := strconv.ParseInt(nanoseconds, 10, 64)
	if err != nil || err2 != nil {
		t.Errorf("events are asked for since %q", r.URL.Query().Get("since"))
	}
	return time.Unix(s, n)
}

// TestEventsByTheEnginesClock has an engine whose clock is a year behind.
func TestEventsByTheEnginesClock(t *testing.T) {
	engine := startFake(t)
	now := time.Now().AddDate(-1, 0, 0)
	engine.on("GET /info", answer(http.StatusOK, map[string]string{"SystemTime": now.Format(time.RFC3339Nano)}))
	engine.on("GET /events", func(w http.ResponseWriter, r *http.Request) {
		if since := sinceOf(t, r); !since.Equal(now) {
			t.Errorf("events are asked for since %s, at %s", since, now)
		}
		sends(true, happenedAt(now.Add(time.Second), "start"))(w, r)
	})
	if got, err := watched(t, engine.runtime(t), optional.EventOptions{}, 1); len(got) != 1 || err != nil {
		t.Errorf("got %v, %v", got, err)
	}
}

// TestEventsOutOfOrder has events come later than younger ones, at once and after the
// connection has broken.
func TestEventsOutOfOrder(t *testing.T) {
	other := func(message events.Message) events.Message {
		message.Actor.ID = "other"
		return message
	}
	engine := startFake(t)
	first := []events.Message{happened("start", 5), other(happened("start", 3)), happened("die", 4e9), other(happened("die", 6))}
	engine.on("GET /events", inOrder(
		sends(false, first...),
		func(w http.ResponseWriter, r *http.Request) {
			if since := sinceOf(t, r); since.After(time.Unix(0, first[0].TimeNano)) {
				t.Errorf("after %+v, events are asked for since %s", first, since)
			}
			sends(true, append(first, other(happened("destroy", 3e9)))...)(w, r)
		},
	))
	got, err := watched(t, engine.runtime(t), optional.EventOptions{Since: time.Unix(1, 0)}, 5)
	want := []optional.EventType{optional.EventStarted, optional.EventStarted, optional.EventDied, optional.EventDied, optional.EventRemoved}
	if !slices.Equal(kinds(got), want) || err != nil {
		t.Errorf("got %v, %v; want %v", kinds(got), err, want)
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
	got, err := watched(t, engine.runtime(t), optional.EventOptions{}, 6)
	want := []optional.EventType{optional.EventStarted, optional.EventDied, optional.EventStarted, optional.EventStarted, optional.EventDied, optional.EventRemoved}
	if !slices.Equal(kinds(got), want) || err != nil {
		t.Errorf("got %v, %v; want %v", kinds(got), err, want)
	}
}

// listed is the engine's list of testID, which runs.
var listed = answer(http.StatusOK, []container.Summary{{ID: testID, Names: []string{"/named"}, Image: "image", Labels: map[string]string{"team": "blue"}}})

// TestEventsAcrossARestart has the engine forget what happened while it was away.
func TestEventsAcrossARestart(t *testing.T) {
	nothing := answer(http.StatusOK, []container.Summary{})
	for name, test := range map[string]struct {
		before, after http.HandlerFunc // lists
		inspect       http.HandlerFunc
		later         []events.Message // that the engine sends, once it has been looked up
		want          []optional.EventType
	}{
		"it has exited":                {listed, nothing, inspected("exited"), nil, []optional.EventType{optional.EventDied}},
		"it has exited, and is told":   {listed, nothing, inspected("exited"), []events.Message{happened("die", 1), happened("destroy", 2)}, []optional.EventType{optional.EventDied, optional.EventRemoved}},
		"it is gone":                   {listed, nothing, gone, nil, []optional.EventType{optional.EventRemoved}},
		"it is gone, and is told":      {listed, nothing, gone, []events.Message{happened("die", 1), happened("destroy", 2)}, []optional.EventType{optional.EventRemoved}},
		"it has been started":          {nothing, listed, inspected("running"), nil, []optional.EventType{optional.EventStarted}},
		"it has been started, is told": {nothing, listed, inspected("running"), []events.Message{happened("start", 1), happened("die", 2)}, []optional.EventType{optional.EventStarted, optional.EventDied}},
		"it is started again":          {listed, nothing, inspected("exited"), []events.Message{happened("start", 1), happened("die", 2)}, []optional.EventType{optional.EventDied, optional.EventStarted, optional.EventDied}},
		"it runs":                      {listed, listed, inspected("running"), []events.Message{happened("die", 1)}, []optional.EventType{optional.EventDied}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			engine := startFake(t)
			lookedUp := make(chan struct{})
			engine.on("GET /containers/json", inOrder(test.before, func(w http.ResponseWriter, r *http.Request) {
				test.after(w, r)
				close(lookedUp)
			}))
			const other = "another container"
			last := happened("start", 9)
			last.Actor.ID = other
			engine.on("GET /events", inOrder(sends(false), die, die, func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(http.StatusOK)
				_ = http.NewResponseController(w).Flush()
				<-lookedUp
				sends(true, append(test.later, last)...)(w, r)
			}))
			engine.on(inspectRoute, test.inspect)
			var got []optional.Event
			all, err := engine.runtime(t).Events(t.Context(), optional.EventOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for event, err := range all {
				if err != nil {
					t.Fatal(err)
				}
				if event.ID == other {
					break
				}
				got = append(got, event)
			}
			if !slices.Equal(kinds(got), test.want) {
				t.Errorf("got %+v", got)
			}
			for _, event := range got {
				if event.Name != "named" || event.Image != "image" || event.Labels["team"] != "blue" || event.Time.IsZero() {
					t.Errorf("got %+v", event)
				}
			}
		})
	}
}

// TestEventsOfAnEngineThatStaysAway has it refuse, and hang.
func TestEventsOfAnEngineThatStaysAway(t *testing.T) {
	for name, away := range map[string]http.HandlerFunc{"it refuses": die, "it hangs": silence} {
		engine := startFake(t)
		engine.on("GET /events", inOrder(sends(false, happened("start", 0)), away))
		r := engine.runtime(t)
		r.patience = 4 * firstPause
		got, err := watched(t, r, optional.EventOptions{}, 2)
		if len(got) != 1 || !errors.Is(err, core.ErrUnavailable) {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
}

func TestEventsFaults(t *testing.T) {
	for name, test := range map[string]struct {
		route   string
		handler http.HandlerFunc
		class   error
	}{
		"no engine":            {"GET /events", die, core.ErrUnavailable},
		"no engine's time":     {"GET /info", die, core.ErrUnavailable},
		"no list":              {"GET /containers/json", die, core.ErrUnavailable},
		"a bad query":          {"GET /events", failure(http.StatusBadRequest, "wrong"), core.ErrInvalidConfig},
		"an engine that hangs": {"GET /events", silence, core.ErrTimeout},
	} {
		engine := startFake(t)
		engine.on(test.route, test.handler)
		r := engine.runtime(t)
		if errors.Is(test.class, core.ErrTimeout) {
			r.timeout = time.Second
		}
		for range 20 { // a refusal that is noticed later passes now and then
			if _, err := r.Events(t.Context(), optional.EventOptions{}); !errors.Is(err, test.class) {
				t.Errorf("%s: %v", name, err)
			}
			if errors.Is(test.class, core.ErrTimeout) {
				break
			}
		}
	}
}

func TestRecentEventsAreBounded(t *testing.T) {
	var recent recentEvents
	for n := range int64(3 * eventsRemember) {
		if event := (recentEvent{timeNano: n}); !recent.add(event) || recent.add(event) {
			t.Fatalf("event %d is not told once", n)
		}
	}
	if len(recent.known) != eventsRemember || len(recent.order) != eventsRemember {
		t.Errorf("%d and %d are remembered", len(recent.known), len(recent.order))
	}
}

func TestEventsEnd(t *testing.T) {
	engine := startFake(t)
	r := engine.runtime(t)
	ctx, cancel := context.WithCancel(t.Context())
	all, err := r.Events(ctx, optional.EventOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	for event, err := range all {
		t.Errorf("after the end of the context: %+v, %v", event, err)
	}
	all, err = r.Events(t.Context(), optional.EventOptions{})
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
	if got != (optional.Stats{CPU: 7, Memory: 70, MemoryLimit: 200, PIDs: 3, NetworkIn: 11, NetworkOut: 22, BlockRead: 3, BlockWrite: 12}) {
		t.Errorf("got %+v", got)
	}
	for cache, want := range map[uint64]uint64{30: 70, 300: 0} {
		if got := usedMemory(container.MemoryStats{Usage: 100, Stats: map[string]uint64{"total_inactive_file": cache}}); got != want {
			t.Errorf("of 100 bytes with a cache of %d, %d are used", cache, got)
		}
	}
}
