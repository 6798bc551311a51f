package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestLifeInTheBackground(t *testing.T) {
	u := newUser(t)
	name := unique(t)
	started := u.rows(u.labelled("-d", "--json", "--no-sandbox", "--name", name, image, "sh", "-c",
		"echo one; echo two; echo three >&2; trap 'exit 5' TERM; while :; do sleep 0.1; done")...)
	id := fmt.Sprint(started[0]["id"])
	want(u, "the name", started[0]["name"], any(name))
	u.eventually("three lines are logged", func() bool { return len(u.rows("logs", "--json", name)) == 3 })
	for _, reference := range []string{name, id, id[:10]} {
		found := u.moat("logs", reference)
		want(u, "stdout by "+reference, found.stdout, "one\ntwo\n")
		want(u, "stderr by "+reference, found.stderr, "three\n")
	}
	want(u, "--tail", len(u.rows("logs", "--json", "--tail", "2", name)), 2)
	wantText(u, u.must("ps"), name, id[:12], "running")
	inspected := u.rows("inspect", name)
	if len(inspected) != 1 || inspected[0]["id"] != id || inspected[0]["status"] != "running" {
		u.Errorf("inspect: %v", inspected)
	}
	listed := u.rows("ps", "--json")
	if !slices.ContainsFunc(listed, func(row map[string]any) bool { return row["id"] == id && row["status"] == "running" }) {
		u.Errorf("ps --json: %v", listed)
	}

	following := u.reading("logs", "-f", name)
	following.await(u, "one")
	waiting := u.start(u.command("wait", "--json", name))
	refused := u.moat("rm", name)
	want(u, "rm of what runs", refused.code, 1)
	wantText(u, refused.stderr, name, "-f")
	want(u, "stop", u.rows("stop", "-t", "20", "--json", id[:10])[0]["id"], any(id))
	following.await(u, "two")
	want(u, "the end of logs -f", u.finish(following.Cmd).code, 0)
	wantText(u, u.finish(waiting).stdout, `"exitcode": 5`, id)
	want(u, "wait after the end", u.must("wait", name), "5\n")
	if strings.Contains(u.must("ps"), name) || !strings.Contains(u.must("ps", "-a"), name) {
		u.Error("what has exited belongs to ps -a alone")
	}
	want(u, "rm", u.rows("rm", "--json", id[:10])[0]["name"], any(name))
}

func TestDetached(t *testing.T) {
	u := newUser(t)
	id := strings.TrimSuffix(u.must(u.labelled("-d", "--no-sandbox", image, "sh", "-c", "trap : TERM; while :; do sleep 0.1; done")...), "\n")
	want(u, "the whole ID is printed", u.docker("ps", "-q", "--no-trunc", "--filter", "label="+u.label), id)
	name := fmt.Sprint(u.rows("inspect", id)[0]["name"])
	want(u, "stop -t 0", u.must("stop", "-t", "0", id), name+"\n")
	want(u, "what SIGKILL leaves", u.rows("wait", "--json", name)[0]["exitcode"], any(137.0))
	want(u, "rm -f", u.must("rm", "-f", id[:12]), name+"\n")
}

// onContainers are the commands on the container X.
var onContainers = []string{
	"inspect X", "logs X", "wait X", "stop X", "rm X", "rm -f X", "attach X", "exec X true", "exec -d X true",
	"cp X:/etc/passwd -", "cp - X:/tmp", "stats --no-stream X", "events X",
}

func on(container, command string) []string {
	return strings.Fields(strings.ReplaceAll(command, "X", container))
}

func TestUnknownContainers(t *testing.T) {
	u := newUser(t)
	for _, command := range onContainers {
		found := u.moat(on("no-such-container", command)...)
		want(u, fmt.Sprintf("%q: the exit status", command), found.code, 1)
		wantText(u, found.stderr, "no-such-container", "not found", "moat ps -a")
	}
}

func TestAmbiguousPrefix(t *testing.T) {
	u := newUser(t)
	var prefix string
	var ids []string
	for prefix == "" { // sixteen digits: after seventeen containers at most
		id := u.docker("create", "--label", "moat.managed=true", "--label", u.label, image, "true")
		if slices.ContainsFunc(ids, func(other string) bool { return other[0] == id[0] }) {
			prefix = id[:1]
		}
		ids = append(ids, id)
	}
	for _, command := range onContainers {
		found := u.moat(on(prefix, command)...)
		want(u, fmt.Sprintf("%q: the exit status", command), found.code, 1)
		wantText(u, found.stderr, `"`+prefix+`"`, "more than one container")
	}
	want(u, "how many are removed together", len(u.rows(append([]string{"rm", "--json"}, ids...)...)), len(ids))
}
