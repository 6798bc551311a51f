package core

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/moatproject/moat/core/internal/validation"
)

var (
	namePattern       = validation.Pattern(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)
	userPattern       = validation.Pattern(`^[^-:\s\x00][^:\s\x00]*(:([^-:\s\x00][^:\s\x00]*)?)?$`)
	hostnamePattern   = validation.Pattern(`^[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?$`)
	capabilityPattern = validation.Pattern(`^[A-Z][A-Z0-9_]*$`)

	// The engine's host need not run this process's system, so both kinds of path are absolute.
	windowsPathPattern = validation.Pattern(`^[a-zA-Z]:[\\/]`)
)

const (
	minMemoryMB = 6 // the least that the engines accept

	// More than these overflows what the engines count in: bytes, and billionths of a CPU.
	maxMemoryMB = math.MaxInt64 >> 20
	maxCPUs     = math.MaxInt64 / 1_000_000_000

	blanks = " \t\r\n\x00"
)

// Validate reports the first setting that no runtime could honour, as
// [ErrInvalidConfig] with the field's name. What only some runtimes can do is for
// their adapters to refuse.
func (c Config) Validate() error {
	for _, check := range []func(Config) error{
		validateIdentity, validateProcess, validateMounts, validateNetwork, validatePorts, validateLimits,
	} {
		if err := check(c); err != nil {
			return err
		}
	}
	return nil
}

// Invalid returns an [ErrInvalidConfig] that names the field at fault.
func Invalid(field, format string, args ...any) error {
	return &Error{Op: "check configuration", Field: field, Class: ErrInvalidConfig, Err: fmt.Errorf(format, args...)}
}

// checkText reports a text that cannot arrive unchanged. It quotes the text: of a secret
// it is given the name alone.
func checkText(field, text string) error {
	if flaw := validation.Flaw(text); flaw != "" {
		return Invalid(field, "%q %s", text, flaw)
	}
	return nil
}

func checkTexts(field string, texts []string) error {
	for _, text := range texts {
		if err := checkText(field, text); err != nil {
			return err
		}
	}
	return nil
}

// checkValues is checkText for keys and values, which may be secrets.
func checkValues(field string, values map[string]string) error {
	for _, key := range validation.SortedKeys(values) {
		if err := checkText(field, key); err != nil {
			return err
		}
		if flaw := validation.Flaw(values[key]); flaw != "" {
			return Invalid(field, "the value of %q %s", key, flaw)
		}
	}
	return nil
}

func validateIdentity(c Config) error {
	if c.Image == "" {
		return Invalid("Image", "is empty; name the image to run")
	}
	if strings.HasPrefix(c.Image, "-") || strings.ContainsAny(c.Image, blanks) {
		return Invalid("Image", "%q is not an image reference", c.Image)
	}
	if err := checkText("Image", c.Image); err != nil {
		return err
	}
	if c.Name != "" && !namePattern().MatchString(c.Name) {
		return Invalid("Name", "%q must be two or more of [a-zA-Z0-9_.-] and begin with a letter or digit", c.Name)
	}
	if err := validateLabels(c.Labels); err != nil {
		return err
	}
	for _, key := range validation.SortedKeys(c.Labels) {
		if strings.HasPrefix(key, labelPrefix) && !strings.HasPrefix(key, runLabelPrefix) {
			return Invalid("Labels", "%q: the prefix %s is Moat's own", key, labelPrefix)
		}
	}
	if err := cmp.Or(checkText("RunID", c.RunID), checkText("Role", c.Role)); err != nil {
		return err
	}
	switch c.Pull {
	case "", PullMissing, PullAlways, PullNever:
		return nil
	}
	return Invalid("Pull", "%q is not one of missing, always, never", c.Pull)
}

func validateLabels(labels map[string]string) error {
	for _, key := range validation.SortedKeys(labels) {
		if key == "" || strings.Contains(key, "=") {
			return Invalid("Labels", "%q is not a label key", key)
		}
	}
	return checkValues("Labels", labels)
}

func validateProcess(c Config) error {
	if err := checkTexts("Cmd", c.Cmd); err != nil {
		return err
	}
	for _, entry := range c.Env {
		key, _, found := strings.Cut(entry, "=")
		if !found || key == "" {
			return Invalid("Env", "entry for %q is not KEY=value", key)
		}
		if flaw := validation.Flaw(entry); flaw != "" {
			return Invalid("Env", "entry for %q %s", key, flaw)
		}
	}
	if err := cmp.Or(checkText("WorkingDir", c.WorkingDir), checkText("User", c.User), checkTexts("GroupAdd", c.GroupAdd)); err != nil {
		return err
	}
	if c.WorkingDir != "" {
		if !path.IsAbs(c.WorkingDir) {
			return Invalid("WorkingDir", "%q is not an absolute path", c.WorkingDir)
		}
		// A working directory under /proc/self/fd reaches the host (CVE-2024-21626).
		if clean := path.Clean(c.WorkingDir); clean == "/proc" || strings.HasPrefix(clean, "/proc/") {
			return Invalid("WorkingDir", "%q is under /proc", c.WorkingDir)
		}
	}
	if c.User != "" && !userPattern().MatchString(c.User) {
		return Invalid("User", "%q is not USER or USER:GROUP", c.User)
	}
	for _, capability := range c.CapAdd {
		if !capabilityPattern().MatchString(capability) {
			return Invalid("CapAdd", "%q is not a capability such as NET_ADMIN", capability)
		}
	}
	for _, group := range c.GroupAdd {
		if group == "" || strings.ContainsAny(group, ":"+blanks) {
			return Invalid("GroupAdd", "%q is not a group", group)
		}
	}
	return nil
}

func validateMounts(c Config) error {
	seen := map[string]bool{}
	for _, mount := range c.Mounts {
		switch target := path.Clean(mount.Target); {
		case !path.IsAbs(mount.Source) && !windowsPathPattern().MatchString(mount.Source):
			return Invalid("Mounts", "source %q of the mount on %q is not an absolute path", mount.Source, mount.Target)
		case !path.IsAbs(mount.Target) || target == "/":
			return Invalid("Mounts", "target %q is not an absolute path below /", mount.Target)
		case validation.Flaw(mount.Source) != "":
			return Invalid("Mounts", "source %q %s", mount.Source, validation.Flaw(mount.Source))
		case validation.Flaw(mount.Target) != "":
			return Invalid("Mounts", "target %q %s", mount.Target, validation.Flaw(mount.Target))
		case seen[target]:
			return Invalid("Mounts", "target %q is mounted twice", target)
		default:
			seen[target] = true
		}
	}
	return nil
}

func validateNetwork(c Config) error {
	if c.NetworkMode != "" && !validation.NetworkName().MatchString(c.NetworkMode) {
		return Invalid("NetworkMode", "%q is not bridge, host, none, or a network's name or ID", c.NetworkMode)
	}
	if c.Hostname != "" && !hostnamePattern().MatchString(c.Hostname) {
		return Invalid("Hostname", "%q is not a host name of 63 characters at most", c.Hostname)
	}
	if len(c.NetworkAliases) > 0 && !c.OnNamedNetwork() {
		return Invalid("NetworkAliases", "only a network that NetworkMode names knows aliases")
	}
	for _, alias := range c.NetworkAliases {
		if !hostnamePattern().MatchString(alias) {
			return Invalid("NetworkAliases", "%q is not a host name of 63 characters at most", alias)
		}
	}
	if err := checkTexts("ExtraHosts", c.ExtraHosts); err != nil {
		return err
	}
	for _, entry := range c.ExtraHosts {
		host, address, _ := strings.Cut(entry, ":")
		if host == "" || strings.ContainsAny(host, blanks) || (!isIP(address) && address != "host-gateway") {
			return Invalid("ExtraHosts", "%q is not HOST:IP", entry)
		}
	}
	if c.NetworkMode == "none" && len(c.DNS) > 0 {
		return Invalid("DNS", "a container without a network has no use for DNS servers")
	}
	return validateDNS(c.DNS)
}

// validateNetworkID checks a network on which containers find each other by name.
func validateNetworkID(id string) error {
	if id == "" {
		return Invalid("NetworkID", "is empty; name the network to join")
	}
	if !validation.NetworkName().MatchString(id) || slices.Contains([]string{"bridge", "host", "none"}, id) {
		return Invalid("NetworkID", "%q is not the name or ID of a network that containers share", id)
	}
	return nil
}

func validatePorts(c Config) error {
	field := func(i int) string {
		if i < len(c.PortBindings) {
			return "PortBindings"
		}
		return "Ports"
	}
	published := c.PublishedPorts()
	if len(published) > 0 && (c.NetworkMode == "none" || c.NetworkMode == "host") {
		return Invalid(field(0), "network %s publishes no ports", c.NetworkMode)
	}
	type key struct {
		protocol string
		hostPort int
	}
	taken := map[key][]netip.Addr{}
	for i, port := range published {
		if port.ContainerPort < 1 || port.ContainerPort > 65535 {
			return Invalid(field(i), "container port %d is outside 1 to 65535", port.ContainerPort)
		}
		if port.HostPort < 0 || port.HostPort > 65535 {
			return Invalid(field(i), "host port %d is outside 0 to 65535", port.HostPort)
		}
		if port.HostPortEnd != 0 && (port.HostPort == 0 || port.HostPortEnd < port.HostPort || port.HostPortEnd > 65535) {
			return Invalid(field(i), "%d to %d is not a range of host ports", port.HostPort, port.HostPortEnd)
		}
		if port.Protocol != "tcp" && port.Protocol != "udp" {
			return Invalid(field(i), "protocol %q is not supported: choose tcp or udp", port.Protocol)
		}
		if !isIP(port.HostIP) {
			return Invalid(field(i), "bind address %q is not an IP address", port.HostIP)
		}
		if port.HostPort == 0 || port.HostPortEnd > port.HostPort {
			continue // the engine picks a free one
		}
		address, k := netip.MustParseAddr(port.HostIP).Unmap(), key{port.Protocol, port.HostPort}
		for _, other := range taken[k] {
			if overlap(address, other) {
				return Invalid(field(i), "host port %d/%s is taken twice, on %s and %s", port.HostPort, port.Protocol, other, address)
			}
		}
		taken[k] = append(taken[k], address)
	}
	return nil
}

// overlap tells whether two sockets on one port would get in each other's way.
func overlap(a, b netip.Addr) bool {
	return a == b || (a.Is4() == b.Is4() && (a.IsUnspecified() || b.IsUnspecified()))
}

func validateLimits(c Config) error {
	switch {
	case int64(c.MemoryMB) > maxMemoryMB:
		return Invalid("MemoryMB", "%d is beyond what can be counted in bytes", c.MemoryMB)
	case c.MemoryMB < 0 || (c.MemoryMB > 0 && c.MemoryMB < minMemoryMB):
		return Invalid("MemoryMB", "%d is below %d, the least a container starts with", c.MemoryMB, minMemoryMB)
	case c.CPUs < 0 || int64(c.CPUs) > maxCPUs:
		return Invalid("CPUs", "%d is not a number of CPUs", c.CPUs)
	case c.NanoCPUs < 0 || (c.NanoCPUs > 0 && c.NanoCPUs < 1e7):
		return Invalid("NanoCPUs", "%d is below a hundredth of a CPU", c.NanoCPUs)
	case c.CPUs > 0 && c.NanoCPUs > 0:
		return Invalid("NanoCPUs", "is set together with CPUs; set one of them")
	case c.PidsLimit < -1:
		return Invalid("PidsLimit", "%d is neither a limit nor -1 for none", c.PidsLimit)
	case c.StopTimeout < 0 || c.StopTimeout%time.Second != 0:
		return Invalid("StopTimeout", "%s is not a whole number of seconds", c.StopTimeout)
	}
	return nil
}
