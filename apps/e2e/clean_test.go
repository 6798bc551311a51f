package e2e

import (
	"os/exec"
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
	want(u, "what is cleaned while both run", len(u.cleaned()), 0)
	detached := strings.TrimSpace(u.must(u.labelled("-d", "--no-sandbox", image, "sh", "-c", loop)...))
	_ = killed.Process.Kill()
	_ = killed.Wait()
	wantText(u, u.must("ps"), name)

	wantText(u, u.must("clean", "--dry-run"), name, "its `moat run` was killed")
	want(u, "what a dry run leaves", u.docker("inspect", "-f", "{{.Name}}", name), "/"+name)
	cleaned := u.cleaned()
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
		want(cleaner, "what is cleaned", len(cleaner.cleaned()), 0)
	}
	gate.pass()
	want(u, "the run's exit status", u.finish(run).code, 7)
	want(u, "what another user cleans after the run", len(other.cleaned()), 0)
	wantText(u, u.must("clean"), name)
}

// TestTwoCleansAtOnce has them clean the same, beside a live run.
func TestTwoCleansAtOnce(t *testing.T) {
	u := newServiceUser(t)
	start := func() *reading {
		run := u.reading(u.labelled("--rm", "--no-sandbox", "--service", "redis:7", image, "sh", "-c", loop)...)
		run.await(u, "ready")
		return run
	}
	live := start()
	name := strings.Split(u.owned(), " ")[0] // the newest is the workload
	for range 3 {
		run := start()
		_ = run.Process.Kill()
		_ = run.Wait()
	}
	var cleans []*exec.Cmd
	for range 3 {
		cleans = append(cleans, u.start(u.command("clean")))
	}
	for _, clean := range cleans {
		found := u.finish(clean)
		want(u, "the exit status ("+found.stderr+")", found.code, 0)
	}
	want(u, "how many containers run on", strings.Count(u.owned(), " Up "), 2)
	wantText(u, u.owned(), name)
	u.signal(live.Cmd, syscall.SIGTERM)
	want(u, "the live run's exit status", u.finish(live.Cmd).code, 0)
}

// TestCleanOnForeignNetworks cleans beside a run on a network of others', which shares
// what its sandbox needs there with a run that is over.
func TestCleanOnForeignNetworks(t *testing.T) {
	u := newUser(t)
	name := unique(t)
	u.docker("network", "create", name)
	defer u.docker("network", "rm", name)
	over := u.reading(u.labelled("--network", name, image, "sh", "-c", loop)...)
	over.await(u, "ready")
	live := u.reading(u.labelled("--rm", "--network", name, "--network-alias", "live", image, "sh", "-c",
		"trap 'nslookup live >/dev/null && echo found; exit' TERM; echo ready; while :; do sleep 0.1; done")...)
	live.await(u, "ready")
	u.signal(over.Cmd, syscall.SIGTERM)
	want(u, "the exit status of the first", u.finish(over.Cmd).code, 0)
	wantText(u, u.must("clean"), "its run is over")
	u.signal(live.Cmd, syscall.SIGTERM)
	live.await(u, "found")
	want(u, "the exit status of the second", u.finish(live.Cmd).code, 0)
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
