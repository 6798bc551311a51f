package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/moatproject/moat/core/optional"
)

// typing reads one text at a time, as somebody types them.
type typing []string

func (t *typing) Read(p []byte) (int, error) {
	if len(*t) == 0 {
		return 0, io.EOF
	}
	n := copy(p, (*t)[0])
	if (*t)[0] = (*t)[0][n:]; (*t)[0] == "" {
		*t = (*t)[1:]
	}
	return n, nil
}

// liveBuffer fails when it is written to too late.
type liveBuffer struct {
	ctx context.Context
	bytes.Buffer
}

func (b *liveBuffer) Write(p []byte) (int, error) {
	if err := context.Cause(b.ctx); err != nil {
		return 0, err
	}
	return b.Buffer.Write(p)
}

func (b *liveBuffer) ReadFrom(r io.Reader) (int64, error) { return io.Copy(struct{ io.Writer }{b}, r) }

func TestDetaching(t *testing.T) {
	for name, test := range map[string]struct {
		keys     string
		typed    typing
		passed   string
		detached bool
	}{
		"the keys":                          {"", typing{"\x10\x11"}, "", true},
		"one after the other":               {"", typing{"\x10", "\x11"}, "", true},
		"after text, at once":               {"", typing{"text\x10\x11"}, "text", true},
		"before text, at once":              {"", typing{"text\x10\x11more", "more"}, "text", true},
		"the first alone":                   {"", typing{"\x10"}, "\x10", false},
		"the first, and others":             {"", typing{"a\x10", "b"}, "a\x10b", false},
		"the first twice":                   {"", typing{"\x10\x10\x11"}, "\x10", true},
		"the first twice, one by one":       {"", typing{"\x10", "\x10", "\x11"}, "\x10", true},
		"the last alone":                    {"", typing{"\x11", "\x11\x10"}, "\x11\x11\x10", false},
		"a beginning within the keys":       {"a,b,a,c", typing{"aba", "b", "ac"}, "ab", true},
		"nearly, and what held back may be": {"a,b,a,c", typing{"aba", "ba", "d"}, "ababad", false},
		"a single key":                      {"DEL", typing{"a", "\x7f"}, "a", true},
		"others than the usual ones":        {"ctrl-x,q", typing{"\x10\x11", "\x18", "q"}, "\x10\x11", true},
		"nothing at all":                    {"", nil, "", false},
	} {
		for how, read := range map[string]func(io.Reader) io.Reader{
			"as typed": func(r io.Reader) io.Reader { return r },
			"by bytes": iotest.OneByteReader, "with its end": iotest.DataErrReader,
		} {
			var keys detachKeys
			must(t, keys.Set(test.keys))
			ctx, cancel := context.WithCancelCause(t.Context())
			typed := slices.Clone(test.typed)
			passed := liveBuffer{ctx: ctx}
			_, err := io.Copy(&passed, &detaching{Reader: read(&typed), keys: keys.bytes, begin: func() {}, detach: cancel})
			if passed.String() != test.passed || errors.Is(context.Cause(ctx), errDetached) != test.detached || err != nil {
				t.Errorf("%s, %s: passed %q, %v, %v", name, how, passed.String(), context.Cause(ctx), err)
			}
			cancel(nil)
		}
	}
}

// TestDetachingFails keeps what was held back when there is no more to read.
func TestDetachingFails(t *testing.T) {
	broken := errors.New("broken")
	reader := &detaching{Reader: io.MultiReader(strings.NewReader("a\x10"), iotest.ErrReader(broken)), keys: []byte("\x10\x11"), begin: func() {}}
	if passed, err := io.ReadAll(reader); string(passed) != "a\x10" || !errors.Is(err, broken) {
		t.Errorf("%q, %v", passed, err)
	}
}

func TestDetachKeysFlag(t *testing.T) {
	for _, command := range []string{"run", "exec", "attach"} {
		var stderr bytes.Buffer
		env := Env{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: &stderr} // without a runtime
		if status := Main(env, []string{command, "--detach-keys", "ctrl-ä", "x", "y"}); status == 0 || !strings.Contains(stderr.String(), "ctrl-ä") {
			t.Errorf("%s: %d, %q", command, status, &stderr)
		}
	}
	var keys detachKeys
	if err := keys.Set(""); err != nil || string(keys.bytes) != "\x10\x11" {
		t.Errorf("none: %q, %v", keys.bytes, err)
	}
}

// fakeConsole records its calls.
type fakeConsole struct {
	mu      sync.Mutex
	calls   []string
	changes chan os.Signal
	size    func() optional.TerminalSize
}

func (c *fakeConsole) called(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, name)
}

func (c *fakeConsole) Raw() (func() error, error) {
	c.called("raw")
	return func() error { c.called("restore"); fmt.Println("restored"); return errRestore }, nil
}

var errRestore = errors.New("cannot restore")

func (c *fakeConsole) Size() optional.TerminalSize {
	c.called("size")
	return c.size()
}

func (c *fakeConsole) Resized() (<-chan os.Signal, func()) {
	c.called("watch")
	return c.changes, func() { c.called("stop") }
}

func TestSession(t *testing.T) {
	console := &fakeConsole{size: func() optional.TerminalSize { return optional.TerminalSize{Height: 3, Width: 4} }}
	a := &app{env: Env{Stdin: strings.NewReader("typed"), Stdout: io.Discard, Console: console}}
	for _, test := range []struct {
		interactive, tty, raw bool
		calls                 string
	}{
		{true, true, true, "[watch size raw stop restore]"}, // no change of the size escapes
		{false, true, false, "[watch size stop]"},
		{true, false, false, "[]"},
	} {
		console.calls = nil
		s := a.openSession(test.interactive, test.tty, defaultDetachKeys(), func(error) {})
		must(t, s.begin(nil))
		first, second := s.restore(), s.restore()
		if errors.Is(first, errRestore) != test.raw || second != nil {
			t.Errorf("%+v: restored with %v, %v", test, first, second)
		}
		if err := s.begin(nil); !errors.Is(err, errSessionOver) {
			t.Errorf("%+v: beginning too late: %v", test, err)
		}
		if got := fmt.Sprint(console.calls); got != test.calls || s.interactive != test.raw {
			t.Errorf("%+v: %v, raw: %v", test, got, s.interactive)
		}
	}
}
