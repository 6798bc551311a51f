package core_test

import (
	"testing"

	"github.com/moatproject/moat/core"
)

type capable struct {
	fake
	isolation core.Isolation
}

func (c *capable) Capabilities() core.Capabilities {
	return core.Capabilities{Isolation: c.isolation}
}

func TestAs(t *testing.T) {
	inner := &capable{isolation: core.IsolationVM}
	tests := []struct {
		name  string
		rt    core.Runtime
		found bool
	}{
		{"nil", nil, false},
		{"without the port", &fake{}, false},
		{"with the port", inner, true},
		{"decorated", decorated{inner}, true},
		{"decorated twice", decorated{decorated{inner}}, true},
		{"decorated without the port", decorated{&fake{}}, false},
		{"decorator of nothing", decorated{}, false},
		{"opaque", opaque{inner}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			port, ok := core.As[core.Capable](test.rt)
			if ok != test.found || (port != nil) != test.found {
				t.Fatalf("got %v, %t", port, ok)
			}
			var want core.Capabilities
			if test.found {
				want = inner.Capabilities()
			}
			if got := core.CapabilitiesOf(test.rt); got != want {
				t.Errorf("capabilities %+v, want %+v", got, want)
			}
		})
	}
}

func TestAsPrefersTheDecorator(t *testing.T) {
	inner := &capable{isolation: core.IsolationVM}
	outer := struct {
		decorated
		core.Capable
	}{decorated{inner}, &capable{isolation: core.IsolationNone}}
	if got := core.CapabilitiesOf(outer).Isolation; got != core.IsolationNone {
		t.Errorf("isolation is %q, the inner runtime's", got)
	}
}
