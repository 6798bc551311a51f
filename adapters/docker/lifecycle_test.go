package docker

import (
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/go-connections/nat"
	"github.com/moatproject/moat/core"
)

func TestIdempotentCalls(t *testing.T) {
	engine := startFake(t)
	engine.on("POST /containers/{id}/start", status(http.StatusNotModified))
	engine.on("POST /containers/{id}/stop", status(http.StatusNotModified))
	engine.on("DELETE /containers/{id}", gone)
	engine.on("DELETE /images/{name...}", failure(http.StatusNotFound, "No such image: x"))
	r := engine.runtime(t)
	for name, err := range map[string]error{
		"StartContainer":  r.StartContainer(t.Context(), testID),
		"StopContainer":   r.StopContainer(t.Context(), testID),
		"RemoveContainer": r.RemoveContainer(t.Context(), testID),
		"RemoveImage":     r.RemoveImage(t.Context(), "image"),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRemovalThatIsUnderWayIsWaitedFor(t *testing.T) {
	underWay := failure(http.StatusConflict, "removal of container x is already in progress")
	for name, test := range map[string]struct {
		wait  http.HandlerFunc
		class error
	}{
		"it ends":          {exits(0), nil},
		"it has ended":     {gone, nil},
		"the engine dies":  {die, core.ErrUnavailable},
		"it does not work": {answer(http.StatusOK, container.WaitResponse{Error: &container.WaitExitError{Message: "device busy"}}), errAny},
	} {
		engine := startFake(t)
		engine.on("DELETE /containers/{id}", underWay)
		engine.on(waitRoute, test.wait)
		err := engine.runtime(t).RemoveContainer(t.Context(), testID)
		if !matches(err, test.class) {
			t.Errorf("%s: %v, want %v", name, err, test.class)
		}
		engine.wantRequests(t, "GET /containers/"+testID+"/json", "DELETE /containers/"+testID+"?force=1&v=1", "POST /containers/"+testID+"/wait?condition=removed")
	}
}

func TestArgumentsThatNoEngineIsAskedAbout(t *testing.T) {
	engine := startFake(t)
	r := engine.runtime(t)
	for field, err := range map[string]error{
		"signal":    r.SignalContainer(t.Context(), testID, 0),
		"timeout":   r.StopContainerTimeout(t.Context(), testID, time.Millisecond),
		"proxyPort": r.SetupFirewall(t.Context(), testID, "127.0.0.1", 0),
		"proxyHost": r.SetupFirewall(t.Context(), testID, "", 3128),
	} {
		if !errors.Is(err, core.ErrInvalidConfig) || core.FieldOf(err) != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	if err := r.StopContainerTimeout(t.Context(), testID, -time.Second); !errors.Is(err, core.ErrInvalidConfig) {
		t.Errorf("a negative timeout: %v", err)
	}
	engine.wantRequests(t)
}

func TestStates(t *testing.T) {
	engine := startFake(t)
	r := engine.runtime(t)
	for theirs, ours := range map[string]string{
		"created": core.StateCreated, "running": core.StateRunning, "paused": core.StatePaused, "restarting": core.StateRunning,
		"removing": core.StateStopping, "exited": core.StateExited, "dead": core.StateDead,
	} {
		engine.on(inspectRoute, inspected(theirs))
		if got, err := r.ContainerState(t.Context(), testID); got != ours || err != nil {
			t.Errorf("%s is %q, %v; want %q", theirs, got, err, ours)
		}
	}
}

func TestListContainersTellsOurs(t *testing.T) {
	managed := map[string]string{core.LabelManaged: "true"}
	engine := startFake(t)
	engine.on("GET /containers/json", answer(http.StatusOK, []container.Summary{
		{ID: "second of its second", Names: []string{"/b"}, Labels: managed, Created: 1000, State: "exited"},
		{ID: "first of its second", Names: []string{"/a"}, Labels: managed, Created: 1000, State: "created"},
		{ID: "by its name", Names: []string{"/other/alias", "/0123abcd"}, Created: 2000, State: "running", Image: "image:tag"},
		{ID: "another's", Names: []string{"/0123abcde"}, Labels: map[string]string{core.LabelManaged: "false"}, Created: 3000},
		{ID: "nameless", Labels: managed, Created: 500, State: "removing"},
	}))
	infos, err := engine.runtime(t).ListContainers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, info := range infos {
		ids = append(ids, info.ID)
	}
	if want := []string{"by its name", "second of its second", "first of its second", "nameless"}; !slices.Equal(ids, want) {
		t.Errorf("listed are %q, want %q", ids, want)
	}
	newest := infos[0]
	if newest.Name != "0123abcd" || newest.Image != "image:tag" || newest.Status != core.StateRunning || !newest.Created.Equal(time.Unix(2000, 0)) {
		t.Errorf("the newest is %+v", newest)
	}
	if infos[3].Name != "" || infos[3].Status != core.StateStopping {
		t.Errorf("the oldest is %+v", infos[3])
	}
}

// TestPortsOfTheProxy has ports that another container publishes.
func TestPortsOfTheProxy(t *testing.T) {
	proxy := proxyName(testID)
	labels := map[string]string{core.LabelManaged: "true", labelPublisher: proxy}
	ports := []container.Port{{IP: "127.0.0.1", PrivatePort: 80, PublicPort: 18080, Type: "tcp"}}
	engine := startFake(t)
	workload := container.Summary{ID: "workload", Names: []string{"/workload"}, Labels: labels}
	workload.HostConfig.NetworkMode = testID
	engine.on("GET /containers/json", answer(http.StatusOK, []container.Summary{
		workload,
		{ID: "an image's label", Names: []string{"/other"}, Labels: labels},
		{ID: "proxy", Names: []string{"/" + proxy}, Ports: ports},
	}))
	missing := false
	engine.on(inspectRoute, func(w http.ResponseWriter, r *http.Request) {
		found := container.InspectResponse{
			ContainerJSONBase: &container.ContainerJSONBase{ID: testID, State: &container.State{Running: true}, HostConfig: &container.HostConfig{NetworkMode: testID}},
			Config:            &container.Config{Labels: labels}, NetworkSettings: &container.NetworkSettings{},
		}
		if r.PathValue("id") == proxy {
			if missing {
				gone(w, r)
				return
			}
			found.Config = &container.Config{}
			found.NetworkSettings.Ports = nat.PortMap{"80/tcp": {{HostIP: "127.0.0.1", HostPort: "18080"}}}
		}
		answer(http.StatusOK, found)(w, r)
	})
	r := engine.runtime(t)
	want := []core.PortMapping{{ContainerPort: 80, Protocol: "tcp", HostIP: "127.0.0.1", HostPort: 18080}}
	infos, err := r.ListContainers(t.Context())
	if err != nil || len(infos) != 2 || !slices.Equal(infos[0].Published, want) || len(infos[1].Published) > 0 {
		t.Errorf("listed are %+v, %v", infos, err)
	}
	details, err := r.Inspect(t.Context(), "workload")
	if err != nil || !slices.Equal(details.Published, want) || details.Ports[80] != 18080 {
		t.Errorf("it is %+v, %v", details, err)
	}
	bindings, err := r.GetPortBindings(t.Context(), "workload")
	if err != nil || bindings[80] != 18080 {
		t.Errorf("bound are %v, %v", bindings, err)
	}
	missing = true
	if bindings, err := r.GetPortBindings(t.Context(), "workload"); err != nil || bindings == nil || len(bindings) > 0 {
		t.Errorf("without its proxy, bound are %#v, %v", bindings, err)
	}
}

func TestServiceManager(t *testing.T) {
	r := startFake(t).runtime(t)
	if r.ServiceManager() != r.ServiceManager() {
		t.Error("there are several service managers")
	}
}
