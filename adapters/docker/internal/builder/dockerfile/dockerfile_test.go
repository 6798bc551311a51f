package dockerfile

import (
	"slices"
	"testing"
)

func TestLines(t *testing.T) {
	const text = `# a remark
ARG BASE
FROM image AS Build
RUN one && \
    two
ENV A=b
COPY x y /z/

FROM ${BASE}
WORKDIR /w
RUN three
COPY --from=build /a ./b/../c /d
`
	file := Parse(text)
	for name, want := range map[string]int{
		"[1/3] FROM docker.io/library/image":       3,
		"[build 1/3] FROM docker.io/library/image": 3,
		"[build 2/3] RUN one &&     two":           4,
		"[build 3/3] COPY x y /z/":                 7,
		"[stage-1 2/4] WORKDIR /w":                 10,
		"[stage-1 3/4] RUN three":                  11,
		"[stage-1 4/4] COPY --from=build /a":       12,
		"[stage-1 3/4] COPY":                       0, // it is another instruction
		"[build 9/9] RUN nine":                     0,
		"[internal] load build context":            0,

		"[internal] load metadata for docker.io/library/image:latest": 3,
		"[internal] load metadata for docker.io/library/other:latest": 0,

		"exporting to image": 0,
		"":                   0,
	} {
		if got := file.LineOf(name); got != want {
			t.Errorf("%q is on line %d, want %d", name, got, want)
		}
	}
	for text, want := range map[string]int{
		`failed to compute cache key: "/x" not found: not found`: 7,
		`"/z": not found`: 0, // it is where to
		`failed to calculate checksum of ref x: "/c": not found`: 12,
		`image: not found`: 3,
		`all is lost`:      0,
	} {
		if got := file.LineAbout(text); got != want {
			t.Errorf("%q is about line %d, want %d", text, got, want)
		}
	}
	for line, want := range map[int]string{0: "", 1: "# a remark", 5: "RUN one &&     two", 8: "", 99: ""} {
		if got := file.StepAt(line); got != want {
			t.Errorf("on line %d is %q, want %q", line, got, want)
		}
	}
	if got := Parse("FROM image\nENV").StepAt(2); got != "ENV" {
		t.Errorf("in a text that is not a Dockerfile: %q", got)
	}
}

func TestImages(t *testing.T) {
	for text, want := range map[string][]string{
		"FROM a":                                  {"a"},
		"from --platform=$BUILDPLATFORM a as x":   {"a"},
		"ARG A=b\nFROM ${A:-c}":                   {"b"},
		"ARG A\nFROM ${A:-c}":                     {"c"},
		"ARG A=x B=$A/y\nFROM $B":                 {"x/y"},
		"FROM $NOTHING":                           nil,
		"FROM a AS Base\nFROM base":               {"a"},
		"FROM a\nCOPY --from=b /x /\nADD x /":     {"a", "b"},
		"FROM a\nFROM b\nCOPY --from=0 /x /":      {"a", "b"},
		"# escape=`\nFROM `\n  a":                 {"a"},
		"FROM a\nNOTHING SUCH":                    nil,
		"":                                        nil,
		"FROM scratch\nCOPY x /":                  nil,
		"FROM a\nFROM a\nCOPY --from=a /x /":      {"a"},
		"ARG given=a\nFROM ${given}\nFROM $given": {"b"},
	} {
		if got := Parse(text).Images(map[string]string{"given": "b", "unused": "c"}); !slices.Equal(got, want) {
			t.Errorf("%q needs %q, want %q", text, got, want)
		}
	}
}
