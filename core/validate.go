package core

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

var (
	namePattern       = lazily(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)
	networkPattern    = lazily(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)
	servicePattern    = lazily(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`) // it becomes a host name, and part of variables' names
	tagPattern        = lazily(`^[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}$`)  // as the OCI distribution specification has it
	userPattern       = lazily(`^[^-:\s\x00][^:\s\x00]*(:([^-:\s\x00][^:\s\x00]*)?)?$`)
	hostnamePattern   = lazily(`^[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?$`)
	capabilityPattern = lazily(`^[A-Z][A-Z0-9_]*$`)

	// The engine's host need not run this process's system, so both kinds of path are absolute.
	windowsPathPattern = lazily(`^[a-zA-Z]:[\\/]`)
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

// lazily compiles an expression when it is first needed: a process needs few of them,
// and would pay for all at its start.
func lazily(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}

func invalid(field, format string, args ...any) error {
	return &Error{Op: "check configuration", Field: field, Class: ErrInvalidConfig, Err: fmt.Errorf(format, args...)}
}

// flawOf tells why a text cannot arrive unchanged, "" where it can: engines take JSON,
// which would replace what is not UTF-8, and programs see no text beyond a NUL byte.
func flawOf(text string) string {
	switch {
	case !utf8.ValidString(text):
		return "is not UTF-8"
	case strings.ContainsRune(text, 0):
		return "contains a NUL byte"
	}
	return ""
}

// checkText reports a text that cannot arrive unchanged. It quotes the text: of a secret
// it is given the name alone.
func checkText(field, text string) error {
	if flaw := flawOf(text); flaw != "" {
		return invalid(field, "%q %s", text, flaw)
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
	for _, key := range sortedKeys(values) {
		if err := checkText(field, key); err != nil {
			return err
		}
		if flaw := flawOf(values[key]); flaw != "" {
			return invalid(field, "the value of %q %s", key, flaw)
		}
	}
	return nil
}

func validateIdentity(c Config) error {
	if c.Image == "" {
		return invalid("Image", "is empty; name the image to run")
	}
	if strings.HasPrefix(c.Image, "-") || strings.ContainsAny(c.Image, blanks) {
		return invalid("Image", "%q is not an image reference", c.Image)
	}
	if err := checkText("Image", c.Image); err != nil {
		return err
	}
	if c.Name != "" && !namePattern().MatchString(c.Name) {
		return invalid("Name", "%q must be two or more of [a-zA-Z0-9_.-] and begin with a letter or digit", c.Name)
	}
	if err := validateLabels(c.Labels); err != nil {
		return err
	}
	for _, key := range sortedKeys(c.Labels) {
		if strings.HasPrefix(key, labelPrefix) && !strings.HasPrefix(key, runLabelPrefix) {
			return invalid("Labels", "%q: the prefix %s is Moat's own", key, labelPrefix)
		}
	}
	if err := cmp.Or(checkText("RunID", c.RunID), checkText("Role", c.Role)); err != nil {
		return err
	}
	switch c.Pull {
	case "", PullMissing, PullAlways, PullNever:
		return nil
	}
	return invalid("Pull", "%q is not one of missing, always, never", c.Pull)
}

func validateLabels(labels map[string]string) error {
	for _, key := range sortedKeys(labels) {
		if key == "" || strings.Contains(key, "=") {
			return invalid("Labels", "%q is not a label key", key)
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
			return invalid("Env", "entry for %q is not KEY=value", key)
		}
		if flaw := flawOf(entry); flaw != "" {
			return invalid("Env", "entry for %q %s", key, flaw)
		}
	}
	if err := cmp.Or(checkText("WorkingDir", c.WorkingDir), checkText("User", c.User), checkTexts("GroupAdd", c.GroupAdd)); err != nil {
		return err
	}
	if c.WorkingDir != "" {
		if !path.IsAbs(c.WorkingDir) {
			return invalid("WorkingDir", "%q is not an absolute path", c.WorkingDir)
		}
		// A working directory under /proc/self/fd reaches the host (CVE-2024-21626).
		if clean := path.Clean(c.WorkingDir); clean == "/proc" || strings.HasPrefix(clean, "/proc/") {
			return invalid("WorkingDir", "%q is under /proc", c.WorkingDir)
		}
	}
	if c.User != "" && !userPattern().MatchString(c.User) {
		return invalid("User", "%q is not USER or USER:GROUP", c.User)
	}
	for _, capability := range c.CapAdd {
		if !capabilityPattern().MatchString(capability) {
			return invalid("CapAdd", "%q is not a capability such as NET_ADMIN", capability)
		}
	}
	for _, group := range c.GroupAdd {
		if group == "" || strings.ContainsAny(group, ":"+blanks) {
			return invalid("GroupAdd", "%q is not a group", group)
		}
	}
	return nil
}

func validateMounts(c Config) error {
	seen := map[string]bool{}
	for _, mount := range c.Mounts {
		switch target := path.Clean(mount.Target); {
		case !path.IsAbs(mount.Source) && !windowsPathPattern().MatchString(mount.Source):
			return invalid("Mounts", "source %q of the mount on %q is not an absolute path", mount.Source, mount.Target)
		case !path.IsAbs(mount.Target) || target == "/":
			return invalid("Mounts", "target %q is not an absolute path below /", mount.Target)
		case flawOf(mount.Source) != "":
			return invalid("Mounts", "source %q %s", mount.Source, flawOf(mount.Source))
		case flawOf(mount.Target) != "":
			return invalid("Mounts", "target %q %s", mount.Target, flawOf(mount.Target))
		case seen[target]:
			return invalid("Mounts", "target %q is mounted twice", target)
		default:
			seen[target] = true
		}
	}
	return nil
}

func validateNetwork(c Config) error {
	if c.NetworkMode != "" && !networkPattern().MatchString(c.NetworkMode) {
		return invalid("NetworkMode", "%q is not bridge, host, none, or a network's name or ID", c.NetworkMode)
	}
	if c.Hostname != "" && !hostnamePattern().MatchString(c.Hostname) {
		return invalid("Hostname", "%q is not a host name of 63 characters at most", c.Hostname)
	}
	if len(c.NetworkAliases) > 0 && !c.OnNamedNetwork() {
		return invalid("NetworkAliases", "only a network that NetworkMode names knows aliases")
	}
	for _, alias := range c.NetworkAliases {
		if !hostnamePattern().MatchString(alias) {
			return invalid("NetworkAliases", "%q is not a host name of 63 characters at most", alias)
		}
	}
	if err := checkTexts("ExtraHosts", c.ExtraHosts); err != nil {
		return err
	}
	for _, entry := range c.ExtraHosts {
		host, address, _ := strings.Cut(entry, ":")
		if host == "" || strings.ContainsAny(host, blanks) || (!isIP(address) && address != "host-gateway") {
			return invalid("ExtraHosts", "%q is not HOST:IP", entry)
		}
	}
	if c.NetworkMode == "none" && len(c.DNS) > 0 {
		return invalid("DNS", "a container without a network has no use for DNS servers")
	}
	return validateDNS(c.DNS)
}

// validateNetworkID checks a network on which containers find each other by name.
func validateNetworkID(id string) error {
	if id == "" {
		return invalid("NetworkID", "is empty; name the network to join")
	}
	if !networkPattern().MatchString(id) || slices.Contains([]string{"bridge", "host", "none"}, id) {
		return invalid("NetworkID", "%q is not the name or ID of a network that containers share", id)
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
		return invalid(field(0), "network %s publishes no ports", c.NetworkMode)
	}
	type key struct {
		protocol string
		hostPort int
	}
	taken := map[key][]netip.Addr{}
	for i, port := range published {
		if port.ContainerPort < 1 || port.ContainerPort > 65535 {
			return invalid(field(i), "container port %d is outside 1 to 65535", port.ContainerPort)
		}
		if port.HostPort < 0 || port.HostPort > 65535 {
			return invalid(field(i), "host port %d is outside 0 to 65535", port.HostPort)
		}
		if port.HostPortEnd != 0 && (port.HostPort == 0 || port.HostPortEnd < port.HostPort || port.HostPortEnd > 65535) {
			return invalid(field(i), "%d to %d is not a range of host ports", port.HostPort, port.HostPortEnd)
		}
		if port.Protocol != "tcp" && port.Protocol != "udp" {
			return invalid(field(i), "protocol %q is not supported: choose tcp or udp", port.Protocol)
		}
		if !isIP(port.HostIP) {
			return invalid(field(i), "bind address %q is not an IP address", port.HostIP)
		}
		if port.HostPort == 0 || port.HostPortEnd > port.HostPort {
			continue // the engine picks a free one
		}
		address, k := netip.MustParseAddr(port.HostIP).Unmap(), key{port.Protocol, port.HostPort}
		for _, other := range taken[k] {
			if overlap(address, other) {
				return invalid(field(i), "host port %d/%s is taken twice, on %s and %s", port.HostPort, port.Protocol, other, address)
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
		return invalid("MemoryMB", "%d is beyond what can be counted in bytes", c.MemoryMB)
	case c.MemoryMB < 0 || (c.MemoryMB > 0 && c.MemoryMB < minMemoryMB):
		return invalid("MemoryMB", "%d is below %d, the least a container starts with", c.MemoryMB, minMemoryMB)
	case c.CPUs < 0 || int64(c.CPUs) > maxCPUs:
		return invalid("CPUs", "%d is not a number of CPUs", c.CPUs)
	case c.NanoCPUs < 0 || (c.NanoCPUs > 0 && c.NanoCPUs < 1e7):
		return invalid("NanoCPUs", "%d is below a hundredth of a CPU", c.NanoCPUs)
	case c.CPUs > 0 && c.NanoCPUs > 0:
		return invalid("NanoCPUs", "is set together with CPUs; set one of them")
	case c.PidsLimit < -1:
		return invalid("PidsLimit", "%d is neither a limit nor -1 for none", c.PidsLimit)
	case c.StopTimeout < 0 || c.StopTimeout%time.Second != 0:
		return invalid("StopTimeout", "%s is not a whole number of seconds", c.StopTimeout)
	}
	return nil
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	return slices.Sorted(maps.Keys(m))
}
