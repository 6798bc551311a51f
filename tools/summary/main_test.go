package main

import (
	"io"
	"slices"
	"testing"
)

func TestARequiredNameThatNoTestHas(t *testing.T) {
	s := &summary{output: map[string][]string{}, suites: map[string]*suite{}, names: map[string]bool{}}
	for _, e := range []event{
		{Action: "pass", Package: "example.org/adapters/docker", Test: "TestContract/docker-current/RT-01_x"},
		{Action: "skip", Package: "example.org/adapters/gvisor/contract", Test: "TestContract"},
	} {
		s.add(io.Discard, e)
	}
	got := s.unknown("docker-current, gvisor,dokcer,docker,")
	if want := []string{"dokcer"}; !slices.Equal(got, want) {
		t.Errorf("unknown are %q, want %q", got, want)
	}
}
