package core_test

import (
	"errors"
	"maps"
	"reflect"
	"strings"
	"testing"

	"github.com/moatproject/moat/core"
)

func buildkit() core.SidecarConfig {
	return core.SidecarConfig{
		Image: "moby/buildkit:latest", Name: "buildkit-1", Hostname: "buildkit", NetworkID: "net", Cmd: []string{"x"}, Privileged: true,
		Mounts: []core.MountConfig{{Source: "/a", Target: "/b"}}, RunID: "0123abcd", Env: []string{"A=1"}, Labels: map[string]string{"team": "blue"},
	}
}

func TestSidecarConfigValidate(t *testing.T) {
	tests := []struct {
		field             string
		accepted, refused []any
	}{
		{"Image", []any{"alpine"}, []any{"", "-x", "a b"}},
		{"Name", []any{"ab"}, []any{"", "a", "a b"}},
		{"Hostname", []any{"", "a", "a_b.c-D", strings.Repeat("a", 63)}, []any{"-a", ".a", "a b", "a\n", "a:b", strings.Repeat("a", 64)}},
		{"NetworkID", []any{"n"}, []any{"", "none", "host", "bridge", "container:x", "a b"}},
		{"Cmd", []any{[]string(nil)}, []any{[]string{"\x00"}}},
		{"Privileged", []any{false}, nil},
		{"Mounts", []any{[]core.MountConfig(nil)}, []any{[]core.MountConfig{{Source: "a", Target: "/b"}}}},
		{"RunID", []any{""}, []any{"\x00"}},
		{"Pull", []any{core.PullPolicy(""), core.PullNever}, []any{core.PullPolicy("sometimes")}},
		{"Env", []any{[]string(nil)}, []any{[]string{"A"}}},
		{
			"Labels", []any{map[string]string(nil), map[string]string{"moat.role": "x"}},
			[]any{map[string]string{"": "x"}, map[string]string{"a=b": "x"}, map[string]string{"moat.a": "\x00"}},
		},
	}
	tested := map[string]bool{}
	for _, test := range tests {
		tested[test.field] = true
		t.Run(test.field, func(t *testing.T) {
			check := func(value any) error {
				cfg := buildkit()
				reflect.ValueOf(&cfg).Elem().FieldByName(test.field).Set(reflect.ValueOf(value))
				return cfg.Validate()
			}
			for _, value := range test.accepted {
				if err := check(value); err != nil {
					t.Errorf("%q: %v", value, err)
				}
			}
			for _, value := range test.refused {
				if err := check(value); !errors.Is(err, core.ErrInvalidConfig) || core.FieldOf(err) != test.field {
					t.Errorf("%q: %v, want %s refused", value, err, test.field)
				}
			}
		})
	}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[core.SidecarConfig]()) {
		if !tested[field.Name] {
			t.Errorf("SidecarConfig.%s is not tested", field.Name)
		}
	}
}

func TestSidecarContainer(t *testing.T) {
	want := core.Config{
		Image: "moby/buildkit:latest", Name: "buildkit-1", NetworkMode: "net", Cmd: []string{"x"}, Privileged: true,
		Mounts: []core.MountConfig{{Source: "/a", Target: "/b"}}, RunID: "0123abcd", Role: core.RoleSidecar, Env: []string{"A=1"},
		Hostname: "buildkit", NetworkAliases: []string{"buildkit"},
	}
	cfg := buildkit()
	cfg.Labels = nil // TestSidecarLabels
	if got := cfg.Container(); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestSidecarLabels(t *testing.T) {
	cfg := buildkit()
	cfg.Labels = map[string]string{"team": "blue", core.LabelManaged: "false", core.LabelRole: "builder"}
	want := map[string]string{
		"team": "blue", core.LabelManaged: "true", core.LabelRole: "builder", core.LabelRunID: "0123abcd", core.LabelVersion: core.Version,
	}
	if got := cfg.Container().ContainerLabels(); !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if cfg.Labels[core.LabelManaged] != "false" {
		t.Error("the caller's labels were changed")
	}
}
