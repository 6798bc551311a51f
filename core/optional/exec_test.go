package optional_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

func TestExecOptionsValidate(t *testing.T) {
	sizes := make(chan optional.TerminalSize)
	streams := core.AttachOptions{Stdin: strings.NewReader(""), Stdout: &bytes.Buffer{}, Stderr: &bytes.Buffer{}}
	terminal := core.AttachOptions{TTY: true}
	for _, opts := range []optional.ExecOptions{
		{Cmd: []string{"true"}},
		{Cmd: []string{"sh", ""}, Env: []string{"A="}, WorkingDir: "/tmp", User: "1000:1000", AttachOptions: streams},
		{Cmd: []string{"sh"}, AttachOptions: terminal, Resize: sizes},
		{Cmd: []string{"sh"}, AttachOptions: terminal, Detach: true},
	} {
		if err := opts.Validate(); err != nil {
			t.Errorf("%+v: %v", opts, err)
		}
	}
	for _, test := range []struct {
		field string
		opts  optional.ExecOptions
	}{
		{"Cmd", optional.ExecOptions{}},
		{"Cmd", optional.ExecOptions{Cmd: []string{""}}},
		{"Cmd", optional.ExecOptions{Cmd: []string{"a", "\x00"}}},
		{"Env", optional.ExecOptions{Cmd: []string{"a"}, Env: []string{"A"}}},
		{"WorkingDir", optional.ExecOptions{Cmd: []string{"a"}, WorkingDir: "tmp"}},
		{"User", optional.ExecOptions{Cmd: []string{"a"}, User: "-x"}},
		{"Detach", optional.ExecOptions{Cmd: []string{"a"}, Detach: true, AttachOptions: core.AttachOptions{Stdin: streams.Stdin}}},
		{"Detach", optional.ExecOptions{Cmd: []string{"a"}, Detach: true, AttachOptions: core.AttachOptions{Stdout: streams.Stdout}}},
		{"Detach", optional.ExecOptions{Cmd: []string{"a"}, Detach: true, AttachOptions: core.AttachOptions{Stderr: streams.Stderr}}},
		{"Resize", optional.ExecOptions{Cmd: []string{"a"}, Resize: sizes}},
	} {
		if err := test.opts.Validate(); !errors.Is(err, core.ErrInvalidConfig) || core.FieldOf(err) != test.field {
			t.Errorf("%+v: %v, want %s refused", test.opts, err, test.field)
		}
	}
}

func TestValidateTerminalSize(t *testing.T) {
	for _, test := range []struct {
		height, width uint
		field         string
	}{{1, 1, ""}, {65535, 65535, ""}, {0, 80, "height"}, {65536, 80, "height"}, {24, 0, "width"}, {24, 65536, "width"}} {
		if err := core.ValidateTerminalSize(test.height, test.width); core.FieldOf(err) != test.field || (err == nil) != (test.field == "") {
			t.Errorf("%d x %d: %v", test.height, test.width, err)
		}
	}
}
