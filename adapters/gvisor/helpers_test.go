package gvisor

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/moatproject/moat/core"
)

// Docker's words for what runsc of September 2026 said.
const (
	withoutHelpers = `failed to create shim task: OCI runtime create failed: creating container: cannot create sandbox: ` +
		`cannot create sandbox process: sidecar "gvisor_sentry" not usable (stat /opt/gvisor-bin/gvisor_sentry: ` +
		`no such file or directory) and --sidecar-usage-policy is set to STRICT: unknown`
	withoutOneHelper = `failed to create shim task: OCI runtime create failed: failed to start checkpoint gofer: ` +
		`sidecar binary "checkpointgofer" not found (expected at "/opt/gvisor-bin/checkpointgofer"); install it: unknown`
	otherRelease = `failed to create shim task: OCI runtime create failed: creating container: cannot create sandbox: ` +
		`cannot read client sync file: waiting for sandbox to start: EOF: unknown`
)

func TestResolveKnowsAnIncompleteGVisor(t *testing.T) {
	for _, test := range []struct{ name, text, remedy string }{
		{"no helpers", withoutHelpers, "lacks its helper programs"},
		{"one helper is missing", withoutOneHelper, "lacks its helper programs"},
		{"a helper of another release", otherRelease, "from one release"},
		{"another failure", "fork/exec /opt/runsc: no such file or directory", "Install gVisor's archive"},
	} {
		t.Run(test.name, func(t *testing.T) {
			engine, api := startFake(t, map[string]string{"runsc": "/opt/runsc", "z-runsc": "/opt/other/runsc"})
			engine.start["runsc"] = refuse(http.StatusInternalServerError, test.text)
			engine.start["z-runsc"] = refuse(http.StatusInternalServerError, "broken")
			_, err := NewSandbox(Options{}).Resolve(t.Context(), api)
			failure, ok := errors.AsType[*core.Error](err)
			if !ok || !errors.Is(err, core.ErrGVisorNotAvailable) {
				t.Fatalf("%v", err)
			}
			if !strings.Contains(failure.Remedy, test.remedy) {
				t.Errorf("remedy %q, want %q", failure.Remedy, test.remedy)
			}
		})
	}
}

// TestRemedyIsForTheSandboxAlone: what a workload is called, or does, is never taken for
// an incomplete gVisor.
func TestRemedyIsForTheSandboxAlone(t *testing.T) {
	sandbox := NewSandbox(Options{})
	for _, text := range []string{withoutHelpers, withoutOneHelper} {
		if sandbox.Remedy(errors.New(text)) == "" {
			t.Errorf("no remedy for %q", text)
		}
	}
	for _, text := range []string{
		otherRelease, // too little memory does the same
		`OCI runtime create failed: starting container: exec: "sidecar": executable file not found in $PATH: unknown`,
		`OCI runtime create failed: starting container: exec: "/gvisor-bin/sidecar \"x\" not usable": no such file: unknown`,
		`invalid mount config for type "bind": bind source path does not exist: /srv/sidecar/gvisor-bin`,
	} {
		if got := sandbox.Remedy(errors.New(text)); got != "" {
			t.Errorf("%q for %q", got, text)
		}
	}
}
