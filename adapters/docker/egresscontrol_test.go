package docker

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/egress"
	"github.com/moatproject/moat/core/optional"
)

// otherNetwork is the ID of a network of the run beside the restricted one.
const otherNetwork = "00d1e0c9b8a79685746352413021f0e1d2c3b4a5968778695a4b3c2d1e0f1234"

// controlledEngine is a fake whose run has two networks. The second one, testID, is
// restricted. Its proxy has this environment.
func controlledEngine(t *testing.T, env ...string) *fakeEngine {
	t.Helper()
	engine := startFake(t)
	engine.on("GET /networks", answer(http.StatusOK, []network.Inspect{{ID: otherNetwork, Name: "other"}, {ID: testID, Name: "net", Internal: true}}))
	engine.on("GET /containers/{id}/json", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("id") != proxyName(testID) {
			gone(w, r)
			return
		}
		proxyWith(env...)(w, r)
	})
	return engine
}

// proxyWith describes a proxy with an environment.
func proxyWith(env ...string) http.HandlerFunc {
	return answer(http.StatusOK, container.InspectResponse{
		ContainerJSONBase: &container.ContainerJSONBase{ID: "proxy", State: &container.State{Status: "running", Running: true}},
		Config:            &container.Config{Env: env},
	})
}

const listening = egress.ProxyVariable + `={"listen":"192.0.2.61:3129","token":"secret"}`

func findRestricted(ctx context.Context, r *Runtime, runID string) (optional.RestrictedNetwork, error) {
	return r.NetworkManager().(optional.RestrictedNetworkFinder).FindRestrictedNetwork(ctx, runID)
}

func TestFindRestrictedNetwork(t *testing.T) {
	engine := controlledEngine(t, "PATH=/", listening)
	found, err := findRestricted(t.Context(), engine.runtime(t), "run")
	want := optional.RestrictedNetwork{ID: testID, Proxy: netip.MustParseAddrPort("192.0.2.61:3129"), Container: proxyName(testID), Program: "/proxy"}
	if err != nil || found != want {
		t.Errorf("got %+v, %v; want %+v", found, err, want)
	}
	labels, err := json.Marshal(map[string]map[string]bool{"label": {core.LabelManaged + "=true": true, core.LabelRunID + "=run": true}})
	if err != nil {
		t.Fatal(err)
	}
	engine.wantRequests(t, "GET /networks?filters="+url.QueryEscape(string(labels)),
		"GET /containers/"+proxyName(otherNetwork)+"/json", "GET /containers/"+proxyName(testID)+"/json")
}

// TestRestrictedNetworkIsFoundAsCreated has the process that creates a network and another
// one agree on it.
func TestRestrictedNetworkIsFoundAsCreated(t *testing.T) {
	guard := "ready\n"
	engine, bodies := restrictedEngine(t, &guard, "ready\n")
	r := engine.runtime(t)
	made, err := restrict(t.Context(), r)
	if err == nil {
		err = r.restrictions.of(testID).await(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	proxy := (*bodies)[1] // after the guard
	found, err := findRestricted(t.Context(), controlledEngine(t, proxy.Env...).runtime(t), "run")
	if err != nil || found != made {
		t.Errorf("created %+v, found %+v, %v", made, found, err)
	}
}

func TestNoRestrictedNetworkIsFound(t *testing.T) {
	for name, test := range map[string]struct {
		route   string
		handler http.HandlerFunc
		runID   string
		class   error
		text    string
	}{
		"no network":            {"GET /networks", answer(http.StatusOK, []any{}), "run", core.ErrNotFound, `"run"`},
		"an open network":       {"GET /networks", answer(http.StatusOK, []network.Inspect{{ID: otherNetwork}}), "run", core.ErrNotFound, "no restricted network"},
		"no proxy yet":          {"GET /containers/{id}/json", gone, "run", core.ErrNotRunning, "not there yet"},
		"another's container":   {"GET /containers/{id}/json", proxyWith("PATH=/"), "run", errAny, "names no address"},
		"a broken proxy":        {"GET /containers/{id}/json", proxyWith(egress.ProxyVariable + `={"token":"secret"`), "run", errAny, "names no address"},
		"no address":            {"GET /containers/{id}/json", proxyWith(egress.ProxyVariable + `={"listen":":3128","token":"secret"}`), "run", errAny, "names no address"},
		"the list fails":        {"GET /networks", failure(http.StatusInternalServerError, "disk full"), "run", errAny, "disk full"},
		"the inspection fails":  {"GET /containers/{id}/json", failure(http.StatusInternalServerError, "disk full"), "run", errAny, "disk full"},
		"the connection breaks": {"GET /containers/{id}/json", die, "run", core.ErrUnavailable, ""},
		"no run":                {"GET /networks", failure(http.StatusInternalServerError, "asked"), "", core.ErrInvalidConfig, "runID"},
	} {
		t.Run(name, func(t *testing.T) {
			engine := controlledEngine(t, listening)
			engine.on(test.route, test.handler)
			found, err := findRestricted(t.Context(), engine.runtime(t), test.runID)
			if !matches(err, test.class) || !strings.Contains(err.Error(), test.text) || strings.Contains(err.Error(), "secret") || found != (optional.RestrictedNetwork{}) {
				t.Errorf("got %+v, %v", found, err)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	engine := controlledEngine(t)
	engine.on("GET /networks", func(_ http.ResponseWriter, r *http.Request) { cancel(); <-r.Context().Done() })
	if _, err := findRestricted(ctx, engine.runtime(t), "run"); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled call: %v", err)
	}
	if _, err := findRestricted(t.Context(), startFakePodman(t).runtime(t), "run"); !errors.Is(err, core.ErrUnsupported) {
		t.Errorf("Podman: %v", err)
	}
}
