package cli

import (
	"cmp"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/docker/go-connections/nat"
	"github.com/moatproject/moat/core"
	"github.com/spf13/pflag"
)

func testFlagEnv(t *testing.T) Env {
	t.Helper()
	return Env{
		LookEnv: func(key string) (string, bool) {
			if key == "PASSED" {
				return "on", true
			}
			return "", false
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
	return options.config(testFlagEnv(t), flags.Args())
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
		"image", "sh", "-c", "true")
	if err != nil {
		t.Fatal(err)
	}
	want := core.Config{
		Name: "web", Image: "image", Cmd: []string{"sh", "-c", "true"}, WorkingDir: "/src",
		Env: []string{"A=1", "B=2", "PASSED=on"}, User: "1000:1000",
		Mounts:      []core.MountConfig{{Source: "/here/src", Target: "/src", ReadOnly: true}, {Source: "/here/data", Target: "/data"}},
		NetworkMode: "none-such", DNS: []string{"192.0.2.1"}, ExtraHosts: []string{"db:192.0.2.2"},
		Ports: []core.PortMapping{
			{ContainerPort: 80}, {ContainerPort: 81, HostIP: "127.0.0.2"}, {ContainerPort: 82, HostPort: 8082},
			{ContainerPort: 83, HostIP: "::1", HostPort: 8083, Protocol: "udp"},
		},
		MemoryMB: 512, NanoCPUs: 1_500_000_000, CapAdd: []string{"NET_RAW"}, GroupAdd: []string{"999"}, Privileged: true,
		Labels: map[string]string{"k": "v"}, Pull: core.PullNever, StopTimeout: 3e9, RunID: got.RunID,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestRunIsNamedByItsID(t *testing.T) {
	first, err := configOf(t, "image")
	if err != nil {
		t.Fatal(err)
	}
	second, _ := configOf(t, "image")
	if !core.IsRunName(first.RunID) || first.Name != first.RunID || first.RunID == second.RunID {
		t.Errorf("names %q and %q of runs %q and %q", first.Name, second.Name, first.RunID, second.RunID)
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

func FuzzParsePort(f *testing.F) {
	for _, seed := range []string{"80", "8080:80", "127.0.0.1:80", "127.0.0.1::80", "127.0.0.1:1:2/udp", "[::1]:1:2/udp", "[::1:80", "::80", "80/", "a:b:c"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		mapping, err := parsePort(spec)
		if err != nil {
			return
		}
		if (core.Config{Image: "image", Ports: []core.PortMapping{mapping}}).Validate() != nil {
			return // it is refused there
		}
		// What is accepted means what it means to Docker.
		docker, err := nat.ParsePortSpec(spec)
		if i := strings.LastIndexByte(spec, ':'); err != nil && i >= 0 { // BIND:PORT is BIND::PORT there
			docker, err = nat.ParsePortSpec(spec[:i] + ":" + spec[i:])
		}
		if err != nil || len(docker) != 1 {
			t.Fatalf("%q became %+v, and Docker's parser says %+v, %v", spec, mapping, docker, err)
		}
		binding := docker[0].Binding
		hostPort, _ := strconv.Atoi(cmp.Or(binding.HostPort, "0"))
		want := core.PortMapping{ContainerPort: docker[0].Port.Int(), Protocol: docker[0].Port.Proto(), HostPort: hostPort}
		if binding.HostIP != "" {
			want.HostIP = netip.MustParseAddr(binding.HostIP).String()
		}
		mapping.Protocol = cmp.Or(mapping.Protocol, "tcp")
		if mapping != want {
			t.Errorf("%q became %+v, and is %+v to Docker", spec, mapping, want)
		}
	})
}
