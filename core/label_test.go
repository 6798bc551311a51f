package core_test

import (
	"maps"
	"testing"

	"github.com/moatproject/moat/core"
)

func TestContainerLabels(t *testing.T) {
	cfg := core.Config{
		RunID:  "0123abcd",
		Labels: map[string]string{"team": "blue", "moat.managed": "false", "moat.role": "none"},
	}
	want := map[string]string{
		"team": "blue", "moat.managed": "true", "moat.run-id": "0123abcd", "moat.role": "main", "moat.version": core.Version,
	}
	if got := cfg.ContainerLabels(); !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if cfg.Labels["moat.managed"] != "false" {
		t.Error("the caller's labels were changed")
	}

	cfg.Role = core.RoleSidecar
	if got := cfg.ContainerLabels()["moat.role"]; got != "sidecar" {
		t.Errorf("role is %q", got)
	}
}

func TestIsManaged(t *testing.T) {
	tests := []struct {
		name   string
		labels map[string]string
		want   bool
	}{
		{"0123abcd", nil, true},
		{"web", map[string]string{"moat.managed": "true"}, true},
		{"web", map[string]string{"moat.managed": "true", "moat.role": "main"}, true},
		{"web", map[string]string{"moat.managed": "true", "moat.role": "image"}, false},
		{"web", map[string]string{"moat.managed": "false"}, false},
		{"web", map[string]string{"moat.run-id": "0123abcd"}, false},
		{"web", nil, false},
		{"", nil, false},
		{"0123abc", nil, false},
		{"0123abcde", nil, false},
		{"0123ABCD", nil, false},
		{"0123abcg", nil, false},
		{"0123abcd\n", nil, false},
		{"/0123abcd", nil, false},
	}
	for _, test := range tests {
		if got := core.IsManaged(test.name, test.labels); got != test.want {
			t.Errorf("IsManaged(%q, %v) = %t", test.name, test.labels, got)
		}
	}
}
