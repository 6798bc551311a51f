package docker

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

var killOfGuard = "POST /containers/" + guardName(testID) + "/kill?signal=KILL"

// killedUnguarded is the answer of an engine on which no network has a guard.
func killedUnguarded(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.PathValue("id"), "moat-guard-") {
		gone(w, r)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// guardEngine is a fake on which a network can be guarded. The guard says what these logs
// have.
func guardEngine(t *testing.T, said ...string) (engine *fakeEngine, bodies *[]container.CreateRequest) {
	t.Helper()
	if said == nil {
		said = []string{"ready 40000\n", "ready 40000\ndropped 3 arrived 0 at 40000\n"}
	}
	engine = startFake(t)
	engine.on("GET /version", answer(http.StatusOK, map[string]string{"Version": "29", "Arch": "amd64"}))
	engine.on("POST /containers/{id}/kill", status(http.StatusNoContent))
	engine.on("GET /containers/{id}/json", inspected("running"))
	var answers []http.HandlerFunc
	for _, text := range said {
		answers = append(answers, logs(frame(streamStderr, text)))
	}
	engine.on("GET /containers/{id}/logs", inOrder(answers...))
	bodies = &[]container.CreateRequest{}
	engine.on("POST /containers/create", recorded(bodies, answer(http.StatusCreated, container.CreateResponse{ID: testID})))
	return engine, bodies
}

// TestGuard has an internal network whose host drops what its bridge hands it.
func TestGuard(t *testing.T) {
	engine, bodies := guardEngine(t)
	networks := engine.runtime(t).NetworkManager().(optional.NetworkCreator)
	id, err := networks.CreateNetworkFrom(t.Context(), optional.NetworkConfig{Name: "net", Subnet: "192.0.2.0/26", Internal: true})
	if err != nil || id != testID {
		t.Fatal(id, err)
	}
	if len(*bodies) != 1 {
		t.Fatalf("it has created %+v", *bodies)
	}
	guard := (*bodies)[0]
	if !slices.Equal(guard.Cmd, []string{"br-" + testID[:12]}) || guard.Labels[core.LabelServes] != testID || guard.Labels[core.LabelRole] != core.RoleAdapter {
		t.Errorf("it is for %q, with the labels %v", guard.Cmd, guard.Labels)
	}
	host := guard.HostConfig
	if host.NetworkMode != network.NetworkHost || !slices.Equal(host.CapAdd, []string{"CAP_NET_ADMIN"}) || !slices.Equal(host.CapDrop, []string{"ALL"}) ||
		!host.ReadonlyRootfs || !slices.Contains(host.SecurityOpt, "no-new-privileges") || *host.PidsLimit != helperThreads {
		t.Errorf("it has %+v", host)
	}
	if asked := engine.requests(); !slices.Contains(asked, "POST /containers/"+guardName(testID)+"/kill?signal=TERM") {
		t.Errorf("it goes on listening: %q", asked)
	}
}

// TestNoGuard has hosts that cannot be guarded: there is no network then.
func TestNoGuard(t *testing.T) {
	for name, said := range map[string][]string{
		"it fails":                      {"the chain cannot be made: error 095\n"},
		"it fails when it is ended":     {"ready 40000\n", "ready 40000\nthe chain is not there: error 002\n"},
		"the bridge is another one":     {"gone\n"},
		"it says what an older one has": {"ready 40000\n", "ready 40000\ndropped 3 arrived 0 at 40001\n"},
		"it says what it never says":    {"ready soon\n"},
	} {
		t.Run(name, func(t *testing.T) {
			engine, _ := guardEngine(t, said...)
			networks := engine.runtime(t).NetworkManager().(optional.NetworkCreator)
			_, err := networks.CreateNetworkFrom(t.Context(), optional.NetworkConfig{Name: "net", Subnet: "192.0.2.0/26", Internal: true})
			if !errors.Is(err, core.ErrPolicyNotEnforced) || !strings.Contains(err.Error(), "guard the engine's host") {
				t.Errorf("got %v", err)
			}
			if asked := engine.requests(); !slices.Contains(asked, "DELETE /networks/"+testID) || !slices.Contains(asked, "DELETE /containers/"+guardName(testID)+"?force=1&v=1") {
				t.Errorf("it leaves something behind: %q", asked)
			}
		})
	}
}

// TestRemoveGuard has a guard that runs once more when its network is gone.
func TestRemoveGuard(t *testing.T) {
	engine := startFake(t)
	engine.on("POST /containers/{id}/kill", failure(http.StatusConflict, "is not running"))
	if err := engine.runtime(t).NetworkManager().RemoveNetwork(t.Context(), testID); err != nil {
		t.Fatal(err)
	}
	engine.wantRequests(t, "DELETE /networks/"+testID, killOfGuard, "POST /containers/"+guardName(testID)+"/start", "POST /containers/"+guardName(testID)+"/wait?condition=not-running",
		"DELETE /containers/"+proxyName(testID)+"?force=1&v=1", "DELETE /containers/"+guardName(testID)+"?force=1&v=1")
}
