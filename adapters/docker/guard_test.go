package docker

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/moatproject/moat/adapters/docker/programs"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// lookForGuard is how a removal finds out whether a network has a guard.
var lookForGuard = "GET /containers/" + guardName(testID) + "/logs?follow=1&stderr=1&stdout=1&tail="

// logsUnguarded is the answer of an engine on which no network has a guard.
func logsUnguarded(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.PathValue("id"), "moat-guard-") {
		gone(w, r)
		return
	}
	logs(frame(streamStdout, "output\n"))(w, r)
}

// guardEngine is a fake on which a network can be guarded. The guard says what these logs
// have.
func guardEngine(t *testing.T, said ...string) (engine *fakeEngine, bodies *[]container.CreateRequest) {
	t.Helper()
	if said == nil {
		said = []string{"ready\n", "ready\ngone\n"}
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
	if host.RestartPolicy.Name != container.RestartPolicyAlways {
		t.Error("it does not come back with the engine's host")
	}
	program, _ := programs.Read(guardProgram, "amd64")
	engine.wantRequests(t, "POST /networks/create", "GET /version", "GET /images/"+programImage(guardProgram, program)+"/json", "POST /containers/create?name="+guardName(testID),
		"POST /containers/"+guardName(testID)+"/start", lookForGuard)
}

// TestNoGuard has hosts that cannot be guarded: there is no network then.
func TestNoGuard(t *testing.T) {
	for name, said := range map[string]string{
		"it fails":                   "the chain cannot be made: error 095\n",
		"the bridge is another one":  "gone\n",
		"it says what it never says": "reedy\n",
		"it ends":                    "",
	} {
		t.Run(name, func(t *testing.T) {
			engine, _ := guardEngine(t, said, "gone\n")
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

// TestListenOnHost reads what a guard says, which may have been asked before.
func TestListenOnHost(t *testing.T) {
	for said, want := range map[string]string{
		"ready\nlistening 1 40000\nheard 1 dropped 9 arrived 9\nlistening 2 40001\n": "40001",
		"ready\nmade again\nlistening 2 40001\n":                                     "40001",
		"ready\nlistening 1 40000\n":                                                 "it has ended",
		"ready\nlistening 2 x\n":                                                     "expected integer",
		"ready\ngone\n":                                                              "gone",
		"ready\na port cannot be listened on: error 098\n":                           "error 098",
	} {
		engine, _ := guardEngine(t, said)
		port, err := engine.runtime(t).listenOnHost(t.Context(), &restriction{network: network.Inspect{ID: testID}, listened: 2})
		if got := fmt.Sprint(port, err); !strings.Contains(got, want) || (err == nil) != (port != 0) {
			t.Errorf("%q: %s", said, got)
		}
		engine.wantRequests(t, "POST /containers/"+guardName(testID)+"/kill?signal=USR1", lookForGuard)
	}
	for said, want := range map[string]string{
		"ready\nheard 1 dropped 9 arrived 9\nheard 2 dropped 3 arrived 1\n": "3 1 <nil>",
		"heard 1 dropped 9 arrived 9\nthe chain is not there: error 002\n":  "error 002",
		"heard 2 dropped 3\n": "unexpected",
	} {
		engine, _ := guardEngine(t, said)
		dropped, arrived, err := engine.runtime(t).heardOnHost(t.Context(), &restriction{network: network.Inspect{ID: testID}, listened: 2})
		if got := fmt.Sprint(dropped, arrived, err); !strings.Contains(got, want) {
			t.Errorf("%q: %s", said, got)
		}
		engine.wantRequests(t, "POST /containers/"+guardName(testID)+"/kill?signal=USR2", lookForGuard)
	}
}

// TestRemoveGuard has guards that see their network go, and one that was killed.
func TestRemoveGuard(t *testing.T) {
	remove := []string{"DELETE /containers/" + proxyName(testID) + "?force=1&v=1", "DELETE /containers/" + guardName(testID) + "?force=1&v=1"}
	for name, test := range map[string]struct {
		said   []string
		wanted []string
	}{
		"it runs":       {[]string{"ready\ngone\n"}, []string{lookForGuard}},
		"it was killed": {[]string{"ready\n", "ready\ngone\n"}, []string{lookForGuard, "POST /containers/" + guardName(testID) + "/start", lookForGuard}},
	} {
		t.Run(name, func(t *testing.T) {
			engine, _ := guardEngine(t, test.said...)
			if err := engine.runtime(t).NetworkManager().RemoveNetwork(t.Context(), testID); err != nil {
				t.Error(err)
			}
			engine.wantRequests(t, slices.Concat([]string{"DELETE /networks/" + testID}, test.wanted, remove)...)
		})
	}
}
