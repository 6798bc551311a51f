package cli

import (
	"context"
	"reflect"
	"slices"
	"testing"

	"github.com/moatproject/moat/core"
)

func TestOrphans(t *testing.T) {
	info := func(owner, run, status string) core.Info {
		return core.Info{ID: owner + run + status, Status: status, Labels: map[string]string{labelOwner: owner, core.LabelRunID: run}}
	}
	a := &app{env: Env{StateDir: t.TempDir(), Owner: "me-"}}
	release, err := lockRun(a.env.StateDir, "live")
	if err != nil {
		t.Fatal(err)
	}
	infos := []core.Info{
		info("me-", "live", core.StateExited), info("me-", "live", core.StateCreated),
		info("me-", "over-", core.StateExited), info("me-", "over-", core.StateRunning), info("me-", "over-", core.StateCreated),
		info("me-", "over-", core.StateDead), info("other-", "over-", core.StateExited), info("", "over-", core.StateExited),
	}
	ids := func() (ids []string) {
		for _, o := range a.orphans(infos) {
			ids = append(ids, o.ID)
		}
		return ids
	}
	if got, want := ids(), []string{"me-over-exited", "me-over-created", "me-over-dead"}; !reflect.DeepEqual(got, want) {
		t.Errorf("beside a live run: got %v, want %v", got, want)
	}
	release()
	if got := ids(); got[0] != "me-liveexited" {
		t.Errorf("after the run: got %v", got)
	}
}

// engine has containers in states of the test's choice.
type engine struct {
	core.Lifecycle
	states  map[string]string
	removed []string
}

func (e *engine) ContainerState(_ context.Context, id string) (string, error) {
	if state, ok := e.states[id]; ok {
		return state, nil
	}
	return "", core.ErrNotFound
}

func (e *engine) RemoveContainer(_ context.Context, id string) error {
	e.removed = append(e.removed, id)
	return nil
}

func TestOrphansThatChangedAreKept(t *testing.T) {
	e := &engine{states: map[string]string{"started": core.StateRunning, "same": core.StateCreated}}
	var orphans []orphan
	for _, id := range []string{"started", "same", "gone"} {
		orphans = append(orphans, orphan{Info: core.Info{ID: id, Status: core.StateCreated}})
	}
	removed, err := removeOrphans(t.Context(), e, orphans)
	if err != nil || len(removed) != 1 || !slices.Equal(e.removed, []string{"same"}) {
		t.Errorf("removed %v, of which told %v, %v", e.removed, removed, err)
	}
}
