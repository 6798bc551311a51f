package core_test

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/moatproject/moat/core"
)

// setting is a field of Config with values that Validate accepts and refuses.
type setting struct {
	field             string
	accepted, refused []func(*core.Config)
}

// values makes a setting of plain values of the field's type.
func values[T any](field string, accepted, refused []T) setting {
	s := setting{field: field}
	set := func(value T) func(*core.Config) {
		return func(cfg *core.Config) { reflect.ValueOf(cfg).Elem().FieldByName(field).Set(reflect.ValueOf(value)) }
	}
	for _, value := range accepted {
		s.accepted = append(s.accepted, set(value))
	}
	for _, value := range refused {
		s.refused = append(s.refused, set(value))
	}
	return s
}

// lists makes a setting of lists with one element each.
func lists(field string, accepted, refused []string) setting {
	list := func(elements []string) (lists [][]string) {
		for _, element := range elements {
			lists = append(lists, []string{element})
		}
		return lists
	}
	return values(field, list(accepted), list(refused))
}

var settings = []setting{
	values("Image", []string{"alpine", "moat/x:1", "localhost:5000/a/b@sha256:00"}, []string{"", "-rm", "a b", "a\tb", "a\nb", "a\rb", "a\x00"}),
	values("Name", []string{"", "ab", "Web_1.x-2"}, []string{"a", "-ab", "_ab", ".ab", "a b", "a/b", "ab\n", "é1"}),
	lists("Cmd", []string{"", "-x", "a b", "é"}, []string{"a\x00b"}),
	values("WorkingDir", []string{"", "/", "/a b", "/process", "/a/../b"},
		[]string{"a", "./a", "../a", "/proc", "/proc/self/fd/7", "//proc/1", "/a/../proc/1", "/proc/", "/a\x00"}),
	lists("Env", []string{"A=b", "A=", "A=b=c", "a.b=\n"}, []string{"", "A", "=b", "A=\x00", "\x00=b"}),
	values("User", []string{"", "root", "1000:1000", "a:b", "1000:"}, []string{"a b", "a:b:c", ":5", "-x", "a:-x", "a\n", "a\r", "a\t", "a\x00"}),
	values("Mounts", [][]core.MountConfig{
		{{Source: "/a", Target: "/b"}},
		{{Source: "/a", Target: "/b"}, {Source: "/a", Target: "/c", ReadOnly: true}},
		{{Source: "/a:b", Target: "/b/../c"}},
		{{Source: `C:\a`, Target: "/b"}, {Source: "d:/a", Target: "/c"}},
	}, [][]core.MountConfig{
		{{Target: "/b"}},
		{{Source: "a", Target: "/b"}},
		{{Source: "./a", Target: "/b"}},
		{{Source: "C:a", Target: "/b"}},
		{{Source: "/a"}},
		{{Source: "/a", Target: "b"}},
		{{Source: "/a", Target: "/"}},
		{{Source: "/a", Target: "/b/.."}},
		{{Source: "/a\x00", Target: "/b"}},
		{{Source: "/a", Target: "/b\x00"}},
		{{Source: "/a", Target: "/b"}, {Source: "/c", Target: "/b"}},
		{{Source: "/a", Target: "/b"}, {Source: "/c", Target: "/x/../b/"}},
	}),
	lists("ExtraHosts", []string{"db:192.0.2.1", "db:2001:db8::1", "db:host-gateway"},
		[]string{"", "db", "db:", ":192.0.2.1", "db:other", "db:192.0.2", "db:fe80::1%eth0", "d b:192.0.2.1", "db\n:192.0.2.1", "db=192.0.2.1"}),
	values("NetworkMode", []string{"", "a", "bridge", "host", "none", "my-net", strings.Repeat("0f", 32)},
		[]string{"-x", "container:abc", "ns:/proc/1/ns/net", "a b", "a/b", "none\n"}),
	values("PortBindings", []map[int]string{{}, {1: ""}, {65535: "127.0.0.1", 80: "0.0.0.0", 81: "::"}},
		[]map[int]string{{0: ""}, {-1: ""}, {65536: ""}, {80: "localhost"}, {80: "127.0.0.1:80"}, {80: "fe80::1%eth0"}}),
	values("Ports", [][]core.PortMapping{
		{{ContainerPort: 80}},
		{{ContainerPort: 80, Protocol: "tcp"}, {ContainerPort: 80, Protocol: "udp", HostIP: "::1", HostPort: 65535}},
		{{ContainerPort: 80, HostIP: "127.0.0.1"}, {ContainerPort: 80, HostIP: "127.0.0.2"}},
		{{ContainerPort: 80}, {ContainerPort: 80, Protocol: "tcp", HostPort: 8080}, {ContainerPort: 80, HostPort: 8081}, {ContainerPort: 80}},
		{{ContainerPort: 80, HostPort: 8080}, {ContainerPort: 80, HostPort: 8080, Protocol: "udp"}, {ContainerPort: 81, HostPort: 8080, HostIP: "127.0.0.2"}},
		{{ContainerPort: 80, HostPort: 8080, HostIP: "0.0.0.0"}, {ContainerPort: 80, HostPort: 8080, HostIP: "::"}},
		{{ContainerPort: 80, HostPort: 8080, HostPortEnd: 8090}, {ContainerPort: 81, HostPort: 8080, HostPortEnd: 8090}, {ContainerPort: 82, HostPort: 8080, HostPortEnd: 8080}},
	}, [][]core.PortMapping{
		{{}},
		{{ContainerPort: 65536}},
		{{ContainerPort: 80, HostPort: -1}},
		{{ContainerPort: 80, HostPort: 65536}},
		{{ContainerPort: 80, Protocol: "sctp"}},
		{{ContainerPort: 80, Protocol: "TCP"}},
		{{ContainerPort: 80, HostIP: "localhost"}},
		{{ContainerPort: 80, HostPort: 8080}, {ContainerPort: 80, HostPort: 8080}},
		{{ContainerPort: 80, HostPort: 8080}, {ContainerPort: 81, Protocol: "tcp", HostPort: 8080}},
		{{ContainerPort: 80, HostPort: 8080, HostIP: "0.0.0.0"}, {ContainerPort: 80, HostPort: 8080}},
		{{ContainerPort: 80, HostPort: 8080, HostIP: "::1"}, {ContainerPort: 80, HostPort: 8080, HostIP: "0:0::1"}},
		{{ContainerPort: 80, HostPort: 8080, HostIP: "::1"}, {ContainerPort: 80, HostPort: 8080, HostIP: "::"}},
		{{ContainerPort: 80, HostPort: 8080}, {ContainerPort: 80, HostPort: 8080, HostIP: "::ffff:127.0.0.1"}},
		{{ContainerPort: 80, HostPortEnd: 8080}},
		{{ContainerPort: 80, HostPort: 8080, HostPortEnd: 8079}},
		{{ContainerPort: 80, HostPort: 8080, HostPortEnd: 65536}},
	}),
	lists("CapAdd", []string{"NET_ADMIN", "CAP_NET_ADMIN", "ALL"}, []string{"", "net_admin", "NET ADMIN", "-NET", "NET_ADMIN\n"}),
	lists("GroupAdd", []string{"999", "docker"}, []string{"", "a b", "a:b", "a\n", "a\x00"}),
	values("MemoryMB", []int{0, 6, math.MaxInt64 >> 20}, []int{-1, 1, 5, math.MaxInt64>>20 + 1, math.MaxInt, math.MinInt}),
	values("CPUs", []int{0, 1, math.MaxInt64 / 1_000_000_000}, []int{-1, math.MaxInt64/1_000_000_000 + 1, math.MaxInt, math.MinInt}),
	values("NanoCPUs", []int64{0, 1e7, 1.5e9, math.MaxInt64}, []int64{-1, 1, 1e7 - 1, math.MinInt64}),
	lists("DNS", []string{"192.0.2.1", "2001:db8::1"}, []string{"", "dns.example", "192.0.2.1:53", "192.0.2", "fe80::1%eth0"}),
	values("StopTimeout", []time.Duration{0, time.Second, time.Hour}, []time.Duration{-time.Second, time.Millisecond, 1500 * time.Millisecond}),
	values("Labels", []map[string]string{{}, {"a.b/c": ""}, {"moats": "x"}},
		[]map[string]string{{"": "x"}, {"a=b": "x"}, {"a\x00": "x"}, {"a": "x\x00"}, {"moat.managed": "false"}, {"moat.x": ""}}),
	values("Pull", []core.PullPolicy{"", core.PullMissing, core.PullAlways, core.PullNever}, []core.PullPolicy{"sometimes", "Always"}),
	values("PidsLimit", []int64{0, -1, 1, math.MaxInt64}, []int64{-2, math.MinInt64}),
	values("Hostname", []string{"", "a", "a_b.c-D", strings.Repeat("a", 63)}, []string{"-a", "a-", ".a", "a b", "a\n", strings.Repeat("a", 64)}),
	{
		field:    "NetworkAliases",
		accepted: []func(*core.Config){func(c *core.Config) { c.NetworkMode, c.NetworkAliases = "net", []string{"db", "db.internal"} }},
		refused: []func(*core.Config){
			func(c *core.Config) { c.NetworkAliases = []string{"db"} },
			func(c *core.Config) { c.NetworkMode, c.NetworkAliases = "host", []string{"db"} },
			func(c *core.Config) { c.NetworkMode, c.NetworkAliases = "net", []string{"two words"} },
			func(c *core.Config) { c.NetworkMode, c.NetworkAliases = "net", []string{""} },
		},
	},
	values("RunID", []string{"", "0123abcd"}, []string{"\x00"}),
	values("Role", []string{"", core.RoleSidecar}, []string{"a\x00"}),

	// What has no value that no runtime could honour.
	values("Privileged", []bool{false, true}, nil),
	values("Interactive", []bool{false, true}, nil),
	values("Held", []bool{false, true}, nil),
	values("HasMoatUser", []bool{false, true}, nil),
	values("TTY", []bool{false, true}, nil),
	values("AutoRemove", []bool{false, true}, nil),
	values("AllowNewPrivileges", []bool{false, true}, nil),
}

func TestValidateEachField(t *testing.T) {
	for _, s := range settings {
		t.Run(s.field, func(t *testing.T) {
			for i, set := range s.accepted {
				cfg := core.Config{Image: "alpine"}
				set(&cfg)
				if err := cfg.Validate(); err != nil {
					t.Errorf("accepted %d: %v", i, err)
				}
			}
			for i, set := range s.refused {
				cfg := core.Config{Image: "alpine"}
				set(&cfg)
				checkRefused(t, fmt.Sprint("refused ", i), cfg, s.field)
			}
		})
	}
}

func TestValidateTableHasEveryField(t *testing.T) {
	tested := map[string]bool{}
	for _, s := range settings {
		tested[s.field] = true
	}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[core.Config]()) {
		if field.IsExported() && !tested[field.Name] {
			t.Errorf("Config.%s is not in the table of settings", field.Name)
		}
	}
}

func TestValidateFieldsTogether(t *testing.T) {
	ports := []core.PortMapping{{ContainerPort: 80}}
	tests := []struct {
		name  string
		field string // empty: accepted
		cfg   core.Config
	}{
		{"CPUs twice", "NanoCPUs", core.Config{CPUs: 1, NanoCPUs: 1e9}},
		{"bindings without a network", "PortBindings", core.Config{NetworkMode: "none", PortBindings: map[int]string{80: ""}}},
		{"ports without a network", "Ports", core.Config{NetworkMode: "none", Ports: ports}},
		{"ports on the host's network", "Ports", core.Config{NetworkMode: "host", Ports: ports}},
		{"ports on a named network", "", core.Config{NetworkMode: "my-net", Ports: ports}},
		{"a port in both lists", "", core.Config{PortBindings: map[int]string{80: ""}, Ports: ports}},
		{"bad binding before good port", "PortBindings", core.Config{PortBindings: map[int]string{0: ""}, Ports: ports}},
		{"DNS without a network", "DNS", core.Config{NetworkMode: "none", DNS: []string{"192.0.2.1"}}},
		{"DNS on the host's network", "", core.Config{NetworkMode: "host", DNS: []string{"192.0.2.1"}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.cfg.Image = "alpine"
			if test.field != "" {
				checkRefused(t, "it", test.cfg, test.field)
			} else if err := test.cfg.Validate(); err != nil {
				t.Error(err)
			}
		})
	}
}

func checkRefused(t *testing.T, what string, cfg core.Config, field string) {
	t.Helper()
	err := cfg.Validate()
	if !errors.Is(err, core.ErrInvalidConfig) || core.FieldOf(err) != field {
		t.Errorf("%s: %v, want %s refused", what, err, field)
	}
}

func FuzzValidate(f *testing.F) {
	f.Add("alpine", "web", "true", "/work", "A=b", "1000", "/src", "/dst", "db:192.0.2.1", "bridge", "127.0.0.1", "NET_ADMIN", "999", "192.0.2.1", "a", 80, 0, 512, 0, int64(5e8), int64(0), int64(time.Second))
	f.Add("-", "-", "\x00", "/proc/x", "=", " ", "", "/", ":", "a:b", "x", "x", ":", "x", "moat.x", -1, 65536, math.MaxInt, math.MaxInt, int64(-1), int64(-2), int64(1))
	f.Fuzz(func(t *testing.T, image, name, arg, dir, env, user, source, target, host, network, bind, capability, group, dns, label string,
		port, hostPort, memory, cpus int, nano, pids, stop int64,
	) {
		cfg := core.Config{
			Image: image, Name: name, Cmd: []string{arg}, WorkingDir: dir, Env: []string{env}, User: user,
			Mounts: []core.MountConfig{{Source: source, Target: target}}, ExtraHosts: []string{host}, NetworkMode: network,
			PortBindings: map[int]string{port: bind}, Ports: []core.PortMapping{{ContainerPort: port, Protocol: "udp", HostIP: bind, HostPort: hostPort}},
			CapAdd: []string{capability}, GroupAdd: []string{group}, DNS: []string{dns}, Labels: map[string]string{label: "x"},
			MemoryMB: memory, CPUs: cpus, NanoCPUs: nano, PidsLimit: pids, StopTimeout: time.Duration(stop),
		}
		if err := cfg.Validate(); err != nil {
			if _, ok := reflect.TypeFor[core.Config]().FieldByName(core.FieldOf(err)); !ok || !errors.Is(err, core.ErrInvalidConfig) {
				t.Errorf("not an error about a field: %v", err)
			}
			return
		}
		for _, broken := range brokenInvariants(cfg) {
			t.Errorf("accepted although %s: %+v", broken, cfg)
		}
	})
}

// brokenInvariants tells what adapters rely on and a valid configuration lacks.
func brokenInvariants(cfg core.Config) (broken []string) {
	expect := func(holds bool, otherwise string) {
		if !holds {
			broken = append(broken, otherwise)
		}
	}
	mount := cfg.Mounts[0]
	for _, text := range []string{
		cfg.Image, cfg.Name, cfg.Cmd[0], cfg.WorkingDir, cfg.Env[0], cfg.User, mount.Source, mount.Target, cfg.ExtraHosts[0],
		cfg.NetworkMode, cfg.CapAdd[0], cfg.GroupAdd[0], cfg.DNS[0],
	} {
		expect(!strings.Contains(text, "\x00"), "a text contains a NUL byte")
	}
	for _, word := range []string{cfg.Image, cfg.Name, cfg.NetworkMode, cfg.CapAdd[0], cfg.WorkingDir, mount.Source, mount.Target} {
		expect(!strings.HasPrefix(word, "-"), "a word could be taken for a command's flag")
	}
	expect(!strings.ContainsAny(cfg.ExtraHosts[0]+cfg.DNS[0], " \n"), "it adds lines of its own to /etc/hosts or resolv.conf")
	expect(strings.Index(cfg.Env[0], "=") > 0, "a variable has no name")
	expect((cfg.MemoryMB > 0) == (int64(cfg.MemoryMB)<<20 > 0) && int64(cfg.MemoryMB)<<20 >= 0, "the memory limit is lost when counted in bytes")
	expect((cfg.CPUs > 0 || cfg.NanoCPUs > 0) == (cfg.CPUQuota() > 0) && cfg.CPUQuota() >= 0, "the CPU limit is lost when counted in billionths")
	expect(cfg.StopTimeoutOrDefault() >= time.Second, "it is killed at once")
	expect(cfg.PidsLimit >= -1, "the limit of processes is no limit")
	for _, port := range cfg.PublishedPorts() {
		expect(port.ContainerPort > 0 && port.ContainerPort < 1<<16 && port.HostPort >= 0 && port.HostPort < 1<<16, "a port is out of range")
		expect(port.HostIP != "" && port.Protocol != "", "a published port lacks its defaults")
	}
	labels := cfg.ContainerLabels()
	expect(labels[core.LabelManaged] == "true" && len(labels) == len(cfg.Labels)+4, "the caller's labels replace Moat's")
	return broken
}
