package optional_test

import (
	"errors"
	"testing"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

func TestNetworkConfigValidate(t *testing.T) {
	for _, cfg := range []optional.NetworkConfig{
		{Name: "a"},
		{Name: "a.b_c-d", Subnet: "192.0.2.0/29", Internal: true, Isolated: true, RunID: "0123abcd", Labels: map[string]string{"team": "blue"}},
	} {
		if err := cfg.Validate(); err != nil {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
	for field, cfgs := range map[string][]optional.NetworkConfig{
		"Name": {{}, {Name: "-a"}, {Name: "a b"}, {Name: "bridge"}, {Name: "host"}, {Name: "none"}, {Name: "default"}},
		"Subnet": {
			{Name: "a", Subnet: "x"}, {Name: "a", Subnet: "192.0.2.0"}, {Name: "a", Subnet: "192.0.2.1/29"}, {Name: "a", Subnet: "192.0.2.0/30"}, {Name: "a", Subnet: "2001:db8::/64"},
			{Name: "a", Subnet: "0.0.0.0/24"}, {Name: "a", Subnet: "64.0.0.0/2"}, {Name: "a", Subnet: "224.0.0.0/29"},
		},
		"Labels": {{Name: "a", Labels: map[string]string{"": "x"}}, {Name: "a", Labels: map[string]string{"moat.managed": "false"}}},
		"RunID":  {{Name: "a", RunID: "\x00"}},
	} {
		for _, cfg := range cfgs {
			if err := cfg.Validate(); !errors.Is(err, core.ErrInvalidConfig) || core.FieldOf(err) != field {
				t.Errorf("%+v: %v, want %s refused", cfg, err, field)
			}
		}
	}
}
