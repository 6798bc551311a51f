package cli

import (
	"context"
	"slices"
	"testing"

	"github.com/moatproject/moat/core"
)

func TestOrphans(t *testing.T) {
	labels := func(owner, run, role string) map[string]string {
		return map[string]string{labelOwner: owner, core.LabelRunID: run, core.LabelRole: role}
	}
	info := func(owner, run, role, status string) core.Info {
		return core.Info{ID: owner + " " + run + " " + role + " " + status, Status: status, Labels: labels(owner, run, role)}
	}
	killed := func(run string) core.Info {
		found := info("me", run, core.RoleMain, core.StateRunning)
		found.Labels[labelForeground] = "true"
		return found
	}
	a := &app{env: Env{StateDir: t.TempDir(), Owner: "me"}}
	lock := func(run string) *runLock {
		lock, err := lockRun(a.env.StateDir, run)
		if err != nil {
			t.Fatal(err)
		}
		return lock
	}
	live := lock("live")
	lock("left").release(true)
	lock("gone").release(true)
	ids := func() (ids []string) {
		for _, o := range a.orphans([]core.Info{
			info("me", "live", core.RoleMain, core.StateExited), info("me", "live", core.RoleService, core.StateRunning),
			info("me", "over", core.RoleMain, core.StateExited), info("me", "over", core.RoleService, core.StateRunning),
			info("me", "detached", core.RoleMain, core.StateRunning), info("me", "detached", core.RoleSidecar, core.StateRunning),
			info("me", "new", core.RoleMain, core.StateCreated), info("me", "none", core.RoleHelper, core.StateRunning),
			info("me", "dead", core.RoleMain, core.StateDead),
			killed("killed"), info("me", "killed", core.RoleService, core.StateRunning),
			killed("left"), info("me", "left", core.RoleService, core.StateRunning),
			info("me", "gone", core.RoleMain, core.StateExited),
			info("other", "over", core.RoleMain, core.StateExited), info("", "over", core.RoleMain, core.StateExited),
			info("me", "", core.RoleMain, core.StateExited),
		}, []core.NetworkInfo{
			{ID: "network live", Labels: labels("me", "live", core.RoleNetwork)}, {ID: "network over", Labels: labels("me", "over", core.RoleNetwork)},
			{ID: "network left", Labels: labels("me", "left", core.RoleNetwork)}, {ID: "network of a user's", Labels: labels("me", "", core.RoleNetwork)},
			{ID: "network other", Labels: labels("other", "over", core.RoleNetwork)},
		}) {
			ids = append(ids, o.ID)
		}
		return ids
	}
	want := []string{
		"me over main exited", "me over service running", "me new main created", "me none helper running", "me dead main dead",
		"me killed main running", "me killed service running", "me gone main exited", "network over",
	}
	if got := ids(); !slices.Equal(got, want) {
		t.Errorf("beside a live run:\ngot  %q\nwant %q", got, want)
	}
	live.release(false)
	if got := ids(); got[0] != "me live main exited" || got[1] != "me live service running" {
		t.Errorf("after the run: got %q", got)
	}
}

// engine has containers in states of the test's choice.
type engine struct {
	core.Runtime
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
		orphans = append(orphans, orphan{Kind: "container", ID: id, Status: core.StateCreated})
	}
	a := &app{env: Env{StateDir: t.TempDir()}}
	removed, err := a.removeOrphans(t.Context(), e, orphans)
	if err != nil || len(removed) != 1 || !slices.Equal(e.removed, []string{"same"}) {
		t.Errorf("removed %v, of which told %v, %v", e.removed, removed, err)
	}
}
