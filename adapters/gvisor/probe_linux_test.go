package gvisor

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/moatproject/moat/adapters/docker/programs"
)

// TestProbeRunsHere executes the probe on this machine, whose kernel is not gVisor's.
func TestProbeRunsHere(t *testing.T) {
	program, err := programs.Read("probe", runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), probePath)
	if err := os.WriteFile(file, program, 0o700); err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), file)
	command.Dir = t.TempDir()
	output, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	if made, err := os.Stat(filepath.Join(command.Dir, probeTrace)); err != nil || !made.IsDir() {
		t.Errorf("the probe left %v, %v", made, err)
	}
	inside, err := parseKernel(output)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil || inside.release+"\n" != string(want) {
		t.Errorf("release %q, want %q, %v", inside.release, want, err)
	}
	if err := inside.mustBeGVisor(inside.release); err == nil {
		t.Error("this machine passed for gVisor")
	}
}
