package memory

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/moatproject/moat/core"
)

// unsupportedSettings tells what a configuration asks for that takes a kernel.
func unsupportedSettings(cfg core.Config) string {
	for _, setting := range []struct {
		asked  bool
		reason string
	}{
		{len(cfg.CapAdd) > 0, "CapAdd: its processes have no capabilities"},
		{cfg.Privileged, "Privileged: its processes have no privileges"},
		{cfg.AllowNewPrivileges, "AllowNewPrivileges: it has no set-user-ID programs"},
		{cfg.MemoryMB > 0, "MemoryMB: it cannot limit memory"},
		{cfg.CPUQuota() > 0, "CPUs: it cannot limit CPU time"},
		{cfg.PidsLimit > 0, "PidsLimit: it cannot limit processes"},
		{len(cfg.PublishedPorts()) > 0, "Ports: its containers have no network"},
		{cfg.NetworkMode == "host", "NetworkMode: its containers have no network"},
		{slices.ContainsFunc(cfg.ExtraHosts, isGateway), "ExtraHosts: no address leads to the host"},
	} {
		if setting.asked {
			return setting.reason
		}
	}
	return ""
}

// isGateway tells whether an entry of ExtraHosts means the host, whatever its address.
func isGateway(entry string) bool { return strings.HasSuffix(entry, ":host-gateway") }

// CreateContainer creates a container. Beside [core.Config.Validate] it refuses what
// [Runtime.Capabilities] does not promise.
func (r *Runtime) CreateContainer(ctx context.Context, cfg core.Config) (string, error) {
	const op = "create container"
	object := cfg.Name
	if object == "" {
		object = cfg.Image
	}
	if err := cfg.Validate(); err != nil {
		return "", refused(op, object, err)
	}
	if err := r.check(ctx, op, object); err != nil {
		return "", err
	}
	if reason := unsupportedSettings(cfg); reason != "" {
		return "", unsupported(op, object, reason)
	}
	image, err := r.imageFor(ctx, op, cfg)
	if err != nil {
		return "", err
	}
	c, err := newContainer(op, object, cfg, image, r.logLimit)
	if err != nil {
		return "", err
	}
	return c.info.ID, r.add(op, c)
}

// add makes a container known, where its name and the runtime are still free.
func (r *Runtime) add(op string, c *container) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.isClosed() {
		return closedError(op, c.info.Name)
	}
	if slices.ContainsFunc(r.containers, func(other *container) bool { return other.info.Name == c.info.Name }) {
		return failure(op, c.info.Name, core.ErrAlreadyExists, errors.New("another container has the name; remove it or choose another name"))
	}
	if r.images[c.image.Ref] != c.image {
		return failure(op, c.image.Ref, core.ErrNotFound, errors.New("it has just been removed"))
	}
	if c.cfg.OnNamedNetwork() {
		network := r.networkOf(c.cfg.NetworkMode)
		if network == nil {
			return failure(op, c.cfg.NetworkMode, core.ErrNotFound, errors.New("there is no such network; create it, or choose bridge"))
		}
		c.network = network.ID
	}
	r.containers = append(r.containers, c)
	return nil
}

func newContainer(op, object string, cfg core.Config, image *image, logLimit int) (*container, error) {
	cfg.Mounts = slices.Clone(cfg.Mounts) // Inspect shows them
	id := make([]byte, 32)
	rand.Read(id)
	c := &container{
		cfg:     cfg,
		image:   image,
		argv:    image.Cmd,
		dir:     path.Clean("/" + image.WorkingDir),
		state:   core.StateCreated,
		run:     newRun(),
		output:  newOutput(logLimit),
		removed: make(chan struct{}),
		info: core.Info{
			ID: hex.EncodeToString(id), Name: cfg.Name, Image: cfg.Image,
			Created: time.Now(), Labels: cfg.ContainerLabels(),
		},
	}
	if c.info.Name == "" {
		c.info.Name = "moat-" + c.info.ID[:12]
	}
	if len(cfg.Cmd) > 0 {
		c.argv = cfg.Cmd
	}
	c.argv = slices.Concat(image.Entrypoint, c.argv)
	if len(c.argv) == 0 {
		return nil, invalid(op, object, "Cmd", errors.New("is empty, and the image has none"))
	}
	for key, value := range image.labels {
		if _, own := c.info.Labels[key]; !own {
			c.info.Labels[key] = value
		}
	}
	if cfg.WorkingDir != "" {
		c.dir = path.Clean(cfg.WorkingDir)
	}
	if err := c.furnish(op, object); err != nil {
		return nil, err
	}
	return c, nil
}

// hostname is the container's, as engines choose it where nobody has.
func (c *container) hostname() string { return cmp.Or(c.cfg.Hostname, c.info.ID[:12]) }

// furnish fills the file system and looks up the user there.
func (c *container) furnish(op, object string) error {
	c.files = newFilesystem()
	if err := c.unpack(); err != nil {
		return failure(op, c.image.Ref, nil, fmt.Errorf("unpack its files: %w", err))
	}
	for _, mount := range c.cfg.Mounts {
		if err := c.files.bind(mount); err != nil {
			return invalid(op, object, "Mounts", err)
		}
	}
	if err := c.files.mkdirAll(c.dir); err != nil {
		return invalid(op, object, "WorkingDir", err)
	}
	spec := c.cfg.User
	if spec == "" {
		spec = c.image.User
	}
	var err error
	if c.user, err = c.files.lookUpUser(spec); err != nil {
		return invalid(op, object, "User", err)
	}
	if err = c.files.addGroups(&c.user, c.cfg.GroupAdd); err != nil {
		return invalid(op, object, "GroupAdd", err)
	}
	c.env = c.environment()
	return nil
}

func (c *container) unpack() error {
	if err := c.image.unpack(c.files); err != nil {
		return err
	}
	for name, content := range map[string]string{
		"/etc/hostname":    c.hostname() + "\n",
		"/etc/hosts":       c.hosts(),
		"/etc/resolv.conf": c.resolvConf(),
		"/proc/net/dev":    c.interfaces(),
	} {
		if err := c.files.write(name, []byte(content), 0o644); err != nil {
			return err
		}
	}
	for _, folder := range c.image.Volumes {
		if err := c.files.mkdirAll(path.Clean(folder)); err != nil {
			return err
		}
	}
	return nil
}

func (c *container) hosts() string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost\n127.0.0.1\t" + c.hostname() + "\n")
	for _, entry := range c.cfg.ExtraHosts {
		host, address, _ := strings.Cut(entry, ":")
		fmt.Fprintf(&b, "%s\t%s\n", address, host)
	}
	return b.String()
}

func (c *container) resolvConf() string {
	if c.cfg.NetworkMode == "none" {
		return ""
	}
	var b strings.Builder
	for _, server := range core.DefaultDNS(c.cfg.DNS) {
		fmt.Fprintf(&b, "nameserver %s\n", server)
	}
	return b.String()
}

// interfaces is what /proc/net/dev shows: on a bridge an interface with nobody at its
// other end.
func (c *container) interfaces() string {
	names := []string{"lo"}
	if c.cfg.NetworkMode != "none" {
		names = append(names, "eth0")
	}
	var b strings.Builder
	b.WriteString("Inter-|   Receive                                                |  Transmit\n" +
		" face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n")
	for _, name := range names {
		fmt.Fprintf(&b, "%6s:%s\n", name, strings.Repeat(" 0", 16))
	}
	return b.String()
}

func (c *container) environment() []string {
	env := map[string]string{
		"PATH":     defaultPath,
		"HOSTNAME": c.hostname(),
		"HOME":     c.user.home,
	}
	if c.cfg.TTY {
		env["TERM"] = terminalType
	}
	for _, entry := range slices.Concat(c.image.Env, c.cfg.Env) {
		key, value, _ := strings.Cut(entry, "=")
		env[key] = value
	}
	return joinEnv(env)
}
