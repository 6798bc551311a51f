package docker

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/system"
	"github.com/moatproject/moat/core"
)

// manyIDs makes each created container another one.
func (f *fakeEngine) manyIDs() {
	var created atomic.Int64
	f.on(createRoute, func(w http.ResponseWriter, r *http.Request) {
		answer(http.StatusCreated, container.CreateResponse{ID: fmt.Sprintf("%064x", created.Add(1))})(w, r)
	})
}

// size is how much is kept in all.
func (k *known) size() int {
	k.lock.Lock()
	defer k.lock.Unlock()
	return max(len(k.containers), len(k.ids))
}

func TestContainersThatRemoveThemselvesAreForgotten(t *testing.T) {
	engine := startFake(t)
	engine.manyIDs()
	engine.on(waitRoute, answer(http.StatusOK, container.WaitResponse{StatusCode: 3}))
	r := engine.runtime(t)
	for range 20 {
		id, err := r.CreateContainer(t.Context(), core.Config{Image: "image", AutoRemove: true})
		if err == nil {
			err = r.StartContainer(t.Context(), id)
		}
		if err != nil {
			t.Fatal(err)
		}
		if code, err := r.WaitContainer(t.Context(), id); code != 3 || err != nil {
			t.Fatalf("code %d, %v", code, err)
		}
	}
	if n := r.known.size(); n != 0 {
		t.Errorf("%d are still known", n)
	}
}

// TestKnownContainersAreBounded creates what others remove, without a word.
func TestKnownContainersAreBounded(t *testing.T) {
	engine := startFake(t)
	engine.manyIDs()
	r := engine.runtime(t)
	first := ""
	for i := range 3 * maxKnown {
		id, err := r.CreateContainer(t.Context(), core.Config{Image: "image", Name: fmt.Sprint("name-", i)})
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = id
			r.known.holds.Begin(id)
		}
	}
	if n := r.known.size(); n > maxKnown || n == 0 || len(r.known.order) > 2*maxKnown {
		t.Errorf("%d are known, %d in order", n, len(r.known.order))
	}
	if r.known.phase(first) != created {
		t.Error("a container whose program is held was forgotten")
	}
}

func TestANameIsOfItsLastContainer(t *testing.T) {
	k := &known{}
	config := core.Config{Name: "web"}
	k.add("first", config, request{config: &container.Config{}, visits: "a network"})
	k.add("second", config, request{config: &container.Config{}})
	if found, _ := k.find("web"); found.visits != "" || k.get("first").phase != unknown || k.size() != 1 {
		t.Errorf("the name is %+v's, and %d are known", found, k.size())
	}
	k.correct("web", "third") // another process's
	if _, found := k.find("web"); found || k.size() != 0 {
		t.Errorf("%d are known", k.size())
	}
	k.add("fourth", config, request{config: &container.Config{}})
	k.forget("first") // later than the name was given again
	if _, found := k.find("web"); !found {
		t.Error("the wrong one was forgotten")
	}
}

func TestAForeignContainerOfAKnownName(t *testing.T) {
	engine := startFake(t)
	r := engine.started(t)
	other := testID[1:] + "0"
	engine.on(inspectRoute, answer(http.StatusOK, container.InspectResponse{
		ContainerJSONBase: &container.ContainerJSONBase{ID: other, State: &container.State{Status: "running", Running: true}},
		Config:            &container.Config{}, NetworkSettings: &container.NetworkSettings{},
	}))
	if _, err := r.ContainerState(t.Context(), "named"); err != nil {
		t.Fatal(err)
	}
	if _, found := r.known.find("named"); found || r.known.phase(testID) != unknown {
		t.Error("the name is still the old container's")
	}
}

func TestResolversAreForgotten(t *testing.T) {
	var all resolvers
	of, done := all.use("net")
	again, doneAgain := all.use("net")
	if of != again {
		t.Error("two have not the same")
	}
	done()
	all.forget("net")
	if len(all.networks) != 1 {
		t.Error("one that is used was forgotten")
	}
	if third, doneThird := all.use("net"); third != of {
		t.Error("one that is used was replaced")
	} else {
		doneThird()
	}
	all.forget("net")
	doneAgain()
	if len(all.networks) != 0 {
		t.Errorf("%d are kept", len(all.networks))
	}
	used, doneUsed := all.use("used")
	for i := range 3 * maxUnused {
		_, done := all.use(fmt.Sprint("foreign-", i))
		done()
	}
	if len(all.networks) > maxUnused+1 || all.networks["used"] != used {
		t.Errorf("%d are kept", len(all.networks))
	}
	doneUsed()
}

func TestHostFactsGrowOld(t *testing.T) {
	engine := startFake(t)
	engine.on("GET /info", answer(http.StatusOK, system.Info{OSType: "linux"}))
	engine.on("GET /networks/{name}", bridge("192.0.2.1"))
	r := engine.runtime(t)
	for range 2 {
		if got := r.GetHostAddress(); got != "192.0.2.1" {
			t.Errorf("the address is %q", got)
		}
	}
	engine.wantRequests(t, "GET /info", "GET /networks/bridge")
	engine.on("GET /networks/{name}", bridge("192.0.2.9"))
	r.host.at = r.host.at.Add(-hostFactsAge - time.Second)
	if got := r.GetHostAddress(); got != "192.0.2.9" {
		t.Errorf("the address is still %q", got)
	}
}
