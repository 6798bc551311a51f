package memory_test

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/moatproject/moat/adapters/memory"
	"github.com/moatproject/moat/core"
)

const buildTag = "example/built"

// buildContext is what the Dockerfiles of these tests copy.
var buildContext = map[string][]byte{
	"a.txt": []byte("a\n"), "b.txt": []byte("b\n"), "folder/c.txt": []byte("c\n"), "folder/d/e.txt": []byte("e\n"),
	"tar": tarHead, "gz": []byte("\x1f\x8b and more"), "bz2": []byte("BZh9"), "xz": []byte("\xfd7zXZ\x00\x00"), "zst": []byte("\x28\xb5\x2f\xfd"),
	"folder/tar": tarHead,
}

var tarHead = append(make([]byte, 257), "ustar and more"...)

func TestDockerfiles(t *testing.T) {
	for name, test := range map[string]struct{ lines, script, out string }{
		"a file to a name":       {"COPY a.txt /x", "cat /x", "a\n"},
		"a file to a folder":     {"COPY a.txt /x/", "cat /x/a.txt", "a\n"},
		"to a folder that is":    {"WORKDIR /x\nCOPY a.txt .", "cat /x/a.txt", "a\n"},
		"several files":          {"COPY a.txt b.txt /x/", "cat /x/a.txt /x/b.txt", "a\nb\n"},
		"files to one name":      {"COPY a.txt b.txt /x", "cat /x/a.txt /x/b.txt", "a\nb\n"},
		"an archive in a folder": {"ADD folder /x", "[ -s /x/tar ] && echo whole", "whole\n"},
		"not the entrypoint":     {"ENTRYPOINT [\"false\"]\nRUN echo one >/x\nENTRYPOINT []", "cat /x", "one\n"},
		"a pattern":              {"COPY *.txt /x/", "cd /x && cat *", "a\nb\n"},
		"a folder's inside":      {"COPY folder /x", "cat /x/c.txt /x/d/e.txt", "c\ne\n"},
		"never above":            {"COPY ../../a.txt /x", "cat /x", "a\n"},
		"a variable":             {"ARG WHAT=a\nENV WHERE=/x\nCOPY ${WHAT}.txt $WHERE", "cat /x", "a\n"},
		"ENV is before ARG":      {"ARG V=arg\nENV V=env\nRUN echo $V >/x", "cat /x", "env\n"},
		"a later ENV":            {"ENV A=1\nENV A=2 B=$A\n", "echo $A $B", "2 1\n"},
		"a stage by its name":    {"RUN echo one >/x\nFROM moat/test-base\nCOPY --from=first /x /y\nRUN echo two >>/y", "cat /y", "one\ntwo\n"},
		"a stage by its number":  {"RUN echo one >/x\nFROM moat/test-base\nCOPY --from=0 /x /y", "cat /y", "one\n"},
		"a stage as a base":      {"ENV V=1\nRUN echo one >/x\nFROM First", "cat /x; echo $V", "one\n1\n"},
		"another image's files":  {"COPY --from=moat/test-config /entry.sh /x", "read line </x; echo $line", "#!/bin/sh\n"},
		"nothing but a copy":     {"RUN echo one >/x\nFROM scratch\nCOPY --from=first /bin/sh /bin/cat /x /bin/", "cat /bin/x; ls /etc", "one\nls: not found\n"},
		"a folder for a volume":  {"VOLUME /x/y", "cd /x/y && pwd", "/x/y\n"},
		"lines that are one":     {"RUN echo a \\\n # remark\n  b >/x", "cat /x", "a b\n"},
		"a user and a folder":    {"USER tester\nWORKDIR /x\nRUN echo $(id -un) $(pwd) $HOME >y", "cat /x/y", "tester /x /home/tester\n"},
		"an ARG of all stages":   {"FROM $LATER\nARG LATER\nARG NONE\nRUN echo $LATER ${NONE-none} >/x", "cat /x", "moat/test-config none\n"},
		"ports that nobody uses": {"EXPOSE 80/tcp 81", "echo x", "x\n"},
	} {
		t.Run(name, func(t *testing.T) {
			rt := newRuntime(t, memory.Options{})
			err := rt.BuildManager().BuildImage(t.Context(), "ARG LATER=moat/test-config\nFROM moat/test-base AS first\n"+test.lines, buildTag,
				core.BuildOptions{ContextFiles: buildContext})
			if err != nil {
				t.Fatal(err)
			}
			cfg := shell(test.script)
			cfg.Image = buildTag
			if _, out := finish(t, rt, start(t, rt, cfg)); out != test.out {
				t.Errorf("got %q, want %q", out, test.out)
			}
		})
	}
}

func TestCommandsOfImages(t *testing.T) {
	rt := newRuntime(t, memory.Options{}) // what is reused of one must be right for the next
	for _, test := range []struct{ lines, out string }{
		{"FROM moat/test-config\nENTRYPOINT [\"echo\", \"x\"]", "x\n"},
		{"FROM moat/test-base\nCMD [\"y\"]\nENTRYPOINT [\"echo\", \"x\"]", "x y\n"},
		{"FROM moat/test-base AS one\nCMD [\"y\"]\nFROM one\nENTRYPOINT [\"echo\", \"x\"]", "x\n"},
		{"FROM moat/test-base\nENTRYPOINT [\"echo\", \"x\"]\nCMD [\"y\"]", "x y\n"},
		{"FROM moat/test-base\nENV V=\"a  b\"\nCMD echo \"$V\"", "a  b\n"},
	} {
		if err := rt.BuildManager().BuildImage(t.Context(), test.lines, buildTag, core.BuildOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, out := finish(t, rt, start(t, rt, core.Config{Image: buildTag})); out != test.out {
			t.Errorf("%s\nsays %q, want %q", test.lines, out, test.out)
		}
	}
}

func TestIDsOfImages(t *testing.T) {
	rt := newRuntime(t, memory.Options{})
	ids := map[string]bool{}
	for i, opts := range []core.BuildOptions{
		{},
		{Labels: map[string]string{"team": "blue"}},
		{DNS: []string{"192.0.2.53"}},
		{Args: map[string]string{"A": "1"}},
		{NoCache: true},                     // what a step does may differ each time
		{Args: map[string]string{"A": "1"}}, // again
	} {
		if err := rt.BuildManager().BuildImage(t.Context(), "FROM moat/test-base\nARG A\nRUN echo $A >/x", "moat/built", opts); err != nil {
			t.Fatal(err)
		}
		images, err := rt.ListImages(t.Context())
		if err != nil || images[0].Tag != "moat/built:latest" {
			t.Fatalf("%v, %v", images, err)
		}
		ids[images[0].ID] = true
		if want := min(i+1, 5); len(ids) != want {
			t.Errorf("after %d builds there are %d IDs, want %d: one for the same content and labels", i+1, len(ids), want)
		}
	}
}

func TestImageWithoutACommand(t *testing.T) {
	rt := newRuntime(t, memory.Options{})
	if err := rt.BuildManager().BuildImage(t.Context(), "FROM scratch\nCOPY a.txt /", buildTag, core.BuildOptions{ContextFiles: buildContext}); err != nil {
		t.Fatal(err)
	}
	if _, err := rt.CreateContainer(t.Context(), core.Config{Image: buildTag}); core.FieldOf(err) != "Cmd" {
		t.Errorf("got %v, want Cmd refused", err)
	}
}

func TestWhatDockerfilesCannotHave(t *testing.T) {
	for _, test := range []struct {
		step, names string
		class       error // nil: none of core's
	}{
		{"HEALTHCHECK CMD true", "HEALTHCHECK", core.ErrUnsupported},
		{"ONBUILD RUN true", "ONBUILD", core.ErrUnsupported},
		{"SHELL [\"/bin/sh\", \"-e\"]", "SHELL", core.ErrUnsupported},
		{"STOPSIGNAL INT", "STOPSIGNAL", core.ErrUnsupported},
		{"RUN --network=none true", "--network", core.ErrUnsupported},
		{"RUN <<END\ntrue\nEND", "RUN", core.ErrUnsupported},
		{"COPY --chown=tester a.txt /", "--chown", core.ErrUnsupported},
		{"COPY <<END /x\ntrue\nEND", "COPY", core.ErrUnsupported},
		{"ADD https://192.0.2.1/x /x", "https://192.0.2.1/x", core.ErrUnsupported},
		{"ADD tar /x", "tar", core.ErrUnsupported},
		{"ADD gz /x", "gz", core.ErrUnsupported},
		{"ADD bz2 /x", "bz2", core.ErrUnsupported},
		{"ADD xz /x", "xz", core.ErrUnsupported},
		{"ADD zst /x", "zst", core.ErrUnsupported},
		{"FROM --platform=linux/arm64 moat/test-base", "--platform", core.ErrUnsupported},
		{"COPY ../none /x", "none", core.ErrInvalidConfig},
		{"COPY --from=registry.example/none /x /", "registry.example/none", core.ErrNotFound},
		{"RUN [\"no-such-program\"]", "no-such-program", nil},
		{`ENV A="${B?it is missing}"`, "it is missing", nil},
		{"COPY a.txt /etc/passwd/x", "not a directory", nil},
	} {
		rt := newRuntime(t, memory.Options{})
		err := rt.BuildManager().BuildImage(t.Context(), "FROM moat/test-base\n"+test.step, buildTag, core.BuildOptions{ContextFiles: buildContext})
		failed, ok := errors.AsType[*core.BuildError](err)
		first, _, _ := strings.Cut(test.step, "\n")
		if !ok || failed.Line != 2 || failed.Step != first {
			t.Errorf("%s\nfailed with %+v: %v, want its line", test.step, failed, err)
			continue
		}
		if !strings.Contains(err.Error(), test.names) {
			t.Errorf("%s\nfailed with %v, want %q", test.step, err, test.names)
		}
		if e, _ := errors.AsType[*core.Error](err); !errors.Is(e.Class, test.class) {
			t.Errorf("%s\nfailed with class %v, want %v", test.step, e.Class, test.class)
		}
	}
	rt := newRuntime(t, memory.Options{})
	err := rt.BuildManager().BuildImage(t.Context(), "FROM moat/test-base\nUSER nobody\nRUN true", buildTag, core.BuildOptions{})
	if failed, ok := errors.AsType[*core.BuildError](err); !ok || failed.Line != 3 || errors.Is(err, core.ErrInvalidConfig) {
		t.Errorf("a user that the image does not know: %v", err)
	}
}

func TestContextBeneathContextFiles(t *testing.T) {
	file := func(content string) *fstest.MapFile { return &fstest.MapFile{Mode: 0o644, Data: []byte(content)} }
	for name, test := range map[string]struct {
		context fstest.MapFS
		files   map[string][]byte
		out     string
	}{
		"a file hides a folder":    {fstest.MapFS{"x/y": file("theirs")}, map[string][]byte{"x": []byte("ours\n")}, "ours\n"},
		"a folder hides a file":    {fstest.MapFS{"x": file("theirs")}, map[string][]byte{"x/y": []byte("ours\n")}, "y\n"},
		"the one .dockerignore":    {fstest.MapFS{"x": file("theirs\n"), ".dockerignore": file("x")}, map[string][]byte{".dockerignore": nil}, "theirs\n"},
		"what is ignored may link": {fstest.MapFS{"l": {Mode: fs.ModeSymlink | 0o777, Data: []byte("x")}, "x": file("x\n"), ".dockerignore": file("l")}, nil, "x\n"},
	} {
		rt := newRuntime(t, memory.Options{})
		err := rt.BuildManager().BuildImage(t.Context(), "FROM moat/test-base\nCOPY . /c", buildTag, core.BuildOptions{Context: test.context, ContextFiles: test.files})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		cfg := shell("[ -d /c/x ] && ls /c/x || cat /c/x")
		cfg.Image = buildTag
		if _, out := finish(t, rt, start(t, rt, cfg)); out != test.out {
			t.Errorf("%s: got %q, want %q", name, out, test.out)
		}
	}
}

func TestCloseEndsABuild(t *testing.T) {
	rt := memory.New(memory.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := rt.BuildManager().BuildImage(ctx, "FROM moat/test-base\nRUN echo x; sleep 1000", buildTag, core.BuildOptions{
		Progress: func(step core.BuildProgress) {
			if len(step.Output) > 0 {
				rt.Close()
			}
		},
	})
	if !errors.Is(err, core.ErrUnavailable) {
		t.Errorf("got %v, want %v", err, core.ErrUnavailable)
	}
}

func TestLongOutputOfAFailedStep(t *testing.T) {
	rt := newRuntime(t, memory.Options{})
	err := rt.BuildManager().BuildImage(t.Context(), "FROM moat/test-base\nRUN echo first; n=0; while [ $n -lt 10000 ]; do n=$((n+1)); echo $n; done; echo last; exit 1", buildTag, core.BuildOptions{})
	failed, _ := errors.AsType[*core.BuildError](err)
	if failed == nil || len(failed.Output) > 1<<15 || !strings.HasSuffix(failed.Output, "\n10000\nlast\n") {
		t.Errorf("got %v", err)
	}
}
