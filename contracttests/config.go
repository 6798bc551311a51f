package contracttests

import (
	"context"
	"errors"
	"maps"
	"math/bits"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

func configCases() []Case {
	return []Case{
		{Number: "CF-01", Title: "Name is as good as the ID", check: names, fields: []string{"Name"}},
		{Number: "CF-02", Title: "Image says what Config does not", check: imageDefaults, fields: []string{"Image"}},
		{Number: "CF-03", Title: "Cmd arrives word for word", check: commandWords, fields: []string{"Cmd"}},
		{Number: "CF-04", Title: "Env arrives unchanged", check: environment, fields: []string{"Env"}},
		// Serial: it changes this process's environment.
		{Number: "CF-36", Title: "no variable of others is passed on", Serial: true, check: foreignEnvironment, fields: []string{"Env"}},
		{Number: "CF-05", Title: "WorkingDir is the process's", check: workingDir, fields: []string{"WorkingDir"}},
		{Number: "CF-06", Title: "User is the process's", check: user, fields: []string{"User"}},
		{
			Number: "CF-07", Title: "Mounts are shared with the host", check: mounts, fields: []string{"Mounts"},
			ability: capability("Mounts"), unsupported: refusedConfig(mountRoot),
		},
		{
			Number: "CF-08", Title: "read-only Mounts refuse writes", check: readOnlyMounts, fields: []string{"Mounts"},
			ability: capability("Mounts"), unsupported: refusedConfig(mountRoot),
		},
		{
			Number: "CF-15", Title: "CapAdd adds a capability", check: addedCapability, fields: []string{"CapAdd"},
			ability: capability("LinuxCaps"), unsupported: refusedConfig(addPtrace),
		},
		{
			Number: "CF-16", Title: "dangerous capabilities are dropped", check: droppedCapabilities, fields: []string{"CapAdd"},
			ability: capability("LinuxCaps"), unsupported: refusedConfig(addPtrace),
		},
		{Number: "CF-17", Title: "GroupAdd adds groups", check: addedGroups, fields: []string{"GroupAdd"}},
		{
			Number: "CF-18", Title: "Privileged gives all capabilities", check: privileged, fields: []string{"Privileged"},
			ability: capability("Privileged"), unsupported: refusedConfig(func(c *core.Config) { c.Privileged = true }),
		},
		{Number: "CF-19", Title: "Interactive keeps stdin open", check: interactive, fields: []string{"Interactive"}},
		{
			Number: "CF-20", Title: "TTY gives a terminal", check: terminal, fields: []string{"TTY"},
			ability: capability("TTY"), unsupported: refusedConfig(func(c *core.Config) { c.TTY = true }),
		},
		{Number: "CF-26", Title: "Labels, RunID and Role are kept", check: labels, fields: []string{"Labels", "RunID", "Role"}},
		{Number: "CF-28", Title: "AutoRemove removes what has exited", check: autoRemove, fields: []string{"AutoRemove"}},
		{
			Number: "CF-29", Title: "set-user-ID programs gain nothing", check: noNewPrivileges, fields: []string{"AllowNewPrivileges"},
			ability: capability("NoNewPrivileges"), unsupported: refusedPrivileges,
		},
		{
			Number: "CF-30", Title: "AllowNewPrivileges lets them", check: newPrivileges, fields: []string{"AllowNewPrivileges"},
			unsupported: refusedConfig(func(c *core.Config) { c.AllowNewPrivileges = true }),
		},
		{
			Number: "CF-31", Title: "Hostname is the container's", check: hostname, fields: []string{"Hostname"},
			unsupported: refusedConfig(func(c *core.Config) { c.Hostname = chosenHostname }),
		},
		{
			Number: "CF-32", Title: "Held holds the program until its release", check: heldStart, fields: []string{"Held"},
			ability: held, unsupported: refusedConfig(func(c *core.Config) { c.Held = true }),
		},
	}
}

func names(f *fixture) {
	cfg := f.agent("say by name")
	cfg.Name = "name-" + f.runID
	id := f.create(cfg)
	f.start(cfg.Name)
	want(f, "the exit code by name", f.wait(cfg.Name), 0)
	want(f, "the output by name", f.logs(cfg.Name), "by name\n")
	f.must(f.rt.RemoveContainer(f.ctx, cfg.Name))
	_, err := f.rt.ContainerState(f.ctx, id)
	f.wantClass("the state of what was removed by name", err, core.ErrNotFound)

	// The rest, in an order that lets each call succeed.
	byName := f.agent("ignore USR1", "on TERM exit 0", "say ready", "sleep")
	byName.Name, byName.TTY = "every-call-"+f.runID, optional.CapabilitiesOf(f.rt).TTY
	id = f.started(byName)
	f.awaitOutput(byName.Name, "ready")
	var live []*call[struct{}]
	stop := map[string]func(context.Context, string) error{}
	for _, call := range containerCalls(f) {
		switch call.name {
		case "StartAttached": // of what runs it is another call
		case "StopContainer", "StopContainerTimeout":
			stop[call.name] = call.do
		case "WaitContainer", "ContainerLogs", "StreamLogs", "Attach":
			live = append(live, begin(call.name, func() (struct{}, error) { return struct{}{}, call.do(f.ctx, byName.Name) }).on(id))
		default:
			if err := call.do(f.ctx, byName.Name); err != nil {
				f.Errorf("%s by name returned %v", call.name, err)
			}
		}
	}
	for _, stream := range live {
		stream.goesOn(f)
	}
	for _, name := range slices.Sorted(maps.Keys(stop)) {
		if err := stop[name](f.ctx, byName.Name); err != nil {
			f.Errorf("%s by name returned %v", name, err)
		}
	}
	for _, stream := range live {
		if _, err := stream.until("the container was stopped").result(f); err != nil {
			f.Errorf("%s by name returned %v", stream.what, err)
		}
	}
	if optional.CapabilitiesOf(f.rt).Attach {
		f.remove(id)
		f.create(byName)
		attached := begin("StartAttached", func() (struct{}, error) {
			return struct{}{}, f.rt.StartAttached(f.ctx, byName.Name, core.AttachOptions{TTY: byName.TTY})
		})
		f.awaitOutput(byName.Name, "ready")
		attached.goesOn(f)
		f.must(f.rt.StopContainer(f.ctx, byName.Name))
		_, err := attached.until("the container was stopped").result(f)
		f.must(err)
	}
}

const chosenHostname = "host-of-it"

func hostname(f *fixture) {
	cfg := f.agent("hostname", "cat /etc/hostname", "say", "cat /etc/hosts") // the file may end without a newline
	cfg.Hostname = chosenHostname
	out := f.output(cfg)
	called, hosts, _ := strings.Cut(out, "\n")
	file, hosts, _ := strings.Cut(hosts, "\n")
	want(f, "the output of hostname", called, chosenHostname)
	want(f, "the name in /etc/hostname", file, chosenHostname)
	if !slices.ContainsFunc(strings.Split(hosts, "\n"), func(line string) bool {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		return len(words) > 1 && slices.Contains(words[1:], chosenHostname)
	}) {
		f.Errorf("no line of /etc/hosts has an address for %s:\n%s", chosenHostname, hosts)
	}
}

func imageDefaults(f *fixture) {
	cfg := f.agent("env ENTRYPOINT_RAN", "env FROM_IMAGE", "user", "dir")
	cfg.Image = f.h.ConfigImage
	want(f, "what the image says", f.output(cfg), "yes\nyes\n1000 1000\n/home/tester\n")

	cfg.Cmd = nil // its command is a shell, which finds nothing to read
	want(f, "the output of the image's command", f.output(cfg), "")
}

func commandWords(f *fixture) {
	words := []string{"", "a b", "$HOME", `"\n'`, "-x", "é", "*", "#"}
	cfg := f.agent(append([]string{"words"}, words...)...)
	want(f, "the arguments", f.output(cfg), "<"+strings.Join(words, ">\n<")+">\n")
}

func environment(f *fixture) {
	cfg := f.agent("env PLAIN", "env BLANKS", "env EQUALS", "env LINES2", "env EMPTY", "env FROM_IMAGE")
	cfg.Image = f.h.ConfigImage
	cfg.Env = []string{"PLAIN=x", "BLANKS= a  b ", "EQUALS=a=b", "LINES2=a\nb", "EMPTY=", "FROM_IMAGE=replaced"}
	want(f, "the environment", f.output(cfg), "x\n a  b \na=b\na\nb\n\nreplaced\n")
}

// ownVariables are those that engines and shells make for each container.
var ownVariables = []string{"HOME", "HOSTNAME", "OLDPWD", "PATH", "PWD", "SHLVL", "TERM", "_", "container"}

// foreignVariables is for whoever sets variables of this process: cases may run beside each
// other, other than by Run.
var foreignVariables sync.Mutex

// setenv sets a variable of this process, and returns what restores it.
func (f *fixture) setenv(name, value string) (restore func()) {
	f.Helper()
	old, was := os.LookupEnv(name)
	f.must(os.Setenv(name, value))
	return func() {
		if was {
			_ = os.Setenv(name, old)
		} else {
			_ = os.Unsetenv(name)
		}
	}
}

// foreignEnvironment gives this process variables that no workload may see: a runtime that
// runs a command-line tool hands them to it.
func foreignEnvironment(f *fixture) {
	foreignVariables.Lock()
	defer foreignVariables.Unlock()
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "MOAT_CONTRACT_FOREIGN", "NO_PROXY"} {
		value := "http://user:secret@proxy.invalid:3128"
		if name == "NO_PROXY" {
			value = "*" // whatever else this process does goes on without a proxy
		}
		for _, name := range []string{name, strings.ToLower(name)} {
			defer f.setenv(name, value)()
		}
	}
	rt := f.another()
	cfg := f.agent("env")
	cfg.Env = []string{"ASKED_FOR=yes"}
	id, err := rt.CreateContainer(f.ctx, cfg)
	f.must(err)
	f.created = append(f.created, id)
	f.must(rt.StartContainer(f.ctx, id))
	code, err := rt.WaitContainer(f.ctx, id)
	f.must(err)
	want(f, "the exit code of env", code, 0)
	out, err := rt.ContainerLogsAll(f.ctx, id)
	f.must(err)
	var foreign []string
	for line := range strings.Lines(string(out)) {
		name, _, _ := strings.Cut(line, "=")
		if name != "ASKED_FOR" && !slices.Contains(ownVariables, name) {
			foreign = append(foreign, name)
		}
	}
	if len(foreign) > 0 {
		f.Errorf("a workload has variables that neither its Config nor the image %s has set: %s", f.h.Image, strings.Join(foreign, ", "))
	}
	if !strings.Contains(string(out), "ASKED_FOR=yes\n") {
		f.Errorf("a workload lacks the variable that its Config has set:\n%s", out)
	}
}

func workingDir(f *fixture) {
	cfg := f.agent("dir")
	cfg.WorkingDir = "/made/for/this"
	want(f, "the working directory", f.output(cfg), "/made/for/this\n")
}

func user(f *fixture) {
	for asked, expected := range map[string]string{"tester": "1000 1000", "1234:2345": "1234 2345"} {
		cfg := f.agent("user")
		cfg.User = asked
		want(f, "user and group of "+asked, f.output(cfg), expected+"\n")
	}
}

// mounted is the agent's configuration with a folder of the host's, which has a file.
func (f *fixture) mounted(readOnly bool, steps ...string) (cfg core.Config, folder string) {
	f.Helper()
	folder = f.TempDir()
	f.must(os.WriteFile(filepath.Join(folder, "in"), []byte("from the host\n"), 0o644))
	cfg = f.agent(steps...)
	cfg.Mounts = []core.MountConfig{{Source: folder, Target: "/mnt/shared", ReadOnly: readOnly}}
	return cfg, folder
}

func mounts(f *fixture) {
	cfg, folder := f.mounted(false, "cat /mnt/shared/in", `append /mnt/shared/out from inside\n`)
	want(f, "what the container reads", f.output(cfg), "from the host\n")
	written, err := os.ReadFile(filepath.Join(folder, "out"))
	f.must(err)
	want(f, "what the host reads", string(written), "from inside\n")
}

func readOnlyMounts(f *fixture) {
	cfg, folder := f.mounted(true, "cat /mnt/shared/in", "try append /mnt/shared/out x")
	want(f, "the output", f.output(cfg), "from the host\nfailed\n")
	if _, err := os.Stat(filepath.Join(folder, "out")); !errors.Is(err, os.ErrNotExist) {
		f.Errorf("a file was written through a read-only mount: %v", err)
	}
}

// Numbers of Linux capabilities.
const (
	capNetRaw    = 13
	capSysPtrace = 19
	capSysAdmin  = 21
)

func addPtrace(c *core.Config) { c.CapAdd = []string{"SYS_PTRACE"} }

// capabilities runs a process and returns its effective capabilities.
func (f *fixture) capabilities(change func(*core.Config)) uint64 {
	f.Helper()
	cfg := f.showCapabilities()
	change(&cfg)
	return f.parseCapabilities(f.output(cfg))
}

func (f *fixture) showCapabilities() core.Config {
	return f.agent("grep CapEff: /proc/self/status")
}

func (f *fixture) parseCapabilities(out string) uint64 {
	f.Helper()
	mask, err := strconv.ParseUint(strings.TrimSpace(strings.TrimPrefix(out, "CapEff:")), 16, 64)
	f.must(err)
	return mask
}

func addedCapability(f *fixture) {
	if f.capabilities(addPtrace)&(1<<capSysPtrace) == 0 {
		f.Errorf("CapAdd SYS_PTRACE does not add it")
	}
}

func droppedCapabilities(f *fixture) {
	mask := f.capabilities(func(*core.Config) {})
	for name, bit := range map[string]int{"NET_RAW": capNetRaw, "SYS_PTRACE": capSysPtrace, "SYS_ADMIN": capSysAdmin} {
		if mask&(1<<bit) != 0 {
			f.Errorf("a container has %s without having asked for it", name)
		}
	}
}

func privileged(f *fixture) {
	cfg := f.showCapabilities()
	cfg.Privileged = true
	id := f.create(cfg)
	err := f.rt.StartContainer(f.ctx, id)
	if err != nil && f.unprivileged() {
		return // refused, as what cannot be honoured has to be
	}
	f.must(err)
	want(f, "the exit code", f.wait(id), 0)
	mask := f.parseCapabilities(f.logs(id))
	if mask&(1<<capSysAdmin) == 0 || bits.OnesCount64(mask) < 30 {
		f.Errorf("a privileged container has the capabilities %x only", mask)
	}
}

func addedGroups(f *fixture) {
	cfg := f.agent("groups")
	cfg.GroupAdd = []string{"2345", "3456"}
	groups := strings.Fields(f.output(cfg))
	for _, group := range cfg.GroupAdd {
		if !slices.Contains(groups, group) {
			f.Errorf("the process's groups are %v, without %s", groups, group)
		}
	}
}

// interactive starts a reader whose stdin is open before one whose stdin is not:
// when the second has ended, the first has had time to end too.
func interactive(f *fixture) {
	cfg := f.agent("cat")
	cfg.Interactive = true
	open := f.started(cfg)
	cfg.Interactive = false
	began := time.Now()
	want(f, "the exit code of a reader without stdin", f.wait(f.started(cfg)), 0)
	f.waiting(f.ctx, open).goesOnFor(f, max(moment, 2*time.Since(began)))
	f.wantState(open, core.StateRunning)
}

func terminal(f *fixture) {
	cfg := f.agent("terminal", "stderr say terminal")
	cfg.TTY, cfg.Interactive = true, true
	want(f, "the output", strings.TrimSpace(f.output(cfg)), "terminal")
}

func labels(f *fixture) {
	cfg := f.agent()
	cfg.Labels = map[string]string{"example.org/kind": "a b", "empty": ""}
	cfg.Role = core.RoleService
	listed := f.listed(f.create(cfg)).Labels
	for _, key := range []string{"example.org/kind", "empty", core.LabelRole, core.LabelRunID} {
		got, found := listed[key]
		want(f, "label "+key, got, cfg.ContainerLabels()[key])
		want(f, "the presence of label "+key, found, true)
	}
}

func autoRemove(f *fixture) {
	cfg := f.agent("sleep 1s", "exit 5") // time enough for the waiter to be there
	cfg.AutoRemove = true
	id := f.create(cfg)
	waiter := f.waiting(f.ctx, id)
	waiter.goesOn(f)
	f.start(id)
	code, err := waiter.until("the container has exited, which removes it").result(f)
	f.must(err)
	want(f, "the exit code", code, 5)
	if !eventually(func() bool {
		_, err := f.rt.ContainerState(f.ctx, id)
		return errors.Is(err, core.ErrNotFound)
	}) {
		f.Fatalf("the exited container is still there")
	}
	f.forget(id)
}

var noNewPrivilegesLine = regexp.MustCompile(`NoNewPrivs:\s+([01])`)

// gainsPrivileges tells whether set-user-ID programs work in a container: by what
// its kernel says, or by BusyBox's word, where the kernel does not.
func (f *fixture) gainsPrivileges(change func(*core.Config)) bool {
	f.Helper()
	cfg := f.agent("grep NoNewPrivs: /proc/self/status")
	change(&cfg)
	if line := noNewPrivilegesLine.FindStringSubmatch(f.output(cfg)); line != nil {
		return line[1] == "0"
	}
	cfg.Cmd = f.shell("cp /bin/busybox /tmp/busybox && chmod 4755 /tmp/busybox && su tester -c '/tmp/busybox crontab -l' 2>&1; true").Cmd
	out := f.output(cfg)
	if !strings.Contains(out, "crontab:") {
		f.Fatalf("neither the kernel nor BusyBox tells whether set-user-ID programs work: %q", out)
	}
	return !strings.Contains(out, "must be suid")
}

func noNewPrivileges(f *fixture) {
	if f.gainsPrivileges(func(*core.Config) {}) {
		f.Errorf("set-user-ID programs gain privileges although AllowNewPrivileges is false")
	}
}

func newPrivileges(f *fixture) {
	if !f.gainsPrivileges(func(c *core.Config) { c.AllowNewPrivileges = true }) {
		f.Errorf("set-user-ID programs gain nothing although AllowNewPrivileges is true")
	}
}

// refusedPrivileges is no call: a runtime that guarantees nothing refuses nothing.
func refusedPrivileges(*fixture, string) error { return core.ErrUnsupported }
