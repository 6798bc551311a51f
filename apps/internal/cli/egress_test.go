package cli

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moatproject/moat/adapters/memory"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/detect"
	"github.com/moatproject/moat/core/run"
	"github.com/spf13/pflag"
)

// TestEgressOfARun has what becomes of the network: "none" is closed without a proxy.
func TestEgressOfARun(t *testing.T) {
	const restricted, open, invalid = "restricted", "open", "invalid"
	for name, test := range map[string]struct {
		args  []string
		env   string
		want  string
		rules string
		warns string
	}{
		"nothing":                           {nil, "", "none", "", ""},
		"a port":                            {[]string{"-p", "80"}, "", restricted, "", ""},
		"a service":                         {[]string{"--service", "redis"}, "", restricted, "", ""},
		"rules":                             {[]string{"--egress", "example.com", "--egress", "@npm"}, "", restricted, "example.com @npm", ""},
		"open":                              {[]string{"--egress", "open"}, "", open, "", "--egress open"},
		"the environment's rules":           {nil, "example.com, *.example.org:80", restricted, "example.com *.example.org:80", ""},
		"the environment opens":             {nil, "open", open, "", ""},
		"the environment is empty":          {nil, " , ", "none", "", ""},
		"flags come before the environment": {[]string{"--egress", "example.com"}, "open", restricted, "example.com", ""},
		"open, for an environment's rules":  {[]string{"--egress", "open"}, "example.com", open, "", "--egress open"},
		"no network":                        {[]string{"--network", "none"}, "open", "none", "", ""},
		"a network of the user's":           {[]string{"--network", "mine"}, "example.com", open, "", ""},
		"the bridge":                        {[]string{"--network", "bridge"}, "", open, "", "--network bridge"},
		"the host's":                        {[]string{"--network", "host"}, "", open, "", "--network host"},
		"the bridge, opened":                {[]string{"--network", "bridge", "--egress", "open"}, "", open, "", "--egress open"},
		"privileged":                        {[]string{"--privileged"}, "", "none", "", ""},

		"rules on another network":  {[]string{"--egress", "example.com", "--network", "mine"}, "", invalid, "needs a network of the run's own", ""},
		"open and more":             {[]string{"--egress", "open", "--egress", "example.com"}, "", invalid, "stands alone", ""},
		"open and more of a kind":   {[]string{"--egress", "open", "--egress-private", "10.0.0.0/8"}, "", invalid, "--egress-private needs --egress", ""},
		"a subnet of an open one":   {[]string{"--egress-private", "10.0.0.0/8"}, "open", invalid, "--egress-private needs --egress", ""},
		"a subnet without a rule":   {[]string{"--egress-private", "10.0.0.0/8"}, "", invalid, "--egress-private needs --egress", ""},
		"no subnet":                 {[]string{"--egress", "example.com", "--egress-private", "x"}, "", invalid, "--egress-private", ""},
		"no rule":                   {[]string{"--egress", "https://example.com"}, "", invalid, "--egress: ", ""},
		"no rule, and no network":   {[]string{"--egress", "https://example.com", "--network", "none"}, "", invalid, "--egress: ", ""},
		"the environment's no rule": {nil, "https://example.com", invalid, "MOAT_EGRESS: ", ""},
		"the environment's and":     {nil, "open example.com", invalid, "MOAT_EGRESS open: ", ""},
		"a port of a privileged":    {[]string{"-p", "80", "--privileged"}, "", invalid, "--egress open opens it", ""},
		"a UDP port":                {[]string{"-p", "53/udp"}, "", invalid, "--egress open opens it", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var options runOptions
			flags := pflag.NewFlagSet("run", pflag.ContinueOnError)
			options.register(flags)
			if err := flags.Parse(append(test.args, "-e", "MINE=1", "image")); err != nil {
				t.Fatal(err)
			}
			env := testFlagEnv(t)
			env.LookEnv = func(key string) (string, bool) { return test.env, key == egressVariable }
			env.ProxyProgram = func(string) ([]byte, error) { return nil, nil }
			spec, err := options.spec(env, flags.Args())
			if test.want == invalid {
				if err == nil || !strings.Contains(err.Error(), test.rules) {
					t.Errorf("got %v, want %s", err, test.rules)
				}
				return
			}
			got := open
			if spec.Egress != nil {
				got = restricted
				if rules := strings.Join(spec.Egress.Rules, " "); rules != test.rules {
					t.Errorf("the rules are %q, want %q", rules, test.rules)
				}
			} else if spec.Workload.NetworkMode == "none" {
				got = "none"
			}
			if err != nil || got != test.want || options.opens() != test.warns {
				t.Errorf("it is %s, %v, and warned of is %q", got, err, options.opens())
			}
			tells := slices.Contains(spec.Workload.Env, "http_proxy="+closedProxy)
			if closed := got == "none" && len(options.network) == 0; tells != closed || !slices.Contains(spec.Workload.Env, "MINE=1") {
				t.Errorf("it is told %q", spec.Workload.Env)
			}
		})
	}
}

// TestClosedProxyMayBeReplaced has variables of the user's come last, which then hold.
func TestClosedProxyMayBeReplaced(t *testing.T) {
	options := runOptions{}
	spec := run.Spec{Workload: core.Config{Image: "image", Env: []string{"HTTP_PROXY=mine"}}}
	env := testFlagEnv(t)
	env.LookEnv = func(string) (string, bool) { return "", false }
	if err := options.parseEgress(env, &spec); err != nil {
		t.Fatal(err)
	}
	if last := spec.Workload.Env[len(spec.Workload.Env)-1]; last != "HTTP_PROXY=mine" {
		t.Errorf("the last is %s", last)
	}
}

// TestWarnings has runs whose user gives something away.
func TestWarnings(t *testing.T) {
	home := t.TempDir()
	state := filepath.Join(home, "state", "moat")
	link := filepath.Join(t.TempDir(), "link")
	if err := errors.Join(os.MkdirAll(filepath.Join(state, "runs"), 0o700), os.Mkdir(filepath.Join(home, "project"), 0o700), os.Symlink(home, link)); err != nil {
		t.Fatal(err)
	}
	for source, want := range map[string]string{
		home:                                "whole home",
		filepath.Dir(home):                  "whole home",
		link:                                "whole home",
		link + "/project/..":                "whole home",
		"/":                                 "whole home",
		state:                               "knows of your runs",
		filepath.Join(home, "state"):        "knows of your runs",
		filepath.Join(link, "state/moat"):   "knows of your runs",
		filepath.Join(state, "runs"):        "knows of your runs",
		filepath.Join(home, "project"):      "",
		filepath.Join(home, "missing"):      "",
		filepath.Join(home, "state", "mo"):  "",
		filepath.Dir(link):                  "",
		filepath.Join(state, "..", "moats"): "",
	} {
		var stderr bytes.Buffer
		a := &app{env: Env{Stderr: &stderr, HomeDir: home, StateDir: state, Host: detect.Host{Getenv: func(string) string { return "" }}}}
		a.warnOf(run.Spec{Workload: core.Config{Mounts: []core.MountConfig{{Source: source, Target: "/x"}}}}, runOptions{})
		if said := stderr.String(); (said == "") != (want == "") || !strings.Contains(said, want) || strings.Count(said, "WRN") > 1 {
			t.Errorf("mounting %s, it warns %q", source, said)
		}
	}
	c := newCommands(t)
	if code, _, stderr := c.moat("run", "--privileged", memory.BaseImage); code != statusMoatFailed || !strings.Contains(stderr, "--privileged lifts") {
		t.Errorf("a privileged run in a sandbox: %d, %q", code, stderr)
	}
	if _, _, stderr := c.moat("--no-sandbox", "run", "--privileged", memory.BaseImage); strings.Contains(stderr, "--privileged lifts") {
		t.Errorf("a privileged run without one: %q", stderr)
	}
}
