package run

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/moatproject/moat/core"
)

// memoryStore is a store in memory, of the owner "me".
type memoryStore map[string]Liveness

func (memoryStore) Owner() (string, error) { return "me", nil }
func (s memoryStore) Claim(id string) (Claim, error) {
	s[id] = LivenessLive
	return memoryClaim{s, id}, nil
}
func (s memoryStore) Liveness(id string) Liveness { return s[id] }
func (s memoryStore) Forget(id string, _ bool)    { delete(s, id) }
func (s memoryStore) Ended() (ids []string) {
	for id, liveness := range s {
		if liveness != LivenessLive {
			ids = append(ids, id)
		}
	}
	return ids
}

type memoryClaim struct {
	store memoryStore
	id    string
}

func (c memoryClaim) Release(how Ending) {
	c.store[c.id] = map[Ending]Liveness{EndingClean: LivenessUnknown, EndingLeft: LivenessLeft, EndingPartial: LivenessKilled}[how]
}

// fixedClock is always at one time.
type fixedClock struct {
	Clock
	time.Time
}

func (c fixedClock) Now() time.Time { return c.Time }

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func labelsOf(owner, run, role string) map[string]string {
	return map[string]string{LabelOwner: owner, core.LabelRunID: run, core.LabelRole: role}
}

func infoOf(owner, run, role, status string) core.Info {
	return core.Info{ID: owner + " " + run + " " + role + " " + status, Name: run, Status: status, Labels: labelsOf(owner, run, role)}
}

// foreground is a running main container whose `moat run` waits for it, or should.
func foreground(run, status string) core.Info {
	info := infoOf("me", run, core.RoleMain, status)
	info.Labels[LabelForeground] = "true"
	return info
}

func TestOrphans(t *testing.T) {
	store := memoryStore{
		"live": LivenessLive, "left": LivenessLeft, "left-over": LivenessLeft,
		"killed": LivenessKilled, "early": LivenessKilled, "detached-killed": LivenessKilled,
	}
	network := func(owner, run string) core.NetworkInfo {
		return core.NetworkInfo{ID: "network " + owner + " " + run, Labels: labelsOf(owner, run, core.RoleNetwork)}
	}
	all := managed{
		containers: []core.Info{
			foreground("live", core.StateExited), infoOf("me", "live", core.RoleService, core.StateRunning),
			// What a run leaves that ended in order.
			infoOf("me", "over", core.RoleMain, core.StateExited), infoOf("me", "over", core.RoleService, core.StateRunning),
			infoOf("me", "dead", core.RoleMain, core.StateDead), infoOf("me", "new", core.RoleMain, core.StateCreated),
			infoOf("me", "late", core.RoleService, core.StateCreated),
			// What was detached, and what was killed while it detached.
			infoOf("me", "detached", core.RoleMain, core.StateRunning), infoOf("me", "detached", core.RoleSidecar, core.StateRunning),
			infoOf("me", "detached-killed", core.RoleMain, core.StateRunning),
			// What was killed.
			foreground("killed", core.StateRunning), infoOf("me", "killed", core.RoleService, core.StateRunning),
			infoOf("me", "early", core.RoleService, core.StateRunning),
			// What was left.
			foreground("left", core.StatePaused), infoOf("me", "left", core.RoleService, core.StateRunning),
			foreground("left-over", core.StateExited), infoOf("me", "left-over", core.RoleService, core.StateRunning),
			// Whose lock was lost: it proves nothing.
			foreground("lost", core.StateRunning), infoOf("me", "lost", core.RoleService, core.StateRunning),
			infoOf("me", "lost-early", core.RoleService, core.StateRunning), infoOf("me", "lost-early", core.RoleMain, core.StateCreated),
			// Of other owners, and of none.
			infoOf("other", "over", core.RoleMain, core.StateExited), infoOf("", "over", core.RoleMain, core.StateExited),
			infoOf("me", "", core.RoleMain, core.StateExited),
		},
		networks: []core.NetworkInfo{
			network("me", "live"), network("me", "over"), network("me", "killed"), network("me", "left"), network("me", "lost"),
			network("me", "alone"), network("me", ""), network("other", "over"),
		},
	}
	judgeAll := func() (ids, unknown []string) {
		orphans, unknown := newJudge(Reaper{Store: store, Clock: fixedClock{Time: now}}, "me", all).judge(all)
		for _, o := range orphans {
			ids = append(ids, o.ID)
		}
		return ids, unknown
	}
	want := []string{
		"me over main exited", "me over service running", "me dead main dead", "me new main created", "me late service created",
		"me killed main running", "me killed service running", "me early service running",
		"me left-over main exited", "me left-over service running",
		"network me over", "network me killed", "network me alone",
	}
	got, unknown := judgeAll()
	if !slices.Equal(got, want) {
		t.Errorf("beside a live run:\ngot  %q\nwant %q", got, want)
	}
	if want := []string{"lost", "lost", "lost-early"}; !slices.Equal(unknown, want) {
		t.Errorf("unknown are %q, want %q", unknown, want)
	}
	store["live"] = LivenessKilled
	if got, _ := judgeAll(); got[0] != "me live main exited" || got[1] != "me live service running" {
		t.Errorf("after the run: got %q", got)
	}
}

// TestOrphansOfNoRun are what runs share, and what none has.
func TestOrphansOfNoRun(t *testing.T) {
	of := func(role, serves string, overFor time.Duration, status string) core.Info {
		labels := core.AdapterLabels(serves, now.Add(-overFor))
		labels[core.LabelRole] = role
		return core.Info{ID: role + " of " + serves, Status: status, Labels: labels}
	}
	withoutExpiry := of(core.RoleAdapter, "for ever", time.Hour, core.StateRunning)
	delete(withoutExpiry.Labels, core.LabelExpires)
	all := managed{containers: []core.Info{
		of(core.RoleAdapter, "created", time.Hour, core.StateRunning), of(core.RoleMain, "created", time.Hour, core.StateCreated),
		of(core.RoleAdapter, "exited", time.Hour, core.StateRunning), of(core.RoleService, "exited", time.Hour, core.StateExited),
		of(core.RoleAdapter, "empty", 3*time.Minute, core.StateRunning),
		of(core.RoleAdapter, "ended", 3*time.Minute, core.StateExited),
		of(core.RoleAdapter, "new", -time.Minute, core.StateRunning),
		of(core.RoleAdapter, "", time.Hour, core.StateRunning), of(core.RoleMain, "", time.Hour, core.StateRunning),
		withoutExpiry,
	}}
	orphans, unknown := newJudge(Reaper{Store: memoryStore{}, Clock: fixedClock{Time: now}}, "me", all).judge(all)
	var got []string
	for _, o := range orphans {
		got = append(got, o.ID)
	}
	if want := []string{"adapter of empty", "adapter of ended", "adapter of "}; !slices.Equal(got, want) || len(unknown) > 0 {
		t.Errorf("got %q, unknown are %q, want %q", got, unknown, want)
	}
}

// TestHelpersOfARun are the adapter's containers of a network that is a run's own.
func TestHelpersOfARun(t *testing.T) {
	helper := func(run, serves string) core.Info {
		labels := core.AdapterLabels(serves, now.Add(-time.Hour))
		labels[core.LabelRunID], labels[LabelOwner] = run, "me"
		if run == "new" || run == "over" {
			labels[core.LabelExpires] = now.Add(time.Hour).Format(time.RFC3339)
		}
		return core.Info{ID: run + " on " + serves, Name: run, Status: core.StateRunning, Labels: labels}
	}
	labels := core.ObjectLabels("over", core.RoleNetwork)
	labels[LabelOwner] = "me"
	all := managed{
		containers: []core.Info{helper("over", "there"), helper("over", "gone"), helper("new", "gone"), helper("lost", "there"), helper("lost", "gone")},
		networks:   []core.NetworkInfo{{ID: "there", Labels: labels}},
	}
	store := memoryStore{"over": LivenessKilled, "new": LivenessLive}
	orphans, unknown := newJudge(Reaper{Store: store, Clock: fixedClock{Time: now}}, "me", all).judge(all)
	var got []string
	for _, o := range orphans {
		got = append(got, o.ID)
	}
	// A helper goes with its network, where that is still there.
	if want := []string{"over on gone", "lost on gone", "there"}; !slices.Equal(got, want) || len(unknown) > 0 {
		t.Errorf("got %q, unknown are %q, want %q", got, unknown, want)
	}
}

// TestNetworkOfAContainer is an adapter's network, which goes with the container it serves.
func TestNetworkOfAContainer(t *testing.T) {
	network := func(serves string, age time.Duration) core.NetworkInfo {
		labels := core.AdapterLabels(serves, now.Add(-age))
		labels[core.LabelRole] = core.RoleNetwork
		return core.NetworkInfo{ID: "of " + serves, Labels: labels}
	}
	exited := core.Info{ID: "exited", Status: core.StateExited, Labels: core.ObjectLabels("other", core.RoleMain)}
	orphan := core.Info{ID: "orphan", Status: core.StateExited, Labels: core.ObjectLabels("over", core.RoleMain)}
	orphan.Labels[LabelOwner] = "me"
	all := managed{
		containers: []core.Info{exited, orphan},
		networks:   []core.NetworkInfo{network("exited", time.Hour), network("gone", time.Hour), network("coming", -time.Hour), network("orphan", time.Hour)},
	}
	orphans, _ := newJudge(Reaper{Store: memoryStore{"over": LivenessKilled}, Clock: fixedClock{Time: now}}, "me", all).judge(all)
	var got []string
	for _, o := range orphans {
		got = append(got, o.ID)
	}
	if want := []string{"orphan", "of gone", "of orphan"}; !slices.Equal(got, want) {
		t.Errorf("orphans are %q, want %q", got, want)
	}
}

// busyEngine has one run of ours, whose containers change while they are cleaned.
type busyEngine struct {
	core.Runtime
	rounds  []managed         // what is listed, one after the other
	states  map[string]string // of the containers, where they are not as listed
	inUse   map[string]int    // how often a network is in use
	fails   map[string]error
	removed []string
}

func (e *busyEngine) NetworkManager() core.NetworkManager { return networkSide{busy: e} }

type networkSide struct {
	core.NetworkManager
	busy *busyEngine
}

func (e *busyEngine) ListContainers(context.Context) ([]core.Info, error) {
	all := e.rounds[0]
	if len(e.rounds) > 1 {
		e.rounds = e.rounds[1:]
	}
	return all.containers, nil
}
func (n networkSide) ListNetworks(context.Context) ([]core.NetworkInfo, error) {
	return n.busy.rounds[0].networks, nil
}
func (e *busyEngine) ContainerState(_ context.Context, id string) (string, error) {
	if state, ok := e.states[id]; ok {
		delete(e.states, id)
		if state == "" {
			return "", core.ErrNotFound
		}
		return state, nil
	}
	return id, nil // called as its state
}
func (e *busyEngine) RemoveContainer(_ context.Context, id string) error {
	e.removed = append(e.removed, id)
	return e.fails[id]
}
func (n networkSide) RemoveNetwork(_ context.Context, id string) error {
	if n.busy.inUse[id] > 0 {
		n.busy.inUse[id]--
		return &core.Error{Op: "remove network", Object: id, Class: core.ErrInUse}
	}
	n.busy.removed = append(n.busy.removed, id)
	return n.busy.fails[id]
}

func TestChangesAreJudgedOnceMore(t *testing.T) {
	container := func(status string) core.Info {
		return core.Info{ID: status, Status: status, Labels: labelsOf("me", "killed", core.RoleService)}
	}
	network := core.NetworkInfo{ID: "net", Labels: labelsOf("me", "killed", core.RoleNetwork)}
	on := func(infos ...core.Info) managed { return managed{infos, []core.NetworkInfo{network}} }
	for name, test := range map[string]struct {
		engine  busyEngine
		removed []string
		err     error
	}{
		"nothing changes": {busyEngine{rounds: []managed{on(container(core.StateExited)), {}}}, []string{core.StateExited, "net"}, nil},
		"the engine starts what it was asked to": {busyEngine{
			rounds: []managed{on(container(core.StateCreated)), on(container(core.StateRunning)), {}},
			states: map[string]string{core.StateCreated: core.StateRunning}, inUse: map[string]int{"net": 1},
		}, []string{core.StateRunning, "net"}, nil},
		"another removes it": {busyEngine{
			rounds: []managed{on(container(core.StateRunning)), on(), {}},
			states: map[string]string{core.StateRunning: ""}, inUse: map[string]int{"net": 1},
		}, []string{"net"}, nil},
		"the engine makes it late": {busyEngine{
			rounds: []managed{on(), on(container(core.StateRunning)), {}}, inUse: map[string]int{"net": 1},
		}, []string{core.StateRunning, "net"}, nil},
		"a stranger is on the network": {busyEngine{rounds: []managed{on()}, inUse: map[string]int{"net": 100}}, nil, core.ErrInUse},
		"a removal fails": {busyEngine{
			rounds: []managed{on(container(core.StateDead))}, fails: map[string]error{core.StateDead: core.ErrUnavailable},
		}, []string{core.StateDead, "net"}, core.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			store := memoryStore{"killed": LivenessKilled}
			e := &test.engine
			_, _, err := Reaper{Runtime: e, Store: store}.Clean(t.Context())
			if !errors.Is(err, test.err) {
				t.Errorf("error %v, want %v", err, test.err)
			}
			if !slices.Equal(e.removed, test.removed) {
				t.Errorf("removed %q, want %q", e.removed, test.removed)
			}
			if forgotten := store.Liveness("killed") == LivenessUnknown; forgotten != (err == nil) {
				t.Errorf("the run is forgotten: %t; %v", forgotten, err)
			}
		})
	}
}

// TestCleanNetworks has networks of runs that are over, of one that is not, and of others.
func TestCleanNetworks(t *testing.T) {
	var networks []core.NetworkInfo
	for _, run := range []string{"over", "used", "live", "other"} {
		networks = append(networks, core.NetworkInfo{ID: run, Labels: labelsOf("me", run, core.RoleNetwork)})
	}
	e := &busyEngine{rounds: []managed{{networks: networks}}, inUse: map[string]int{"used": 1}}
	reaper := Reaper{Runtime: e, Store: memoryStore{"live": LivenessLive}}
	check(t, reaper.CleanNetworks(t.Context(), map[string]bool{"over": true, "used": true, "live": true}))
	if !slices.Equal(e.removed, []string{"over"}) {
		t.Errorf("removed %q", e.removed)
	}
	e.fails = map[string]error{"over": core.ErrUnavailable}
	if err := reaper.CleanNetworks(t.Context(), map[string]bool{"over": true}); !errors.Is(err, core.ErrUnavailable) {
		t.Errorf("a removal that fails: %v", err)
	}
}
