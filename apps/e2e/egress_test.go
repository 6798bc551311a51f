package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moatproject/moat/adapters/docker/dockertest"
	"github.com/moatproject/moat/core"
)

// connect asks the proxy for a tunnel, as a client would.
const connect = `proxy=${HTTPS_PROXY#http://}; at=${proxy#*@}
printf 'CONNECT %s HTTP/1.1\r\nHost: %s\r\nProxy-Authorization: Basic %s\r\nConnection: close\r\n\r\n' \
	example.net:443 example.net:443 "$(printf %s "${proxy%@*}" | base64 -w0)" | nc "${at%:*}" "${at#*:}"`

// TestEgress has a run whose program is told by the proxy why it gets no answer.
func TestEgress(t *testing.T) {
	for _, variable := range []string{engine, newest} {
		for _, sandbox := range sandboxes {
			t.Run(variable+" "+sandbox, func(t *testing.T) {
				u := newUserOn(t, variable)
				found := u.run("--rm", sandbox, "--egress", "example.com", "--egress", "@pypi", image, "sh", "-c", connect+"; exit 7")
				want(u, "the exit status", found.code, 7)
				wantText(u, found.stdout, "403 Forbidden", "example.net:443 is not allowed", "To allow it, run: moat egress allow ", " example.net:443")
				want(u, "what is left on the engine", u.owned(), "")
			})
		}
	}
}

// TestClosedByDefault has runs that say nothing of their network.
func TestClosedByDefault(t *testing.T) {
	const outside = "ip -o link show | grep -c eth0; echo $http_proxy"
	for _, sandbox := range sandboxes {
		t.Run(sandbox, func(t *testing.T) {
			u := newServiceUser(t)
			u.env = []string{"MOAT_EGRESS="}
			found := u.run("--rm", sandbox, image, "sh", "-c", outside)
			want(u, "a closed run's network and proxy", found.stdout, "0\nhttp://closed-by-moat.allow-a-host-with--egress-HOST.invalid:3128\n")
			found = u.run("--rm", sandbox, "--egress", "open", image, "sh", "-c", outside)
			want(u, "an open run's", found.stdout, "1\n\n")
			wantText(u, found.stderr, "the network is open", `by="--egress open"`)

			found = u.run("--rm", sandbox, "--service", "redis:7", "moat/test-redis", "sh", "-c", real[1].session)
			want(u, "a service's answer", found.stdout, "42\n")
			found = u.run("--rm", sandbox, "--service", "redis:7", image, "sh", "-c", connect)
			wantText(u, found.stdout, "403 Forbidden", "example.net:443 is not allowed")
			want(u, "what is left of a run with a service", u.owned(), "")

			name := unique(t)
			u.must(u.labelled("-d", sandbox, "--name", name, "-p", "8080", image, "sh", "-c", "while :; do echo served | nc -l -p 8080; done")...)
			wantText(u, u.must("ps"), "->8080/tcp")
			u.answers(u.published(name, 8080), "served\n")
			wantText(u, u.must("inspect", name), `"evidence": {`, `"dropped": `, `"arrived": 0`)
			u.must("rm", "-f", name)
			want(u, "what is left of a detached run", u.owned(), "")
		})
	}
}

// published returns the address of the engine's host at which a port of a container answers.
func (u *user) published(name string, port int) string {
	u.Helper()
	var all []struct{ Published []core.PortMapping }
	if err := json.Unmarshal([]byte(u.must("inspect", name)), &all); err != nil {
		u.Fatal(err)
	}
	for _, published := range all[0].Published {
		if published.ContainerPort == port {
			return fmt.Sprintf("%s:%d", published.HostIP, published.HostPort)
		}
	}
	u.Fatalf("%d is not published: %+v", port, all)
	return ""
}

// answers waits until a server inside of the engine's network says this.
func (u *user) answers(address, text string) {
	u.Helper()
	dial := dockertest.DialIn(os.Getenv("MOAT_TEST_NETNS"))
	u.eventually(address+" answers", func() bool {
		conn, err := dial(u.Context(), "tcp", address)
		if err != nil {
			return false
		}
		defer conn.Close()
		answer, _ := io.ReadAll(conn)
		return string(answer) == text
	})
}

// TestEgressAtATerminal has a terminal that shows nothing of what holds its program.
func TestEgressAtATerminal(t *testing.T) {
	for _, sandbox := range sandboxes {
		t.Run(sandbox, func(t *testing.T) {
			u := newUser(t)
			p := u.sit(u.labelled("--rm", "-it", sandbox, "--egress", "example.com", image, "sh", "-c", "stty size; stty -a | grep -c ' echo '; read x; echo got $x; exit 7")...)
			p.reads(fmt.Sprintf("%d %d\n1", rows, columns))
			p.types("hello\r")
			p.reads("got hello")
			want(u, "the exit status", p.leaves(), 7)
			screen := slices.DeleteFunc(p.looks(), func(row string) bool {
				return row == "" || strings.HasPrefix(row, "WRN") || strings.Contains(row, ".sock")
			})
			want(u, "the screen", strings.Join(screen, "|"), fmt.Sprintf("%d %d|1|hello|got hello", rows, columns))
			found := u.run("--rm", "-t", sandbox, "--egress", "example.com", image, "sh", "-c", "test -t 0 && echo here")
			want(u, "the output at a terminal without input", found.stdout, "here\r\n")
			want(u, "what is left on the engine", u.owned(), "")
		})
	}
}

// TestProxyKilled has a run without its only way out.
func TestProxyKilled(t *testing.T) {
	for _, sandbox := range sandboxes {
		t.Run(sandbox, func(t *testing.T) {
			u := newUser(t)
			name := unique(t)
			u.must(u.labelled("-d", sandbox, "--name", name, "--egress", "example.com", image, "sleep", "1000")...)
			wantText(u, u.moat("exec", name, "sh", "-c", connect).stdout, "403 Forbidden")
			proxy := u.docker("ps", "--filter", u.ownerFilter(), "--filter", "name=moat-egress-", "--format", "{{.Names}}")
			u.docker("kill", proxy)
			want(u, "what the workload is answered", u.moat("exec", name, "timeout", "5", "sh", "-c", connect).stdout, "")
			want(u, "the proxy runs again", u.docker("inspect", "-f", "{{.State.Running}}", proxy), "false")
			u.must("rm", "-f", name)
			want(u, "what is left on the engine", u.owned(), "")
		})
	}
}

// TestMoatKilled has a run whose process is gone.
func TestMoatKilled(t *testing.T) {
	u := newUser(t)
	name := unique(t)
	command := u.reading(u.labelled("--rm", "--no-sandbox", "--name", name, "--egress", "example.com", image, "sh", "-c", "echo ready; sleep 1000")...)
	command.await(u, "ready")
	_ = command.Process.Kill()
	_ = command.Wait()
	wantText(u, u.moat("exec", name, "sh", "-c", connect).stdout, "403 Forbidden")
	wantText(u, u.must("clean"), "its `moat run` was killed")
	want(u, "what is left on the engine", u.owned(), "")
}

// TestEgressRefused has no run at all.
func TestEgressRefused(t *testing.T) {
	u := newUser(t)
	for _, test := range []struct {
		args []string
		text string
	}{
		{[]string{"--egress", "https://example.com", image, "true"}, "https://example.com"},
		{[]string{"--egress", "example.com:0", image, "true"}, "example.com:0"},
		{[]string{"--egress", "example.com:65536", image, "true"}, "example.com:65536"},
		{[]string{"--egress", "", image, "true"}, `rule ""`},
		{[]string{"--egress", "@cobol", image, "true"}, "@cobol"},
		{[]string{"--egress-private", "10.0.0.0/8", image, "true"}, "--egress"},
		{[]string{"--egress", "example.com", "--egress-private", "10.0.0.0", image, "true"}, "10.0.0.0"},
		{[]string{"--egress", "example.com", "--network", "host", image, "true"}, "host"},
		{[]string{"--egress", "example.com", "--cap-add", "net_raw", image, "true"}, "NET_RAW"},
		{[]string{"--egress", "example.com", "--privileged", image, "true"}, "privileged"},
		{[]string{"--egress", "example.com", "-p", "80/udp", image, "true"}, "only TCP ports"},
		{[]string{"--egress", "example.com", "-d", "-i", image, "true"}, "input of a detached run"},
	} {
		found := u.run(append([]string{"--rm", "--no-sandbox"}, test.args...)...)
		want(u, "the exit status", found.code, 125)
		wantText(u, found.stderr, test.text)
	}
	lonely := filepath.Join(t.TempDir(), "moat")
	program, err := os.ReadFile(binary)
	if err == nil {
		err = os.WriteFile(lonely, program, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	command := u.command(u.labelled("--rm", "--no-sandbox", "--egress", "example.com", image, "true")...)
	command.Path = lonely
	found := u.finish(u.start(command))
	want(u, "the exit status without moat-proxy", found.code, 125)
	wantText(u, found.stderr, "moat-proxy is not in "+filepath.Dir(lonely))
	want(u, "what is left on the engine", u.owned(), "")
}
