package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// tunnelScript asks the proxy for a tunnel to $1, sends a line through it, and keeps it open
// for $2 seconds. It writes "cut" when the proxy ends it.
const tunnelScript = `proxy=${HTTPS_PROXY#http://}; at=${proxy#*@}
{ printf 'CONNECT %s HTTP/1.1\r\nHost: %s\r\nProxy-Authorization: Basic %s\r\n\r\nping\n' "$1" "$1" "$(printf %s "${proxy%@*}" | base64 -w0)"
  sleep "$2"; } | { nc "${at%:*}" "${at#*:}"; echo cut; }`

// TestEgressChanges has a run whose user allows a host, and denies it again.
func TestEgressChanges(t *testing.T) {
	for _, variable := range []string{engine, newest} {
		for _, sandbox := range sandboxes {
			t.Run(variable+" "+sandbox, func(t *testing.T) { changeEgress(newUserOn(t, variable), sandbox) })
		}
	}
}

func changeEgress(u *user, sandbox string) {
	const target = "server.test:8080"
	u.Cleanup(func() {
		if u.Failed() && u.owned() != "" {
			u.removeOwned()
		}
	})
	server := strings.TrimSpace(u.must(u.labelled("-d", "--no-sandbox", image, "nc", "-ll", "-p", "8080", "-e", "cat")...))
	address := u.docker("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", server)
	u.eventually("the server listens", func() bool { return u.moat("exec", server, "sh", "-c", "nc 127.0.0.1 8080 </dev/null").code == 0 })

	name := unique(u.T)
	run := u.reading(u.labelled("--rm", sandbox, "--name", name, "--egress", "example.com", "--egress-private", address+"/32", "--add-host", "server.test:"+address,
		image, "sh", "-c", "trap 'exit 7' TERM; echo started; sleep 1000 & wait")...)
	run.await(u, "started")
	tunnel := func(seconds string) []string {
		return []string{"exec", name, "sh", "-c", tunnelScript, "sh", target, seconds}
	}
	following := u.reading("egress", "log", "-f", name)

	want(u, "the rules at first", u.must("egress", "ls", name), "example.com:443\n")
	denied := u.must(tunnel("0")...)
	var record struct{ Verdict, Run, Host string }
	first, err := following.stdout.ReadBytes('\n')
	if err = errors.Join(err, json.Unmarshal(first, &record)); err != nil || record.Verdict != "denied" {
		u.Fatalf("the followed log has %q, %v", first, err)
	}
	runID := record.Run
	wantText(u, denied, "403 Forbidden", target+" is not allowed for run "+runID+". To allow it, run: moat egress allow "+runID+" "+target+"\n")
	want(u, "the rules that allow it", u.must("egress", "allow", runID, target), "example.com:443\n"+target+"\n")

	open := u.reading(tunnel("1000")...)
	open.until(u, "ping")
	again := u.moat("egress", "deny", name, target, "example.net")
	want(u, "the exit status of a rule that is not in force", again.code, 1)
	wantText(u, again.stderr, `rule "example.net:443" is not in force`, "moat egress ls")
	want(u, "the rules after it", len(u.rows("egress", "ls", "--json", name)), 2)
	want(u, "the rules that deny it", u.must("egress", "deny", name, target), "example.com:443\n")
	open.await(u, "cut")
	wantText(u, u.must(tunnel("0")...), "403 Forbidden", target+" is not allowed")

	// The proxy records a tunnel's end after it has cut it.
	var verdicts []string
	u.eventually("the cut tunnel is on record", func() bool {
		verdicts = nil
		for line := range strings.Lines(u.must("egress", "log", name)) {
			if err := json.Unmarshal([]byte(line), &record); err != nil || record.Run != runID || record.Host != "server.test" {
				u.Fatalf("the log has %q, %v", line, err)
			}
			verdicts = append(verdicts, record.Verdict)
		}
		return len(verdicts) == 4
	})
	slices.Sort(verdicts)
	want(u, "what is on record", strings.Join(verdicts, " "), "allowed denied denied ended")
	want(u, "how much that is with --json", len(u.rows("egress", "log", "--json", name)), 4)

	u.signal(run.Cmd, syscall.SIGTERM)
	want(u, "the exit status", u.finish(run.Cmd).code, 7)
	followed, err := io.ReadAll(following.stdout)
	want(u, "the exit status of the process that follows the log", u.finish(following.Cmd).code, 0)
	want(u, "how many more records it has seen", strings.Count(string(followed), "\n"), 3)
	if err != nil {
		u.Error(err)
	}
	u.finish(open.Cmd)
	wantText(u, u.moat("egress", "ls", name).stderr, name, "not found")
	u.must("rm", "-f", server)
	want(u, "what is left on the engine", u.owned(), "")
}

// TestEgressOfOtherRuns has containers whose egress cannot be changed.
func TestEgressOfOtherRuns(t *testing.T) {
	u := newUser(t)
	open := strings.TrimSpace(u.must(u.labelled("-d", "--no-sandbox", image, "sleep", "1000")...))
	defer u.must("rm", "-f", open)
	ended := unique(t)
	want(u, "the exit status", u.run("--no-sandbox", "--name", ended, "--egress", "example.com", image, "true").code, 0)
	defer u.must("rm", ended)
	for name, texts := range map[string][]string{
		open[:12]: {"it has no proxy", "--egress RULE"},
		ended:     {ended, "the run has ended", "--egress RULE"},
	} {
		for _, args := range [][]string{{"ls", name}, {"allow", name, "example.com"}, {"deny", name, "example.com"}, {"log", name}} {
			found := u.moat(append([]string{"egress"}, args...)...)
			want(u, fmt.Sprintf("the exit status of %q", args), found.code, 1)
			wantText(u, found.stderr, texts...)
		}
	}
}
