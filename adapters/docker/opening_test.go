package docker

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/moatproject/moat/adapters/docker/programs"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// TestPromptsAreNotHeldBack has programs that begin as others' words do, and that wait
// for an answer.
func TestPromptsAreNotHeldBack(t *testing.T) {
	own, err := programs.Read("gate", "amd64")
	if err != nil {
		t.Fatal(err)
	}
	prompts := []string{
		"moat: your name? ", "moat-: ", "OCI runtime exec failed: retry? ", "OCI runtime exec failed: x\n", "unable to find user x: another? ",
		"unable to find group x\n", "exec /x: exec format error\n", "exec /x: no such file or directory\n", "m", "O",
	}
	for _, prompt := range prompts {
		for _, tty := range []bool{false, true} {
			for _, stream := range []byte{streamStdout, streamStderr} {
				engine := startFake(t)
				engine.on("GET /version", answer(http.StatusOK, map[string]string{"Arch": "unknown"})) // no gate for it
				engine.on(execJSONRoute, answer(http.StatusOK, map[string]any{"Pid": 7, "Running": true}))
				engine.on("GET /containers/{id}/archive", file(string(own), 0o755, ""))
				answered := make(chan bool)
				said := string(frame(stream, prompt))
				if tty {
					said = prompt
				}
				asks := upgraded(func(conn io.ReadWriter) {
					_, _ = io.WriteString(conn, said)
					<-answered
				})
				engine.on(execStartRoute, asks)
				engine.on(attachRoute, asks)
				engine.on(inspectRoute, inspected("created"))
				if tty {
					engine.on(inspectRoute, gatedAs("MARK", true))
				}
				engine.on(waitRoute, exits(0))
				read, write := io.Pipe()
				streams := core.AttachOptions{Stdout: write, Stderr: write, TTY: tty}
				for what, run := range map[string]func() error{
					"exec": func() error {
						_, err := engine.runtime(t).Exec(t.Context(), testID, optional.ExecOptions{Cmd: []string{"x"}, AttachOptions: streams})
						return err
					},
					"run": func() error { return engine.runtime(t).StartAttached(t.Context(), testID, streams) },
				} {
					ended := begin(func() (struct{}, error) { return struct{}{}, run() })
					shown := make([]byte, len(prompt))
					reading := begin(func() (int, error) { return io.ReadFull(read, shown) })
					if _, err := reading.result(t); err != nil || string(shown) != prompt { // before the program ends
						t.Fatalf("%s of %q: %q, %v", what, prompt, shown, err)
					}
					engine.on(execJSONRoute, answer(http.StatusOK, map[string]any{"Pid": 7, "ExitCode": 0}))
					answered <- true
					if _, err := ended.result(t); err != nil {
						t.Errorf("%s of %q: %v", what, prompt, err)
					}
				}
			}
		}
	}
}

// FuzzOpening writes output in pieces, and finds each byte passed on or held back.
func FuzzOpening(f *testing.F) {
	f.Add("OCI runtime exec failed: x\n", uint8(3))
	f.Add("OCI runtime exec\nfailed", uint8(1))
	f.Add("moat-MARK: top: no such program\n", uint8(5))
	f.Add("moat-MARK: top: no such program\n", uint8(40))
	f.Fuzz(func(t *testing.T, text string, size uint8) {
		var passed bytes.Buffer
		first := &opening{gate: gatesWords("MARK"), others: isExecRefusal, prove: func(string) bool { return false }}
		first.before(&passed)
		for rest := []byte(text); len(rest) > 0; {
			piece := rest[:min(len(rest), int(size)+1)]
			if n, err := first.Write(piece); n != len(piece) || err != nil {
				t.Fatalf("%d, %v", n, err)
			}
			rest = rest[len(piece):]
		}
		if err := first.release(); err != nil || passed.String() != text {
			t.Errorf("%q was released as %q, %v", text, passed.String(), err)
		}
	})
}

// file is the engine's archive of one, or of a link to a path.
func file(content string, mode fs.FileMode, target string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		stat, _ := json.Marshal(map[string]any{"name": "file", "size": len(content), "mode": mode, "linkTarget": target})
		w.Header().Set("X-Docker-Container-Path-Stat", base64.StdEncoding.EncodeToString(stat))
		archive := tar.NewWriter(w)
		_ = archive.WriteHeader(&tar.Header{Name: "file", Size: int64(len(content)), Mode: int64(mode.Perm())})
		_, _ = io.WriteString(archive, content)
		_ = archive.Close()
	}
}

// TestWordsOfInit has runc's init, or a program, say that it could not be executed.
func TestWordsOfInit(t *testing.T) {
	own, err := programs.Read("gate", "amd64")
	if err != nil {
		t.Fatal(err)
	}
	const wrongFormat, missing = "exec /x: exec format error\n", "exec /x: no such file or directory\n"
	absent := failure(http.StatusNotFound, "Could not find the file")
	for name, test := range map[string]struct {
		said  string
		files map[string]http.HandlerFunc
		code  int
		class error
	}{
		"a text":                         {wrongFormat, map[string]http.HandlerFunc{"/x": file("text", 0o755, "")}, 255, fs.ErrPermission},
		"a text, by an older runc":       {wrongFormat, map[string]http.HandlerFunc{"/x": file("text", 0o755, "")}, 1, fs.ErrPermission},
		"an empty file":                  {wrongFormat, map[string]http.HandlerFunc{"/x": file("", 0o755, "")}, 255, fs.ErrPermission},
		"no interpreter in its line":     {wrongFormat, map[string]http.HandlerFunc{"/x": file("#! \n", 0o755, "")}, 255, fs.ErrPermission},
		"another machine's":              {wrongFormat, map[string]http.HandlerFunc{"/x": file(string(own), 0o755, "")}, 255, fs.ErrPermission},
		"a part of a program":            {wrongFormat, map[string]http.HandlerFunc{"/x": file(string(own[:100]), 0o755, "")}, 255, fs.ErrPermission},
		"a missing interpreter":          {missing, map[string]http.HandlerFunc{"/x": file("#!/sh -e\n", 0o755, ""), "/sh": absent}, 255, fs.ErrNotExist},
		"behind a link":                  {missing, map[string]http.HandlerFunc{"/x": file("", fs.ModeSymlink|0o777, "/y"), "/y": file("#!/sh", 0o755, ""), "/sh": absent}, 255, fs.ErrNotExist},
		"a script that says so":          {missing, map[string]http.HandlerFunc{"/x": file("#!/sh\n", 0o755, ""), "/sh": file(string(own), 0o755, "")}, 255, nil},
		"a program that says so":         {wrongFormat, map[string]http.HandlerFunc{"/x": file(string(own), 0o755, "")}, 1, nil},
		"another exit code":              {wrongFormat, map[string]http.HandlerFunc{"/x": file("text", 0o755, "")}, 3, nil},
		"more than these words":          {wrongFormat + "more\n", map[string]http.HandlerFunc{"/x": file("text", 0o755, "")}, 255, nil},
		"an engine that does not answer": {wrongFormat, map[string]http.HandlerFunc{"/x": die}, 255, nil},
	} {
		arch := "amd64"
		if name == "another machine's" {
			arch = "arm64"
		}
		t.Run(name, func(t *testing.T) {
			engine := startFake(t)
			engine.on("GET /version", answer(http.StatusOK, map[string]string{"Arch": arch}))
			engine.on("GET /containers/{id}/archive", func(w http.ResponseWriter, r *http.Request) { test.files[r.URL.Query().Get("path")](w, r) })
			says := upgraded(func(conn io.ReadWriter) { _, _ = conn.Write(frame(streamStderr, test.said)) })
			engine.on(attachRoute, says)
			engine.on(execStartRoute, says)
			engine.on(waitRoute, exits(test.code))
			engine.on(execJSONRoute, answer(http.StatusOK, map[string]any{"Pid": 7, "ExitCode": test.code}))
			var stderr bytes.Buffer
			r := engine.created(t)
			startErr := r.StartAttached(t.Context(), testID, core.AttachOptions{Stderr: &stderr})
			opts := optional.ExecOptions{Cmd: []string{"x"}}
			opts.Stderr = &stderr
			code, execErr := r.Exec(t.Context(), testID, opts)
			for _, err := range []error{startErr, execErr} {
				if !matches(err, test.class) || (test.class != nil && core.FieldOf(err) != "Cmd") {
					t.Errorf("got %v, want %v", err, test.class)
				}
			}
			if test.class == nil && (stderr.String() != test.said+test.said || code != int64(test.code)) {
				t.Errorf("the program's output was %q, its code %d", stderr.String(), code)
			} else if test.class != nil && stderr.Len() > 0 {
				t.Errorf("the words were passed on: %q", stderr.String())
			}
		})
	}
}

// TestStdinFails has the program's exit code beside the reader's failure.
func TestStdinFails(t *testing.T) {
	broken := errors.New("broken")
	engine := startFake(t)
	engine.on("/_ping", ping("1.44"))
	reads := upgraded(func(conn io.ReadWriter) { _, _ = io.ReadAll(conn) })
	engine.on(attachRoute, reads)
	engine.on(execStartRoute, reads)
	engine.on(waitRoute, exits(3))
	stdin := func() io.Reader { return io.MultiReader(strings.NewReader("text"), iotest.ErrReader(broken)) }
	r := engine.runtime(t)
	if _, err := r.CreateContainer(t.Context(), core.Config{Image: "image", Interactive: true}); err != nil {
		t.Fatal(err)
	}
	code, err := r.Exec(t.Context(), testID, optional.ExecOptions{Cmd: []string{"x"}, AttachOptions: core.AttachOptions{Stdin: stdin()}})
	if code != 3 || !errors.Is(err, broken) {
		t.Errorf("exec: %d, %v", code, err)
	}
	if err := r.StartAttached(t.Context(), testID, core.AttachOptions{Stdin: stdin()}); !errors.Is(err, broken) {
		t.Errorf("start attached: %v", err)
	}
	if code, err := r.WaitContainer(t.Context(), testID); code != 3 || err != nil {
		t.Errorf("wait: %d, %v", code, err)
	}
}
