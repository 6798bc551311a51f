package core_test

import (
	"slices"
	"testing"
	"time"

	"github.com/moatproject/moat/core"
)

func TestCPUQuota(t *testing.T) {
	tests := []struct {
		name string
		cfg  core.Config
		want int64
	}{
		{"none", core.Config{}, 0},
		{"whole", core.Config{CPUs: 3}, 3_000_000_000},
		{"fraction", core.Config{NanoCPUs: 250_000_000}, 250_000_000},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := test.cfg.CPUQuota(); got != test.want {
				t.Errorf("got %d, want %d", got, test.want)
			}
		})
	}
}

func TestStopTimeoutOrDefault(t *testing.T) {
	if got := (core.Config{}).StopTimeoutOrDefault(); got != 10*time.Second {
		t.Errorf("default is %s", got)
	}
	if got := (core.Config{StopTimeout: time.Second}).StopTimeoutOrDefault(); got != time.Second {
		t.Errorf("a second became %s", got)
	}
}

func TestPublishedPorts(t *testing.T) {
	cfg := core.Config{
		PortBindings: map[int]string{8080: "", 443: "::1", 80: "0.0.0.0"},
		Ports: []core.PortMapping{
			{ContainerPort: 53, Protocol: "udp", HostIP: "127.0.0.2", HostPort: 5353},
			{ContainerPort: 22},
		},
	}
	want := []core.PortMapping{
		{ContainerPort: 80, Protocol: "tcp", HostIP: "0.0.0.0"},
		{ContainerPort: 443, Protocol: "tcp", HostIP: "::1"},
		{ContainerPort: 8080, Protocol: "tcp", HostIP: "127.0.0.1"},
		{ContainerPort: 53, Protocol: "udp", HostIP: "127.0.0.2", HostPort: 5353},
		{ContainerPort: 22, Protocol: "tcp", HostIP: "127.0.0.1"},
	}
	if got := cfg.PublishedPorts(); !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if cfg.Ports[1].Protocol != "" {
		t.Error("the defaults were written into the caller's configuration")
	}
	if got := (core.Config{}).PublishedPorts(); len(got) != 0 {
		t.Errorf("nothing published became %v", got)
	}
}
