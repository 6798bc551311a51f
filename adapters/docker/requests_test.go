package docker

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/moatproject/moat/core"
)

func TestEveryMethodMakesOneRequest(t *testing.T) {
	engine := startFake(t)
	for _, method := range methods(engine.host) {
		t.Run(method.name, func(t *testing.T) {
			engine.on("GET /containers/{id}/json", inspected("running"))
			r := engine.started(t)
			if err := method.do(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			if method.name == "Ping" {
				engine.wantRequests(t)
				return
			}
			if strings.HasPrefix(method.name, "Copy") { // where the container's files are depends on its runtime
				engine.wantRequests(t, "GET /containers/"+testID+"/json", method.request)
				return
			}
			if method.name == "RemoveNetwork" { // nothing else tells whether it has a guard
				engine.wantRequests(t, method.request, lookForGuard)
				return
			}
			engine.wantRequests(t, method.request)
		})
	}
}

// fault is what may happen to a request, and what the caller has to learn.
type fault struct {
	name    string
	handler http.HandlerFunc
	class   error // nil: any error
	except  string
}

var faults = []fault{
	{"the engine has a defect", failure(http.StatusInternalServerError, "something broke"), nil, ""},
	{"it is not found", failure(http.StatusNotFound, "no such thing"), core.ErrNotFound, "Ping RemoveContainer RemoveImage RemoveNetwork"},
	{"it is in use", failure(http.StatusConflict, "in use"), core.ErrInUse, "Ping RemoveContainer"},
	{"the request is wrong", failure(http.StatusBadRequest, "wrong"), core.ErrInvalidConfig, "Ping"},
	{"a proxy forbids it", failure(http.StatusForbidden, "forbidden"), core.ErrUnavailable, ""},
	{"the engine cannot do it", failure(http.StatusNotImplemented, "unknown"), core.ErrUnsupported, "Ping"},
	{"the connection ends before the answer", die, core.ErrUnavailable, ""},
	{"the connection ends in the answer", cut(raw(`{"`)), core.ErrUnavailable, "Ping StartContainer StopContainer StopContainerTimeout SignalContainer RemoveContainer CopyTo CopyFrom RemoveNetwork"},
}

func TestFaultsAreErrors(t *testing.T) {
	engine := startFake(t)
	usual := usualRoutes()
	for _, fault := range faults {
		for _, method := range methods(engine.host) {
			if strings.Contains(" "+fault.except+" ", " "+method.name+" ") {
				continue
			}
			t.Run(fault.name+"/"+method.name, func(t *testing.T) {
				r := engine.started(t)
				engine.on(method.route, fault.handler)
				defer engine.on(method.route, usual[method.route])
				err := method.do(t.Context(), r)
				failure, ok := errors.AsType[*core.Error](err)
				if !ok || failure.Op == "" || failure.Runtime != core.RuntimeDocker || failure.Object != method.object {
					t.Fatalf("got %#v, want an error about %q", err, method.object)
				}
				if fault.class != nil && !errors.Is(err, fault.class) {
					t.Errorf("got %v, want %v", err, fault.class)
				}
			})
		}
	}
}

func TestEveryMethodEndsWithItsContext(t *testing.T) {
	engine := startFake(t)
	usual := usualRoutes()
	for _, method := range methods(engine.host) {
		t.Run(method.name, func(t *testing.T) {
			r := engine.started(t)
			held := newGate()
			engine.on(method.route, held.then(silence))
			defer engine.on(method.route, usual[method.route])
			ctx, cancel := context.WithCancel(t.Context())
			calling := begin(func() (struct{}, error) { return struct{}{}, method.do(ctx, r) })
			await(t, held.arrived, "the request")
			cancel()
			if _, err := calling.result(t); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want %v", err, context.Canceled)
			}
			if err := method.do(ctx, r); !errors.Is(err, context.Canceled) {
				t.Errorf("with a context that has ended: %v", err)
			}
		})
	}
}

func TestTheCallersDeadlineIsTold(t *testing.T) {
	engine := startFake(t)
	engine.on("GET /containers/{id}/json", silence)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err := engine.runtime(t).ContainerState(ctx, testID)
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, core.ErrTimeout) {
		t.Errorf("got %v", err)
	}
}

func TestRequestsHaveADeadlineOfTheirOwn(t *testing.T) {
	engine := startFake(t)
	usual := usualRoutes()
	unlimited := "CopyTo CopyFrom WaitContainer ContainerLogs ContainerLogsAll StreamLogs PullImage"
	for _, method := range methods(engine.host) {
		if strings.Contains(unlimited, method.name) {
			continue
		}
		t.Run(method.name, func(t *testing.T) {
			r := engine.started(t)
			engine.on(method.route, silence)
			defer engine.on(method.route, usual[method.route])
			r.timeout = time.Millisecond
			err := method.do(t.Context(), r)
			if !errors.Is(err, core.ErrTimeout) || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want %v and not the caller's", err, core.ErrTimeout)
			}
		})
	}
}

func TestTheFirstPingOfAnUnlimitedCallHasADeadline(t *testing.T) {
	engine := startFake(t)
	engine.on("/_ping", silence)
	r := engine.runtime(t)
	r.timeout = time.Millisecond
	if _, err := r.WaitContainer(t.Context(), testID); !errors.Is(err, core.ErrTimeout) {
		t.Errorf("got %v, want %v", err, core.ErrTimeout)
	}
}

func TestIDsStayContainers(t *testing.T) {
	engine := startFake(t)
	r := engine.runtime(t)
	for _, id := range []string{"", ".", "..", "../images/x", "a/b", "/"} {
		for name, err := range map[string]error{
			"RemoveContainer": r.RemoveContainer(t.Context(), id),
			"StopContainer":   r.StopContainer(t.Context(), id),
		} {
			if !errors.Is(err, core.ErrInvalidConfig) {
				t.Errorf("%s of %q: %v", name, id, err)
			}
		}
	}
	for _, ref := range []string{"../containers/" + testID, "UPPER", ""} {
		if err := r.RemoveImage(t.Context(), ref); !errors.Is(err, core.ErrInvalidConfig) {
			t.Errorf("RemoveImage of %q: %v", ref, err)
		}
	}
	engine.wantRequests(t)
}
