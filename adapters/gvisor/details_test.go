package gvisor

import (
	"errors"
	"net/http"
	"testing"

	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/system"
	"github.com/moatproject/moat/core"
)

func TestDetails(t *testing.T) {
	engine, api := startFake(t, map[string]string{"gvisor": "/opt/runsc"})
	engine.output["--version"] = "runsc version release-20260224.0\nspec: 1.1.0-rc.1\n"
	got, err := NewSandbox(Options{}).Details(t.Context(), api)
	want := Details{Runtime: "gvisor", Version: "release-20260224.0", Platform: "systrap", Kernel: "4.4.0"}
	if err != nil || got != want {
		t.Fatalf("%+v, %v, want %+v", got, err, want)
	}
	sandbox, kernel, err := NewSandbox(Options{}).Describe(t.Context(), api)
	if err != nil || sandbox != "gVisor release-20260224.0 systrap as runtime gvisor" || kernel != want.Kernel {
		t.Errorf("%q, %q, %v", sandbox, kernel, err)
	}
	asked := engine.created[1].HostConfig
	if asked.Runtime != "gvisor" || len(asked.Mounts) != 1 ||
		asked.Mounts[0] != (mount.Mount{Type: mount.TypeBind, Source: "/opt/runsc", Target: "/runsc", ReadOnly: true}) {
		t.Errorf("%+v", asked)
	}
	engine.mustBeTidy(t)
}

func TestDetailsWithoutGVisor(t *testing.T) {
	_, api := startFake(t, nil)
	if got, err := NewSandbox(Options{}).Details(t.Context(), api); !errors.Is(err, core.ErrGVisorNotAvailable) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestKeepsFiles(t *testing.T) {
	engine, api := startFake(t, map[string]string{"in-memory": "/opt/runsc", "on-disk": "/opt/runsc", "defect": "/opt/runsc"})
	engine.keeps = map[string]int{"in-memory": http.StatusNotFound, "on-disk": http.StatusOK, "defect": http.StatusInternalServerError}
	for name, want := range map[string]bool{"in-memory": false, "on-disk": true, "defect": false} {
		kept, err := NewSandbox(Options{}).KeepsFiles(t.Context(), api, name)
		if kept != want || (err != nil) != (name == "defect") {
			t.Errorf("%s: %t, %v", name, kept, err)
		}
	}
	for _, asked := range engine.created {
		if asked.User != "0:0" || asked.HostConfig.ReadonlyRootfs {
			t.Errorf("the probe cannot write: %+v", asked)
		}
	}
	engine.mustBeTidy(t)
}

func TestPlatform(t *testing.T) {
	for _, test := range []struct {
		runtime system.Runtime
		want    string
	}{
		{system.Runtime{Path: "runsc"}, "systrap"},
		{system.Runtime{Path: "runsc", Args: []string{"--platform=kvm", "--debug"}}, "kvm"},
		{system.Runtime{Path: "runsc", Args: []string{"-debug", "-platform", "ptrace"}}, "ptrace"},
		{system.Runtime{Path: "runsc", Args: []string{"--platform=kvm", "--platform=ptrace"}}, "ptrace"},
		{system.Runtime{Path: "runsc", Args: []string{"--platform_device_path=/dev/kvm", "--debug-log", "platform"}}, "systrap"},
		{system.Runtime{Type: "io.containerd.runsc.v1"}, ""},
	} {
		if got := (candidate{Runtime: test.runtime}).platform(); got != test.want {
			t.Errorf("%+v: %q, want %q", test.runtime, got, test.want)
		}
	}
}

func TestParseVersion(t *testing.T) {
	for output, want := range map[string]string{
		"runsc version release-20260224.0\nspec: 1.1.0\n": "release-20260224.0",
		"runsc version VERSION_MISSING\nspec: 1.1.0\n":    "",
		"sh: not found\n": "",
		"":                "",
	} {
		if got := parseVersion(output); got != want {
			t.Errorf("%q: %q, want %q", output, got, want)
		}
	}
}
