package dockercli

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// description is what `docker inspect` prints of a container.
type description struct {
	ID      string `json:"Id"`
	Name    string
	Created time.Time
	Path    string
	Args    []string
	State   struct {
		Status     string
		ExitCode   int
		OOMKilled  bool
		StartedAt  time.Time
		FinishedAt time.Time
	}
	Config struct {
		Image  string
		User   string
		Labels map[string]string
	}
	HostConfig struct {
		NetworkMode string
		Memory      int64
		MemorySwap  int64
		NanoCPUs    int64 `json:"NanoCpus"`
		PidsLimit   int64
	}
	Mounts []struct {
		Type, Source, Destination string
		RW                        bool
	}
	NetworkSettings struct {
		Ports    map[string][]struct{ HostIP, HostPort string }
		Networks map[string]struct{ IPAddress string }
	}
}

func (d description) info() core.Info {
	return core.Info{
		ID: d.ID, Name: strings.TrimPrefix(d.Name, "/"), Image: d.Config.Image, Status: d.status(),
		Created: d.Created, Labels: d.Config.Labels, Published: d.published(),
	}
}

func (d description) status() string {
	if d.State.Status == "removing" {
		return core.StateStopping
	}
	return d.State.Status
}

// published returns the bound ports, in the order that core promises.
func (d description) published() (ports []core.PortMapping) {
	for port, bindings := range d.NetworkSettings.Ports {
		number, protocol, _ := strings.Cut(port, "/")
		for _, binding := range bindings {
			mapping := core.PortMapping{Protocol: protocol, HostIP: binding.HostIP}
			mapping.ContainerPort, _ = strconv.Atoi(number)
			mapping.HostPort, _ = strconv.Atoi(binding.HostPort)
			ports = append(ports, mapping)
		}
	}
	slices.SortFunc(ports, func(a, b core.PortMapping) int {
		return cmp.Or(cmp.Compare(a.ContainerPort, b.ContainerPort), cmp.Compare(a.Protocol, b.Protocol),
			cmp.Compare(a.HostIP, b.HostIP), cmp.Compare(a.HostPort, b.HostPort))
	})
	return ports
}

func (d description) details() optional.Details {
	details := optional.Details{
		Info: d.info(),
		State: core.State{
			Running: d.State.Status == core.StateRunning, Status: d.status(), ExitCode: d.State.ExitCode,
			StartedAt: d.State.StartedAt, FinishedAt: d.State.FinishedAt, OOMKilled: d.State.OOMKilled,
		},
		Cmd:          append([]string{d.Path}, d.Args...),
		User:         d.Config.User,
		Network:      d.HostConfig.NetworkMode,
		Ports:        map[int]int{},
		MemoryMB:     int(d.HostConfig.Memory >> 20),
		MemorySwapMB: int(d.HostConfig.MemorySwap >> 20),
		NanoCPUs:     d.HostConfig.NanoCPUs,
		PidsLimit:    d.HostConfig.PidsLimit,
		Isolation:    optional.IsolationContainer,
	}
	if details.State.Running {
		details.State.FinishedAt = time.Time{}
	}
	if details.Network == "default" {
		details.Network = "bridge"
	}
	for _, network := range d.NetworkSettings.Networks {
		details.IPAddress = cmp.Or(details.IPAddress, network.IPAddress)
	}
	for _, mount := range d.Mounts {
		if mount.Type == "bind" {
			details.Mounts = append(details.Mounts, core.MountConfig{Source: mount.Source, Target: mount.Destination, ReadOnly: !mount.RW})
		}
	}
	for _, ipv6 := range []bool{false, true} { // an IPv4 address comes first
		for _, port := range details.Published {
			if _, known := details.Ports[port.ContainerPort]; port.Protocol == "tcp" && !known && strings.Contains(port.HostIP, ":") == ipv6 {
				details.Ports[port.ContainerPort] = port.HostPort
			}
		}
	}
	return details
}
