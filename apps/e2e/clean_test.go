package e2e

import (
	"strings"
	"syscall"
	"testing"
)

const loop = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done"

// TestKilled ends the CLI as nothing can be caught, and cleans up after it.
func TestKilled(t *testing.T) {
	u := newUser(t)
	stranger := u.docker("run", "-d", "--label", u.label, image, "true")
	defer u.docker("rm", "-f", stranger)
	live := u.reading(u.labelled("--rm", "--no-sandbox", image, "sh", "-c", loop)...)
	live.await(u, "ready")
	name := unique(t)
	killed := u.reading(u.labelled("--rm", "--no-sandbox", "--name", name, image, "sh", "-c", loop)...)
	killed.await(u, "ready")
	want(u, "what is cleaned while both run", len(u.rows("clean", "--json")), 0)
	detached := strings.TrimSpace(u.must(u.labelled("-d", "--no-sandbox", image, "sh", "-c", loop)...))
	_ = killed.Process.Kill()
	_ = killed.Wait()
	wantText(u, u.must("ps"), name)

	wantText(u, u.must("clean", "--dry-run"), name, "its `moat run` was killed")
	want(u, "what a dry run leaves", u.docker("inspect", "-f", "{{.Name}}", name), "/"+name)
	cleaned := u.rows("clean", "--json")
	if len(cleaned) != 1 || cleaned[0]["name"] != name {
		u.Errorf("cleaned: %v", cleaned)
	}
	want(u, "a run without a moat run of its own", u.docker("inspect", "-f", "{{.State.Running}}", detached), "true")
	u.must("rm", "-f", detached)
	want(u, "a stranger's container", u.docker("inspect", "-f", "{{.Id}}", stranger), stranger)
	u.signal(live.Cmd, syscall.SIGTERM)
	want(u, "the live run", u.finish(live.Cmd).code, 0)
}

// TestCleanBesideLiveRuns cleans between a workload's end and its run's.
func TestCleanBesideLiveRuns(t *testing.T) {
	u := newUser(t)
	other := *u
	other.home = t.TempDir()
	gate := u.gate("POST .*/wait$", false)
	name := unique(t)
	run := u.start(u.command(u.labelled("--no-sandbox", "--name", name, image, "sh", "-c", "exit 7")...))
	gate.await(u)
	for _, cleaner := range []*user{u, &other} {
		want(cleaner, "what is cleaned", len(cleaner.rows("clean", "--json")), 0)
	}
	gate.pass()
	want(u, "the run's exit status", u.finish(run).code, 7)
	want(u, "what another user cleans after the run", len(other.rows("clean", "--json")), 0)
	wantText(u, u.must("clean"), name)
}

// TestCreatedTooLate interrupts a run whose container the engine creates later.
func TestCreatedTooLate(t *testing.T) {
	u := newUser(t)
	gate := u.gate("POST .*/containers/create$", true)
	run := u.start(u.command(u.labelled("--rm", "--no-sandbox", image, "true")...))
	gate.await(u)
	u.signal(run, syscall.SIGINT)
	want(u, "the exit status", u.finish(run).code, 130)
	gate.pass()
	u.eventually("the engine has created it", func() bool { return u.left() != "" })
	wantText(u, u.must("clean"), "never started")
}
