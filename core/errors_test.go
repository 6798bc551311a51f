package core_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/moatproject/moat/core"
)

func TestErrorText(t *testing.T) {
	cause := errors.New("boom")
	tests := []struct {
		name string
		err  core.Error
		want string
	}{
		{"operation only", core.Error{Op: "ping"}, `ping`},
		{"class", core.Error{Op: "ping", Class: core.ErrUnavailable}, `ping: runtime unavailable`},
		{"cause", core.Error{Op: "ping", Err: cause}, `ping: boom`},
		{"field", core.Error{Op: "check", Field: "Env", Class: core.ErrInvalidConfig}, `check: invalid configuration: Env`},
		{
			"cause after commands to copy", core.Error{Op: "start", Class: errors.New("missing, run:\ninstall it"), Err: cause},
			"start: missing, run:\ninstall it\nboom",
		},
		{
			"cause after a class of several lines",
			core.Error{Op: "verify", Class: errors.New("missing\nTo install:\nrun this"), Err: cause},
			"verify: missing\nTo install:\nrun this\nboom",
		},
		{
			"everything",
			core.Error{
				Op: "create container", Runtime: core.RuntimeDocker, Object: "web", Field: "Name",
				Class: core.ErrAlreadyExists, Err: cause, Remedy: "Choose another.",
			},
			`docker: create container "web": already exists: Name: boom. Choose another.`,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := test.err.Error(); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestErrorJoinsTextAndRemedy(t *testing.T) {
	for _, test := range []struct{ cause, want string }{
		{"it is down", "ping: it is down. Start it"},
		{"it is down.", "ping: it is down. Start it"},
		{"Is it running?", "ping: Is it running? Start it"},
		{"it is down!", "ping: it is down! Start it"},
		{"it waits...", "ping: it waits... Start it"},
		{"it is down:", "ping: it is down. Start it"},
		{"it is down; ", "ping: it is down. Start it"},
		{"it is down\n", "ping: it is down. Start it"},
		{"Is it running?\r\n", "ping: Is it running? Start it"},
		{`it said "no"`, `ping: it said "no". Start it`},
		{`it said "no."`, `ping: it said "no." Start it`},
		{"it is down (is it running?)", "ping: it is down (is it running?) Start it"},
		{"it is down (really)", "ping: it is down (really). Start it"},
		{"see `moat ps`", "ping: see `moat ps`. Start it"},
		{"two\nlines", "ping: two\nlines\nStart it"},
		{"two\nlines.\n", "ping: two\nlines.\nStart it"},
		{"", "ping. Start it"},
	} {
		err := &core.Error{Op: "ping", Err: errors.New(test.cause), Remedy: "Start it"}
		if got := err.Error(); got != test.want {
			t.Errorf("%q became %q, want %q", test.cause, got, test.want)
		}
	}
	gvisor := &core.Error{Op: "verify", Class: core.ErrGVisorNotAvailable, Remedy: "Install it"}
	if got := gvisor.Error(); !strings.HasSuffix(got, "moat run --no-sandbox\nInstall it") {
		t.Errorf("a command to copy became %q", got)
	}
}

func TestErrorMatchesClassAndCauseThroughWrapping(t *testing.T) {
	inner := &core.Error{
		Op: "start", Field: "Cmd", Class: core.ErrInvalidConfig,
		Err: &fs.PathError{Op: "exec", Path: "/x", Err: fs.ErrNotExist},
	}
	err := fmt.Errorf("outer: %w", inner)

	for _, target := range []error{core.ErrInvalidConfig, fs.ErrNotExist} {
		if !errors.Is(err, target) {
			t.Errorf("does not match %q", target)
		}
	}
	for _, target := range []error{core.ErrNotFound, core.ErrUnsupported, nil} {
		if errors.Is(err, target) {
			t.Errorf("matches %v", target)
		}
	}
	if e, ok := errors.AsType[*core.Error](err); !ok || e != inner {
		t.Errorf("As found %v", e)
	}
	if e, ok := errors.AsType[*fs.PathError](err); !ok || e.Path != "/x" {
		t.Errorf("As found %v for the cause", e)
	}
	if (&core.Error{Op: "ping"}).Unwrap() != nil {
		t.Error("an error without class and cause wraps something")
	}
}

func TestSentinelsAreDistinct(t *testing.T) {
	sentinels := []error{
		core.ErrNotFound, core.ErrAlreadyExists, core.ErrInvalidConfig, core.ErrNotRunning, core.ErrInUse, core.ErrUnavailable,
		core.ErrPolicyNotEnforced, core.ErrTimeout, core.ErrUnsupported, core.ErrGVisorNotAvailable,
	}
	for i, a := range sentinels {
		for j, b := range sentinels {
			if errors.Is(a, b) != (i == j) {
				t.Errorf("%q matches %q: %t", a, b, i != j)
			}
		}
	}
	if !errors.Is(core.ErrUnsupported, errors.ErrUnsupported) {
		t.Error("ErrUnsupported does not match the standard library's")
	}
}

func TestErrGVisorNotAvailableHasTheDocumentedText(t *testing.T) {
	documented, err := os.ReadFile("testdata/gvisor_not_available.txt")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := core.ErrGVisorNotAvailable.Error(), strings.TrimSuffix(string(documented), "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if !errors.Is(fmt.Errorf("start: %w", &core.Error{Op: "verify", Class: core.ErrGVisorNotAvailable}), core.ErrGVisorNotAvailable) {
		t.Error("lost in wrapping")
	}
}

func TestFieldOf(t *testing.T) {
	field := &core.Error{Op: "check", Field: "Env", Class: core.ErrInvalidConfig}
	tests := []struct {
		name string
		err  error
		want string
	}{
		{"nil", nil, ""},
		{"foreign", errors.New("boom"), ""},
		{"without a field", &core.Error{Op: "ping"}, ""},
		{"direct", field, "Env"},
		{"wrapped", fmt.Errorf("outer: %w", field), "Env"},
		{"inside another operation's error", &core.Error{Op: "create", Class: core.ErrInvalidConfig, Err: field}, "Env"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := core.FieldOf(test.err); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestProgramFailure(t *testing.T) {
	cannotRun := func(field string, reason error) error {
		return fmt.Errorf("start: %w", &core.Error{Op: "start", Class: core.ErrInvalidConfig, Field: field, Err: reason})
	}
	for _, test := range []struct{ err, want error }{
		{cannotRun("Cmd", fs.ErrNotExist), fs.ErrNotExist},
		{cannotRun("Cmd", fs.ErrPermission), fs.ErrPermission},
		{cannotRun("Cmd", errors.New("empty")), nil},
		{cannotRun("Mounts", fs.ErrNotExist), nil},
		{fs.ErrNotExist, nil},
		{nil, nil},
	} {
		if got := core.ProgramFailure(test.err); got != test.want {
			t.Errorf("%v: %v, want %v", test.err, got, test.want)
		}
	}
}
