//go:build amd64 || arm64

package programs

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestGateOpensByItsMark has others type while a program is held.
func TestGateOpensByItsMark(t *testing.T) {
	binary, err := Read("gate", runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	gate := filepath.Join(t.TempDir(), "gate")
	if err := os.WriteFile(gate, binary, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		mode, input, want string
		status            int
	}{
		{"lMARK", "MARK\nits own\nMARK\n", "its own\nMARK\n", 0},
		{"lMARK", "\nMARK\n\x00", "\x00", 0},
		{"lMARK", "typed\nMAR\nMARKS\n MARK\nMARK \nMA\nMARK\x00\n\n\xff", "", 125},
		{"lMARK", "typed\nMAR\nMARKS\n MARK\nMARK \n\nMARK\nits own", "its own", 0},
		{"lMARK", "typed\nMARK\nits own", "its own", 0},
		{"lMARK", "MARK", "", 125},
		{"lMARK", "", "", 125},
		{"LMARK", "typed\nMARK\nnot read", "", 0},
		{"lABAB", "ABABAB\nABA\nABAB\nits own", "its own", 0},
	} {
		command := exec.Command(gate, test.mode, "cat")
		command.Stdin = io.MultiReader(strings.NewReader(test.input))
		var output bytes.Buffer
		command.Stdout = &output
		_ = command.Run()
		if got, status := output.String(), command.ProcessState.ExitCode(); got != test.want || status != test.status {
			t.Errorf("%q to %s: %q and status %d, want %q and %d", test.input, test.mode, got, status, test.want, test.status)
		}
	}
}

// TestGateOpensByACall has the check open the gate.
func TestGateOpensByACall(t *testing.T) {
	programs := map[string]string{}
	for _, name := range []string{"gate", "check"} {
		binary, err := Read(name, runtime.GOARCH)
		if err != nil {
			t.Fatal(err)
		}
		programs[name] = filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(programs[name], binary, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	mark := fmt.Sprintf("mark%d", os.Getpid())
	gate := exec.Command(programs["gate"], "x"+mark, "cat")
	gate.Stdin = strings.NewReader("its own\n" + mark + "\n")
	var output bytes.Buffer
	gate.Stdout = &output
	if err := gate.Start(); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command(programs["check"], "open:"+mark).Run(); err != nil { // which may come first
		t.Errorf("the call: %v", err)
	}
	if err := gate.Wait(); err != nil || output.String() != "its own\n"+mark+"\n" {
		t.Errorf("%v, %q", err, output.String())
	}
	other := exec.Command(programs["gate"], "x"+mark+"2", "cat")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := exec.CommandContext(ctx, programs["check"], "open:"+mark).Run(); err == nil {
		t.Error("another mark opens it")
	}
	_ = other.Process.Kill()
	_ = other.Wait()
}
