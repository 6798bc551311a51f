package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/moatproject/moat/core"
)

// sandboxedEngine has a container that runs in the sandbox, and in it a program tar.
func sandboxedEngine(t *testing.T, talk func(args []string, conn io.ReadWriter), code int) (*fakeEngine, *Runtime) {
	t.Helper()
	engine := startFake(t)
	engine.on(inspectRoute, answer(http.StatusOK, container.InspectResponse{
		ContainerJSONBase: &container.ContainerJSONBase{
			State: &container.State{Status: "running", Running: true}, HostConfig: &container.HostConfig{Runtime: "runsc"},
		},
		Config: &container.Config{},
	}))
	engine.on(waitRoute, hang)
	var mu sync.Mutex
	var asked container.ExecOptions
	engine.on(execRoute, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked = container.ExecOptions{}
		_ = json.NewDecoder(r.Body).Decode(&asked)
		usualRoutes()[execRoute](w, r)
	})
	engine.on(execStartRoute, upgraded(func(conn io.ReadWriter) {
		mu.Lock()
		args := asked.Cmd
		mu.Unlock()
		talk(args, conn)
	}))
	engine.on(execJSONRoute, answer(http.StatusOK, map[string]any{"Pid": 7, "ExitCode": code}))
	return engine, engine.runtime(t, sandboxedBy(&fakeSandbox{name: "runsc"}))
}

// sendTar sends an archive of one entry.
func sendTar(conn io.Writer, header tar.Header) {
	var packed bytes.Buffer
	out := tar.NewWriter(&packed)
	_ = out.WriteHeader(&header)
	_ = out.Close()
	_, _ = conn.Write(frame(streamStdout, packed.String()))
}

// TestSandboxesTarFails tells what is missing from what cannot be known.
func TestSandboxesTarFails(t *testing.T) {
	const endOfArchive = 20 * tarBlock
	says := func(frames ...[]byte) func([]string, io.ReadWriter) {
		return func(_ []string, conn io.ReadWriter) { _, _ = conn.Write(slices.Concat(frames...)) }
	}
	endless := func(_ []string, conn io.ReadWriter) {
		for block := frame(streamStdout, strings.Repeat("\x00", demuxBuffer)); ; {
			if _, err := conn.Write(block); err != nil {
				return
			}
		}
	}
	missing := says(frame(streamStdout, strings.Repeat("\x00", endOfArchive)), frame(streamStderr, "tar: x: No such file\n"))
	for name, test := range map[string]struct {
		tar    func([]string, io.ReadWriter)
		code   int
		change func(*fakeEngine)
		class  error
	}{
		"no such file":              {missing, 2, nil, core.ErrNotFound},
		"no such file, no archive":  {says(), 1, nil, core.ErrNotFound},
		"no tar":                    {says(frame(streamStdout, "OCI runtime exec failed: exec: \"tar\": executable file not found in $PATH\n")), 127, func(e *fakeEngine) { e.on(execJSONRoute, answer(http.StatusOK, map[string]any{"ExitCode": 127})) }, core.ErrUnsupported},
		"no end":                    {endless, 0, nil, errNoArchive},
		"the engine is gone":        {says(), 0, func(e *fakeEngine) { e.on(execRoute, die) }, core.ErrUnavailable},
		"the engine dies meanwhile": {says(frame(streamStdout, "cut")[:9]), 0, nil, core.ErrUnavailable},
		"it has ended meanwhile":    {says(), 0, func(e *fakeEngine) { e.on(execRoute, failure(http.StatusConflict, "Container x is not running")) }, core.ErrNotRunning},
	} {
		t.Run(name, func(t *testing.T) {
			engine, r := sandboxedEngine(t, test.tar, test.code)
			if test.change != nil {
				test.change(engine)
			}
			if _, err := r.StatPath(t.Context(), testID, "/tmp/x"); !errors.Is(err, test.class) {
				t.Errorf("StatPath: %v", err)
			}
			if _, err := r.CopyFrom(t.Context(), testID, "/tmp/x"); !errors.Is(err, test.class) {
				t.Errorf("CopyFrom: %v", err)
			}
		})
	}
}

func TestSandboxesTarEndsWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, r := sandboxedEngine(t, func(_ []string, conn io.ReadWriter) {
		cancel()
		_, _ = io.Copy(io.Discard, conn)
	}, 0)
	if _, err := r.StatPath(ctx, testID, "/tmp/x"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestSandboxesTarSaysALot keeps little of what it says.
func TestSandboxesTarSaysALot(t *testing.T) {
	_, r := sandboxedEngine(t, func(args []string, conn io.ReadWriter) {
		if slices.Contains(args, "-cf") {
			sendTar(conn, tar.Header{Typeflag: tar.TypeDir, Name: "tmp/"})
			return
		}
		_, _ = io.Copy(io.Discard, conn) // the archive, to its end
		_, _ = conn.Write(frame(streamStderr, strings.Repeat("no ", 1<<20)))
	}, 1)
	err := r.CopyTo(t.Context(), testID, "/tmp", strings.NewReader(""))
	if failure, ok := errors.AsType[*tarError](err); !ok || len(failure.said) != systemErrorMax {
		t.Errorf("got an error of %d bytes: %.200v", len(err.Error()), err)
	}
}

// TestSandboxesLinks follows links to links, and archives no folder in order to know one.
func TestSandboxesLinks(t *testing.T) {
	files := map[string]tar.Header{
		"/tmp a":     {Typeflag: tar.TypeSymlink, Name: "a", Linkname: "sub/b"},
		"/tmp/sub b": {Typeflag: tar.TypeSymlink, Name: "b", Linkname: "/etc/c"},
		"/etc c":     {Typeflag: tar.TypeSymlink, Name: "c", Linkname: "missing"},
		"/tmp loop":  {Typeflag: tar.TypeSymlink, Name: "loop", Linkname: "loop"},
		"/tmp sub":   {Typeflag: tar.TypeDir, Name: "sub/", Mode: 0o755},
	}
	_, r := sandboxedEngine(t, func(args []string, conn io.ReadWriter) {
		if header, found := files[args[2]+" "+args[len(args)-1]]; found && slices.Contains(args, "--no-recursion") {
			sendTar(conn, header)
		}
	}, 0)
	for path, target := range map[string]string{"/tmp/a": "/etc/missing", "/etc/c": "/etc/missing", "/tmp/loop": "/tmp/loop", "/tmp/sub": ""} {
		stat, err := r.StatPath(t.Context(), testID, path)
		if err != nil || stat.LinkTarget != target || (stat.Mode&fs.ModeSymlink != 0) != (target != "") {
			t.Errorf("%s is %+v, %v", path, stat, err)
		}
	}
}

// TestRootIsCopiedByRelativeNames asks for "/." where the engine would send absolute ones.
func TestRootIsCopiedByRelativeNames(t *testing.T) {
	engine := startFake(t)
	archive, err := engine.runtime(t).CopyFrom(t.Context(), testID, "/")
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	engine.wantRequests(t, "GET /containers/"+testID+"/archive?path=%2F.")
}
