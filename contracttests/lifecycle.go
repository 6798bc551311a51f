package contracttests

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

const (
	sigKILL = 9
	sigUSR1 = 10
	sigTERM = 15
)

func lifecycleCases() []Case {
	return []Case{
		{Number: "RT-20", Title: "a started container runs", check: startRuns},
		{Number: "RT-21", Title: "start is idempotent", check: startTwice},
		{Number: "RT-22", Title: "an exited container runs again", check: restart},
		{Number: "RT-23", Title: "a program that cannot run is told", check: noProgram},
		{Number: "RT-24", Title: "starting what is missing", check: missingContainer("StartContainer", core.Lifecycle.StartContainer)},
		{Number: "RT-30", Title: "a program handles SIGTERM", check: stopGracefully},
		{Number: "RT-31", Title: "SIGTERM ignored means SIGKILL", check: stopByForce, fields: []string{"StopTimeout"}},
		{Number: "RT-32", Title: "stop is idempotent", check: stopTwice},
		{Number: "RT-33", Title: "stopping what is missing", check: missingContainer("StopContainer", core.Lifecycle.StopContainer)},
		{
			Number: "RT-34", Title: "stop with a timeout of the caller's", check: stopTimed,
			ability: implements[optional.TimedStopper](), unsupported: noPort,
		},
		{
			Number: "RT-36", Title: "a signal reaches the workload", check: signals,
			ability: implements[optional.Signaler](), unsupported: noPort,
		},
		{
			Number: "RT-37", Title: "signals that cannot be sent", check: badSignals,
			ability: implements[optional.Signaler](), unsupported: noPort,
		},
		{Number: "RT-50", Title: "remove is idempotent", check: removeTwice},
		{Number: "RT-51", Title: "a running container is killed and removed", check: removeRunning},
		{Number: "RT-52", Title: "a removed container's name is free", check: removeFreesName},
		{Number: "RT-60", Title: "states follow the calls", check: states},
		{Number: "RT-61", Title: "the state of what is missing", check: missingContainer("ContainerState",
			func(rt core.Lifecycle, ctx context.Context, id string) error {
				_, err := rt.ContainerState(ctx, id)
				return err
			})},
		{
			Number: "RT-62", Title: "details tell what was asked for", check: inspect,
			ability: implements[optional.Inspector](), unsupported: noPort,
		},
	}
}

// missingContainer checks a call on a container that does not exist.
func missingContainer(call string, do func(core.Lifecycle, context.Context, string) error) func(*fixture) {
	return func(f *fixture) {
		f.wantClass(call+" of a container that does not exist", do(f.rt, f.ctx, f.missing()), core.ErrNotFound)
	}
}

// idle is a configuration of a container that runs until it is stopped.
func (f *fixture) idle() core.Config {
	cfg := f.agent("sleep")
	cfg.StopTimeout = time.Second
	return cfg
}

// stubborn is a configuration of a container that ignores SIGTERM.
func (f *fixture) stubborn(timeout time.Duration) core.Config {
	cfg := f.agent("ignore TERM", "say ready", "sleep")
	cfg.StopTimeout = timeout
	return cfg
}

func startRuns(f *fixture) {
	f.wantState(f.started(f.idle()), core.StateRunning)

	id := f.started(f.agent("say it ran"))
	if state := f.state(id); state != core.StateRunning && state != core.StateExited {
		f.Fatalf("after StartContainer the state is %q", state)
	}
	f.wait(id)
	want(f, "the output", f.logs(id), "it ran\n")
}

func startTwice(f *fixture) {
	id := f.ready(f.agent("on TERM exit 0", "say ready", "sleep"))
	firstRun := f.waiting(f.ctx, id)
	firstRun.goesOn(f)
	f.start(id)
	firstRun.goesOn(f)
	f.must(f.rt.StopContainer(f.ctx, id))
	want(f, "the output of the container that was started twice", f.logs(id), "ready\n")
}

func restart(f *fixture) {
	id := f.started(f.idle())
	f.must(f.rt.StopContainer(f.ctx, id))
	f.wait(id)
	f.start(id)
	f.wantState(id, core.StateRunning)
}

func noProgram(f *fixture) {
	for program, cause := range map[string]error{"/no/such/program": fs.ErrNotExist, "/etc/passwd": fs.ErrPermission} {
		id := f.create(f.command(program))
		err := f.rt.StartContainer(f.ctx, id)
		f.wantField("starting "+program, err, "Cmd")
		f.wantClass("starting "+program, err, cause)
		if state := f.state(id); state == core.StateRunning {
			f.Errorf("a container whose program is %s is running", program)
		}
	}
}

func stopGracefully(f *fixture) {
	id := f.ready(f.agent("on TERM exit 7", "say ready", "sleep"))
	f.must(f.rt.StopContainer(f.ctx, id))
	code, err := f.waiting(f.ctx, id).result(f)
	f.must(err)
	want(f, "the exit code", code, 7)
}

func stopByForce(f *fixture) {
	id := f.ready(f.stubborn(time.Second))
	// Well before the end of the timeout that a runtime would take instead.
	ctx, cancel := context.WithTimeout(f.ctx, core.DefaultStopTimeout*2/3)
	defer cancel()
	if err := f.rt.StopContainer(ctx, id); err != nil {
		f.Fatalf("a program that ignores SIGTERM, with a StopTimeout of 1s, was to be killed after that and was not within %s: StopContainer returned %v%s",
			core.DefaultStopTimeout*2/3, err, f.lately(id))
	}
	f.wantState(id, core.StateExited)

	if optional.CapabilitiesOf(f.rt).Mounts {
		id, heart := f.beating()
		f.must(f.rt.StopContainer(f.ctx, id))
		f.wantNoBeat(heart, "its container was stopped")
	}

	// Where no time is given there is enough to tidy up.
	id = f.ready(f.agent("on TERM after 2s exit 7", "say ready", "sleep"))
	f.must(f.rt.StopContainer(f.ctx, id))
	want(f, "the exit code of a program that handles SIGTERM in two seconds, without a StopTimeout", f.wait(id), 7)
}

func stopTwice(f *fixture) {
	created := f.create(f.agent())
	f.must(f.rt.StopContainer(f.ctx, created))
	f.wantState(created, core.StateCreated)

	exited := f.started(f.agent())
	f.wait(exited)
	for range 2 {
		f.must(f.rt.StopContainer(f.ctx, exited))
	}
	f.wantState(exited, core.StateExited)
}

func stopTimed(f *fixture) {
	id := f.ready(f.stubborn(caseTimeout))
	_, err := begin("StopContainerTimeout", func() (struct{}, error) {
		return struct{}{}, portOf[optional.TimedStopper](f).StopContainerTimeout(f.ctx, id, 0)
	}).on(id).until("its timeout of 0 kills at once").result(f)
	f.must(err)
	f.wantState(id, core.StateExited)
}

func signals(f *fixture) {
	id := f.ready(f.agent("on USR1 exit 9", "say ready", "sleep"))
	f.must(portOf[optional.Signaler](f).SignalContainer(f.ctx, id, sigUSR1))
	code, err := f.waiting(f.ctx, id).result(f)
	f.must(err)
	want(f, "the exit code", code, 9)
}

func badSignals(f *fixture) {
	signaler := portOf[optional.Signaler](f)
	f.wantClass("a signal to what is missing", signaler.SignalContainer(f.ctx, f.missing(), sigUSR1), core.ErrNotFound)
	id := f.create(f.idle())
	f.wantClass("a signal to what does not run", signaler.SignalContainer(f.ctx, id, sigUSR1), core.ErrNotRunning)
	f.start(id)
	for _, number := range []int{-1, 0, 1000} {
		f.wantClass("a signal that does not exist", signaler.SignalContainer(f.ctx, id, number), core.ErrInvalidConfig)
	}
}

func removeTwice(f *fixture) {
	f.must(f.rt.RemoveContainer(f.ctx, f.missing()))
	id := f.create(f.agent())
	f.remove(id)
	f.must(f.rt.RemoveContainer(f.ctx, id))
}

func removeRunning(f *fixture) {
	id := f.started(f.idle())
	f.remove(id)
	_, err := f.rt.ContainerState(f.ctx, id)
	f.wantClass("the state of the removed container", err, core.ErrNotFound)

	// What the engine says is one thing, what the processes do another.
	if optional.CapabilitiesOf(f.rt).Mounts {
		id, heart := f.beating()
		f.remove(id)
		f.wantNoBeat(heart, "its container was removed")
	}
}

// beating starts a container whose background process, which ignores SIGTERM, writes into
// a file of the host's until it is killed.
func (f *fixture) beating() (id, heart string) {
	f.Helper()
	cfg, folder := f.mounted(false, "ignore TERM", "start every 100ms append /mnt/shared/heart beat", "say ready", "sleep")
	cfg.StopTimeout = time.Second
	id, heart = f.ready(cfg), filepath.Join(folder, "heart")
	if !eventually(func() bool { return beats(heart) > 1 }) {
		f.Fatalf("a process was to write into the mounted file %s and has not%s", heart, f.lately(id))
	}
	return id, heart
}

// beats returns how often a heart has beaten.
func beats(heart string) int64 {
	info, err := os.Stat(heart)
	if err != nil {
		return 0
	}
	return info.Size()
}

// wantNoBeat waits for a pause of several beats. A file may come to its end a little
// later than its writer; a process that goes on never pauses. The pause is counted in
// looks, which a loaded machine delays as it delays the process.
func (f *fixture) wantNoBeat(heart, since string) {
	f.Helper()
	const pause = 10 * (100 * time.Millisecond) / pollInterval // ten beats
	last, looks := beats(heart), 0
	if !eventually(func() bool {
		looks++
		if now := beats(heart); now != last {
			last, looks = now, 0
		}
		return looks > int(pause)
	}) {
		f.Errorf("a process goes on although %s: it still writes into the mounted file %s", since, heart)
	}
}

func removeFreesName(f *fixture) {
	cfg := f.idle()
	cfg.Name = "name-" + f.runID
	f.remove(f.started(cfg))
	f.create(cfg)
}

func states(f *fixture) {
	id := f.create(f.idle())
	f.wantState(id, core.StateCreated)
	f.start(id)
	f.wantState(id, core.StateRunning)
	f.must(f.rt.StopContainer(f.ctx, id))
	f.wantState(id, core.StateExited)
}

func inspect(f *fixture) {
	inspector := portOf[optional.Inspector](f)
	_, err := inspector.Inspect(f.ctx, f.missing())
	f.wantClass("the details of what is missing", err, core.ErrNotFound)

	cfg := f.agent("sleep 200ms", "exit 3") // engines note start and end a few milliseconds late
	cfg.Name, cfg.User = "name-"+f.runID, "tester"
	told := optional.CapabilitiesOf(f.rt)
	cfg.TTY = told.TTY
	if told.Mounts {
		mounted, _ := f.mounted(true)
		cfg.Mounts = mounted.Mounts
	}
	if told.MemoryLimit {
		cfg.MemoryMB = 64
	}
	if told.CPULimit {
		cfg.NanoCPUs = 5e8
	}
	id := f.create(cfg)
	details := f.inspect(id)
	want(f, "ID", details.ID, id)
	want(f, "Name", details.Name, cfg.Name)
	want(f, "Image", details.Image, cfg.Image)
	want(f, "User", details.User, cfg.User)
	want(f, "the label of the run", details.Labels[core.LabelRunID], f.runID)
	want(f, "Status", details.Status, core.StateCreated)
	want(f, "the last word of Cmd", details.Cmd[len(details.Cmd)-1], cfg.Cmd[2])
	want(f, "Isolation", details.Isolation, told.Isolation)
	want(f, "TTY", details.TTY, cfg.TTY)
	want(f, "MemoryMB", details.MemoryMB, cfg.MemoryMB)
	want(f, "NanoCPUs", details.NanoCPUs, cfg.NanoCPUs)
	if !slices.Equal(details.Mounts, cfg.Mounts) {
		f.Errorf("Mounts is %+v, want %+v", details.Mounts, cfg.Mounts)
	}

	f.start(id)
	f.wait(id)
	state := f.inspect(id).State
	want(f, "State.Status", state.Status, core.StateExited)
	want(f, "State.Running", state.Running, false)
	want(f, "State.ExitCode", state.ExitCode, 3)
	if state.StartedAt.IsZero() || state.FinishedAt.Before(state.StartedAt) {
		f.Errorf("it ran from %s to %s", state.StartedAt, state.FinishedAt)
	}
}

func (f *fixture) inspect(id string) optional.Details {
	f.Helper()
	details, err := portOf[optional.Inspector](f).Inspect(f.ctx, id)
	f.must(err)
	return details
}
