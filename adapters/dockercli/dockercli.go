// Package dockercli runs containers by the command line of Docker. It is the example of
// docs/writing-an-adapter.md: all that differs from engine to engine, and nothing else.
// Programs use adapters/docker, which needs no command and can do more.
package dockercli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/driver"
	"github.com/moatproject/moat/core/optional"
)

// Type is the name of this runtime.
const Type core.RuntimeType = "docker-cli"

// Options configures a runtime.
type Options struct {
	Program string // the command; empty: docker, from PATH
	Host    string // the engine's endpoint, such as unix:///var/run/docker.sock
}

// New returns a runtime. It runs no command.
func New(options Options) *driver.Runtime {
	if options.Program == "" {
		options.Program = "docker"
	}
	return driver.New(Type, cli(options))
}

// cli is the driver.
type cli Options

func (cli) Close() error { return nil }

func (cli) Capabilities() optional.Capabilities {
	return optional.Capabilities{
		Isolation:       optional.IsolationContainer,
		ExitCodes:       true,
		MemoryLimit:     true,
		CPULimit:        true,
		PidsLimit:       true,
		NoNewPrivileges: true,
		Mounts:          true,
		PublishedPorts:  true,
		NetworkModes:    true,
		HostEntries:     true,
	}
}

// command prepares a command that ends with ctx. It reads no configuration of the user's,
// which may name a proxy for all containers.
func (c cli) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.Program, append([]string{"--config", "/nonexistent", "--host", c.Host}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent"}
	return cmd
}

// run runs a command and returns its output. Its error has the command's own words.
func (c cli) run(ctx context.Context, args ...string) ([]byte, error) {
	cmd := c.command(ctx, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if words := strings.TrimSpace(stderr.String()); err != nil && words != "" {
		err = errors.New(words)
	}
	return out, err
}

// meanings has the words of the engine's errors, in lower case. The first match counts.
var meanings = []struct {
	words string
	class error
	field string
	cause error
}{
	{"cannot connect to the docker daemon", core.ErrUnavailable, "", nil},
	{"error during connect", core.ErrUnavailable, "", nil},
	{"no such file or directory: unknown", core.ErrInvalidConfig, "Cmd", fs.ErrNotExist},
	{"executable file not found", core.ErrInvalidConfig, "Cmd", fs.ErrNotExist},
	{"permission denied: unknown", core.ErrInvalidConfig, "Cmd", fs.ErrPermission},
	{"exec format error", core.ErrInvalidConfig, "Cmd", fs.ErrPermission},
	{"is a directory: unknown", core.ErrInvalidConfig, "Cmd", fs.ErrPermission},
	{"bind source path does not exist", core.ErrInvalidConfig, "Mounts", nil},
	{"connection refused", core.ErrUnavailable, "", nil}, // by a registry
	{"failed to do request", core.ErrUnavailable, "", nil},
	{"no such", core.ErrNotFound, "", nil},
	{"not found", core.ErrNotFound, "", nil},
	{"manifest unknown", core.ErrNotFound, "", nil},
	{"pull access denied", core.ErrNotFound, "", nil},
	{"port is already allocated", core.ErrInUse, "", nil},
	{"all ports are allocated", core.ErrInUse, "", nil},
	{"address already in use", core.ErrInUse, "", nil},
	{"unable to remove repository reference", core.ErrInUse, "", nil},
	{"unable to delete", core.ErrInUse, "", nil},
	{"is already in use by container", core.ErrAlreadyExists, "", nil},
	{"is not running", core.ErrNotRunning, "", nil},
	{"invalid signal", core.ErrInvalidConfig, "signal", nil},
	{"unable to find user", core.ErrInvalidConfig, "User", nil},
	{"unable to find group", core.ErrInvalidConfig, "GroupAdd", nil},
}

func (c cli) Classify(failure *core.Error) {
	if errors.Is(failure.Err, exec.ErrNotFound) {
		failure.Class, failure.Remedy = core.ErrUnavailable, "Install the command "+c.Program
		return
	}
	text := strings.ToLower(failure.Err.Error())
	for _, m := range meanings {
		if strings.Contains(text, m.words) {
			failure.Class, failure.Field = m.class, m.field
			if m.cause != nil {
				failure.Err = fmt.Errorf("%w: %w", failure.Err, m.cause)
			}
			if errors.Is(m.class, core.ErrUnavailable) {
				failure.Remedy = "Start the engine, or check its endpoint"
			}
			return
		}
	}
}

func (c cli) Ping(ctx context.Context) error {
	_, err := c.run(ctx, "version", "--format", "{{.Server.Version}}")
	return err
}

func (c cli) Create(ctx context.Context, cfg core.Config) (string, error) {
	if cfg.OnNamedNetwork() { // which newer engines look for at the start only
		if _, err := c.run(ctx, "network", "inspect", cfg.NetworkMode); err != nil {
			return "", err
		}
	}
	if err := c.pull(ctx, cfg); err != nil {
		return "", err
	}
	// Docker's default log driver, json-file, replaces bytes that are not UTF-8.
	args := []string{"create", "--log-driver=local", "--pull=never"}
	option := func(name string, values ...string) {
		for _, value := range values {
			if value != "" {
				args = append(args, "--"+name+"="+value)
			}
		}
	}
	option("name", cfg.Name)
	option("workdir", cfg.WorkingDir)
	option("env", cfg.Env...)
	option("user", cfg.User)
	option("hostname", cfg.Hostname)
	option("network", cfg.NetworkMode)
	option("network-alias", cfg.NetworkAliases...)
	option("add-host", cfg.ExtraHosts...)
	option("group-add", cfg.GroupAdd...)
	option("stop-timeout", strconv.Itoa(int(cfg.StopTimeoutOrDefault().Seconds())))
	for key, value := range cfg.ContainerLabels() {
		option("label", key+"="+value)
	}
	for _, mount := range cfg.Mounts {
		option("mount", mountOption(mount))
	}
	for _, port := range cfg.PublishedPorts() {
		option("publish", portOption(port))
	}
	if cfg.MemoryMB > 0 {
		limit := strconv.Itoa(cfg.MemoryMB) + "m"
		option("memory", limit)
		option("memory-swap", limit)
	}
	if quota := cfg.CPUQuota(); quota > 0 {
		option("cpus", fmt.Sprintf("%d.%09d", quota/1e9, quota%1e9))
	}
	option("pids-limit", strconv.FormatInt(cmp.Or(cfg.PidsLimit, core.DefaultPidsLimit), 10))
	if !cfg.AllowNewPrivileges {
		option("security-opt", "no-new-privileges")
	}
	option("interactive", strconv.FormatBool(cfg.Interactive))
	option("rm", strconv.FormatBool(cfg.AutoRemove))
	args = append(append(args, "--", cfg.Image), cfg.Cmd...)
	// An engine creates the container also when the command is killed. So the command goes
	// on after the end of ctx, and its container is removed.
	always, cancel := context.WithTimeout(context.WithoutCancel(ctx), createTimeout)
	defer cancel()
	out, err := c.run(always, args...)
	id := strings.TrimSpace(string(out))
	if err == nil && ctx.Err() != nil {
		err = cmp.Or(c.Remove(always, id), ctx.Err())
	}
	return id, err
}

const createTimeout = time.Minute

func (c cli) pull(ctx context.Context, cfg core.Config) error {
	if cfg.Pull == core.PullNever {
		return nil
	}
	if cfg.Pull != core.PullAlways {
		if _, err := c.run(ctx, "image", "inspect", cfg.Image); err == nil {
			return nil
		}
	}
	_, err := c.run(ctx, "pull", "--quiet", "--", cfg.Image)
	return err
}

// mountOption is a mount as one line of CSV, in which paths may have commas and quotes.
func mountOption(mount core.MountConfig) string {
	fields := []string{"type=bind", "source=" + mount.Source, "target=" + mount.Target}
	if mount.ReadOnly {
		fields = append(fields, "readonly")
	}
	var line strings.Builder
	w := csv.NewWriter(&line)
	_ = w.Write(fields)
	w.Flush()
	return strings.TrimSuffix(line.String(), "\n")
}

func portOption(port core.PortMapping) string {
	host := ""
	if port.HostPort > 0 {
		host = strconv.Itoa(port.HostPort)
	}
	if port.HostPortEnd > port.HostPort {
		host += "-" + strconv.Itoa(port.HostPortEnd)
	}
	ip := port.HostIP
	if strings.Contains(ip, ":") {
		ip = "[" + ip + "]"
	}
	return fmt.Sprintf("%s:%s:%d/%s", ip, host, port.ContainerPort, port.Protocol)
}

func (c cli) Start(ctx context.Context, id string) error {
	_, err := c.run(ctx, "start", id)
	return err
}

func (c cli) Stop(ctx context.Context, id string, timeout time.Duration) error {
	args := []string{"stop"}
	if timeout >= 0 {
		args = append(args, "--time", strconv.Itoa(int(timeout.Seconds())))
	}
	_, err := c.run(ctx, append(args, id)...)
	return err
}

func (c cli) Signal(ctx context.Context, id string, signal int) error {
	_, err := c.run(ctx, "kill", "--signal", strconv.Itoa(signal), id)
	return err
}

// Wait reads events, because `docker wait` returns at once for a container that has not
// been started. It asks for events from before the inspection, so that none is missed.
func (c cli) Wait(ctx context.Context, id string) (int64, error) {
	since := time.Now()
	details, err := c.Inspect(ctx, id)
	switch {
	case err != nil:
		return 0, err
	case details.Status == core.StateExited:
		return int64(details.State.ExitCode), nil
	}
	exit, err := c.awaitEvent(ctx, "die", since, details)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(exit["exitCode"], 10, 64)
}

// awaitEvent returns the attributes of the first event since then. A removal ends the wait.
func (c cli) awaitEvent(ctx context.Context, event string, since time.Time, details optional.Details) (map[string]string, error) {
	ctx, cancel := context.WithCancel(ctx)
	cmd := c.command(ctx, "events", "--since", since.Format(time.RFC3339Nano), "--filter", "container="+details.ID,
		"--filter", "event="+event, "--filter", "event=destroy", "--format", "{{json .}}")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		return nil, err
	}
	defer func() {
		cancel()
		_ = cmd.Wait()
	}()
	decoder := json.NewDecoder(out)
	for {
		var happened struct {
			Action   string
			TimeNano int64
			Actor    struct{ Attributes map[string]string }
		}
		if err := decoder.Decode(&happened); err != nil {
			return nil, err
		}
		switch {
		case happened.Action == "destroy":
			return nil, &core.Error{Class: core.ErrNotFound, Err: errors.New("it has been removed")}
		case happened.TimeNano >= details.State.StartedAt.UnixNano(): // and not of an earlier run
			return happened.Actor.Attributes, nil
		}
	}
}

// Remove waits for a removal by others to end.
func (c cli) Remove(ctx context.Context, id string) error {
	for {
		_, err := c.run(ctx, "rm", "--force", "--volumes", id)
		if err == nil || !strings.Contains(err.Error(), "is already in progress") {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Logs waits for the start of a container before it follows: `docker logs` ends at once.
func (c cli) Logs(ctx context.Context, id string, opts optional.LogOptions) error {
	since := time.Now()
	details, err := c.Inspect(ctx, id)
	if err == nil && opts.Follow && details.Status == core.StateCreated {
		_, err = c.awaitEvent(ctx, "start", since, details)
	}
	if err != nil {
		return err
	}
	args := []string{"logs", "--follow=" + strconv.FormatBool(opts.Follow)}
	if opts.Tail > 0 {
		args = append(args, "--tail="+strconv.Itoa(opts.Tail))
	}
	cmd := c.command(ctx, append(args, id)...)
	stderr := &lastWords{to: opts.Stderr}
	cmd.Stdout, cmd.Stderr = opts.Stdout, stderr
	if opts.Stdout == opts.Stderr {
		cmd.Stdout = stderr // one pipe for both keeps their order
	}
	if err = cmd.Run(); err == nil {
		_, err = stderr.to.Write(stderr.held) // the program's own, after all
	} else if len(stderr.held) > 0 {
		err = errors.New(strings.TrimSpace(string(stderr.held)))
	}
	return err
}

// lastWords passes output on, but for a last line that may be the command's own: it
// writes the engine's failure to where the container's stderr goes.
type lastWords struct {
	to   io.Writer
	held []byte
}

func (w *lastWords) Write(p []byte) (int, error) {
	all := slices.Concat(w.held, p)
	last := bytes.LastIndexByte(bytes.TrimSuffix(all, []byte("\n")), '\n') + 1
	if !bytes.HasPrefix(all[last:], []byte("Error response from daemon: ")) {
		last = len(all)
	}
	w.held = all[last:]
	if _, err := w.to.Write(all[:last]); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (c cli) RemoveImage(ctx context.Context, id string) error {
	_, err := c.run(ctx, "image", "rm", id)
	return err
}

func (c cli) Images(ctx context.Context) ([]core.ImageInfo, error) {
	found, err := inspectAll[struct {
		ID       string `json:"Id"`
		RepoTags []string
		Size     int64
		Created  time.Time
	}](ctx, c, []string{"image", "ls", "--quiet", "--no-trunc"}, "image", "inspect")
	var images []core.ImageInfo
	for _, image := range found {
		for _, tag := range image.RepoTags {
			images = append(images, core.ImageInfo{ID: image.ID, Tag: tag, Size: image.Size, Created: image.Created})
		}
	}
	return images, err
}

// inspectAll inspects the objects that a command lists. Those that are removed meanwhile
// are left out.
func inspectAll[T any](ctx context.Context, c cli, list []string, inspect ...string) (found []T, err error) {
	out, err := c.run(ctx, list...)
	ids := strings.Fields(string(out))
	slices.Sort(ids)
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	out, err = c.run(ctx, append(inspect, slices.Compact(ids)...)...)
	if err != nil && !strings.Contains(strings.ToLower(err.Error()), "no such") {
		return nil, err
	}
	return found, json.Unmarshal(out, &found)
}

func (c cli) List(ctx context.Context) ([]core.Info, error) {
	found, err := inspectAll[description](ctx, c, []string{"ps", "--all", "--quiet", "--no-trunc"}, "container", "inspect")
	list := make([]core.Info, len(found))
	for i, each := range found {
		list[i] = each.info()
	}
	return list, err
}

func (c cli) Inspect(ctx context.Context, id string) (optional.Details, error) {
	out, err := c.run(ctx, "container", "inspect", id)
	if err != nil {
		return optional.Details{}, err
	}
	var found []description
	if err := json.Unmarshal(out, &found); err != nil || len(found) != 1 {
		return optional.Details{}, fmt.Errorf("the command's answer cannot be read: %w", err)
	}
	return found[0].details(), nil
}
