package docker

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/moatproject/moat/core"
)

// TestSeccompProfile has engines whose own default profile leaves AF_VSOCK open, and others.
func TestSeccompProfile(t *testing.T) {
	for name, test := range map[string]struct {
		version string
		cfg     core.Config
		want    bool
	}{
		"Docker 20.10":             {"1.41", core.Config{}, true},
		"Docker 23":                {"1.42", core.Config{}, false},
		"Docker 20.10, privileged": {"1.41", core.Config{Privileged: true}, false},
	} {
		t.Run(name, func(t *testing.T) {
			engine := startFake(t)
			engine.on("/_ping", ping(test.version))
			var bodies []container.CreateRequest
			engine.on(createRoute, recorded(&bodies, answer(http.StatusCreated, container.CreateResponse{ID: testID})))
			test.cfg.Image = "image"
			if _, err := engine.runtime(t).CreateContainer(t.Context(), test.cfg); err != nil {
				t.Fatal(err)
			}
			options := bodies[0].HostConfig.SecurityOpt
			at := slices.IndexFunc(options, func(option string) bool { return strings.HasPrefix(option, seccompPrefix) })
			if at >= 0 != test.want || !test.cfg.Privileged && !slices.Contains(options, "no-new-privileges") {
				t.Errorf("it is created with %q", options)
			}
			if !test.want {
				return
			}
			var profile struct {
				DefaultAction string
				Syscalls      []struct{ Names []string }
			}
			if err := json.Unmarshal([]byte(strings.TrimPrefix(options[at], seccompPrefix)), &profile); err != nil || profile.DefaultAction != "SCMP_ACT_ERRNO" || len(profile.Syscalls) < 5 {
				t.Errorf("the profile is %v, %v", profile, err)
			}
		})
	}
}
