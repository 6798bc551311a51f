package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/moatproject/moat/adapters/memory"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/detect"
	"github.com/moatproject/moat/core/optional"
	"github.com/moatproject/moat/core/run"
)

// egressEngine is an engine on which the egress of one run, 3b7214d5, is restricted.
type egressEngine struct {
	*stubbornEngine
	t *testing.T

	exec  func(stdout, stderr io.Writer) (int64, error) // what the proxy's program does
	logs  func(ctx context.Context, stdout, stderr io.Writer) error
	found func(core.Lifecycle) error // nil: the network is found

	asked  []string // commands of the proxy
	follow bool     // the log was followed
}

const egressRun = "3b7214d5"

var egressNetwork = optional.RestrictedNetwork{ID: "net", Container: "moat-egress-net", Program: "/proxy"}

func (e *egressEngine) NetworkManager() core.NetworkManager {
	return egressNetworks{e.stubbornEngine.NetworkManager(), e}
}

type egressNetworks struct {
	core.NetworkManager
	engine *egressEngine
}

func (n egressNetworks) FindRestrictedNetwork(_ context.Context, runID string) (optional.RestrictedNetwork, error) {
	if n.engine.found != nil {
		return optional.RestrictedNetwork{}, n.engine.found(n.engine)
	}
	if runID != egressRun {
		return optional.RestrictedNetwork{}, &core.Error{Op: "find restricted network", Object: runID, Class: core.ErrNotFound}
	}
	return egressNetwork, nil
}

func (e *egressEngine) Exec(_ context.Context, id string, opts optional.ExecOptions) (int64, error) {
	if id != egressNetwork.Container || opts.User != "" {
		e.t.Errorf("it executes in %q, as %q", id, opts.User)
	}
	e.asked = append(e.asked, strings.Join(opts.Cmd, " "))
	return e.exec(opts.Stdout, opts.Stderr)
}

func (e *egressEngine) StreamLogs(ctx context.Context, id string, opts optional.LogOptions) error {
	if id != egressNetwork.Container || opts.Tail != 0 {
		e.t.Errorf("it reads %d lines of %q", opts.Tail, id)
	}
	e.follow = opts.Follow
	stderr := opts.Stderr
	if stderr == nil {
		stderr = io.Discard
	}
	return e.logs(ctx, opts.Stdout, stderr)
}

// newEgressCommands has the workload "web" of the run, which is running.
func newEgressCommands(t *testing.T) (*commands, *egressEngine) {
	c := newCommands(t)
	engine := &egressEngine{stubbornEngine: c.engine, t: t}
	engine.exec = func(stdout, _ io.Writer) (int64, error) {
		_, err := io.WriteString(stdout, "example.com:443\n*.example.org:80\n")
		return 0, err
	}
	c.env.Registered = registering(memory.Type, func() detect.Candidate {
		return detect.Candidate{Type: memory.Type, Endpoint: c.endpoint, New: func() (core.Runtime, error) { return engine, nil }}
	})
	c.container(core.Config{Name: "web", RunID: egressRun})
	return c, engine
}

// container starts a container that runs until it is removed.
func (c *commands) container(cfg core.Config) (id string) {
	c.Helper()
	cfg.Image = "redis:7"
	id, err := c.engine.CreateContainer(c.Context(), cfg)
	if err == nil {
		err = c.engine.StartContainer(c.Context(), id)
	}
	if err != nil {
		c.Fatal(err)
	}
	return id
}

func TestEgressRules(t *testing.T) {
	c, engine := newEgressCommands(t)
	c.container(core.Config{Name: "database", RunID: egressRun, Role: core.RoleService})
	c.container(core.Config{Name: "other", RunID: "00000000"})
	const text = "example.com:443\n*.example.org:80\n"
	for _, test := range []struct {
		args   []string
		asked  string
		stdout string
	}{
		{[]string{"ls", "web"}, "/proxy rules", text},
		{[]string{"ls", egressRun}, "/proxy rules", text},
		{[]string{"ls", "database"}, "/proxy rules", text},
		{[]string{"ls", "--json", "web"}, "/proxy rules", "[\n  {\n    \"rule\": \"example.com:443\"\n  },\n  {\n    \"rule\": \"*.example.org:80\"\n  }\n]\n"},
		{[]string{"allow", egressRun, "Example.com.", "*.example.org:80"}, "/proxy allow example.com:443 *.example.org:80", text},
		{[]string{"deny", "web", "example.net"}, "/proxy deny example.net:443", text},
	} {
		engine.asked = nil
		code, stdout, stderr := c.moat(append([]string{"egress"}, test.args...)...)
		if code != 0 || stdout != test.stdout || stderr != "" || !slices.Equal(engine.asked, []string{test.asked}) {
			t.Errorf("%q: %d, %q, %q; it asked %q", test.args, code, stdout, stderr, engine.asked)
		}
	}
	engine.exec = func(io.Writer, io.Writer) (int64, error) { return 0, nil }
	for option, want := range map[string]string{"--json=false": "", "--json": "[]\n"} {
		if code, stdout, stderr := c.moat("egress", "ls", option, "web"); code != 0 || stdout != want {
			t.Errorf("no rules: %d, %q, %q", code, stdout, stderr)
		}
	}
}

// TestEgressRunIDComesFirst has a run's ID as the name of another run's container.
func TestEgressRunIDComesFirst(t *testing.T) {
	c, engine := newEgressCommands(t)
	c.container(core.Config{Name: egressRun, RunID: "00000000"})
	if code, _, stderr := c.moat("egress", "ls", egressRun); code != 0 || len(engine.asked) != 1 {
		t.Errorf("%d, %s", code, stderr)
	}
}

// TestEgressInvalidRules has the engine asked for nothing.
func TestEgressInvalidRules(t *testing.T) {
	c, _ := newEgressCommands(t)
	c.env.Registered = func(Env, *slog.Logger) []detect.Registration {
		return []detect.Registration{{Name: memory.Type, Candidates: func() []detect.Candidate {
			t.Error("an engine is looked for")
			return nil
		}}}
	}
	for _, test := range []struct {
		args []string
		text string
	}{
		{[]string{"https://example.com"}, `rule "https://example.com"`},
		{[]string{"example.com", "10.0.0.1"}, `rule "10.0.0.1"`},
		{[]string{"@cobol"}, `"@cobol"`},
		{[]string{""}, `rule ""`},
		{[]string{"--", "-x.example.com"}, `rule "-x.example.com": no host begins with a hyphen`},
		{[]string{"-x.example.com"}, "unknown shorthand flag"},
		{nil, "requires at least 2 arg(s)"},
	} {
		for _, verb := range []string{"allow", "deny"} {
			code, stdout, stderr := c.moat(append([]string{"egress", verb, "web"}, test.args...)...)
			if code != 1 || stdout != "" || !strings.Contains(stderr, test.text) {
				t.Errorf("%s %q: %d, %q, %q", verb, test.args, code, stdout, stderr)
			}
		}
	}
}

// TestEgressOfNoSuchRun tells on which object, and what to do.
func TestEgressOfNoSuchRun(t *testing.T) {
	c, engine := newEgressCommands(t)
	c.container(core.Config{Name: "open", RunID: "00000000"})
	c.container(core.Config{Name: "alone"})
	ended := c.container(core.Config{Name: "ended", RunID: "11111111"})
	if err := c.engine.StopContainer(t.Context(), ended); err != nil {
		t.Fatal(err)
	}
	for name, texts := range map[string][]string{
		"missing": {`find container "missing": not found`, "`moat ps -a`"},
		"alone":   {`"alone": the container belongs to no run`, "`moat run --egress RULE`"},
		"open":    {`"open": it has no proxy: its network is closed, open, or one that you named. Run it with --egress RULE`},
		"ended":   {`"ended": not running: the run has ended`, "--egress RULE"},
	} {
		for op, args := range map[string][]string{
			"list egress rules": {"ls", name}, "allow egress": {"allow", name, "example.com"}, "deny egress": {"deny", name, "example.com"}, "read egress log": {"log", name},
		} {
			code, stdout, stderr := c.moat(append([]string{"egress"}, args...)...)
			if code != 1 || stdout != "" || !strings.Contains(stderr, op) && name != "missing" {
				t.Errorf("%q: %d, %q, %q", args, code, stdout, stderr)
			}
			for _, text := range texts {
				if !strings.Contains(stderr, text) {
					t.Errorf("%q: %q is missing from %q", args, text, stderr)
				}
			}
		}
	}
	if engine.asked != nil {
		t.Errorf("it has asked %q", engine.asked)
	}
}

// TestEgressOfARunThatEnds has a workload that goes while its network is looked for.
func TestEgressOfARunThatEnds(t *testing.T) {
	for _, missing := range []error{core.ErrNotFound, core.ErrNotRunning} {
		c, engine := newEgressCommands(t)
		engine.found = func(containers core.Lifecycle) error {
			return errors.Join(containers.RemoveContainer(t.Context(), "web"), missing)
		}
		if code, _, stderr := c.moat("egress", "ls", "web"); code != 1 || !strings.Contains(stderr, `"web": not running: the run has ended`) {
			t.Errorf("%v: %d, %q", missing, code, stderr)
		}
	}
}

// TestEgressOfARunThatBegins has no proxy yet.
func TestEgressOfARunThatBegins(t *testing.T) {
	c, engine := newEgressCommands(t)
	engine.found = func(core.Lifecycle) error { return core.ErrNotRunning }
	for _, args := range [][]string{{"ls", "web"}, {"log", "web"}} {
		code, _, stderr := c.moat(append([]string{"egress"}, args...)...)
		if code != 1 || !strings.Contains(stderr, `"web": not running: its proxy does not run`) || !strings.Contains(stderr, "Try again") {
			t.Errorf("%q: %d, %q", args, code, stderr)
		}
	}
}

// TestEgressOfARunThatWasLeft has an ended workload whose proxy is there yet: the log can be
// read, and there is nothing to allow.
func TestEgressOfARunThatWasLeft(t *testing.T) {
	c, engine := newEgressCommands(t)
	if err := c.engine.StopContainer(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	engine.logs = func(_ context.Context, stdout, _ io.Writer) error {
		_, err := io.WriteString(stdout, "{}\n")
		return err
	}
	if code, _, stderr := c.moat("egress", "allow", "web", "example.com"); code != 1 || !strings.Contains(stderr, "the run has ended") || engine.asked != nil {
		t.Errorf("allow: %d, %q, %q", code, stderr, engine.asked)
	}
	if code, stdout, stderr := c.moat("egress", "log", "web"); code != 0 || stdout != "{}\n" {
		t.Errorf("log: %d, %q, %q", code, stdout, stderr)
	}
}

// TestEgressFailures has proxies that do not do as they are told.
func TestEgressFailures(t *testing.T) {
	says := func(code int64, out, errs string) func(stdout, stderr io.Writer) (int64, error) {
		return func(stdout, stderr io.Writer) (int64, error) {
			_, err := io.WriteString(stderr, errs)
			if err == nil {
				_, err = io.WriteString(stdout, out)
			}
			return code, err
		}
	}
	fails := func(class error) func(io.Writer, io.Writer) (int64, error) {
		return func(io.Writer, io.Writer) (int64, error) {
			return 0, &core.Error{Op: "exec in container", Object: egressNetwork.Container, Class: class}
		}
	}
	for name, test := range map[string]struct {
		exec  func(stdout, stderr io.Writer) (int64, error)
		texts []string
	}{
		"it refuses":         {says(1, "", "moat-proxy: rule \"example.com:443\" is not in force\n"), []string{`deny egress "web": rule "example.com:443" is not in force. List the rules in force with ` + "`moat egress ls web`\n"}},
		"it says nothing":    {says(137, "", ""), []string{`"web": its proxy's program has exited with status 137`}},
		"it says no rules":   {says(0, "example.com:443\n\x1b[2Jhello\n", ""), []string{`"web": the proxy's answer: `, `rule "\x1b[2Jhello"`}},
		"it says too much":   {says(0, strings.Repeat("example.com:443\n", maxAnswer/16+1), ""), []string{"answer is too long"}},
		"it has ended":       {fails(core.ErrNotRunning), []string{`"web": not running: its proxy does not run`, "--egress RULE"}},
		"it is gone":         {fails(core.ErrNotFound), []string{`"web": not running: its proxy does not run`, "--egress RULE"}},
		"the engine is away": {fails(core.ErrUnavailable), []string{"runtime unavailable"}},
	} {
		c, engine := newEgressCommands(t)
		engine.exec = test.exec
		code, stdout, stderr := c.moat("egress", "deny", "web", "example.com")
		if code != 1 || stdout != "" {
			t.Errorf("%s: %d, %q, %q", name, code, stdout, stderr)
		}
		for _, text := range test.texts {
			if !strings.Contains(stderr, text) {
				t.Errorf("%s: %q is missing from %q", name, text, stderr)
			}
		}
	}
}

func TestEgressLog(t *testing.T) {
	c, engine := newEgressCommands(t)
	const hostile = "{\"host\":\"\u009b2J\u202e\U0001f600\x7f\xff\"}"
	engine.logs = func(_ context.Context, stdout, stderr io.Writer) error {
		_, err := io.WriteString(stderr, "ready\n")
		for _, piece := range []string{"{\"verdict\":", "\"denied\"}\n" + hostile + "\n", `{"verdict":"lo`} {
			if err == nil {
				_, err = io.WriteString(stdout, piece)
			}
		}
		return err
	}
	const escaped = `{"host":"\u009b2J\u202e\ud83d\ude00\u007f\ufffd"}`
	code, stdout, stderr := c.moat("egress", "log", "web")
	if want := "{\"verdict\":\"denied\"}\n" + escaped + "\n{\"verdict\":\"lo\n"; code != 0 || stdout != want || stderr != "" || engine.follow {
		t.Errorf("%d, %q, %q; want %q", code, stdout, stderr, want)
	}
	code, stdout, stderr = c.moat("egress", "log", "-f", "--json", egressRun)
	var rows []map[string]string
	if err := json.Unmarshal([]byte(stdout), &rows); err != nil || code != 0 || stderr != "" || !engine.follow {
		t.Fatalf("%d, %q, %q, %v", code, stdout, stderr, err)
	}
	if got, want := fmt.Sprintf("%+q", rows), `[map["verdict":"denied"] map["host":"\u009b2J\u202e\U0001f600\x7f\ufffd"] map["unreadable":"{\"verdict\":\"lo"]]`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if strings.Contains(stdout, "\u009b") {
		t.Errorf("a terminal would execute %q", stdout)
	}
}

func TestEgressLogIsInterrupted(t *testing.T) {
	c, engine := newEgressCommands(t)
	signals := make(chan os.Signal, 1)
	c.env.Notify = func(...os.Signal) (<-chan os.Signal, func()) { return signals, func() {} }
	engine.logs = func(ctx context.Context, stdout, _ io.Writer) error {
		_, _ = io.WriteString(stdout, "{}\n")
		signals <- syscall.SIGINT
		<-ctx.Done()
		return ctx.Err()
	}
	if code, stdout, stderr := c.moat("egress", "log", "-f", "web"); code != 130 || stdout != "{}\n" || stderr != "" {
		t.Errorf("%d, %q, %q", code, stdout, stderr)
	}
}

// TestEgressUnsupported has an engine that restricts no networks.
func TestEgressUnsupported(t *testing.T) {
	c := newCommands(t)
	c.container(core.Config{Name: "web", RunID: egressRun})
	for _, args := range [][]string{{"ls", "web"}, {"allow", "web", "example.com"}, {"log", "web"}} {
		code, stdout, stderr := c.moat(append([]string{"egress"}, args...)...)
		if code != 1 || stdout != "" || !strings.Contains(stderr, `"web": not supported by this runtime`) {
			t.Errorf("%q: %d, %q, %q", args, code, stdout, stderr)
		}
	}
}

// TestEgressDenialNamesTheRun has a denial say which command allows a destination.
func TestEgressDenialNamesTheRun(t *testing.T) {
	options := runOptions{egress: []string{"example.com"}}
	spec := run.Spec{Workload: core.Config{Image: "image"}}
	if err := options.parseEgress(testFlagEnv(t), &spec); err != nil || spec.Egress.AllowBy(egressRun) != "run: moat egress allow "+egressRun {
		t.Errorf("%+v, %v", spec.Egress, err)
	}
}
