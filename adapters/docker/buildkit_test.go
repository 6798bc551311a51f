package docker_test

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moatproject/moat/adapters/docker"
	"github.com/moatproject/moat/adapters/docker/dockertest"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// A BuildKit that the sidecar manager runs builds images that the engine then has. Its
// container is privileged, which old engines cannot start on every machine.
func TestBuildKitSidecar(t *testing.T) {
	host := os.Getenv("MOAT_TEST_ENGINE_CURRENT")
	dockertest.Need(t, "docker-current", dockertest.Absence(host, "MOAT_TEST_ENGINE_CURRENT"))
	folder := t.TempDir()
	rt := newRuntime(t, docker.Options{Host: host, BuildKit: "unix://" + filepath.Join(folder, "buildkitd.sock")})
	t.Cleanup(func() { rt.Close() })
	id := startBuildKit(t, rt, folder)
	builds := rt.BuildManager()
	const tag = "moat/by-buildkit:1"
	t.Cleanup(func() {
		if err := rt.RemoveImage(context.WithoutCancel(t.Context()), tag); err != nil {
			t.Error(err)
		}
	})

	files := map[string][]byte{"busybox": fileOf(t, rt, id, "/bin/busybox")}
	var output strings.Builder
	err := builds.BuildImage(t.Context(), `FROM scratch
COPY --chmod=755 busybox /bin/
SHELL ["/bin/busybox", "sh", "-c"]
ARG WHO
RUN echo "built by $WHO" >/built; cat /built
CMD ["/bin/busybox", "cat", "/built"]
`, tag, core.BuildOptions{
		ContextFiles: files, Args: map[string]string{"WHO": "the sidecar"},
		Progress: func(step core.BuildProgress) { output.Write(step.Output) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if output.String() != "built by the sidecar\n" {
		t.Errorf("the step wrote %q", output.String())
	}
	if said := runOnce(t, rt, core.Config{Image: tag, Pull: core.PullNever}); said != "built by the sidecar\n" {
		t.Errorf("a container of the image said %q", said)
	}

	err = builds.BuildImage(t.Context(), "FROM scratch\nCOPY --chmod=755 busybox /bin/\nRUN [\"/bin/busybox\", \"false\"]\n", tag,
		core.BuildOptions{ContextFiles: files})
	failed, ok := errors.AsType[*core.BuildError](err)
	if !ok || failed.Line != 3 || errors.Is(err, core.ErrUnavailable) {
		t.Errorf("a step that fails: %v", err)
	}
	if said := runOnce(t, rt, core.Config{Image: tag, Pull: core.PullNever}); said != "built by the sidecar\n" {
		t.Errorf("after a build that failed a container of the image said %q", said)
	}

	if err := rt.RemoveContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := builds.BuildImage(t.Context(), "FROM scratch\nCOPY busybox /\n", tag, core.BuildOptions{ContextFiles: files}); !errors.Is(err, core.ErrUnavailable) {
		t.Errorf("without the sidecar: %v, want %v", err, core.ErrUnavailable)
	}
}

// startBuildKit returns the ID of a sidecar that listens in a folder.
func startBuildKit(t *testing.T, rt core.Runtime, folder string) string {
	t.Helper()
	const name = "moat-test-buildkit"
	network, err := rt.NetworkManager().CreateNetwork(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rt.NetworkManager().ForceRemoveNetwork(context.WithoutCancel(t.Context()), network); err != nil {
			t.Error(err)
		}
	})
	id, err := rt.SidecarManager().StartSidecar(t.Context(), core.SidecarConfig{
		Image: "moat/test-buildkit:latest", Name: name, Hostname: "buildkit", NetworkID: network, Privileged: true,
		Cmd:    []string{"--addr", "unix:///run/buildkit/buildkitd.sock"},
		Mounts: []core.MountConfig{{Source: folder, Target: "/run/buildkit"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rt.RemoveContainer(context.WithoutCancel(t.Context()), id); err != nil {
			t.Error(err)
		}
	})
	logs, err := rt.ContainerLogs(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	defer time.AfterFunc(30*time.Second, func() { logs.Close() }).Stop()
	defer logs.Close()
	var said []string
	for lines := bufio.NewScanner(logs); lines.Scan(); {
		if said = append(said, lines.Text()); strings.Contains(lines.Text(), "running server on") {
			return id
		}
	}
	t.Fatalf("BuildKit does not listen: %q", said)
	return ""
}

// fileOf returns a file of a container's.
func fileOf(t *testing.T, rt core.Runtime, id, path string) []byte {
	t.Helper()
	copier, _ := core.As[optional.Copier](rt)
	archive, err := copier.CopyFrom(t.Context(), id, path)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	files := tar.NewReader(archive)
	if _, err := files.Next(); err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(files)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// runOnce returns what a container writes.
func runOnce(t *testing.T, rt core.Runtime, cfg core.Config) string {
	t.Helper()
	id, err := rt.CreateContainer(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer rt.RemoveContainer(t.Context(), id)
	if err := rt.StartContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if _, err := rt.WaitContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	said, err := rt.ContainerLogsAll(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return string(said)
}

func newRuntime(t testing.TB, options docker.Options) core.Runtime {
	rt, err := docker.New(options)
	if err != nil {
		t.Fatal(err)
	}
	return rt
}
