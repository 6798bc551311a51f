package contracttests

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

func creationCases() []Case {
	return []Case{
		{Number: "RT-10", Title: "a new container is created and labelled", check: createdAndLabelled},
		{Number: "RT-11", Title: "a name is given once", check: nameTaken},
		{Number: "RT-12", Title: "an invalid configuration names the field", check: invalidConfig},
		{Number: "RT-13", Title: "an unknown image or network is not found", check: unknownReferences},
		{
			Number: "RT-14", Title: "a mount's source must exist", check: mountSourceMissing,
			ability: capability("Mounts"), unsupported: refusedConfig(mountRoot),
		},
		{Number: "RT-15", Title: "a failed creation leaves nothing behind", check: failedCreations},
		{Number: "RT-16", Title: "a text that would arrive changed is refused", check: textRefused},
	}
}

func createdAndLabelled(f *fixture) {
	id := f.create(f.agent())
	f.wantState(id, core.StateCreated)
	info := f.listed(id)
	want(f, "label "+core.LabelManaged, info.Labels[core.LabelManaged], "true")
	want(f, "label "+core.LabelVersion, info.Labels[core.LabelVersion], core.Version)
	want(f, "label "+core.LabelRole+" of a container without a Role", info.Labels[core.LabelRole], core.RoleMain)
}

func nameTaken(f *fixture) {
	cfg := f.agent()
	cfg.Name = "name-" + f.runID
	f.create(cfg)
	_, err := f.tryCreate(cfg)
	f.wantClass("a second container of that name", err, core.ErrAlreadyExists)
}

// invalidConfigs has one invalid value for each field that can have one.
func invalidConfigs(f *fixture) map[string]core.Config {
	invalid := map[string]core.Config{}
	set := func(field string, change func(*core.Config)) {
		cfg := f.agent()
		change(&cfg)
		invalid[field] = cfg
	}
	set("Image", func(c *core.Config) { c.Image = "" })
	set("Name", func(c *core.Config) { c.Name = "-" })
	set("Cmd", func(c *core.Config) { c.Cmd = []string{"\x00"} })
	set("WorkingDir", func(c *core.Config) { c.WorkingDir = "relative" })
	set("Env", func(c *core.Config) { c.Env = []string{"no value"} })
	set("User", func(c *core.Config) { c.User = "a b" })
	set("Mounts", func(c *core.Config) { c.Mounts = []core.MountConfig{{Source: "relative", Target: "/mnt"}} })
	set("ExtraHosts", func(c *core.Config) { c.ExtraHosts = []string{"no-address"} })
	set("NetworkMode", func(c *core.Config) { c.NetworkMode = "container:x" })
	set("PortBindings", func(c *core.Config) { c.PortBindings = map[int]string{0: ""} })
	set("Ports", func(c *core.Config) { c.Ports = []core.PortMapping{{ContainerPort: 80, Protocol: "sctp"}} })
	set("CapAdd", func(c *core.Config) { c.CapAdd = []string{"lower"} })
	set("GroupAdd", func(c *core.Config) { c.GroupAdd = []string{""} })
	set("MemoryMB", func(c *core.Config) { c.MemoryMB = -1 })
	set("CPUs", func(c *core.Config) { c.CPUs = -1 })
	set("NanoCPUs", func(c *core.Config) { c.NanoCPUs = -1 })
	set("DNS", func(c *core.Config) { c.DNS = []string{"a name"} })
	set("StopTimeout", func(c *core.Config) { c.StopTimeout = time.Millisecond })
	set("Labels", func(c *core.Config) { c.Labels = map[string]string{core.LabelManaged: "false"} })
	set("RunID", func(c *core.Config) { c.RunID = "\x00" })
	set("Role", func(c *core.Config) { c.Role = "\x00" })
	set("Pull", func(c *core.Config) { c.Pull = "sometimes" })
	set("PidsLimit", func(c *core.Config) { c.PidsLimit = -2 })
	return invalid
}

func invalidConfig(f *fixture) {
	runtimes := map[string]core.Runtime{"": f.rt}
	if f.h.Unreachable != nil {
		runtimes[" while the engine does not answer"] = f.unreachable()
	}
	for field, cfg := range invalidConfigs(f) {
		for when, rt := range runtimes {
			_, err := rt.CreateContainer(f.ctx, cfg)
			f.wantField("an invalid "+field+when, err, field)
		}
	}
}

func unknownReferences(f *fixture) {
	cfg := f.agent()
	cfg.Image = f.missingImage()
	_, err := f.tryCreate(cfg)
	f.wantMissing("an image that the registry does not have", err, cfg.Image)

	cfg.Image, cfg.Pull = f.missingLocalImage(), core.PullNever
	_, err = f.tryCreate(cfg)
	f.wantMissing("an absent image that must not be pulled", err, cfg.Image)

	if !optional.CapabilitiesOf(f.rt).NetworkModes {
		return
	}
	cfg = f.agent()
	cfg.NetworkMode = f.missing()
	_, err = f.tryCreate(cfg)
	f.wantMissing("a network that does not exist", err, cfg.NetworkMode)
}

// wantMissing checks for an error that names what does not exist.
func (f *fixture) wantMissing(what string, err error, name string) {
	f.Helper()
	f.wantClass(what, err, core.ErrNotFound)
	if err != nil && !strings.Contains(err.Error(), name) {
		f.Errorf("%s: %v, which does not name it", what, err)
	}
}

// missingLocalImage returns a reference that exists nowhere.
func (f *fixture) missingLocalImage() string { return core.ImagePrefix + f.missing() + ":latest" }

// mountRoot asks for a mount, for runtimes that cannot.
func mountRoot(c *core.Config) { c.Mounts = []core.MountConfig{{Source: "/", Target: "/mnt"}} }

func mountSourceMissing(f *fixture) {
	source := filepath.Join(f.TempDir(), "missing")
	cfg := f.agent()
	cfg.Mounts = []core.MountConfig{{Source: source, Target: "/mnt"}}
	_, err := f.tryCreate(cfg)
	f.wantField("a mount of a missing folder", err, "Mounts")
	if _, err := os.Stat(source); !errors.Is(err, os.ErrNotExist) {
		f.Errorf("the mount's missing source was made: %v", err)
	}
}

func failedCreations(f *fixture) {
	unknown := f.agent()
	unknown.Image, unknown.Pull = f.missingLocalImage(), core.PullNever
	if _, err := f.tryCreate(unknown); err == nil {
		f.Errorf("a container with an unknown image was created")
	}
	for wait := time.Millisecond; wait < time.Second; wait *= 4 { // at various steps of the creation
		ctx, cancel := context.WithTimeout(f.ctx, wait)
		if id, err := f.rt.CreateContainer(ctx, f.agent()); err == nil {
			f.created = append(f.created, id)
		}
		cancel()
	}
	if eventually(func() bool { return len(f.list()) == len(f.created) }) {
		return
	}
	for _, info := range f.list() {
		if !slices.Contains(f.created, info.ID) {
			f.Errorf("a creation that failed has left %+v", info)
			f.created = append(f.created, info.ID)
		}
	}
}
