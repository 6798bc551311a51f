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
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
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
	const endOfArchive = 10 << 10
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
	missing := says(frame(streamStdout, strings.Repeat("\x00", endOfArchive)), frame(streamStderr, "tar: x: No such file or directory\n"))
	for name, test := range map[string]struct {
		tar    func([]string, io.ReadWriter)
		code   int
		change func(*fakeEngine)
		class  error
	}{
		"no such file":              {missing, 2, nil, core.ErrNotFound},
		"no such file, no archive":  {says(frame(streamStderr, "tar: x: No such file or directory\n")), 1, nil, core.ErrNotFound},
		"no tar":                    {says(frame(streamStdout, "OCI runtime exec failed: exec: \"tar\": executable file not found in $PATH\n")), 127, func(e *fakeEngine) { e.on(execJSONRoute, answer(http.StatusOK, map[string]any{"ExitCode": 127})) }, core.ErrUnsupported},
		"no end":                    {endless, 0, nil, errAny},
		"the engine is gone":        {says(), 0, func(e *fakeEngine) { e.on(execRoute, die) }, core.ErrUnavailable},
		"the engine dies meanwhile": {says(frame(streamStdout, "cut")[:9]), 0, nil, core.ErrUnavailable},
		"it has ended meanwhile":    {says(), 0, func(e *fakeEngine) { e.on(execRoute, failure(http.StatusConflict, "Container x is not running")) }, core.ErrNotRunning},
	} {
		t.Run(name, func(t *testing.T) {
			engine, r := sandboxedEngine(t, test.tar, test.code)
			if test.change != nil {
				test.change(engine)
			}
			if _, err := r.StatPath(t.Context(), testID, "/tmp/x"); !matches(err, test.class) {
				t.Errorf("StatPath: %v", err)
			}
			if _, err := r.CopyFrom(t.Context(), testID, "/tmp/x"); !matches(err, test.class) {
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
			return
		}
		_, _ = conn.Write(frame(streamStdout, strings.Repeat("\x00", 1024)))
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
	engine.wantRequests(t, "GET /containers/"+testID+"/json", "GET /containers/"+testID+"/archive?path=%2F.")
}

// packed is an archive whose files hold as many bytes as their headers say.
func packed(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var archive bytes.Buffer
	out := tar.NewWriter(&archive)
	for _, header := range headers {
		if err := out.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(out, strings.Repeat("x", int(header.Size)))
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes()
}

// drain reads an archive as [tar.Reader] does, and then to the end of the stream.
func drain(r io.Reader) (archive, stream error) {
	for in := tar.NewReader(r); archive == nil; {
		if _, archive = in.Next(); archive == nil {
			_, archive = io.Copy(io.Discard, in)
		}
	}
	_, stream = io.Copy(io.Discard, r)
	return archive, stream
}

// TestSandboxesTarComplainsLate has a whole archive, and then what tar says of it.
func TestSandboxesTarComplainsLate(t *testing.T) {
	archive := packed(t, tar.Header{Typeflag: tar.TypeDir, Name: "d/"}, tar.Header{Typeflag: tar.TypeReg, Name: "d/f", Size: 5})
	for name, test := range map[string]struct {
		said string
		code int
		want string // in the error; empty: none
	}{
		"nothing":              {"", 0, ""},
		"a warning":            {"tar: d/f: time stamp is in the future\n", 0, ""},
		"it has shrunk":        {"tar: d/f: File shrank by 5 bytes; padding with zeros\n", 1, "File shrank"},
		"it cannot be read":    {"tar: can't open 'd/g': Permission denied\ntar: error exit delayed from previous errors\n", 1, "Permission denied"},
		"it is gone":           {"tar: d/g: No such file or directory\n", 1, "No such file"},
		"it has grown":         {"tar: d/f: file changed as we read it\n", 1, ""},
		"sockets":              {"tar: d/s: unknown file type\ntar: error exit delayed from previous errors\n", 1, ""},
		"a socket and another": {"tar: d/s: unknown file type\ntar: d/g: Input/output error\ntar: error exit delayed from previous errors\n", 1, "Input/output error"},
		"a socket, killed":     {"tar: d/s: unknown file type\n", 137, "exited with 137"},
		"no word":              {"", 1, "exited with 1"},
	} {
		t.Run(name, func(t *testing.T) {
			_, r := sandboxedEngine(t, func(_ []string, conn io.ReadWriter) {
				_, _ = conn.Write(slices.Concat(frame(streamStdout, string(archive)), frame(streamStderr, test.said)))
			}, test.code)
			stream, err := r.CopyFrom(t.Context(), testID, "/tmp/d")
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Close()
			end, last := drain(stream)
			if test.want == "" {
				if !errors.Is(end, io.EOF) || last != nil {
					t.Errorf("it ends with %v and %v", end, last)
				}
				return
			}
			for _, err := range []error{end, last} {
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("it ends with %v", err)
				}
			}
		})
	}
}

// TestTheEnginesArchiveIsCutOff has an engine whose answer ends well, and too early.
func TestTheEnginesArchiveIsCutOff(t *testing.T) {
	archive := packed(t, tar.Header{Typeflag: tar.TypeReg, Name: "f", Size: 1000}, tar.Header{Typeflag: tar.TypeReg, Name: "g"})
	for _, sent := range []int{0, 512, 600, 512 + 1024, len(archive) - 1024} {
		engine := startFake(t)
		engine.on("GET /containers/{id}/archive", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Docker-Container-Path-Stat", "e30=")
			_, _ = w.Write(archive[:sent])
		})
		stream, err := engine.runtime(t).CopyFrom(t.Context(), testID, "/f")
		if err != nil {
			t.Fatal(err)
		}
		end, last := drain(stream)
		if end == nil || errors.Is(end, io.EOF) || last == nil || errors.Is(last, core.ErrUnavailable) {
			t.Errorf("after %d bytes it ends with %v and %v", sent, end, last)
		}
	}
}

// TestSandboxesTarReadsGNUsFormat shows what tar is sent.
func TestSandboxesTarReadsGNUsFormat(t *testing.T) {
	sent := make(chan []byte, 1)
	_, r := sandboxedEngine(t, func(args []string, conn io.ReadWriter) {
		if slices.Contains(args, "-cf") {
			sendTar(conn, tar.Header{Typeflag: tar.TypeDir, Name: "tmp/"})
			return
		}
		all, _ := io.ReadAll(conn)
		_, archive, _ := bytes.Cut(all, []byte("}")) // of the request
		sent <- archive
	}, 0)
	archive := packed(t, tar.Header{Typeflag: tar.TypeReg, Name: "f", Uid: 3_000_000, Uname: "alice", Format: tar.FormatPAX})
	if err := r.CopyTo(t.Context(), testID, "/tmp", bytes.NewReader(archive)); err != nil {
		t.Fatal(err)
	}
	header, err := tar.NewReader(bytes.NewReader(<-sent)).Next()
	if err != nil || header.Format != tar.FormatGNU || header.Uid != 3_000_000 || header.Uname != "" {
		t.Errorf("tar is sent %+v, %v", header, err)
	}
}

// TestTheKernelsFiles are empty to tar, but not to who reads them.
func TestTheKernelsFiles(t *testing.T) {
	for name, test := range map[string]struct {
		path, said string
		class      error // of CopyFrom
		late       error // of its reader
	}{
		"by its path":         {"/proc/version", "", core.ErrUnsupported, nil},
		"through a link":      {"/tmp/version", "9fa0 /tmp/version\n", core.ErrUnsupported, nil},
		"in a directory":      {"/tmp/d", "1021994 /tmp/d/e\n62656572 /tmp/d/f\n", nil, core.ErrUnsupported},
		"an empty file":       {"/tmp/empty", "1021994 /tmp/empty\n", nil, io.EOF},
		"no program to ask":   {"/tmp/empty", "", nil, io.EOF},
		"a name with a space": {"/tmp/d", "27e0eb /tmp/d/a b\n", nil, core.ErrUnsupported},
	} {
		t.Run(name, func(t *testing.T) {
			archive := packed(t, tar.Header{Typeflag: tar.TypeReg, Name: path.Base(test.path)})
			if test.path == "/tmp/d" {
				archive = packed(t, tar.Header{Typeflag: tar.TypeDir, Name: "d/"}, tar.Header{Typeflag: tar.TypeReg, Name: "d/e"})
			}
			engine, r := sandboxedEngine(t, func(args []string, conn io.ReadWriter) {
				if args[0] == "tar" {
					_, _ = conn.Write(frame(streamStdout, string(archive)))
					return
				}
				_, _ = conn.Write(frame(streamStdout, test.said))
			}, 0)
			if execute := engine.route(execRoute); test.said == "" {
				engine.on(execRoute, func(w http.ResponseWriter, r *http.Request) {
					body, _ := io.ReadAll(r.Body)
					if bytes.Contains(body, []byte(`"stat"`)) {
						failure(http.StatusBadRequest, `exec: "stat": executable file not found in $PATH`)(w, r)
						return
					}
					r.Body = io.NopCloser(bytes.NewReader(body))
					execute(w, r)
				})
			}
			stream, err := r.CopyFrom(t.Context(), testID, test.path)
			if !errors.Is(err, test.class) {
				t.Fatalf("it is %v", err)
			}
			if err != nil {
				return
			}
			defer stream.Close()
			if end, _ := drain(stream); !errors.Is(end, test.late) {
				t.Errorf("it ends with %v", end)
			}
		})
	}
}

// TestMissingIsNotUnreadable tells a path that leads nowhere from one that tar cannot read.
func TestMissingIsNotUnreadable(t *testing.T) {
	for said, missing := range map[string]bool{
		"tar: x: No such file or directory\n":                                true,
		"tar: x: Cannot stat: No such file or directory\ntar: Exiting\n":     true,
		"tar: can't change directory to '/a/b': No such file or directory\n": true,
		"tar: /etc/passwd: Cannot open: Not a directory\ntar: exiting now\n": true,
		"tar: can't open 'x': Permission denied\n":                           false,
		"tar: x: Cannot open: Input/output error\n":                          false,
		"tar: x: Too many levels of symbolic links\n":                        false,
		"": false,
	} {
		_, r := sandboxedEngine(t, func(_ []string, conn io.ReadWriter) {
			_, _ = conn.Write(frame(streamStderr, said))
		}, 1)
		_, err := r.CopyFrom(t.Context(), testID, "/tmp/x")
		if err == nil || errors.Is(err, core.ErrNotFound) != missing || !missing && !strings.Contains(err.Error(), strings.TrimSpace(said)) {
			t.Errorf("%q became %v", said, err)
		}
		if _, err := r.StatPath(t.Context(), testID, "/tmp/x"); err == nil || errors.Is(err, core.ErrNotFound) != missing {
			t.Errorf("StatPath: %q became %v", said, err)
		}
	}
}

// TestFilesOfASandbox tells where they are, in each state and with whatever Sandbox.
// TestPathsThatAreNotUTF8 reach the engine as they are, and a program in a sandbox not at all.
func TestPathsThatAreNotUTF8(t *testing.T) {
	const file = "/tmp/a\xff"
	copies := func(r *Runtime) map[string]error {
		_, fromErr := r.CopyFrom(t.Context(), testID, file)
		_, statErr := r.StatPath(t.Context(), testID, file)
		return map[string]error{"path": errors.Join(fromErr, statErr), "dir": r.CopyTo(t.Context(), testID, file, strings.NewReader(""))}
	}
	engine, r := sandboxedEngine(t, func([]string, io.ReadWriter) { t.Error("a program was asked") }, 0)
	for field, err := range copies(r) {
		if failure, ok := errors.AsType[*core.Error](err); !ok || !errors.Is(err, core.ErrInvalidConfig) || failure.Field != field {
			t.Errorf("in a sandbox: %v, want %s refused", err, field)
		}
	}
	engine.on(inspectRoute, inspected("running"))
	copies(engine.runtime(t))
	for _, part := range []string{"GET ", "HEAD ", "PUT "} {
		if !slices.ContainsFunc(engine.requests(), func(request string) bool {
			return strings.HasPrefix(request, part) && strings.Contains(request, "path=%2Ftmp%2Fa%FF")
		}) {
			t.Errorf("no %spasses the path on: %q", part, engine.requests())
		}
	}
}

func TestFilesOfASandbox(t *testing.T) {
	const inEngine, inSandbox, refused = "the engine", "tar", "refused"
	running, paused := container.State{Running: true}, container.State{Running: true, Paused: true}
	created, ended := container.State{StartedAt: "0001-01-01T00:00:00Z"}, container.State{StartedAt: "2026-01-02T03:04:05Z"}
	for name, test := range map[string]struct {
		state   container.State
		runtime string
		sandbox Sandbox
		path    string
		want    string
	}{
		"running":                     {running, "runsc", &fakeSandbox{name: "runsc"}, "/x", inSandbox},
		"running, no sandbox here":    {running, "runsc", nil, "/x", inSandbox},
		"running, by another name":    {running, "renamed", nil, "/x", inSandbox},
		"running, a broken sandbox":   {running, "runsc", &fakeSandbox{err: errAny}, "/x", inSandbox},
		"running, plain":              {running, "runc", &fakeSandbox{name: "runsc"}, "/x", inEngine},
		"running, another runtime":    {running, "other", nil, "/x", inEngine},
		"paused":                      {paused, "runsc", &fakeSandbox{name: "runsc"}, "/x", refused},
		"paused, plain":               {paused, "runc", nil, "/x", inEngine},
		"created":                     {created, "runsc", &fakeSandbox{name: "runsc"}, "/x", inEngine},
		"ended":                       {ended, "runsc", &fakeSandbox{name: "runsc"}, "/x", refused},
		"ended, no sandbox here":      {ended, "runsc", nil, "/x", refused},
		"ended, not to be found out":  {ended, "runsc", &fakeSandbox{err: errAny}, "/x", refused},
		"ended, what it wrote stays":  {ended, "runsc", &fakeSandbox{keeps: true}, "/x", inEngine},
		"ended, plain":                {ended, "runc", nil, "/x", inEngine},
		"ended, in a mount":           {ended, "runsc", nil, "/data/x", inEngine},
		"ended, a mount itself":       {ended, "runsc", nil, "/data/", inEngine},
		"ended, beside a mount":       {ended, "runsc", nil, "/database", refused},
		"ended, above a mount":        {ended, "runsc", nil, "/", refused},
		"ended, in memory in a mount": {ended, "runsc", nil, "/data/tmp/x", refused},
	} {
		t.Run(name, func(t *testing.T) {
			engine, _ := sandboxedEngine(t, func(_ []string, conn io.ReadWriter) {
				sendTar(conn, tar.Header{Typeflag: tar.TypeDir, Name: "x/"})
			}, 0)
			engine.on(inspectRoute, answer(http.StatusOK, container.InspectResponse{
				ContainerJSONBase: &container.ContainerJSONBase{State: &test.state, HostConfig: &container.HostConfig{Runtime: test.runtime}},
				Config:            &container.Config{},
				Mounts: []container.MountPoint{
					{Type: mount.TypeBind, Destination: "/data"}, {Type: mount.TypeTmpfs, Destination: "/data/tmp"},
				},
			}))
			engine.on("GET /info", answer(http.StatusOK, map[string]any{"Runtimes": map[string]any{
				"renamed": map[string]string{"path": "/opt/runsc-2026"}, "other": map[string]string{"path": "/opt/kata"},
			}}))
			r := engine.runtime(t, sandboxedBy(test.sandbox))
			stream, err := r.CopyFrom(t.Context(), testID, test.path)
			if err == nil {
				stream.Close()
			}
			_, statErr := r.StatPath(t.Context(), testID, test.path)
			has := func(part string) bool {
				return slices.ContainsFunc(engine.requests(), func(request string) bool { return strings.Contains(request, part) })
			}
			if has("/exec") != (test.want == inSandbox) || has("/archive?") != (test.want == inEngine) {
				t.Errorf("want %s, asked for %q", test.want, engine.requests())
			}
			for _, err := range []error{err, statErr} {
				if errors.Is(err, core.ErrNotRunning) != (test.want == refused) {
					t.Errorf("got %v", err)
				}
			}
		})
	}
}

// blockedReader gives nothing until it is released, and notes that it is read again.
type blockedReader struct {
	begun, release, again chan struct{}
	reads                 int
}

func (r *blockedReader) Read(p []byte) (int, error) {
	if r.reads++; r.reads > 1 {
		close(r.again)
		return 0, io.EOF
	}
	close(r.begun)
	<-r.release
	return copy(p, "x"), nil
}

// TestCopyToLeavesABlockedReader returns in time, and reads no more.
func TestCopyToLeavesABlockedReader(t *testing.T) {
	engine := startFake(t)
	engine.on("PUT /containers/{id}/archive", func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	_, sandboxed := sandboxedEngine(t, func(args []string, conn io.ReadWriter) {
		if slices.Contains(args, "-cf") {
			sendTar(conn, tar.Header{Typeflag: tar.TypeDir, Name: "tmp/"})
			return
		}
		_, _ = io.Copy(io.Discard, conn)
	}, 0)
	for name, r := range map[string]*Runtime{"plain": engine.runtime(t), "sandboxed": sandboxed} {
		t.Run(name, func(t *testing.T) {
			reader := &blockedReader{begun: make(chan struct{}), release: make(chan struct{}), again: make(chan struct{})}
			ctx, cancel := context.WithCancel(t.Context())
			copying := begin(func() (struct{}, error) { return struct{}{}, r.CopyTo(ctx, testID, "/tmp", reader) })
			await(t, reader.begun, "the first read")
			cancel()
			if _, err := copying.result(t); !errors.Is(err, context.Canceled) {
				t.Errorf("it returned %v", err)
			}
			close(reader.release)
			awaitEnd(t, "docker.vet.")
			select {
			case <-reader.again:
				t.Error("the archive is read again")
			default:
			}
		})
	}
}

// awaitEnd waits until no goroutine is in a function.
func awaitEnd(t *testing.T, function string) {
	t.Helper()
	stacks := make([]byte, 1<<20)
	for deadline := time.Now().Add(patience); strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), function); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("a goroutine is left in %s", function)
		}
	}
}

// TestCopyToReadsNoMoreAfterAFailure has an engine that refuses at once.
func TestCopyToReadsNoMoreAfterAFailure(t *testing.T) {
	engine := startFake(t)
	engine.on("PUT /containers/{id}/archive", failure(http.StatusNotFound, "No such container"))
	reader := bytes.NewReader(packed(t, tar.Header{Typeflag: tar.TypeReg, Name: "f", Size: 8 << 20}))
	if err := engine.runtime(t).CopyTo(t.Context(), testID, "/tmp", reader); !errors.Is(err, core.ErrNotFound) {
		t.Errorf("it returned %v", err)
	}
	_, _ = reader.Seek(0, io.SeekStart) // a race, if a goroutine read it still
}
