package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/moatproject/moat/core/optional"
)

func TestLogLinesBecomeOneArray(t *testing.T) {
	for _, test := range []struct {
		name  string
		write [][2]string // stream, data
		want  []map[string]string
	}{
		{"nothing", nil, []map[string]string{}},
		{"lines across writes", [][2]string{{"stdout", "a"}, {"stderr", "e\n"}, {"stdout", "b\nc"}}, []map[string]string{
			{"stream": "stderr", "line": "e"}, {"stream": "stdout", "line": "ab"}, {"stream": "stdout", "line": "c"},
		}},
		{"quotes and empty lines", [][2]string{{"stdout", "\"\n\n"}}, []map[string]string{
			{"stream": "stdout", "line": `"`}, {"stream": "stdout", "line": ""},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			rows := &jsonRows{out: &out}
			lines := &lineSplitter{add: func(stream, line string) error { return rows.add(lineRow{stream, line}) }}
			streams := map[string]interface{ Write([]byte) (int, error) }{"stdout": lines.stream("stdout"), "stderr": lines.stream("stderr")}
			for _, w := range test.write {
				if n, err := streams[w[0]].Write([]byte(w[1])); n != len(w[1]) || err != nil {
					t.Fatal(n, err)
				}
			}
			if err := errors.Join(lines.finish(), rows.finish()); err != nil {
				t.Fatal(err)
			}
			var got []map[string]string
			if err := json.Unmarshal(out.Bytes(), &got); err != nil {
				t.Fatalf("%v in %s", err, out.String())
			}
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestPullProgress(t *testing.T) {
	steps := []optional.PullProgress{
		{Image: "x", Status: "Pulling from x"},
		{Image: "x", Layer: "aa", Status: "Downloading", Current: 1e6, Total: 2e6},
		{Image: "x", Layer: "aa", Status: "Downloading", Current: 2e6, Total: 2e6},
		{Image: "x", Layer: "aa", Status: "Pull complete"},
		{Image: "x", Status: "Status: Downloaded"},
	}
	show := func(terminal bool) string {
		var out bytes.Buffer
		printer := newPullPrinter(Env{Stderr: &out, Terminal: terminal})
		for _, step := range steps {
			printer.show(step)
		}
		printer.finish()
		return out.String()
	}
	want := "x: Pulling from x\nx: aa: Downloading\nx: aa: Pull complete\nx: Status: Downloaded\n"
	if got := show(false); got != want {
		t.Errorf("plain: got %q, want %q", got, want)
	}
	got := show(true)
	if !strings.Contains(got, "1 of 1 layers") || !strings.Contains(got, "1MB of 2MB") || !strings.HasSuffix(got, "\r\x1b[K") || strings.Contains(got, "\n") {
		t.Errorf("terminal: got %q", got)
	}
}
