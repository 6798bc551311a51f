package docker

import (
	"encoding/json"
	"sync"

	"github.com/moby/profiles/seccomp"
)

// seccompOption returns the security option with the profile that newer engines have by
// default.
var seccompOption = sync.OnceValue(func() string {
	profile, err := json.Marshal(seccomp.DefaultProfile())
	if err != nil {
		return ""
	}
	return seccompPrefix + string(profile)
})
