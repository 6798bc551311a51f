package core_test

import (
	"slices"
	"testing"

	"github.com/moatproject/moat/core"
)

func TestDefaultDNS(t *testing.T) {
	for _, none := range [][]string{nil, {}} {
		if got := core.DefaultDNS(none); !slices.Equal(got, []string{"8.8.8.8", "8.8.4.4"}) {
			t.Errorf("DefaultDNS(%#v) = %v", none, got)
		}
	}
	given := []string{"192.0.2.1", "2001:db8::1"}
	got := core.DefaultDNS(given)
	if !slices.Equal(got, given) {
		t.Errorf("got %v, want %v", got, given)
	}
	got[0] = "changed"
	if given[0] != "192.0.2.1" {
		t.Error("the answer shares the caller's array")
	}
}
