package cli

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/moatproject/moat/core"
	"github.com/spf13/pflag"
)

func testFlagEnv(t *testing.T) Env {
	t.Helper()
	return Env{
		LookEnv: func(key string) (string, bool) {
			value, set := map[string]string{"PASSED": "on", egressVariable: egressOpen}[key]
			return value, set
		},
		Abs: func(path string) (string, error) { return filepath.Join("/here", path), nil },
	}
}

func configOf(t *testing.T, args ...string) (core.Config, error) {
	t.Helper()
	var options runOptions
	flags := pflag.NewFlagSet("run", pflag.ContinueOnError)
	options.register(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	spec, err := options.spec(testFlagEnv(t), flags.Args())
	return spec.Workload, err
}

func TestFlagsBecomeTheConfiguration(t *testing.T) {
	envFile := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(envFile, []byte("# comment\n\nA=file\nB=2\nPASSED\nUNSET\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := configOf(t,
		"--name", "web", "-e", "A=1", "-e", "UNSET", "--env-file", envFile, "-v", "./src:/src:ro", "-v", "/data:/data",
		"-w", "/src", "-u", "1000:1000", "-p", "80", "-p", "127.0.0.2:81", "-p", "8082:82", "-p", "[::1]:8083:83/udp",
		"-m", "512m", "--cpus", "1.5", "--network", "none-such", "--dns", "192.0.2.1", "--add-host", "db:192.0.2.2",
		"--cap-add", "cap_net_raw", "--group-add", "999", "--privileged", "-l", "k=v", "--pull", "never", "--stop-timeout", "3",
		"--pids-limit", "64", "image", "sh", "-c", "true")
	if err != nil {
		t.Fatal(err)
	}
	want := core.Config{
		Name: "web", Image: "image", Cmd: []string{"sh", "-c", "true"}, WorkingDir: "/src",
		Env: []string{"A=1", "B=2", "PASSED=on"}, User: "1000:1000",
		Mounts:      []core.MountConfig{{Source: "/here/src", Target: "/src", ReadOnly: true}, {Source: "/here/data", Target: "/data"}},
		NetworkMode: "none-such", DNS: []string{"192.0.2.1"}, ExtraHosts: []string{"db:192.0.2.2"},
		Ports: []core.PortMapping{
			{ContainerPort: 80, Protocol: "tcp"}, {ContainerPort: 81, Protocol: "tcp", HostIP: "127.0.0.2"}, {ContainerPort: 82, Protocol: "tcp", HostPort: 8082},
			{ContainerPort: 83, HostIP: "::1", HostPort: 8083, Protocol: "udp"},
		},
		MemoryMB: 512, NanoCPUs: 1_500_000_000, CapAdd: []string{"NET_RAW"}, GroupAdd: []string{"999"}, Privileged: true,
		Labels: map[string]string{"k": "v"}, Pull: core.PullNever, StopTimeout: 3e9, PidsLimit: 64,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestProcessLimit(t *testing.T) {
	for text, valid := range map[string]bool{"1": true, "-1": true, "0": false, "-2": false, "": false, "many": false, "1.5": false} {
		var limit pidsLimit
		if err := limit.Set(text); (err == nil) != valid {
			t.Errorf("--pids-limit %q: %v", text, err)
		}
	}
}

func TestBadFlagsAreNamed(t *testing.T) {
	for _, test := range []struct{ args, want string }{
		{"-v data:/data image", `-v "data:/data": named volumes`},
		{"-v /data image", `-v "/data"`},
		{"-v /a:/b:zz image", "SRC:DST:ro"},
		{"-p x image", `-p "x"`},
		{"-p 1:2:3:4 image", `-p "1:2:3:4"`},
		{"-p 0 image", "outside 1 to 65535"},
		{"-m 12q image", `-m "12q"`},
		{"-m 1000 image", "whole megabytes"},
		{"-m 1m image", "MemoryMB"},
		{"--cpus -1 image", "--cpus -1"},
		{"--env-file /nowhere image", "/nowhere"},
		{"-l =v image", `--label "=v"`},
		{"-l moat.managed=no image", "Moat's own"},
		{"--pull sometimes image", "missing, always, never"},
		{"--stop-timeout -1 image", "StopTimeout"},
		{"--timeout -1s image", "Timeout"},
		{"-d --idle-timeout 1s image", "IdleTimeout"},
		{"-w relative image", "WorkingDir"},
		{"--dns nonsense image", "DNS"},
		{"--add-host nonsense image", "ExtraHosts"},
		{"--cap-add no-cap image", "CapAdd"},
		{"--name -x image", "Name"},
	} {
		_, err := configOf(t, strings.Fields(test.args)...)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v does not speak of %q", test.args, err, test.want)
		}
	}
}

func TestPublishedPorts(t *testing.T) {
	tcp := func(container, host int) core.PortMapping {
		return core.PortMapping{ContainerPort: container, Protocol: "tcp", HostPort: host}
	}
	on := func(address string, port core.PortMapping) core.PortMapping {
		port.HostIP = address
		return port
	}
	for specs, want := range map[string][]core.PortMapping{
		"80":                              {tcp(80, 0)},
		"8080:80":                         {tcp(80, 8080)},
		":80":                             {tcp(80, 0)},
		"0:80":                            {tcp(80, 0)},
		"80/udp":                          {{ContainerPort: 80, Protocol: "udp"}},
		"80/TCP":                          {tcp(80, 0)},
		"127.0.0.2:80":                    {on("127.0.0.2", tcp(80, 0))},
		"127.0.0.2::80":                   {on("127.0.0.2", tcp(80, 0))},
		"127.0.0.2:8080:80":               {on("127.0.0.2", tcp(80, 8080))},
		"[::1]:80":                        {on("::1", tcp(80, 0))},
		"[::1]:8080:80":                   {on("::1", tcp(80, 8080))},
		"::1:8080:80":                     {on("::1", tcp(80, 8080))},
		"18080:80 18081:80":               {tcp(80, 18080), tcp(80, 18081)},
		"18080:80 18080:80/udp":           {tcp(80, 18080), {ContainerPort: 80, Protocol: "udp", HostPort: 18080}},
		"127.0.0.1:8080:80 [::1]:8080:80": {on("127.0.0.1", tcp(80, 8080)), on("::1", tcp(80, 8080))},
		"8000-8002:8000-8002":             {tcp(8000, 8000), tcp(8001, 8001), tcp(8002, 8002)},
		"9000-9001:80-81/tcp":             {tcp(80, 9000), tcp(81, 9001)},
		"8000-8001":                       {tcp(8000, 0), tcp(8001, 0)},
		"127.0.0.2:8000-8001":             {on("127.0.0.2", tcp(8000, 0)), on("127.0.0.2", tcp(8001, 0))},
		"8000-8000:80":                    {tcp(80, 8000)},
		"8000-8010:80":                    {{ContainerPort: 80, Protocol: "tcp", HostPort: 8000, HostPortEnd: 8010}},
		"[::1]:8000-8010:80 8000-8010:81": {{ContainerPort: 80, Protocol: "tcp", HostIP: "::1", HostPort: 8000, HostPortEnd: 8010}, {ContainerPort: 81, Protocol: "tcp", HostPort: 8000, HostPortEnd: 8010}},
	} {
		var args []string
		for _, spec := range strings.Fields(specs) {
			args = append(args, "-p", spec)
		}
		got, err := configOf(t, append(args, "image")...)
		if err != nil || !slices.Equal(got.Ports, want) {
			t.Errorf("-p %s: %+v, %v, want %+v", specs, got.Ports, err, want)
		}
	}
}

func TestPortsThatCannotBePublished(t *testing.T) {
	for specs, want := range map[string]string{
		"80/sctp":                      `"sctp" is not supported: choose tcp or udp`,
		"80/icmp":                      "icmp",
		"8000-8002:8000-8001":          "8000-8002",
		"8000-8002:80-81":              "8000-8002",
		"8010-8000:80":                 "8010-8000",
		"0-3:80":                       "range of host ports",
		"8000-8001:80 8001-8002:81-82": "",
		"8000-8001:80-81 8001:82":      "8001/tcp is taken twice",
		"8080:80 8080:80":              "8080/tcp is taken twice",
		"8080:80 8080:81":              "8080/tcp is taken twice",
		"0.0.0.0:8080:80 8080:80":      "8080/tcp is taken twice",
		"65536":                        "65536",
		"70000:80":                     "70000",
		"80:":                          "no port",
		"":                             "no port",
		"localhost:80":                 "localhost",
		"localhost:80:80":              "localhost",
		"[::1:80":                      "[::1:80",
		"[fe80::1%eth0]:80:80":         "fe80::1%eth0",
		"1.2.3:80:80":                  "1.2.3",
	} {
		var args []string
		for _, spec := range strings.Split(specs, " ") {
			args = append(args, "-p", spec)
		}
		_, err := configOf(t, append(args, "image")...)
		if (err == nil) != (want == "" && specs != "") || (err != nil && !strings.Contains(err.Error(), want)) {
			t.Errorf("-p %q: error %v does not speak of %q", specs, err, want)
		}
	}
}
