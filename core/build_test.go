package core_test

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/moatproject/moat/core"
)

func TestBuildOptionsValidate(t *testing.T) {
	file := func(names ...string) core.BuildOptions {
		files := map[string][]byte{}
		for _, name := range names {
			files[name] = []byte("content")
		}
		return core.BuildOptions{ContextFiles: files}
	}
	arg := func(name, value string) core.BuildOptions {
		return core.BuildOptions{Args: map[string]string{name: value}}
	}
	label := func(key, value string) core.BuildOptions {
		return core.BuildOptions{Labels: map[string]string{key: value}}
	}
	for field, cases := range map[string]struct{ accepted, refused []core.BuildOptions }{
		"DNS": {
			[]core.BuildOptions{{}, {DNS: []string{"192.0.2.1", "2001:db8::1"}}},
			[]core.BuildOptions{{DNS: []string{""}}, {DNS: []string{"192.0.2.1", "dns.example"}}, {DNS: []string{"fe80::1%eth0"}}},
		},
		"ContextFiles": {
			[]core.BuildOptions{file("a"), file("a/b", "a/c", "ab"), file(".dockerignore", "Dockerfile"), file("a b/é..c")},
			[]core.BuildOptions{
				file(""), file("."), file(".."), file("../a"), file("a/../b"), file("/a"), file("a/"), file("a//b"), file("./a"),
				file("a\x00"), file("a\xff"), file("a", "a/b"), file("a", "a/b/c"),
			},
		},
		"Args": {
			[]core.BuildOptions{arg("A", ""), arg("_a1", "a $b \"c\"\n")},
			[]core.BuildOptions{arg("", "x"), arg("1a", "x"), arg("a-b", "x"), arg("a=b", "x"), arg("a\n", "x"), arg("A", "\x00")},
		},
		"Labels": {
			[]core.BuildOptions{label("team", ""), label("org.example.a", "b=c")},
			[]core.BuildOptions{label("", "x"), label("a=b", "x"), label("a", "\x00"), label(core.LabelManaged, "false"), label("moat.mine", "x")},
		},
		"RunID": {
			[]core.BuildOptions{{RunID: "0123abcd"}},
			[]core.BuildOptions{{RunID: "\x00"}},
		},
	} {
		for _, opts := range cases.accepted {
			if err := opts.Validate(); err != nil {
				t.Errorf("%s: %v", field, err)
			}
		}
		for _, opts := range cases.refused {
			if err := opts.Validate(); !errors.Is(err, core.ErrInvalidConfig) || core.FieldOf(err) != field {
				t.Errorf("%+v: %v, want %s refused", opts, err, field)
			}
		}
	}
}

func TestValidateDockerfile(t *testing.T) {
	for _, accepted := range []string{"", "FROM a\nRUN é\n", "# Latin-1: \xe9\nFROM a\n  # \xff\n"} {
		if err := core.ValidateDockerfile(accepted); err != nil {
			t.Errorf("%q: %v", accepted, err)
		}
	}
	for refused, line := range map[string]int{
		"FROM a\nRUN \xff\n": 2, "FROM a\r\n\r\nRUN \\\n \xff": 4, "FROM a\x00": 1, "FROM a\nRUN <<E\n# \xff\nE\n": 3,
	} {
		err := core.ValidateDockerfile(refused)
		failure, ok := errors.AsType[*core.BuildError](err)
		if core.FieldOf(err) != "Dockerfile" || !errors.Is(err, core.ErrInvalidConfig) || !ok || failure.Line != line {
			t.Errorf("%q: %v, want line %d refused", refused, err, line)
		}
	}
}

func TestValidateTag(t *testing.T) {
	for _, tag := range []string{
		"a", "moat/x", "moat/x:1", "moat/a.b_c__d-e--f/g:V1._-", "localhost:5000/x:1", "Registry.example/x", "192.0.2.1:5000/a/b",
		"a:" + strings.Repeat("b", 128),
	} {
		if err := core.ValidateTag(tag); err != nil {
			t.Errorf("%q: %v", tag, err)
		}
	}
	for _, tag := range []string{
		"", ":", "a:", ":1", "-a", "a-", "a b", "A", "a/B", "a//b", "/a", "a/", "a..b", "a___b", "a:-1", "a:1:2", "a:b/c", "a\n", "é",
		"a@sha256:" + strings.Repeat("0", 64), "a:" + strings.Repeat("b", 129),
	} {
		if err := core.ValidateTag(tag); !errors.Is(err, core.ErrInvalidConfig) || core.FieldOf(err) != "tag" {
			t.Errorf("%q: %v", tag, err)
		}
	}
}

func TestImageLabels(t *testing.T) {
	opts := core.BuildOptions{RunID: "0123abcd", Labels: map[string]string{"team": "blue", core.LabelRole: "theirs"}}
	want := map[string]string{
		"team": "blue", "moat.managed": "true", "moat.run-id": "0123abcd", "moat.role": "image", "moat.version": core.Version,
	}
	if got := opts.ImageLabels(); !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if len(opts.Labels) != 2 || opts.Labels[core.LabelRole] != "theirs" {
		t.Error("the caller's labels were changed")
	}
}

func TestBuildError(t *testing.T) {
	boom := errors.New("boom")
	for want, err := range map[string]core.BuildError{
		"boom":                          {Err: boom},
		"line 3: boom":                  {Line: 3, Err: boom},
		"line 3: RUN make: boom":        {Line: 3, Step: "RUN make", Err: boom},
		"RUN make: boom\nfirst\nlast\n": {Step: "RUN make", Output: "first\nlast\r\n \n", Err: boom},
		"RUN make: boom":                {Step: "RUN make", Output: "\n", Err: boom},
	} {
		if got := err.Error(); got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	}
	wrapped := fmt.Errorf("outer: %w", &core.Error{Op: "build image", Err: &core.BuildError{Line: 3, Err: boom}})
	if found, ok := errors.AsType[*core.BuildError](wrapped); !ok || found.Line != 3 || !errors.Is(wrapped, boom) {
		t.Errorf("%+v is found in %v", found, wrapped)
	}
}
