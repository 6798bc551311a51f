package docker

import (
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/moatproject/moat/core"
)

func TestMountsThatGiveTheHostAway(t *testing.T) {
	home := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	path := func(elements ...string) string { return filepath.Join(append([]string{home}, elements...)...) }
	for _, folder := range []string{"work/sub", "engine", "links", "beside", "roots/engine/overlay2", "roots/other"} {
		must(os.MkdirAll(path(folder), 0o755))
	}
	for link, target := range map[string]string{"root": "/", "proc": "/proc/self", "dev": "/dev", "work": path("work"), "engine": path("engine"), "data": path("roots", "engine")} {
		must(os.Symlink(target, path("links", link)))
	}
	must(os.WriteFile(path("work", "file"), nil, 0o644))
	for _, socket := range []string{"engine/moat.sock", "beside/podman.sock"} {
		listener, err := net.Listen("unix", path(socket))
		must(err)
		defer listener.Close()
	}
	engine := startFake(t)
	engine.on("GET /info", answer(http.StatusOK, map[string]string{"OSType": "linux", "DockerRootDir": path("links", "data")}))
	r := engine.runtime(t)
	r.options.Host = "unix://" + path("links", "engine", "moat.sock")

	for _, test := range []struct {
		source  string
		refused bool
	}{
		{path("work"), false},
		{path("work", "file"), false},
		{path("work", "..", "work", "sub"), false},
		{path("links", "work"), false},
		{"/etc", false},
		{"/device", false},
		{"/procedures", false},
		{"/nonexistent", false}, // for the engine to say

		{"/", true},
		{"/..", true},
		{"/proc", true},
		{"/proc/1/root", true},
		{"/sys", true},
		{"/sys/fs/cgroup", true},
		{"/dev", true},
		{"/dev/null", true},
		{path("links", "root"), true},
		{path("links", "root", "etc", ".."), true},
		{path("links", "proc"), true},
		{path("links", "dev"), true},

		{"/var/run/docker.sock", true},
		{"/run/docker.sock", true},
		{"/run", true},
		{"/var/run", true},
		{"/var", true},
		{"/run/containerd/containerd.sock", true},
		{"/run/containerd", true},
		{"/anywhere/docker.sock", true},
		{path("engine", "moat.sock"), true},
		{path("engine"), true},
		{path("links", "engine", "moat.sock"), true},
		{path("links", "engine"), true},
		{home, true},
		{path("beside", "podman.sock"), true},
		{path("beside"), true},

		{"/var/lib", true},
		{"/var/lib/docker/volumes/data/_data", true},
		{"/var/lib/containerd", true},
		{"/var/lib/containers/storage", true},
		{path("roots", "other"), false},
		{path("roots"), true},
		{path("roots", "engine"), true},
		{path("roots", "engine", "overlay2"), true},
		{path("links", "data", "overlay2"), true},
	} {
		cfg := core.Config{Image: "image", Mounts: []core.MountConfig{{Source: test.source, Target: "/mnt", ReadOnly: true}}}
		_, err := r.CreateContainer(t.Context(), cfg)
		failure, _ := errors.AsType[*core.Error](err)
		switch {
		case !test.refused && err != nil:
			t.Errorf("mounting %s: %v", test.source, err)
		case test.refused && (!errors.Is(err, core.ErrInvalidConfig) || failure.Field != "Mounts" || failure.Remedy == ""):
			t.Errorf("mounting %s is not refused: %v", test.source, err)
		}
		cfg.Privileged = true
		if _, err := r.CreateContainer(t.Context(), cfg); err != nil {
			t.Errorf("mounting %s, privileged: %v", test.source, err)
		}
	}

	file := core.MountConfig{Source: path("work", "file", "below"), Target: "/mnt"}
	_, err := r.CreateContainer(t.Context(), core.Config{Image: "image", Mounts: []core.MountConfig{file}})
	if core.FieldOf(err) != "Mounts" || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("mounting what is below a file: %v", err)
	}
}

func TestRefusedMountsAskForNothing(t *testing.T) {
	engine := startFake(t)
	cfg := core.Config{Image: "image", Mounts: []core.MountConfig{{Source: "/proc", Target: "/mnt"}}}
	if _, err := engine.runtime(t).CreateContainer(t.Context(), cfg); core.FieldOf(err) != "Mounts" {
		t.Errorf("got %v", err)
	}
	if got := engine.requests(); slices.Contains(got, createURI) {
		t.Errorf("the engine was asked for %q", got)
	}
}
