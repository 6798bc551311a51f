package cli

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/moatproject/moat/core"
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
			lines := &jsonLines{rows: &jsonRows{out: &out}}
			streams := map[string]interface{ Write([]byte) (int, error) }{"stdout": lines.stream("stdout"), "stderr": lines.stream("stderr")}
			for _, w := range test.write {
				if n, err := streams[w[0]].Write([]byte(w[1])); n != len(w[1]) || err != nil {
					t.Fatal(n, err)
				}
			}
			if err := lines.finish(); err != nil {
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
	steps := []core.PullProgress{
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

func TestOrphans(t *testing.T) {
	now := time.Now()
	info := func(run, status string, age time.Duration) core.Info {
		return core.Info{ID: run + status, Status: status, Created: now.Add(-age), Labels: map[string]string{core.LabelManaged: "true", core.LabelRunID: run}}
	}
	a := &app{env: Env{StateDir: t.TempDir()}}
	release, err := lockRun(a.env.StateDir, "live")
	if err != nil {
		t.Fatal(err)
	}
	foreign := info("foreign", core.StateExited, time.Hour)
	foreign.Labels = nil
	infos := []core.Info{
		info("live", core.StateExited, time.Hour), info("over", core.StateExited, 0), info("over", core.StateRunning, 9*time.Hour),
		info("over", core.StateCreated, time.Minute), info("old", core.StateCreated, 2*time.Hour), info("over", core.StateDead, 0), foreign,
	}
	ids := func() (ids []string) {
		for _, o := range a.orphans(infos, now) {
			ids = append(ids, o.ID)
		}
		return ids
	}
	if got, want := ids(), []string{"overexited", "oldcreated", "overdead"}; !reflect.DeepEqual(got, want) {
		t.Errorf("beside a live run: got %v, want %v", got, want)
	}
	release()
	if got := ids(); got[0] != "liveexited" {
		t.Errorf("after the run: got %v", got)
	}
}
