package core_test

import (
	"testing"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

type capable struct {
	fake
	isolation optional.Isolation
}

func (c *capable) Capabilities() optional.Capabilities {
	return optional.Capabilities{Isolation: c.isolation}
}

func TestAs(t *testing.T) {
	inner := &capable{isolation: optional.IsolationVM}
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
			port, ok := core.As[optional.Capable](test.rt)
			if ok != test.found || (port != nil) != test.found {
				t.Fatalf("got %v, %t", port, ok)
			}
			var want optional.Capabilities
			if test.found {
				want = inner.Capabilities()
			}
			if got := optional.CapabilitiesOf(test.rt); got != want {
				t.Errorf("capabilities %+v, want %+v", got, want)
			}
		})
	}
}

func TestAsPrefersTheDecorator(t *testing.T) {
	inner := &capable{isolation: optional.IsolationVM}
	outer := struct {
		decorated
		optional.Capable
	}{decorated{inner}, &capable{isolation: optional.IsolationNone}}
	if got := optional.CapabilitiesOf(outer).Isolation; got != optional.IsolationNone {
		t.Errorf("isolation is %q, the inner runtime's", got)
	}
}
