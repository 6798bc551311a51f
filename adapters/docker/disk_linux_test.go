package docker_test

import (
	"crypto/rand"
	"errors"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/build"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
	"github.com/moatproject/moat/adapters/docker"
	"github.com/moatproject/moat/adapters/docker/dockertest"
	"github.com/moatproject/moat/core"
)

// smallDisk is an engine with a small disk. Some of it is taken by what can be removed:
// Docker Engine 29 prunes nothing, and starts no build, without room for a few pages.
type smallDisk struct {
	*dockertest.Throwaway
	engine *client.Client
}

func startSmallDisk(t *testing.T, adapter, like string) *smallDisk {
	e := &smallDisk{Throwaway: &dockertest.Throwaway{TB: t, Adapter: adapter, Like: like, Disk: "100m"}}
	e.Start()
	e.engine = e.Client(e.Host())
	e.take(8 << 20)
	return e
}

// in is the engine for a subtest.
func (e *smallDisk) in(t *testing.T) *smallDisk {
	same := *e.Throwaway
	same.TB = t
	return &smallDisk{&same, e.engine}
}

// take takes that much of the disk, or what there is.
func (e *smallDisk) take(bytes int64) {
	e.Helper()
	file, err := os.OpenFile(e.Data()+"/taken", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		e.Fatal(err)
	}
	defer file.Close()
	_, _ = io.CopyN(file, rand.Reader, bytes)
}

// free frees the disk as a person would who has read the remedy. BuildKit gives up what
// a failed build has held only some time after it.
func (e *smallDisk) free() {
	e.Helper()
	if err := os.Remove(e.Data() + "/taken"); err != nil {
		e.Fatal(err)
	}
	deadline := time.After(time.Minute)
	for {
		if _, err := e.engine.BuildCachePrune(e.Context(), build.CachePruneOptions{All: true}); err != nil {
			e.Fatal(err)
		}
		if _, err := e.engine.ImagesPrune(e.Context(), filters.NewArgs()); err != nil {
			e.Fatal(err)
		}
		var disk syscall.Statfs_t
		if err := syscall.Statfs(e.Data(), &disk); err != nil {
			e.Fatal(err)
		}
		if disk.Bavail > disk.Blocks*8/10 { // the rest is the test image's, in the engine and in its registry
			break
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-deadline:
			e.Fatal("the disk stays full")
		}
	}
	e.take(8 << 20)
}

// mustBeTidy fails the test where there is more than the test image. What builders keep
// for later builds, and where that is an image, is the engine's.
func (e *smallDisk) mustBeTidy(what string) {
	e.Helper()
	containers, err := e.engine.ContainerList(e.Context(), container.ListOptions{All: true})
	if err != nil || len(containers) != 0 {
		e.Errorf("%s left %+v, %v", what, containers, err)
	}
	images, err := e.engine.ImageList(e.Context(), image.ListOptions{})
	named := slices.DeleteFunc(images, func(i image.Summary) bool {
		return len(i.RepoTags) == 0 || i.RepoTags[0] == "<none>:<none>" || i.RepoTags[0] == "moat/test-base:latest"
	})
	if err != nil || len(named) != 0 {
		e.Errorf("%s left %+v, %v", what, named, err)
	}
}

// TestBuildOnFullDisk: the engine's disk is full, at each stage of a build. No other
// builder is tried, and with the disk freed all works again.
func TestBuildOnFullDisk(t *testing.T) {
	big := make([]byte, 55<<20)
	_, _ = rand.Read(big)
	const fill = "RUN dd if=/dev/urandom of=/filled bs=1M count=200"
	for _, end := range []struct{ adapter, like string }{{"docker", "main"}, {"docker-current", "current"}} {
		t.Run(end.adapter, func(t *testing.T) {
			e := startSmallDisk(t, end.adapter, end.like)
			for builder, options := range map[string]docker.Options{"BuildKit": {}, "classic": {ClassicBuilder: true}} {
				options.Host = e.Host()
				rt := newRuntime(t, options)
				for name, test := range map[string]struct {
					step   string // on line 3
					files  []string
					class  error
					line   int // 0: any, or none
					output string
				}{
					"the context does not fit": {"COPY big* /", []string{"big", "big2"}, core.ErrUnavailable, 0, ""},
					"the copy does not fit":    {"COPY big /copy", []string{"big"}, core.ErrUnavailable, 3, ""},
					// The step has succeeded: whether it belongs to what comes then is the builder's to say.
					"there is no room for the result": {fill + "; true", nil, core.ErrUnavailable, 0, ""},
					// A program's words are not the engine's. What they are about, a limit or a small file
					// system of its own as well as the disk, only who reads them knows: it is a step that
					// fails as others do, with its output, and no remedy that may be a wrong one.
					"a program says so": {fill, nil, nil, 3, "No space left on device"},
				} {
					t.Run(builder+"/"+name, func(t *testing.T) {
						e := e.in(t)
						files := map[string][]byte{}
						for _, file := range test.files {
							files[file] = big
						}
						begun := 0
						err := rt.BuildManager().BuildImage(t.Context(), "FROM moat/test-base\nRUN true\n"+test.step+"\n", "moat/full:1", core.BuildOptions{
							ContextFiles: files,
							Progress: func(p core.BuildProgress) {
								if strings.Contains(p.Name, test.step) && p.Status == core.BuildRunning && p.Detail == "" && len(p.Output) == 0 {
									begun++
								}
							},
						})
						failed, _ := errors.AsType[*core.Error](err)
						if failed == nil || failed.Class != test.class || (test.class != nil) != strings.Contains(failed.Remedy, "Free space") {
							t.Errorf("it failed with %v, want the class %v", err, test.class)
						}
						step, _ := errors.AsType[*core.BuildError](err)
						if test.line != 0 && (step == nil || step.Line != test.line || step.Step != test.step || !strings.Contains(step.Output, test.output)) {
							t.Errorf("step %+v failed, want line %d", step, test.line)
						}
						if begun > 1 {
							t.Errorf("the step was begun %d times", begun)
						}
						e.mustBeTidy(name)
						e.free()
						if said := runOnce(t, rt, core.Config{Image: "moat/test-base", Cmd: []string{"echo", "alive"}}); said != "alive\n" {
							t.Errorf("afterwards a container says %q", said)
						}
					})
				}
			}
		})
	}
}

// TestFullDisk: what else needs room on the engine's disk.
func TestFullDisk(t *testing.T) {
	for _, end := range []struct{ adapter, like string }{{"docker", "main"}, {"docker-current", "current"}} {
		t.Run(end.adapter, func(t *testing.T) {
			e := startSmallDisk(t, end.adapter, end.like)
			rt, err := docker.New(docker.Options{Host: e.Host()})
			if err != nil {
				t.Fatal(err)
			}
			defer rt.Close()
			const pulled = "127.0.0.1:5000/moat/full:1"
			if err := rt.BuildManager().BuildImage(t.Context(), "FROM moat/test-base\nRUN echo >/new\n", pulled, core.BuildOptions{}); err != nil {
				t.Fatal(err)
			}
			pushed, err := e.engine.ImagePush(t.Context(), pulled, image.PushOptions{RegistryAuth: "e30K"})
			if err != nil {
				t.Fatal(err)
			}
			said, err := io.ReadAll(pushed)
			pushed.Close()
			if err != nil || strings.Contains(string(said), `"error"`) {
				t.Fatalf("%s, %v", said, err)
			}
			if err := rt.RemoveImage(t.Context(), pulled); err != nil {
				t.Fatal(err)
			}
			e.free()
			cfg := core.Config{Image: "moat/test-base", Cmd: []string{"echo", "alive"}}
			id, err := rt.CreateContainer(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}

			e.take(1 << 30)
			calls := map[string]func() error{
				"PullImage":       func() error { return rt.PullImage(t.Context(), pulled, nil) },
				"CreateContainer": func() error { _, err := rt.CreateContainer(t.Context(), cfg); return err },
				"StartContainer":  func() error { return rt.StartContainer(t.Context(), id) },
			}
			for _, name := range slices.Sorted(maps.Keys(calls)) {
				err := calls[name]()
				failed, _ := errors.AsType[*core.Error](err)
				if failed == nil || failed.Class != core.ErrUnavailable || !strings.Contains(failed.Remedy, "Free space") {
					t.Errorf("%s: %v", name, err)
				}
			}
			e.free()
			if err := rt.StartContainer(t.Context(), id); err != nil {
				t.Error(err)
			}
			if err := rt.RemoveContainer(t.Context(), id); err != nil {
				t.Error(err)
			}
			e.mustBeTidy("a full disk")
			if err := rt.PullImage(t.Context(), pulled, nil); err != nil {
				t.Error(err)
			}
		})
	}
}
