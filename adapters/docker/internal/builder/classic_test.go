package builder

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/moatproject/moat/adapters/docker/internal/builder/dockerfile"
	"github.com/moatproject/moat/core"
)

func TestClassicProgress(t *testing.T) {
	const text = "ARG X\nFROM image\nRUN one\n"
	answer := strings.Join([]string{
		`{"stream":"Step 1/3 : ARG X"}`, `{"stream":"\n"}`,
		`{"stream":"Step 2/3 : FROM image"}`, `{"stream":"\n"}`,
		`{"status":"Pulling from library/image","id":"latest"}`,
		`{"status":"Downloading","progressDetail":{"current":1,"total":2},"id":"layer"}`,
		`{"stream":" ---\u003e 0123\n"}`,
		`{"stream":"Step 3/3 : RUN one"}`, `{"stream":"\n"}`,
		`{"stream":" ---\u003e Running in 0123\n"}`, `{"stream":"\u001b[91moutput\n\u001b[0m"}`,
		`{"errorDetail":{"code":1,"message":"The command '/bin/sh -c one' returned a non-zero code: 1"},"error":"The command"}`,
	}, "\n")
	var told []core.BuildProgress
	progress := classicProgress{sink: func(p core.BuildProgress) { told = append(told, p) }, steps: dockerfile.Parse(text).Steps}
	err := progress.read(strings.NewReader(answer))
	if err == nil || !strings.HasPrefix(err.Error(), "The command ") || progress.line() != 3 || string(progress.output) != "output\n" {
		t.Errorf("failed with %v on line %d after %q", err, progress.line(), progress.output)
	}
	want := []core.BuildProgress{
		{Step: 1, Name: "[1/3] ARG X", Status: core.BuildRunning},
		{Step: 1, Name: "[1/3] ARG X", Status: core.BuildDone},
		{Step: 2, Name: "[2/3] FROM image", Status: core.BuildRunning},
		{Step: 2, Name: "[2/3] FROM image", Status: core.BuildRunning},
		{Step: 2, Name: "[2/3] FROM image", Status: core.BuildRunning, Detail: "layer", Current: 1, Total: 2},
		{Step: 2, Name: "[2/3] FROM image", Status: core.BuildDone},
		{Step: 3, Name: "[3/3] RUN one", Status: core.BuildRunning},
		{Step: 3, Name: "[3/3] RUN one", Status: core.BuildRunning, Output: []byte("output\n")},
		{Step: 3, Name: "[3/3] RUN one", Status: core.BuildFailed},
	}
	if !slices.EqualFunc(told, want, equalProgress) {
		t.Errorf("told\n%+v, want\n%+v", told, want)
	}
}

func equalProgress(a, b core.BuildProgress) bool {
	sameOutput := bytes.Equal(a.Output, b.Output)
	return sameOutput && a.Step == b.Step && a.Name == b.Name && a.Status == b.Status && a.Detail == b.Detail && a.Current == b.Current && a.Total == b.Total
}

func FuzzClassicProgress(f *testing.F) {
	f.Add([]byte(`{"stream":"Step 1/3 : RUN x"}{"stream":"Step 99999999999999999999/1 : y"}`))
	f.Add([]byte(`{"stream":"Step 2/3 : RUN x"}{"stream":"x"}{"error":"y"}`))
	f.Add([]byte(`{"stream":1}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		all := dockerfile.Parse("FROM image\nRUN x\n").Steps
		progress := classicProgress{steps: all, sink: func(p core.BuildProgress) {
			if p.Step < 1 || p.Step > len(all) || p.Status == "" {
				t.Errorf("told %+v", p)
			}
		}}
		_ = progress.read(bytes.NewReader(body))
		if len(progress.output) > outputMax+1 || progress.line() < 0 || progress.line() > 2 {
			t.Errorf("kept %d bytes, on line %d", len(progress.output), progress.line())
		}
	})
}

func TestTailOf(t *testing.T) {
	long := strings.Repeat("é", outputMax)
	for output, want := range map[string]string{
		"": "", "short\n": "short\n",
		"first\n" + strings.Repeat("x", outputMax-1) + "\n": strings.Repeat("x", outputMax-1) + "\n",
		strings.Repeat("x", outputMax) + "\nlast\n":         "last\n",
		"x" + long: strings.Repeat("é", outputMax/2),
	} {
		if got := tailOf([]byte(output)); got != want {
			t.Errorf("of %.20q… (%d) remains %.20q… (%d), want %.20q… (%d)", output, len(output), got, len(got), want, len(want))
		}
	}
}
