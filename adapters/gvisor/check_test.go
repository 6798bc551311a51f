package gvisor

import (
	"errors"
	"testing"

	"github.com/docker/docker/api/types/system"
	"github.com/moatproject/moat/core"
)

func TestCheck(t *testing.T) {
	suid := core.Config{AllowNewPrivileges: true}
	for _, test := range []struct {
		name  string
		args  []string
		cfg   core.Config
		field string // at fault
		asks  bool
	}{
		{"nothing special", nil, core.Config{Privileged: true}, "", false},
		{"privileges as usual", []string{"--platform=systrap"}, suid, "AllowNewPrivileges", true},
		{"privileges allowed before another flag", []string{"--allow-suid", "--debug"}, suid, "", true},
		{"privileges refused", []string{"--allow-suid=false"}, suid, "AllowNewPrivileges", true},
		{"privileges allowed", []string{"--allow-suid"}, suid, "", true},
		{"privileges allowed, spelt out", []string{"-allow-suid=true", "--debug"}, suid, "", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			engine, api := startFake(t, map[string]string{"runsc": "/usr/bin/runsc"})
			other := system.Runtime{Path: "/usr/bin/runsc", Args: []string{"--allow-suid"}}
			engine.info.Runtimes["runsc"] = system.RuntimeWithStatus{Runtime: other}
			engine.info.Runtimes["gvisor"] = system.RuntimeWithStatus{Runtime: system.Runtime{Path: "/usr/bin/runsc", Args: test.args}}
			err := NewSandbox(Options{}).Check(t.Context(), api, "gvisor", test.cfg)
			if errors.Is(err, core.ErrUnsupported) != (test.field != "") || core.FieldOf(err) != test.field {
				t.Errorf("%v", err)
			}
			if asked := len(engine.asked()) > 0; asked != test.asks {
				t.Errorf("asked the engine: %v", asked)
			}
		})
	}
}
