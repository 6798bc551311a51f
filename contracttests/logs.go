package contracttests

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

func logCases() []Case {
	return []Case{
		{Number: "RT-70", Title: "following ends with the container", check: followToEnd},
		{Number: "RT-71", Title: "Close or the context end a blocked Read", check: endRead},
		{Number: "RT-72", Title: "ten megabytes arrive whole", check: manyBytes},
		{Number: "RT-73", Title: "following what is missing or created", check: followCreated},
		{Number: "RT-74", Title: "removal ends the stream", check: followRemoved},
		{Number: "RT-75", Title: "all logs in order of arrival", check: arrivalOrder},
		{Number: "RT-76", Title: "bytes pass unchanged", check: anyBytes},
		{Number: "RT-77", Title: "logs of what is missing or never ran", check: logsOfNothing},
		{
			Number: "RT-78", Title: "stdout and stderr apart", check: streamsApart,
			ability: implements[optional.LogStreamer](), unsupported: noPort,
		},
		{
			Number: "RT-79", Title: "the last lines", check: tail,
			ability: implements[optional.LogStreamer](), unsupported: noPort,
		},
	}
}

// following begins to read a container's output to its end.
func (f *fixture) following(id string) *call[string] {
	return begin("reading ContainerLogs to its end", func() (string, error) { return follow(f.ctx, f.rt, id) }).on(id).until("the container exits")
}

func followToEnd(f *fixture) {
	id := f.ready(f.agent("say ready", "sleep 1s", "stderr say two"))
	for range 2 { // while it runs, and after it has exited
		out, err := f.following(id).result(f)
		f.must(err)
		want(f, "the output", out, "ready\ntwo\n")
	}
}

func endRead(f *fixture) {
	id := f.ready(f.agent("say ready", "sleep"))
	for _, end := range []string{"Close", "the context's end"} {
		ctx, cancel := context.WithCancel(f.ctx)
		stream, err := f.rt.ContainerLogs(ctx, id)
		f.must(err)
		_, err = begin("the first Read", func() ([]byte, error) { return readUntil(stream, "ready\n") }).on(id).until("the container has written \"ready\"").result(f)
		f.must(err)
		blocked := begin("a blocked Read", func() (int, error) { return stream.Read(make([]byte, 64)) })
		blocked.goesOn(f)
		if end == "Close" {
			f.must(stream.Close())
		} else {
			cancel()
		}
		if n, err := blocked.until("of " + end).result(f); n != 0 || err == nil {
			f.Errorf("the Read that %s ended returned %d, %v", end, n, err)
		}
		cancel()
		_ = stream.Close()
	}
	f.wantState(id, core.StateRunning)
}

// Ten blocks of lines, each a letter of its own, make ten megabytes and a bit.
const (
	blocks    = "a b c d e f g h i j"
	blockLine = "a line of block %s of ten megabytes, long enough to be an ordinary line of a program's output"
	blockSize = 11_500 // lines
)

func manyBytes(f *fixture) {
	var steps []string
	var expected strings.Builder
	for block := range strings.FieldsSeq(blocks) {
		line := fmt.Sprintf(blockLine, block)
		steps = append(steps, fmt.Sprintf(`repeat %d %s\n`, blockSize, line))
		expected.WriteString(strings.Repeat(line+"\n", blockSize))
	}
	id := f.started(f.agent(steps...))
	live, err := follow(f.ctx, f.rt, id)
	f.must(err)
	f.wait(id)
	for what, got := range map[string]string{"ContainerLogs": live, "ContainerLogsAll": f.logs(id)} {
		if got != expected.String() {
			f.Errorf("%s: %s", what, firstDifference(got, expected.String()))
		}
	}
}

// firstDifference describes where two long texts part.
func firstDifference(got, want string) string {
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	excerpt := func(s string) string { return strconv.Quote(s[min(i, len(s)):min(i+40, len(s))]) }
	return fmt.Sprintf("%d bytes, want %d; the first difference is at byte %d: %s, want %s", len(got), len(want), i, excerpt(got), excerpt(want))
}

func followCreated(f *fixture) {
	_, err := follow(f.ctx, f.rt, f.missing())
	f.wantClass("following what is missing", err, core.ErrNotFound)

	id := f.create(f.agent("say from the beginning"))
	reader := f.following(id)
	reader.goesOn(f)
	f.start(id)
	out, err := reader.result(f)
	f.must(err)
	want(f, "the output", out, "from the beginning\n")
}

func followRemoved(f *fixture) {
	id := f.ready(f.agent("say ready", "sleep"))
	stream, err := f.rt.ContainerLogs(f.ctx, id)
	f.must(err)
	defer stream.Close()
	_, err = begin("the first Read", func() ([]byte, error) { return readUntil(stream, "ready\n") }).on(id).until("the container has written \"ready\"").result(f)
	f.must(err)
	reader := begin("reading ContainerLogs to its end", func() (string, error) {
		out, err := io.ReadAll(stream)
		return string(out), err
	})
	reader.goesOn(f)
	f.remove(id)
	out, _ := reader.until("the container was removed").result(f) // with an error or without
	want(f, "the rest of the output", out, "")
}

func arrivalOrder(f *fixture) {
	// Two pipes bring the two streams: only what is written apart arrives in order.
	out := f.output(f.agent("say one", "after 300ms stderr say two", "after 300ms say three", "after 300ms stderr say four"))
	want(f, "the output", out, "one\ntwo\nthree\nfour\n")
}

func anyBytes(f *fixture) {
	var escaped strings.Builder
	var expected []byte
	for b := range 256 {
		fmt.Fprintf(&escaped, `\x%02x`, b)
		expected = append(expected, byte(b))
	}
	expected = append(expected, bytes.Repeat([]byte("y"), 40_000)...) // a line too long for engines that cut them
	out := f.output(f.agent("print "+escaped.String(), "repeat 40000 y"))
	if out != string(expected) {
		f.Errorf("the output, each byte value and a line of 40000 bytes, is %s", firstDifference(out, string(expected)))
	}
}

func logsOfNothing(f *fixture) {
	_, err := f.rt.ContainerLogsAll(f.ctx, f.missing())
	f.wantClass("the logs of what is missing", err, core.ErrNotFound)
	want(f, "the output of what never ran", f.logs(f.create(f.agent())), "")
}

func (f *fixture) stream(id string, opts optional.LogOptions) {
	f.Helper()
	_, err := begin("StreamLogs", func() (struct{}, error) {
		return struct{}{}, portOf[optional.LogStreamer](f).StreamLogs(f.ctx, id, opts)
	}).on(id).until("the container has exited").result(f)
	f.must(err)
}

func streamsApart(f *fixture) {
	id := f.started(f.agent("say out", "stderr say err", "say more out", "stderr say more err"))
	var stdout, stderr bytes.Buffer
	f.stream(id, optional.LogOptions{Follow: true, Stdout: &stdout, Stderr: &stderr})
	want(f, "stdout", stdout.String(), "out\nmore out\n")
	want(f, "stderr", stderr.String(), "err\nmore err\n")
	f.stream(id, optional.LogOptions{})
	if optional.CapabilitiesOf(f.rt).TTY {
		cfg := f.agent("say out", "stderr say err")
		cfg.TTY = true
		var stdout, stderr screen
		f.stream(f.started(cfg), optional.LogOptions{Follow: true, Stdout: &stdout, Stderr: &stderr})
		want(f, "stdout of a terminal", stdout.String(), "out\nerr\n")
		want(f, "stderr of a terminal", stderr.String(), "")
	}

	failing := portOf[optional.LogStreamer](f).StreamLogs(f.ctx, id, optional.LogOptions{Stdout: brokenWriter{}})
	f.wantClass("StreamLogs to a writer that fails", failing, io.ErrClosedPipe)
}

// brokenWriter fails every write.
type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func tail(f *fixture) {
	id := f.started(f.agent("say one", "say two", "after 300ms stderr say three"))
	f.wait(id)
	var both bytes.Buffer
	f.stream(id, optional.LogOptions{Tail: 2, Stdout: &both, Stderr: &both})
	want(f, "the last two lines", both.String(), "two\nthree\n")

	for _, test := range []struct {
		output string
		tail   int
		last   string
	}{
		{`one\ntwo\nthree`, 2, "two\nthree"},
		{`one\ntwo\nthree`, 1, "three"},
		{`one\n\n\n`, 2, "\n\n"},
		{`one\ntwo\n`, 5, "one\ntwo\n"},
		{`one\ntwo`, 0, "one\ntwo"},
	} {
		id := f.started(f.agent("print " + test.output))
		f.wait(id)
		for _, follow := range []bool{false, true} {
			var got bytes.Buffer
			f.stream(id, optional.LogOptions{Follow: follow, Tail: test.tail, Stdout: &got, Stderr: &got})
			want(f, fmt.Sprintf("of the output %s what StreamLogs copies with Tail %d and Follow %t", test.output, test.tail, follow), got.String(), test.last)
		}
	}
}
