package docker

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/moatproject/moat/core"
)

// What engines really say, by what they were asked for: Docker 20.10 with runc 1.1,
// Docker 29 with runc 1.5, both with gVisor's runsc of February 2026.
const (
	runc1  = "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: "
	runc2  = "failed to create task for container: " + runc1 + "error during container init: "
	runsc  = "OCI runtime start failed: starting container: starting root container: starting sandbox: "
	ports1 = "driver failed programming external connectivity on endpoint recursing_ganguly (089ae629977200f1): "
	ports2 = "failed to set up container networking: " + ports1
)

func TestClassify(t *testing.T) {
	for _, test := range []struct {
		status int
		text   string
		class  error
		field  string
		cause  error
	}{
		// A program that does not exist, by path and by name.
		{400, runc1 + `exec: "/no/such/program": stat /no/such/program: no such file or directory: unknown`, core.ErrInvalidConfig, "Cmd", fs.ErrNotExist},
		{400, runc1 + `exec: "nosuch": executable file not found in $PATH: unknown`, core.ErrInvalidConfig, "Cmd", fs.ErrNotExist},
		{400, runc2 + `exec: "/no/such/program": stat /no/such/program: no such file or directory: unknown`, core.ErrInvalidConfig, "Cmd", fs.ErrNotExist},
		{400, runc2 + `exec: "nosuch": executable file not found in $PATH: unknown`, core.ErrInvalidConfig, "Cmd", fs.ErrNotExist},
		{400, runsc + `creating process: failed to load /no/such/program: no such file or directory: unknown`, core.ErrInvalidConfig, "Cmd", fs.ErrNotExist},
		{400, runsc + `error finding executable "nosuch" in PATH [/usr/local/sbin /bin]: no such file or directory: unknown`, core.ErrInvalidConfig, "Cmd", fs.ErrNotExist},
		// A file that is no program, and a folder.
		{400, runc1 + `exec: "/etc/passwd": permission denied: unknown`, core.ErrInvalidConfig, "Cmd", fs.ErrPermission},
		{400, runc1 + `exec: "/etc": permission denied: unknown`, core.ErrInvalidConfig, "Cmd", fs.ErrPermission},
		{400, runc2 + `exec: "/etc/passwd": permission denied: unknown`, core.ErrInvalidConfig, "Cmd", fs.ErrPermission},
		{400, runc2 + `exec: "/etc": is a directory: unknown: permission denied`, core.ErrInvalidConfig, "Cmd", fs.ErrPermission},
		{400, runsc + `creating process: failed to load /etc/passwd: permission denied: unknown`, core.ErrInvalidConfig, "Cmd", fs.ErrPermission},
		{400, `No command specified`, core.ErrInvalidConfig, "Cmd", nil},
		{400, `no command specified`, core.ErrInvalidConfig, "Cmd", nil},

		{500, `unable to find user nobody-x: no matching entries in passwd file`, core.ErrInvalidConfig, "User", nil},
		{500, `Unable to find group nogrp-x: no matching entries in group file`, core.ErrInvalidConfig, "GroupAdd", nil},
		{400, `Cannot mkdir: /etc/passwd is not a directory`, core.ErrInvalidConfig, "WorkingDir", nil},
		{500, `lstat /var/lib/docker/overlay2/f27a/merged/etc/passwd/x: not a directory`, core.ErrInvalidConfig, "WorkingDir", nil},
		{400, `invalid CapAdd: unknown capability: "CAP_NOSUCH"`, core.ErrInvalidConfig, "CapAdd", nil},
		{400, `Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available`, core.ErrInvalidConfig, "CPUs", nil},
		{400, `range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available`, core.ErrInvalidConfig, "CPUs", nil},
		{400, `Minimum memory limit allowed is 6MB`, core.ErrInvalidConfig, "MemoryMB", nil},
		{500, `failed to create shim task: OCI runtime create failed: /usr/bin/runsc did not terminate successfully: exit status 137: unknown`, core.ErrInvalidConfig, "MemoryMB", nil},
		{400, `invalid mount config for type "bind": bind source path does not exist: /no/such/dir`, core.ErrInvalidConfig, "Mounts", fs.ErrNotExist},
		{400, runc1 + `error during container init: error mounting "/tmp" to rootfs at "/etc/passwd": mount /tmp:/etc/passwd (via /proc/self/fd/6), flags: 0x5000: not a directory: unknown`, core.ErrInvalidConfig, "Mounts", nil},
		{400, runc2 + `error mounting "/tmp" to rootfs at "/etc/passwd": mount src=/tmp, dst=/etc/passwd, dstFd=/proc/thread-self/fd/16, flags=MS_BIND|MS_REC: not a directory: unknown`, core.ErrInvalidConfig, "Mounts", nil},
		{500, runc1 + `unable to apply caps: operation not permitted: unknown`, core.ErrUnsupported, "", errors.ErrUnsupported},

		{500, ports1 + `Error starting userland proxy: listen tcp4 127.0.0.1:5000: bind: address already in use`, core.ErrInUse, "Ports", nil},
		{500, ports1 + `Bind for 127.0.0.1:5000 failed: port is already allocated`, core.ErrInUse, "Ports", nil},
		{500, ports1 + `all ports are allocated`, core.ErrInUse, "Ports", nil},
		{500, ports2 + `all ports are allocated`, core.ErrInUse, "Ports", nil},
		{500, ports2 + `failed to bind host port 127.0.0.1:5000/tcp: address already in use`, core.ErrInUse, "Ports", nil},
		{500, ports1 + `Error starting userland proxy: listen tcp4 192.0.2.7:32777: bind: cannot assign requested address`, core.ErrInvalidConfig, "Ports", nil},
		{500, ports2 + `failed to bind host port 192.0.2.7:32777/tcp: cannot assign requested address`, core.ErrInvalidConfig, "Ports", nil},
		{500, `no available IPv4 addresses on this network's address pools: full (f5093cf03bcd975c)`, core.ErrInUse, "NetworkMode", nil},
		{500, `failed to set up container networking: no available IPv4 addresses on this network's address pools: full (3c63fb8bef54fe7f)`, core.ErrInUse, "NetworkMode", nil},
		{404, `failed to set up container networking: network nosuchnet not found`, core.ErrNotFound, "", nil},

		{404, `No such container: nosuch`, core.ErrNotFound, "", nil},
		{404, `No such image: moat/nosuch:latest`, core.ErrNotFound, "", nil},
		{409, `Conflict. The container name "/x" is already in use by container "ef46". You have to remove (or rename) that container to be able to reuse that name.`, core.ErrAlreadyExists, "Name", nil},
		{500, `could not delete stale containerd task object: unknown error after kill: /usr/bin/runsc did not terminate successfully: exit status 128: cannot signal container "4bcd" in state created: unknown`, core.ErrInUse, "", nil},
		{409, `Cannot kill container: cb82: Container cb82 is not running`, core.ErrNotRunning, "", nil},
		{409, `cannot kill container: cf8c: container cf8c is not running`, core.ErrNotRunning, "", nil},
		{500, `Cannot kill container: cb82: The linux daemon does not support signal 70`, core.ErrInvalidConfig, "signal", nil},
		{400, `cannot kill container: cf8c: the linux daemon does not support signal 70`, core.ErrInvalidConfig, "signal", nil},
		{409, `conflict: unable to delete x:latest (must be forced) - container ddee is using its referenced image c013`, core.ErrInUse, "", nil},
		{400, `invalid reference format: repository name (Case) must be lowercase`, core.ErrInvalidConfig, "Image", nil},

		// The registry does not have it, does not answer, or refuses.
		{404, `manifest for 127.0.0.1:5000/moat/missing:latest not found: manifest unknown: manifest unknown`, core.ErrNotFound, "", nil},
		{404, `failed to resolve reference "127.0.0.1:5000/moat/missing:latest": 127.0.0.1:5000/moat/missing:latest: not found`, core.ErrNotFound, "", nil},
		{404, `pull access denied for nosuch, repository does not exist or may require 'docker login': denied: requested access to the resource is denied`, core.ErrNotFound, "", nil},
		{500, `Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused`, core.ErrUnavailable, "", nil},
		{500, `Get "https://registry-1.docker.io/v2/": dial tcp: lookup registry-1.docker.io on 10.255.255.53:53: connect: network is unreachable`, core.ErrUnavailable, "", nil},
		{500, `failed to resolve reference "127.0.0.1:1/x:latest": failed to do request: Head "https://127.0.0.1:1/v2/x/manifests/latest": dial tcp 127.0.0.1:1: connect: connection refused`, core.ErrUnavailable, "", nil},
		{500, `Head "https://example.org/v2/x/manifests/latest": unauthorized: authentication required`, core.ErrUnavailable, "", nil},
		{500, `Head "http://127.0.0.1:32768/v2/moat/private/manifests/latest": no basic auth credentials`, core.ErrUnavailable, "", nil},
		{404, `failed to resolve reference "127.0.0.1:32768/moat/private:latest": pull access denied, repository does not exist or may require authorization: authorization failed: no basic auth credentials`, core.ErrUnavailable, "", nil},
		// It dies in the middle of a pull.
		{500, `dial tcp 127.0.0.1:32770: connect: connection refused`, core.ErrUnavailable, "", nil},
		{500, `short read: expected 8002630 bytes but got 533504: unexpected EOF`, core.ErrUnavailable, "", nil},

		{401, `authentication required`, core.ErrUnavailable, "", nil},
		{503, `the engine is shutting down`, core.ErrUnavailable, "", nil},
		{501, `not implemented`, core.ErrUnsupported, "", nil},
		{500, `something nobody has ever seen`, nil, "", nil},
	} {
		t.Run(fmt.Sprint(test.status, " ", test.text), func(t *testing.T) {
			engine := startFake(t)
			engine.on(inspectRoute, failure(test.status, test.text))
			_, err := engine.runtime(t).ContainerState(t.Context(), testID)
			failure, ok := errors.AsType[*core.Error](err)
			if !ok || !errors.Is(failure.Class, test.class) || failure.Field != test.field {
				t.Errorf("got %#v, want %v, field %q", failure, test.class, test.field)
			}
			if test.cause != nil && !errors.Is(err, test.cause) {
				t.Errorf("%v does not match %v", err, test.cause)
			}
			if test.class != nil && failure.Remedy == "" {
				t.Errorf("%v names no remedy", err)
			}
			if !strings.Contains(err.Error(), test.text) {
				t.Errorf("%v does not have the engine's words", err)
			}
		})
	}
}

func TestPullOfAnIDIsNotFound(t *testing.T) {
	engine := startFake(t)
	engine.on(createRoute, failure(http.StatusNotFound, "No such image: x"))
	cfg := core.Config{Image: strings.Repeat("0123456789abcdef", 4)}
	if _, err := engine.runtime(t).CreateContainer(t.Context(), cfg); !errors.Is(err, core.ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

// imperatives are what remedies begin with.
var imperatives = strings.Fields("Add Allow Ask Bind Bring Check Choose Copy Create Fix Free Give Join List Log Make Mount Name Pull " +
	"Read Remove Start Stop Try Update Upgrade Use Wait Write")

func TestRemediesAreImperatives(t *testing.T) {
	for _, rule := range rules {
		if rule.remedy == "" {
			continue
		}
		first, _, _ := strings.Cut(rule.remedy, " ")
		if !slices.Contains(imperatives, first) {
			t.Errorf("%q begins with %q, which is not one of %q", rule.remedy, first, imperatives)
		}
		if strings.ContainsAny(rule.remedy[len(rule.remedy)-1:], ".?!:;, \n") {
			t.Errorf("%q ends with punctuation", rule.remedy)
		}
	}
}
