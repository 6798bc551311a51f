package gvisor

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// TestProbeRunsHere executes the probe on this machine, whose kernel is not gVisor's.
func TestProbeRunsHere(t *testing.T) {
	program, ok := probeCode[runtime.GOARCH]
	if !ok {
		t.Fatalf("no probe for %s", runtime.GOARCH)
	}
	file := filepath.Join(t.TempDir(), probePath)
	if err := os.WriteFile(file, executable(program.machine, program.code), 0o700); err != nil {
		t.Fatal(err)
	}
	output, err := exec.CommandContext(t.Context(), file).Output()
	if err != nil {
		t.Fatal(err)
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
