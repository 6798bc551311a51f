package docker

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/moatproject/moat/core"
)

const (
	notRunningURI = "POST /containers/" + testID + "/wait?condition=not-running"
	nextExitURI   = "POST /containers/" + testID + "/wait?condition=next-exit"
	inspectURI    = "GET /containers/" + testID + "/json"
	waitRoute     = "POST /containers/{id}/wait"
	inspectRoute  = "GET /containers/{id}/json"
)

var gone = failure(http.StatusNotFound, "No such container: x")

// TestWaitOfOthers waits for containers of which this process knows nothing.
func TestWaitOfOthers(t *testing.T) {
	twice := []string{nextExitURI, inspectURI}
	thrice := []string{nextExitURI, inspectURI, inspectURI}
	for _, test := range []struct {
		name     string
		wait     http.HandlerFunc
		inspect  http.HandlerFunc
		code     int64
		class    error
		requests []string
	}{
		{"it runs and exits with 7", exits(7), inspected("running"), 7, nil, twice},
		{"it runs and exits with 0", exits(0), inspected("running"), 0, nil, twice},
		{"it has exited", hang, inspected("exited"), 3, nil, twice},
		{"it runs for the first time and exits with 7", exits(7), inspected("created"), 7, nil, twice},
		{"it runs for the first time and exits with 0", exits(0), inOrder(inspected("created"), inspected("running")), 0, nil, thrice},
		{"it is removed before it has run", exits(0), inOrder(inspected("created"), gone), 0, core.ErrNotFound, thrice},
		{"it is removed at once", exits(0), gone, 0, core.ErrNotFound, thrice},
		{"it is killed and removed at once", exits(137), gone, 137, nil, twice},
		{"it is missing", gone, gone, 0, core.ErrNotFound, twice},
		{"its start fails", answer(http.StatusOK, container.WaitResponse{StatusCode: 127, Error: &container.WaitExitError{
			Message: `OCI runtime create failed: exec: "x": executable file not found in $PATH`}}), inspected("created"), 0, core.ErrInvalidConfig, twice},
		{"the engine dies in the wait", cut(raw(" ")), inspected("running"), 0, core.ErrUnavailable, twice},
		{"the engine says nothing", raw(""), inspected("running"), 0, core.ErrUnavailable, twice},
		{"the engine dies before the look", hang, die, 0, core.ErrUnavailable, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			engine := startFake(t)
			engine.on(waitRoute, test.wait)
			engine.on(inspectRoute, test.inspect)
			code, err := engine.runtime(t).WaitContainer(t.Context(), testID)
			if code != test.code || !errors.Is(err, test.class) {
				t.Errorf("got %d, %v; want %d, %v", code, err, test.code, test.class)
			}
			if test.requests != nil {
				engine.wantRequests(t, test.requests...)
			}
		})
	}
}

func TestWaitOfAStartedContainerIsOneRequest(t *testing.T) {
	for name, start := range map[string]string{"by its ID": testID, "by its name": "named"} {
		t.Run("started "+name, func(t *testing.T) {
			engine := startFake(t)
			engine.on(waitRoute, exits(0))
			r := engine.created(t)
			if err := r.StartContainer(t.Context(), start); err != nil {
				t.Fatal(err)
			}
			if code, err := r.WaitContainer(t.Context(), testID); code != 0 || err != nil {
				t.Errorf("got %d, %v", code, err)
			}
			engine.wantRequests(t, "POST /containers/"+start+"/start", notRunningURI)
		})
	}
}

// A name may be another container's by now.
func TestWaitByNameKnowsNothing(t *testing.T) {
	engine := startFake(t)
	engine.on(inspectRoute, inspected("running"))
	engine.on(waitRoute, exits(5))
	if code, err := engine.started(t).WaitContainer(t.Context(), "named"); code != 5 || err != nil {
		t.Errorf("got %d, %v", code, err)
	}
	engine.wantRequests(t, "POST /containers/named/wait?condition=next-exit", "GET /containers/named/json")
}

// The waiter is there before the start, and the container removes itself.
func TestWaitThroughTheFirstRun(t *testing.T) {
	for _, id := range []string{testID, "named"} {
		engine := startFake(t)
		held := newGate()
		engine.on(inspectRoute, inOrder(held.then(inspected("created")), gone))
		exiting := newGate()
		engine.on(waitRoute, exiting.then(exits(0)))
		r := engine.created(t)
		// The wait's header comes first, as an engine sends it.
		engine.on(waitRoute, func(w http.ResponseWriter, request *http.Request) {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			exiting.then(raw(`{"StatusCode":0}`))(w, request)
		})
		waiting := begin(func() (int64, error) { return r.WaitContainer(t.Context(), id) })
		await(t, held.arrived, "the look at the state")
		close(held.open)
		if err := r.StartContainer(t.Context(), testID); err != nil {
			t.Fatal(err)
		}
		close(exiting.open)
		if code, err := waiting.result(t); code != 0 || err != nil {
			t.Errorf("by %q: got %d, %v", id, code, err)
		}
	}
}

// While the start is under way, the engine would say that the container is not running.
func TestWaitDuringTheStartIsForTheNextExit(t *testing.T) {
	engine := startFake(t)
	starting := newGate()
	engine.on("POST /containers/{id}/start", starting.then(status(http.StatusNoContent)))
	engine.on(inspectRoute, inspected("running"))
	engine.on(waitRoute, exits(9))
	r := engine.created(t)
	start := begin(func() (struct{}, error) { return struct{}{}, r.StartContainer(t.Context(), testID) })
	await(t, starting.arrived, "the start")
	if code, err := r.WaitContainer(t.Context(), testID); code != 9 || err != nil {
		t.Errorf("got %d, %v", code, err)
	}
	close(starting.open)
	_, _ = start.result(t)
	engine.wantRequests(t, "POST /containers/"+testID+"/start", nextExitURI, inspectURI)
}

func TestWaitAfterAStartThatFailed(t *testing.T) {
	engine := startFake(t)
	engine.on("POST /containers/{id}/start", failure(http.StatusInternalServerError, "address already in use"))
	engine.on(waitRoute, hang)
	r := engine.created(t)
	if err := r.StartContainer(t.Context(), testID); !errors.Is(err, core.ErrInUse) {
		t.Fatalf("StartContainer: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	held := openGate()
	engine.on(inspectRoute, held.then(inspected("created")))
	waiting := begin(func() (int64, error) { return r.WaitContainer(ctx, testID) })
	await(t, held.arrived, "the look at the state")
	cancel()
	if _, err := waiting.result(t); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v: a container that has not started has no code", err)
	}
}

func TestRemovedContainersAreForgotten(t *testing.T) {
	for name, remove := range map[string]func(*Runtime) error{
		"by ID":   func(r *Runtime) error { return r.RemoveContainer(t.Context(), testID) },
		"by name": func(r *Runtime) error { return r.RemoveContainer(t.Context(), "named") },
		"by others": func(r *Runtime) error {
			if _, err := r.WaitContainer(t.Context(), testID); !errors.Is(err, core.ErrNotFound) {
				return errors.New("it is still there")
			}
			return nil
		},
	} {
		engine := startFake(t)
		engine.on(waitRoute, gone)
		r := engine.started(t)
		if err := remove(r); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if len(r.known.containers)+len(r.known.ids) > 0 {
			t.Errorf("%s: still known are %v and %v", name, r.known.containers, r.known.ids)
		}
	}
}
