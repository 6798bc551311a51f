package docker

import (
	"archive/tar"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/moatproject/moat/adapters/docker/internal/builder"
	"github.com/moatproject/moat/core"
)

const builtTag = "moat/built:1"

// classicDockerfile is the Dockerfile's name in a context of the classic builder.
const classicDockerfile = ".moat.dockerfile"

func TestBuilderIsChosen(t *testing.T) {
	classic := func(o *Options) { o.ClassicBuilder = true }
	down := func(o *Options) { o.BuildKit = "unix:///nonexistent/buildkitd.sock" }
	for _, test := range []struct {
		name    string
		options func(*Options)
		grpc    http.HandlerFunc
		asked   []string // paths
		class   error    // nil: it is built
		remedy  string
	}{
		{"the engine has no BuildKit", nil, failure(http.StatusNotFound, "page not found"), []string{"/grpc", "/build"}, nil, ""},
		{"the engine's cannot be reached", nil, failure(http.StatusNotImplemented, "no"), []string{"/grpc", "/build"}, nil, ""},
		{"BuildKit fails", nil, upgraded(func(io.ReadWriter) {}), []string{"/grpc"}, core.ErrUnavailable, startEngine},
		{"the engine fails", nil, failure(http.StatusInternalServerError, "defect"), []string{"/grpc"}, errAny, ""},
		{"the classic one is wanted", classic, die, []string{"/build"}, nil, ""},
		{"another is wanted, and is down", down, die, []string{"/version"}, core.ErrUnavailable, startBuildKit},
	} {
		t.Run(test.name, func(t *testing.T) {
			engine := startFake(t)
			engine.on("POST /grpc", test.grpc)
			var change []func(*Options)
			if test.options != nil {
				change = append(change, test.options)
			}
			err := engine.runtime(t, change...).BuildManager().BuildImage(t.Context(), "FROM scratch", builtTag, core.BuildOptions{})
			if !matches(err, test.class) {
				t.Errorf("got %v, want %v", err, test.class)
			}
			if failure, _ := errors.AsType[*core.Error](err); failure != nil && (failure.Remedy != test.remedy || failure.Object != builtTag) {
				t.Errorf("got %v, want the remedy %q", failure, test.remedy)
			}
			var asked []string
			for _, request := range engine.requests() {
				path, _, _ := strings.Cut(strings.Fields(request)[1], "?")
				if !slices.Contains(asked, path) { // a connection that ended may be tried again
					asked = append(asked, path)
				}
			}
			if !slices.Equal(asked, test.asked) {
				t.Errorf("asked for %q, want %q", asked, test.asked)
			}
		})
	}
}

func TestImpossibleBuilds(t *testing.T) {
	engine := startFake(t)
	builds := engine.runtime(t).BuildManager()
	for name, err := range map[string]error{
		"tag":          builds.BuildImage(t.Context(), "FROM scratch", "UPPER", core.BuildOptions{}),
		"DNS":          builds.BuildImage(t.Context(), "FROM scratch", builtTag, core.BuildOptions{DNS: []string{"192.0.2.53"}}),
		"ContextFiles": builds.BuildImage(t.Context(), "FROM scratch", builtTag, core.BuildOptions{ContextFiles: map[string][]byte{"../x": nil}}),
	} {
		if core.FieldOf(err) != name {
			t.Errorf("got %v, want an error of the field %s", err, name)
		}
	}
	engine.wantRequests(t)
	for _, address := range []string{"nonsense", "docker-container://builder", "tcp://host", "unix://relative"} {
		if _, err := New(Options{BuildKit: address}); !errors.Is(err, core.ErrInvalidConfig) || core.FieldOf(err) != "BuildKit" {
			t.Errorf("the BuildKit %q: %v", address, err)
		}
	}
}

func TestClassicRequest(t *testing.T) {
	engine := startFake(t)
	var query url.Values
	sent := map[string]string{}
	engine.on("POST /build", func(w http.ResponseWriter, r *http.Request) {
		query = r.URL.Query()
		for archive := tar.NewReader(r.Body); ; {
			header, err := archive.Next()
			if err != nil {
				break
			}
			content, _ := io.ReadAll(archive)
			sent[header.Name] = string(content)
		}
		_, _ = io.WriteString(w, `{"stream":"Successfully built 0123"}`)
	})
	err := engine.runtime(t, func(o *Options) { o.ClassicBuilder = true }).BuildManager().BuildImage(t.Context(), "FROM scratch\n", builtTag, core.BuildOptions{
		NoCache: true, Args: map[string]string{"A": "1"}, RunID: "run", Labels: map[string]string{"team": "blue"},
		ContextFiles: map[string][]byte{"a/b": []byte("content"), "a/ignored": []byte("it is not"), ".dockerignore": []byte("a\n")},
	})
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"t": "docker.io/" + builtTag, "dockerfile": classicDockerfile, "nocache": "1", "rm": "", "forcerm": "1", "version": "1",
		"buildargs": `{"A":"1"}`,
		"labels":    `{"moat.managed":"true","moat.role":"image","moat.run-id":"run","moat.version":"` + core.Version + `","team":"blue"}`,
	} {
		if got := query.Get(key); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	// The Dockerfile is out of the reach of COPY by the file that the engine reads.
	want := map[string]string{"a/": "", "a/b": "content", "a/ignored": "it is not", classicDockerfile: "FROM scratch\n"}
	if ignored := sent[".dockerignore"]; !strings.HasPrefix(ignored, "a\n") || !strings.Contains(ignored, "\n"+classicDockerfile+"\n") {
		t.Errorf("the engine is to ignore %q", ignored)
	}
	delete(sent, ".dockerignore")
	for name, content := range want {
		if got, ok := sent[name]; !ok || got != content {
			t.Errorf("%s: sent %q (%v), want %q", name, got, ok, content)
		}
	}
	if len(sent) != len(want) {
		t.Errorf("sent %q, want %q", sent, want)
	}
}

func TestClassicAnswerCutShort(t *testing.T) {
	engine := startFake(t)
	engine.on("POST /build", cut(raw(`{"stream":"Step 1/1 : FROM scratch"}`)))
	builds := engine.runtime(t, func(o *Options) { o.ClassicBuilder = true }).BuildManager()
	if err := builds.BuildImage(t.Context(), "FROM scratch", builtTag, core.BuildOptions{}); !errors.Is(err, core.ErrUnavailable) {
		t.Errorf("got %v, want %v", err, core.ErrUnavailable)
	}
}

// TestClassicTriesAgain has the engine fail by races of its own.
func TestClassicTriesAgain(t *testing.T) {
	const begun = `{"stream":"Step 1/1 : FROM scratch"}`
	gone := raw(begun + `{"error":"unable to find image \"sha256:0123\""}`)
	for _, test := range []struct {
		name    string
		answers []http.HandlerFunc
		class   error
		failed  int // steps
	}{
		{"once", []http.HandlerFunc{gone, raw(begun)}, nil, 0},
		{"always", []http.HandlerFunc{gone, gone, gone, gone, gone}, errAny, 1},
		{"the runtime is killed", []http.HandlerFunc{raw(begun + `{"error":"building at STEP \"RUN x\": while running runtime: signal: killed"}`), raw(begun)}, nil, 0},
		{"the command is killed", []http.HandlerFunc{raw(begun + `{"error":"building at STEP \"RUN x\": while running runtime: exit status 137"}`)}, errAny, 1},
		{"another failure", []http.HandlerFunc{raw(begun + `{"error":"no 'unable to find image \"sha256:0123\"'"}`)}, errAny, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			engine := startFake(t)
			engine.on("POST /build", inOrder(test.answers...))
			failed := 0
			err := engine.runtime(t, func(o *Options) { o.ClassicBuilder = true }).BuildManager().BuildImage(t.Context(), "FROM scratch", builtTag, core.BuildOptions{
				Progress: func(p core.BuildProgress) {
					if p.Status == core.BuildFailed {
						failed++
					}
				},
			})
			if !matches(err, test.class) || failed != test.failed {
				t.Errorf("it returned %v, and %d steps failed", err, failed)
			}
			if asked := len(engine.requests()); asked != len(test.answers) {
				t.Errorf("it asked %d times: %q", asked, engine.requests())
			}
		})
	}
}

func TestImageHomes(t *testing.T) {
	const passwd = "root:x:0:0:root:/root:/bin/sh\nshort:x\nworker:x:1000:1000::/srv/work:/bin/sh\n"
	for _, test := range []struct {
		name, user string
		env        []string
		want       string
		asked      int // for a container
	}{
		{"HOME", "worker", []string{"HOMER=x", "HOME=/here"}, "/here", 0},
		{"nobody", "", nil, "/root", 0},
		{"root", "root:root", nil, "/root", 0},
		{"a name", "worker", []string{"HOME="}, "/srv/work", 1},
		{"a number", "1000:50", nil, "/srv/work", 1},
		{"a stranger", "stranger", nil, "/root", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			engine := startFake(t)
			engine.on("GET /images/{name...}", answer(http.StatusOK, map[string]any{
				"Id": "sha256:0123", "Config": map[string]any{"User": test.user, "Env": test.env},
			}))
			engine.on("GET /containers/{id}/archive", func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("X-Docker-Container-Path-Stat", base64.StdEncoding.EncodeToString([]byte(`{"name":"passwd"}`)))
				archive := tar.NewWriter(w)
				_ = archive.WriteHeader(&tar.Header{Name: "passwd", Mode: 0o644, Size: int64(len(passwd))})
				_, _ = io.WriteString(archive, passwd)
				_ = archive.Close()
			})
			if got := engine.runtime(t).BuildManager().GetImageHomeDir(t.Context(), "image"); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			created := slices.DeleteFunc(engine.requests(), func(request string) bool { return !strings.HasPrefix(request, "POST /containers/create") })
			removed := slices.DeleteFunc(engine.requests(), func(request string) bool { return !strings.HasPrefix(request, "DELETE /containers/") })
			if len(created) != test.asked || len(removed) != test.asked {
				t.Errorf("created %q and removed %q", created, removed)
			}
		})
	}
}

func TestImageExists(t *testing.T) {
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		exists bool
		class  error
	}{
		{"it is there", answer(http.StatusOK, map[string]string{"Id": "sha256:0123"}), true, nil},
		{"it is not", failure(http.StatusNotFound, "No such image: image:latest"), false, nil},
		{"the engine has a defect", failure(http.StatusInternalServerError, "defect"), false, errAny},
		{"the engine dies", die, false, core.ErrUnavailable},
	} {
		t.Run(test.name, func(t *testing.T) {
			engine := startFake(t)
			engine.on("GET /images/{name...}", test.answer)
			exists, err := engine.runtime(t).BuildManager().ImageExists(t.Context(), "image")
			if exists != test.exists || !matches(err, test.class) {
				t.Errorf("got %v and %v, want %v and %v", exists, err, test.exists, test.class)
			}
		})
	}
	if exists, err := startFake(t).runtime(t).BuildManager().ImageExists(t.Context(), "../containers/x"); exists || !errors.Is(err, core.ErrInvalidConfig) {
		t.Errorf("what is no image: %v, %v", exists, err)
	}
}

// What builders really say: the BuildKit and the classic builder of Docker 20.10 and 29.
func TestClassifyBuilds(t *testing.T) {
	const solve = "failed to solve: "
	const solveOld = solve + "failed to solve with frontend dockerfile.v0: failed to create LLB definition: "
	const dockerfile = "FROM 127.0.0.1:5000/moat/missing:latest\nRUN exit 3\nCOPY nothing /x\nFOO bar\n"
	for _, test := range []struct {
		text  string
		class error
		field string
		line  int
	}{
		{solve + `process "/bin/sh -c exit 3" did not complete successfully: exit code: 3`, nil, "", 0},
		{solve + `executor failed running [/bin/sh -c exit 3]: exit code: 3`, nil, "", 0},
		{`The command '/bin/sh -c exit 3' returned a non-zero code: 3`, nil, "", 0},
		// A command has a say in the text, and none in what it means.
		{solve + `process "/bin/sh -c : dockerfile parse error line 1; : \n no such image: not found" did not complete successfully: exit code: 1`, nil, "", 1},

		{solve + `dockerfile parse error on line 4: unknown instruction: FOO (did you mean FROM?)`, core.ErrInvalidConfig, "Dockerfile", 4},
		{solveOld + `dockerfile parse error line 4: unknown instruction: FOO`, core.ErrInvalidConfig, "Dockerfile", 4},
		{`Error response from daemon: dockerfile parse error line 4: unknown instruction: FOO`, core.ErrInvalidConfig, "Dockerfile", 4},
		{solve + `the Dockerfile cannot be empty`, core.ErrInvalidConfig, "Dockerfile", 0},
		{solve + `file with no instructions`, core.ErrInvalidConfig, "Dockerfile", 0},
		{solve + `no build stage in current context`, core.ErrInvalidConfig, "Dockerfile", 0},
		{solve + `failed to parse stage name "moat/TEST": invalid reference format: repository name (moat/TEST) must be lowercase`, core.ErrInvalidConfig, "Dockerfile", 0},
		{`invalid reference format: repository name must be lowercase`, core.ErrInvalidConfig, "Dockerfile", 0},
		{solve + `unsupported mount type "foo"`, core.ErrInvalidConfig, "Dockerfile", 0},

		{solve + `failed to compute cache key: "/nothing" not found: not found`, core.ErrInvalidConfig, "ContextFiles", 3},
		{solve + `failed to compute cache key: failed to calculate checksum of ref 1qg6::wylq: "/nothing": not found`, core.ErrInvalidConfig, "ContextFiles", 3},
		{`COPY failed: file not found in build context or excluded by .dockerignore: stat nothing: file does not exist`, core.ErrInvalidConfig, "ContextFiles", 0},
		{`COPY failed: forbidden path outside the build context: ../nothing ()`, core.ErrInvalidConfig, "ContextFiles", 0},
		{`COPY failed: no source files were specified`, core.ErrInvalidConfig, "ContextFiles", 0},

		{solveOld + `127.0.0.1:5000/moat/missing:latest: not found`, core.ErrNotFound, "", 1},
		{solve + `127.0.0.1:5000/moat/missing:latest: failed to resolve source metadata for 127.0.0.1:5000/moat/missing:latest: 127.0.0.1:5000/moat/missing:latest: not found`, core.ErrNotFound, "", 1},
		{`manifest for 127.0.0.1:5000/moat/missing:latest not found: manifest unknown: manifest unknown`, core.ErrNotFound, "", 1},
		{`failed to resolve reference "127.0.0.1:5000/moat/missing:latest": 127.0.0.1:5000/moat/missing:latest: not found`, core.ErrNotFound, "", 1},
		{solveOld + `failed to do request: Head "http://127.0.0.1:1/v2/x/manifests/latest": dial tcp 127.0.0.1:1: connect: connection refused`, core.ErrUnavailable, "", 0},
		{solve + `failed to copy files: write /x: no space left on device`, core.ErrUnavailable, "", 0},
		{solve + `127.0.0.1:5000/moat/missing:latest: failed to resolve source metadata for 127.0.0.1:5000/moat/missing:latest: unexpected status from HEAD request to http://127.0.0.1:5000/v2/moat/missing/manifests/latest: 401 Unauthorized`, core.ErrUnavailable, "", 1},
		{solveOld + `pulling from host 127.0.0.1:5000 failed with status code [manifests latest]: 401 Unauthorized`, core.ErrUnavailable, "", 0},
	} {
		t.Run(test.text, func(t *testing.T) {
			r := startFake(t).runtime(t)
			c, err := r.call(t.Context(), "build image", builtTag)
			if err != nil {
				t.Fatal(err)
			}
			defer c.end()
			err = r.buildFailure(c, builder.NewStepError(dockerfile, errors.New(test.text), 0, "", ""))
			failure, ok := errors.AsType[*core.Error](err)
			if !ok || !errors.Is(failure.Class, test.class) || failure.Field != test.field {
				t.Errorf("got %#v, want %v, field %q", failure, test.class, test.field)
			}
			if test.class != nil && failure.Remedy == "" {
				t.Errorf("%v names no remedy", err)
			}
			line := 0
			if failed, ok := errors.AsType[*core.BuildError](err); ok {
				line = failed.Line
			}
			if line != test.line {
				t.Errorf("got line %d, want %d", line, test.line)
			}
		})
	}
}

// Builders would replace the bytes that are not UTF-8, or fail without naming them.
func TestDockerfilesThatAreNotUTF8(t *testing.T) {
	for dockerfile, line := range map[string]int{
		"FROM x\nRUN echo \xfc":                           2,
		"FROM x\nLABEL \\\n  # of\n  a=\xfc":              4,
		"FROM x\nRUN <<E\n# \xfc\nE\n":                    3,
		"FROM \xfc":                                       1,
		"# \xfc\nFROM x\n  # \xfc\nRUN true":              0,
		"FROM x\nRUN true \\\n  # \xfc\n  && echo ü\n":    0,
		"FROM x\nCOPY --chmod=755 <<E /x\n\xfc\nE\nRUN x": 3,
	} {
		engine := startFake(t)
		r := engine.runtime(t, func(options *Options) { options.ClassicBuilder = true })
		err := r.BuildManager().BuildImage(t.Context(), dockerfile, builtTag, core.BuildOptions{})
		failed, _ := errors.AsType[*core.BuildError](err)
		switch {
		case line == 0 && err != nil:
			t.Errorf("%q: %v", dockerfile, err)
		case line > 0 && (core.FieldOf(err) != "Dockerfile" || !errors.Is(err, core.ErrInvalidConfig) || failed == nil || failed.Line != line):
			t.Errorf("%q: %v, want line %d", dockerfile, err, line)
		case line > 0 && len(engine.requests()) > 0:
			t.Errorf("%q: the engine was asked for %q", dockerfile, engine.requests())
		}
	}
}
