package cli

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/hinshun/vt10x"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/detect"
	"github.com/moatproject/moat/core/optional"
)

// builder is a runtime that only builds: it tells progress, and ends as the test has it.
type builder struct {
	core.Runtime
	buildManager
	progress []core.BuildProgress
	fail     func(context.Context) error

	builds     int
	dockerfile string
	tag        string
	asked      core.BuildOptions
	context    map[string]string // path → mode, and content or target
}

type buildManager = core.BuildManager // a field of that name would hide the method

func (b *builder) Ping(context.Context) error      { return nil }
func (b *builder) Close() error                    { return nil }
func (b *builder) BuildManager() core.BuildManager { return b }

func (b *builder) BuildImage(ctx context.Context, dockerfile, tag string, opts core.BuildOptions) error {
	b.builds++
	b.dockerfile, b.tag, b.asked = dockerfile, tag, opts
	for _, event := range b.progress {
		if opts.Progress != nil {
			opts.Progress(event)
		}
	}
	if opts.Context != nil {
		if err := b.read(opts.Context.(fs.ReadLinkFS)); err != nil {
			return err
		}
	}
	if b.fail != nil {
		return b.fail(ctx)
	}
	return nil
}

func (b *builder) read(context fs.ReadLinkFS) error {
	b.context = map[string]string{}
	return fs.WalkDir(context, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := context.Lstat(name)
		if err != nil {
			return err
		}
		read := func() (string, error) { content, err := fs.ReadFile(context, name); return string(content), err }
		if info.Mode()&fs.ModeSymlink != 0 {
			read = func() (string, error) { return context.ReadLink(name) }
		}
		content, err := read()
		b.context[name] = info.Mode().String() + " " + content
		return err
	})
}

// built is what became of a `moat build`.
type built struct {
	code           int
	stdout, stderr string
}

// moat runs a command in a folder of the test's.
func (b *builder) moat(t *testing.T, change func(*Env), args ...string) built {
	t.Helper()
	var stdout, stderr bytes.Buffer
	env := testFlagEnv(t)
	env.Stdin, env.Stdout, env.Stderr = strings.NewReader(""), &stdout, &stderr
	env.Notify = func(...os.Signal) (<-chan os.Signal, func()) { return nil, func() {} }
	env.Registered = registering("memory", func() detect.Candidate {
		return detect.Candidate{Type: "memory", New: func() (core.Runtime, error) { return b, nil }}
	})
	if change != nil {
		change(&env)
	}
	code := Main(env, append([]string{"--runtime", "memory", "build"}, args...))
	return built{code, stdout.String(), stderr.String()}
}

func atTerminal(height, width uint) func(*Env) {
	return func(env *Env) {
		env.Terminal = true
		env.Size = func() optional.TerminalSize { return optional.TerminalSize{Height: height, Width: width} }
	}
}

func withInput(text string) func(*Env) {
	return func(env *Env) { env.Stdin = strings.NewReader(text) }
}

// inFolder makes files in a folder that becomes the current one.
func inFolder(t *testing.T, files map[string]string) {
	t.Helper()
	t.Chdir(t.TempDir())
	for name, content := range files {
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBuildAsksTheBuilder(t *testing.T) {
	inFolder(t, map[string]string{"My_App/Dockerfile": "FROM a", "My_App/run.sh": "true", "My_App/sub/x": "y", "other": "FROM b", "secret": "s"})
	if err := errors.Join(os.Chmod("My_App/run.sh", 0o755), os.Symlink("../../secret", "My_App/sub/link")); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"Dockerfile": "-rw-r--r-- FROM a", "run.sh": "-rwxr-xr-x true", "sub/x": "-rw-r--r-- y", "sub/link": "Lrwxrwxrwx ../../secret",
	}
	for name, test := range map[string]struct {
		args       []string
		stdin      string
		dockerfile string
		tag        string
		stdout     string
		asked      core.BuildOptions
		context    map[string]string
	}{
		"a folder": {args: []string{"My_App"}, dockerfile: "FROM a", tag: "moat/my_app:latest", context: files},
		"all flags": {
			args: []string{
				"-t", "x/y:1", "-f", "other", "--no-cache", "--build-arg", "A=1=2", "--build-arg", "PASSED", "--build-arg", "UNSET", "--build-arg", "E=",
				"--label", "k=v", "--label", "bare", "--json", "My_App",
			},
			dockerfile: "FROM b", tag: "x/y:1", stdout: "[\n  {\n    \"image\": \"x/y:1\"\n  }\n]\n",
			asked: core.BuildOptions{
				NoCache: true, Args: map[string]string{"A": "1=2", "PASSED": "on", "E": ""}, Labels: map[string]string{"k": "v", "bare": ""},
			},
			context: files,
		},
		"a Dockerfile from standard input": {args: []string{"-f", "-", "-q", "My_App"}, stdin: "FROM c", dockerfile: "FROM c", tag: "moat/my_app:latest", context: files},
		"nothing but one":                  {args: []string{"-"}, stdin: "FROM c", dockerfile: "FROM c", tag: "moat/stdin:latest"},
	} {
		t.Run(name, func(t *testing.T) {
			b := &builder{}
			got := b.moat(t, withInput(test.stdin), test.args...)
			if test.stdout == "" {
				test.stdout = test.tag + "\n"
			}
			if got != (built{0, test.stdout, ""}) {
				t.Errorf("the outcome is %+v, want %q", got, test.stdout)
			}
			if b.dockerfile != test.dockerfile || b.tag != test.tag {
				t.Errorf("built %q as %q, want %q as %q", b.dockerfile, b.tag, test.dockerfile, test.tag)
			}
			if (b.asked.Progress == nil) != (name == "a Dockerfile from standard input") {
				t.Error("-q, and nothing else, takes the progress away")
			}
			if !maps.Equal(b.context, test.context) {
				t.Errorf("the context is %v, want %v", b.context, test.context)
			}
			b.asked.Context, b.asked.Progress = nil, nil
			for _, empty := range []*map[string]string{&test.asked.Args, &test.asked.Labels} {
				if *empty == nil {
					*empty = map[string]string{}
				}
			}
			if !reflect.DeepEqual(b.asked, test.asked) {
				t.Errorf("asked for %+v, want %+v", b.asked, test.asked)
			}
		})
	}
}

func TestBuildWithoutArguments(t *testing.T) {
	inFolder(t, map[string]string{"Dockerfile": "FROM a"})
	b := &builder{}
	if got := b.moat(t, nil); got.stdout != "moat/here:latest\n" || b.context["Dockerfile"] == "" {
		t.Errorf("the outcome is %+v, with %v", got, b.context)
	}
}

func TestTagAfterTheFolder(t *testing.T) {
	for folder, want := range map[string]string{
		"app": "moat/app:latest", "My App (2)": "moat/my-app-2:latest", "v1.2_b": "moat/v1.2_b:latest", "a__b..c": "moat/a-b-c:latest",
		".hidden_": "moat/hidden:latest", "/": "moat/image:latest", "日本": "moat/image:latest", "-x": "moat/x:latest",
		strings.Repeat("a", 127) + "-b": "moat/" + strings.Repeat("a", 127) + ":latest",
	} {
		if got := tagAfter(folder); got != want {
			t.Errorf("%q: got %s, want %s", folder, got, want)
		}
		if err := core.ValidateTag(want); err != nil {
			t.Error(err)
		}
	}
}

func TestBuildsThatCannotBegin(t *testing.T) {
	inFolder(t, map[string]string{
		"ok/Dockerfile": "FROM a", "none/x": "", "file": "", "archive": "PK\x00", "folder/x": "",
		"own/Dockerfile": "FROM a", "own/Dockerfile.dockerignore": "*", "large": strings.Repeat("#", maxDockerfile+1),
	})
	for _, test := range []struct {
		args  string
		texts []string
	}{
		{"absent", []string{`open build context "absent": not found`, "Give a directory"}},
		{"https://example.org/x.git", []string{"not found", "Give a directory of this machine as CONTEXT"}},
		{"file", []string{`"file"`, "not a directory", "-f"}},
		{"none", []string{`read Dockerfile "none/Dockerfile": not found`, "-f"}},
		{"-f absent ok", []string{`"absent": not found`}},
		{"-f folder ok", []string{`"folder"`, "is a directory"}},
		{"-f archive ok", []string{`"archive"`, "unpack it"}},
		{"-f large ok", []string{`"large"`, "too large"}},
		{"own", []string{"own/Dockerfile", "not supported", "CONTEXT/.dockerignore"}},
		{"-f - -", []string{"leave one of them out"}},
		{"-f ok/Dockerfile -", []string{"leave one of them out"}},
		{"-t Bad: ok", []string{`"Bad:"`}},
		{"-t a -t b ok", []string{`"a" "b"`, "one tag"}},
		{"--build-arg =x ok", []string{"--build-arg", "no variable name"}},
		{"--label =x ok", []string{"--label", "KEY=value"}},
		{"--label moat.managed=no ok", []string{"moat.managed", "Moat's own"}},
		{"--dns 192.0.2.53 ok", []string{"unknown flag: --dns"}},
		{"--progress fancy ok", []string{"fancy", "auto, plain or tty"}},
		{"--progress tty ok", []string{"not a terminal"}},
		{"-q --progress plain ok", []string{"quiet", "progress"}},
		{"ok ok", []string{"arg"}},
	} {
		b := &builder{}
		got := b.moat(t, nil, strings.Fields(test.args)...)
		if got.code != 1 || got.stdout != "" || b.builds != 0 {
			t.Errorf("%s: %+v after %d builds", test.args, got, b.builds)
		}
		for _, text := range test.texts {
			if !strings.Contains(got.stderr, text) {
				t.Errorf("%s: %q does not speak of %q", test.args, got.stderr, text)
			}
		}
	}
	b := &builder{}
	got := b.moat(t, func(env *Env) { env.Stdin = iotest.ErrReader(errors.New("unplugged")) }, "-")
	if got.code != 1 || !strings.Contains(got.stderr, "unplugged") || b.builds != 0 {
		t.Errorf("standard input that fails: %+v after %d builds", got, b.builds)
	}
}

// failing is a build whose second step fails, with what a program may write.
func failing() *builder {
	return &builder{
		progress: []core.BuildProgress{
			{Step: 1, Name: "[1/2] FROM a", Status: core.BuildRunning},
			{Step: 1, Name: "[1/2] FROM a", Status: core.BuildCached},
			{Step: 2, Name: "[2/2] RUN \x1b[2Jmake", Status: core.BuildRunning, Output: []byte("cc -c ma")},
			{Step: 2, Name: "[2/2] RUN \x1b[2Jmake", Status: core.BuildRunning, Output: []byte("in.c\r\n\x1b[31mno such file\x1b[0m")},
			{Step: 2, Name: "[2/2] RUN \x1b[2Jmake", Status: core.BuildFailed},
		},
		fail: func(context.Context) error {
			return &core.Error{Op: "build image", Object: "x", Err: &core.BuildError{
				Step: "RUN make", Line: 2, Output: "cc -c main.c\n\x1b[31mno such file\x1b[0m\n\n", Err: errors.New("exit status 2"),
			}}
		},
	}
}

func TestFailureIsToldOnce(t *testing.T) {
	inFolder(t, map[string]string{"Dockerfile": "FROM a"})
	const reason = "moat: build image \"x\": line 2: RUN make: exit status 2\n"
	const output = "cc -c main.c\nno such file\n"
	for name, test := range map[string]struct {
		args   []string
		change func(*Env)
		silent bool
		stderr string
	}{
		"plain": {stderr: "#1 [1/2] FROM a\n#1 cached\n#2 [2/2] RUN make\n#2 | cc -c main.c\n#2 | no such file\n#2 failed\n" + reason},
		"plain, of a builder that does not tell output": {silent: true, stderr: "#1 [1/2] FROM a\n#1 cached\n#2 [2/2] RUN make\n#2 failed\n" + reason + output},
		"plain on a terminal":                           {args: []string{"--progress", "plain"}, change: atTerminal(20, 40), stderr: "#1 [1/2] FROM a\n#1 cached\n#2 [2/2] RUN make\n#2 | cc -c main.c\n#2 | no such file\n#2 failed\n" + reason},
		"quiet":                                         {args: []string{"-q"}, stderr: reason + output},
		"terminal": {change: atTerminal(20, 40), stderr: "" +
			"\r#1 [1/2] FROM a\x1b[K\n\x1b[J" +
			"\r\x1b[1A#1 cached [1/2] FROM a\x1b[K\n\x1b[J" +
			"\r#2 [2/2] RUN make\x1b[K\n   | cc -c ma\x1b[K\n\x1b[J" +
			"\r\x1b[2A#2 [2/2] RUN make\x1b[K\n   | no such file\x1b[K\n\x1b[J" +
			"\r\x1b[2A#2 failed [2/2] RUN make\x1b[K\n\x1b[J" + reason + output},
	} {
		t.Run(name, func(t *testing.T) {
			b := failing()
			for i := range b.progress {
				if test.silent {
					b.progress[i].Output = nil
				}
			}
			got := b.moat(t, test.change, test.args...)
			if want := (built{1, "", test.stderr}); got != want {
				t.Errorf("got  %#v\nwant %#v", got, want)
			}
		})
	}
}

// TestBuildInterrupted has the builder's steps unfinished when the signal comes.
func TestBuildInterrupted(t *testing.T) {
	inFolder(t, map[string]string{"Dockerfile": "FROM a"})
	for name, test := range map[string]struct {
		terminal bool
		stderr   string
	}{
		"plain":    {false, "#1 RUN sleep 60\n#1 | sleeping\n"},
		"terminal": {true, "\r#1 RUN sleep 60\x1b[K\n   | sleeping\x1b[K\n\x1b[J\r\x1b[2A\x1b[J"},
	} {
		t.Run(name, func(t *testing.T) {
			signals := make(chan os.Signal, 1)
			b := &builder{
				progress: []core.BuildProgress{{Step: 1, Name: "RUN sleep 60", Status: core.BuildRunning, Output: []byte("sleeping")}},
				fail: func(ctx context.Context) error {
					signals <- syscall.SIGINT
					<-ctx.Done()
					return ctx.Err()
				},
			}
			got := b.moat(t, func(env *Env) {
				if test.terminal {
					atTerminal(20, 40)(env)
				}
				env.Notify = func(...os.Signal) (<-chan os.Signal, func()) { return signals, func() {} }
			})
			if want := (built{130, "", test.stderr}); got != want {
				t.Errorf("got  %#v\nwant %#v", got, want)
			}
		})
	}
}

func TestNoBuilder(t *testing.T) {
	inFolder(t, map[string]string{"Dockerfile": "FROM a"})
	got := new(builder).moat(t, func(env *Env) {
		env.Registered = registering("memory", func() detect.Candidate {
			return detect.Candidate{Type: "memory", New: func() (core.Runtime, error) { return noBuilder{new(builder)}, nil }}
		})
	})
	if got.code != 1 || !strings.Contains(got.stderr, "build manager: not supported") {
		t.Errorf("got %+v", got)
	}
}

type noBuilder struct{ core.Runtime }

func (noBuilder) BuildManager() core.BuildManager { return nil }

// several steps at once, and transfers.
func severalSteps() []core.BuildProgress {
	return []core.BuildProgress{
		{Step: 1, Name: "FROM a", Status: core.BuildRunning},
		{Step: 1, Name: "FROM a", Status: core.BuildRunning, Detail: "aa", Current: 1e6, Total: 2e6},
		{Step: 2, Name: "load context", Status: core.BuildRunning, Detail: "files:", Current: 5e5},
		{Step: 1, Name: "FROM a", Status: core.BuildRunning, Detail: "bb", Current: 0, Total: 1e6},
		{Step: 1, Name: "FROM a", Status: core.BuildRunning, Detail: "aa", Current: 2e6, Total: 2e6},
		{Step: 2, Name: "load context", Status: core.BuildDone},
		{Step: 3, Name: "RUN\tx\ny", Status: core.BuildRunning, Output: []byte("10%\r20%\r")},
		{Step: 1, Name: "FROM a", Status: core.BuildRunning, Detail: "un\x1b[2Jpack\n", Current: 5e5},
		{Step: 1, Name: "FROM a", Status: core.BuildRunning, Detail: "bb", Current: 1e6, Total: 1e6},
		{Step: 3, Name: "RUN\tx\ny", Status: core.BuildRunning, Output: []byte("100%\n\n日本語の長い行、端末より長い行\n")},
		{Step: 3, Name: "RUN\tx\ny", Status: core.BuildRunning},
	}
}

func TestPlainBuildProgress(t *testing.T) {
	var out bytes.Buffer
	p, err := (&buildOptions{progress: progressPlain}).printer(Env{Stderr: &out})
	if err != nil {
		t.Fatal(err)
	}
	for _, event := range severalSteps() {
		p.show(event)
	}
	p.show(core.BuildProgress{Step: 3, Status: core.BuildDone, Output: []byte("end")})
	p.finish()
	want := "#1 FROM a\n#1 | aa: 2MB\n#2 load context\n#2 | files\n#1 | bb: 1MB\n#2 done\n#3 RUN\tx y\n#1 | unpack\n" +
		"#3 | 100%\n#3 |\n#3 | 日本語の長い行、端末より長い行\n#3 | end\n#3 done\n"
	if got := out.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// TestTerminalBuildProgress compares what a person sees after each event.
func TestTerminalBuildProgress(t *testing.T) {
	const columns, rows = 20, 6
	screen := vt10x.New(vt10x.WithSize(columns, rows))
	var out bytes.Buffer
	env := Env{Stderr: &out}
	atTerminal(rows, columns)(&env)
	p, err := (&buildOptions{progress: progressAuto}).printer(env)
	if err != nil {
		t.Fatal(err)
	}
	looks := func() string {
		_, _ = screen.Write(bytes.ReplaceAll(out.Bytes(), []byte("\n"), []byte("\r\n")))
		out.Reset()
		var lines []string
		for line := range strings.Lines(screen.String()) {
			lines = append(lines, strings.TrimRight(line, " \n"))
		}
		return strings.TrimRight(strings.Join(lines, "\n"), "\n")
	}
	looks()
	for i, want := range []string{
		"#1 FROM a",
		"#1 FROM a\n   | 1MB of 2MB",
		"#1 FROM a\n   | 1MB of 2MB\n#2 load context\n   | files: 500kB",
		"#1 FROM a\n   | 1MB of 3MB\n#2 load context\n   | files: 500kB",
		"#1 FROM a\n   | 2MB of 3MB\n#2 load context\n   | files: 500kB",
		"#2 done   load cont\n#1 FROM a\n   | 2MB of 3MB",
		"#2 done   load cont\n#1 FROM a\n   | 2MB of 3MB\n#3 RUN x y\n   | 20%",
		"#2 done   load cont\n#1 FROM a\n   | unpack: 500kB\n#3 RUN x y\n   | 20%",
		"#2 done   load cont\n#1 FROM a\n   | 3MB of 3MB\n#3 RUN x y\n   | 20%",
		"#2 done   load cont\n#1 FROM a\n   | 3MB of 3MB\n#3 RUN x y\n   | 日本語の長い行",
	} {
		p.show(severalSteps()[i])
		if got := looks(); got != strings.TrimSpace(want) {
			t.Errorf("after event %d:\n%s\nwant:\n%s", i+1, got, want)
		}
	}
	p.show(severalSteps()[10])
	if out.Len() > 0 {
		t.Errorf("what has not changed is drawn again: %q", out.String())
	}
	for _, test := range []struct {
		event core.BuildProgress
		want  string
	}{
		{
			core.BuildProgress{Step: 4, Name: "ends at once", Status: core.BuildCached},
			"#4 cached ends at o\n#1 FROM a\n   | 3MB of 3MB\n#3 RUN x y\n   | 日本語の長い行",
		},
		{
			core.BuildProgress{Step: 5, Name: "too much for a screen", Status: core.BuildRunning, Output: []byte("below")},
			"#1 FROM a\n   | 3MB of 3MB\n#3 RUN x y\n   | 日本語の長い行\n#5 too much for a s",
		},
		{
			core.BuildProgress{Step: 1, Status: core.BuildDone},
			"#1 done   FROM a\n#3 RUN x y\n   | 日本語の長い行\n#5 too much for a s\n   | below",
		},
	} {
		p.show(test.event)
		if got := looks(); got != test.want {
			t.Errorf("after %v:\n%s\nwant:\n%s", test.event, got, test.want)
		}
	}
	p.finish()
	if got := looks(); got != "#1 done   FROM a" {
		t.Errorf("finish leaves:\n%s", got)
	}
}
