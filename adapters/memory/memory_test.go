package memory_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/moatproject/moat/adapters/memory"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

const patience = 20 * time.Second

func TestCommands(t *testing.T) {
	tests := []struct {
		command string
		code    int64
		out     string
	}{
		{`sleep 0 0.001s; sleep x`, 1, "sleep: invalid time \"x\"\n"},
		{`sleep ''`, 1, "sleep: invalid time \"\"\n"},
		{`id; id -u; id -un; id -g; id -G`, 0, "uid=0(root) gid=0(root) groups=0(root)\n0\nroot\n0\n0\n"},
		{`id -x`, 2, "id: usage: id [-ugGn]\n"},
		{`mkdir -p a/b; touch a/b/.c a/d; ls a; ls -a a/b`, 0, "b\nd\n.c\n"},
		{`mkdir a; mkdir a`, 1, "mkdir: a: file exists\n"},
		{`mkdir a/b`, 1, "mkdir: a/b: no such file or directory\n"},
		{`ls none`, 1, "ls: none: no such file or directory\n"},
		{`cat none /etc/group`, 1, "cat: none: no such file or directory\nroot:x:0:\ntester:x:1000:\n"},
		{`env -i A=1 sh -c 'env'`, 0, "A=1\n"},
		{`env A=2 nothing`, 127, "nothing: not found\n"},
		{`pwd; true && echo yes`, 0, "/tmp\nyes\n"},
		{`[ "$HOSTNAME" = "$(cat /etc/hostname)" ] && test -x /bin/cat && [ ! -e /none ] && [ -d /tmp ]`, 0, ""},
	}
	rt := newRuntime(t, memory.Options{})
	for _, test := range tests {
		t.Run(test.command, func(t *testing.T) {
			t.Parallel()
			cfg := shell(test.command)
			cfg.WorkingDir = "/tmp"
			if code, out := finish(t, rt, start(t, rt, cfg)); code != test.code || out != test.out {
				t.Errorf("code %d and %q, want %d and %q", code, out, test.code, test.out)
			}
		})
	}
}

func TestBuiltinsAsPrograms(t *testing.T) {
	rt := newRuntime(t, memory.Options{})
	for _, test := range []struct {
		argv []string
		code int64
		out  string
	}{
		{[]string{"echo", "$HOME", "b c"}, 0, "$HOME b c\n"},
		{[]string{"false"}, 1, ""},
		{[]string{"pwd"}, 0, "/\n"},
		{[]string{"/bin/test", "a", "=", "b"}, 1, ""},
	} {
		if code, out := finish(t, rt, start(t, rt, core.Config{Cmd: test.argv})); code != test.code || out != test.out {
			t.Errorf("%q: code %d and %q", test.argv, code, out)
		}
	}
}

func TestImageFiles(t *testing.T) {
	rt := newRuntime(t, memory.Options{Images: []memory.Image{{
		Ref:        "example/tool",
		Entrypoint: []string{"/bin/tool"},
		Cmd:        []string{"default"},
		Env:        []string{"TOOL=yes"},
		User:       "tester:0",
		Files: fstest.MapFS{
			"bin/tool":    {Mode: 0o755, Data: []byte("#!/bin/sh -e\necho $0 $1 $TOOL $(id -u) $(id -g)\n")},
			"bin/foreign": {Mode: 0o755, Data: []byte("\x7fELF")},
		},
	}}})
	cfg := core.Config{Image: "example/tool:latest"}
	if code, out := finish(t, rt, start(t, rt, cfg)); code != 0 || out != "/bin/tool default yes 1000 0\n" {
		t.Errorf("code %d and %q", code, out)
	}
	cfg = shell("/bin/foreign")
	cfg.Image = "example/tool"
	cfg.Cmd = []string{"x"}
	if code, out := finish(t, rt, start(t, rt, cfg)); code != 0 || !strings.HasPrefix(out, "/bin/tool x") {
		t.Errorf("code %d and %q", code, out)
	}
	images, err := rt.ListImages(t.Context())
	if err != nil || len(images) != 2 {
		t.Errorf("images %v, %v: only those with Moat's prefix are listed", images, err)
	}
}

func TestUnreadableImage(t *testing.T) {
	rt := newRuntime(t, memory.Options{Images: []memory.Image{{
		Ref: "example/broken", Files: fstest.MapFS{"device": {Mode: os.ModeDevice}},
	}}})
	if _, err := rt.CreateContainer(t.Context(), core.Config{Image: "example/broken"}); err == nil {
		t.Error("an image with a device was accepted")
	}
}

func TestRegistry(t *testing.T) {
	rt := newRuntime(t, memory.Options{
		Registry:    []memory.Image{{Ref: "registry.example:5000/tool", Env: []string{"V=1"}}},
		Unreachable: []string{"down.example/tool"},
	})
	cfg := shell("echo $V")
	cfg.Image = "registry.example:5000/tool:latest"
	if code, out := finish(t, rt, start(t, rt, cfg)); code != 0 || out != "1\n" {
		t.Errorf("code %d and %q", code, out)
	}
	for ref, class := range map[string]error{"down.example/tool": core.ErrUnavailable, "registry.example:5000/other": core.ErrNotFound} {
		cfg.Image = ref
		if _, err := rt.CreateContainer(t.Context(), cfg); !errors.Is(err, class) {
			t.Errorf("%s: %v", ref, err)
		}
		if err := rt.PullImage(t.Context(), ref, nil); !errors.Is(err, class) {
			t.Errorf("pull %s: %v", ref, err)
		}
	}
	var last optional.PullProgress
	if err := rt.PullImage(t.Context(), "registry.example:5000/tool", func(step optional.PullProgress) { last = step }); err != nil || last.Status != "Downloaded" {
		t.Errorf("%+v, %v", last, err)
	}
}

func TestUnknownUserAndGroup(t *testing.T) {
	rt := newRuntime(t, memory.Options{})
	for field, cfg := range map[string]core.Config{
		"User":       {User: "nobody-of-that-name"},
		"User/group": {User: "tester:none"},
		"GroupAdd":   {GroupAdd: []string{"none"}},
		"WorkingDir": {WorkingDir: "/etc/passwd/sub"},
	} {
		cfg.Image = memory.BaseImage
		_, err := rt.CreateContainer(t.Context(), cfg)
		if !errors.Is(err, core.ErrInvalidConfig) || !strings.HasPrefix(field, core.FieldOf(err)) || core.FieldOf(err) == "" {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

func TestMounts(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(folder, "file")
	if err := os.WriteFile(file, []byte("content\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(folder, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	rt := newRuntime(t, memory.Options{})
	cfg := shell(`cat /etc/one; cat /mnt/file; ls /mnt; ls /mnt/inner; cd /mnt/sub; echo new >../made; touch /mnt/inner/no`)
	cfg.Mounts = []core.MountConfig{
		{Source: file, Target: "/etc/one", ReadOnly: true},
		{Source: folder, Target: "/mnt/"},
		{Source: t.TempDir(), Target: "/mnt/inner", ReadOnly: true},
	}
	code, out := finish(t, rt, start(t, rt, cfg))
	for _, want := range []string{"content\ncontent\nfile\ninner\nsub\n", "touch: /mnt/inner/no: "} {
		if !strings.Contains(out, want) {
			t.Errorf("%q lacks %q", out, want)
		}
	}
	if made, err := os.ReadFile(filepath.Join(folder, "made")); code != 1 || err != nil || string(made) != "new\n" {
		t.Errorf("code %d, %q, %v", code, made, err)
	}
}

func TestFreeSubnets(t *testing.T) {
	creator := memory.New(memory.Options{}).NetworkManager().(optional.NetworkCreator)
	create := func(name, subnet string) error {
		_, err := creator.CreateNetworkFrom(t.Context(), optional.NetworkConfig{Name: name, Subnet: subnet})
		return err
	}
	for name, subnet := range map[string]string{"taken": "10.0.0.0/23", "too": "10.0.2.128/26"} {
		if err := create(name, subnet); err != nil {
			t.Fatal(err)
		}
	}
	if err := create("any", ""); err != nil {
		t.Error(err)
	}
	all, err := creator.(core.NetworkManager).ListNetworks(t.Context())
	if err != nil || all[0].Subnet != "10.0.3.0/24" {
		t.Errorf("%+v, %v", all, err)
	}

	creator = memory.New(memory.Options{}).NetworkManager().(optional.NetworkCreator)
	if err := create("all", "10.0.0.0/8"); err != nil {
		t.Fatal(err)
	}
	if err := create("any", ""); !errors.Is(err, core.ErrInUse) || core.FieldOf(err) != "" {
		t.Errorf("where all are taken: %v", err)
	}
}

func TestNetworkMode(t *testing.T) {
	rt := newRuntime(t, memory.Options{})
	cfg := shell("")
	cfg.Image, cfg.NetworkMode = memory.BaseImage, "some-network"
	if _, err := rt.CreateContainer(t.Context(), cfg); !errors.Is(err, core.ErrNotFound) {
		t.Errorf("a named network: %v", err)
	}
}

func TestLogLimit(t *testing.T) {
	const limit = 100 << 10
	rt := newRuntime(t, memory.Options{LogLimit: limit, Programs: map[string]func(*memory.Process) int{"count": func(p *memory.Process) int {
		for number := range 100_000 {
			fmt.Fprintln(p.Stdout(), number+1)
		}
		return 0
	}}})
	id := start(t, rt, core.Config{Cmd: []string{"count"}})
	_, out := finish(t, rt, id)
	notice, kept, _ := strings.Cut(out, "\n")
	var lost, told int
	if _, err := fmt.Sscanf(notice, "[memory: %d bytes of output are gone; Options.LogLimit is %d]", &lost, &told); err != nil || told != limit {
		t.Errorf("the output begins with %q: %v", notice, err)
	}
	if len(kept) > limit || len(kept) < limit/2 || !strings.HasSuffix(kept, "99999\n100000\n") {
		t.Errorf("%d bytes are kept, the last of them %q", len(kept), kept[max(0, len(kept)-20):])
	}
	if total := 588_895; lost+len(kept) != total {
		t.Errorf("%d bytes are told to be gone and %d are kept, of %d", lost, len(kept), total)
	}
	var last bytes.Buffer
	if err := rt.StreamLogs(t.Context(), id, optional.LogOptions{Tail: 1, Stdout: &last}); err != nil || last.String() != "100000\n" {
		t.Errorf("%q, %v", last.String(), err)
	}
}

func TestLogLimitCountsPieces(t *testing.T) {
	const limit = 64 << 10
	rt := newRuntime(t, memory.Options{LogLimit: limit})
	id := start(t, rt, shell("i=0; while [ $i -lt 2000 ]; do echo; echo >&2; i=$((i+1)); done; echo end"))
	if _, out := finish(t, rt, id); len(out) > limit/32 || !strings.HasSuffix(out, "\n\nend\n") {
		t.Errorf("%d bytes are kept, in as many pieces", len(out))
	}
}

func TestLogsSoFarOfAnEndlessWriter(t *testing.T) {
	const limit = 4 << 20
	rt := newRuntime(t, memory.Options{LogLimit: limit, Programs: flood})
	id := start(t, rt, core.Config{Cmd: []string{"flood"}})
	awaitOutput(t, rt, id, "bytes of output are gone")
	for range 5 {
		out, err := rt.ContainerLogsAll(t.Context(), id)
		if err != nil || len(out) > limit+limit/8 {
			t.Errorf("%d bytes, %v", len(out), err)
		}
	}
}

// flood has a program that writes for ever.
var flood = map[string]func(*memory.Process) int{"flood": func(p *memory.Process) int {
	lines := bytes.Repeat([]byte("y\n"), 2048)
	for {
		select {
		case <-p.Done():
			return 0
		default:
			_, _ = p.Stdout().Write(lines)
		}
	}
}}

func TestRestartKeepsFilesAndLogs(t *testing.T) {
	rt := newRuntime(t, memory.Options{})
	id := start(t, rt, shell("echo line >>/tmp/f; cat /tmp/f; echo end"))
	finish(t, rt, id)
	if err := rt.StartContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if _, out := finish(t, rt, id); out != "line\nend\nline\nline\nend\n" {
		t.Errorf("output %q", out)
	}
}

func TestThousandsOfLifecycles(t *testing.T) {
	before := runtime.NumGoroutine()
	rt := memory.New(memory.Options{})
	for range 2000 {
		id := start(t, rt, shell("echo line | cat >/dev/null; exit 4"))
		if code, _ := finish(t, rt, id); code != 4 {
			t.Fatalf("exit code %d", code)
		}
		if err := rt.RemoveContainer(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	rt.Close()
	awaitGoroutines(t, before)
}

func awaitGoroutines(t *testing.T, before int) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines are left", runtime.NumGoroutine()-before)
		}
		runtime.Gosched()
	}
}

func TestFailuresTellTheReason(t *testing.T) {
	rt := newRuntime(t, memory.Options{})
	past, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancel()
	create := func(change func(*core.Config)) error {
		cfg := core.Config{Image: memory.BaseImage}
		change(&cfg)
		_, err := rt.CreateContainer(t.Context(), cfg)
		return err
	}
	for _, test := range []struct {
		err    error
		class  error
		field  string
		reason string
	}{
		{create(func(c *core.Config) { c.Name = "-" }), core.ErrInvalidConfig, "Name", "must be two or more"},
		{create(func(c *core.Config) { c.User = "nobody" }), core.ErrInvalidConfig, "User", `no user "nobody"`},
		{create(func(c *core.Config) { c.ExtraHosts = []string{"db:host-gateway"} }), core.ErrUnsupported, "", "ExtraHosts: no address"},
		{create(func(c *core.Config) { c.Image = "other" }), core.ErrNotFound, "", "the registry has no such image"},
		{rt.SetupFirewall(t.Context(), "any", "", 80), core.ErrInvalidConfig, "proxyHost", "is empty"},
		{rt.Ping(past), core.ErrTimeout, "", "deadline"},
	} {
		if !errors.Is(test.err, test.class) || core.FieldOf(test.err) != test.field || !strings.Contains(test.err.Error(), test.reason) {
			t.Errorf("%v, want class %v, field %q and %q", test.err, test.class, test.field, test.reason)
		}
	}
}

func TestSetupFirewall(t *testing.T) {
	rt := newRuntime(t, memory.Options{})
	if err := rt.SetupFirewall(t.Context(), "any", "127.0.0.1", 80); !errors.Is(err, core.ErrUnsupported) {
		t.Errorf("valid arguments: %v", err)
	}
}

// slowWriter is still at its first Write for a while after the context's end.
type slowWriter struct {
	ctx  context.Context
	busy chan struct{} // closed in the first Write
	once sync.Once
	done atomic.Bool // the first Write has returned
}

func (w *slowWriter) Write(p []byte) (int, error) {
	w.once.Do(func() {
		close(w.busy)
		<-w.ctx.Done()
		<-time.After(20 * time.Millisecond)
		w.done.Store(true)
	})
	return len(p), nil
}

// TestNothingIsWrittenLater ends a context in the middle of a Write.
func TestNothingIsWrittenLater(t *testing.T) {
	rt := newRuntime(t, memory.Options{Programs: flood})
	for name, do := range map[string]func(context.Context, string, io.Writer) error{
		"StartAttached": func(ctx context.Context, id string, w io.Writer) error {
			return rt.StartAttached(ctx, id, core.AttachOptions{Stdout: w})
		},
		"Exec": func(ctx context.Context, id string, w io.Writer) error {
			if err := rt.StartContainer(ctx, id); err != nil {
				return err
			}
			_, err := rt.Exec(ctx, id, optional.ExecOptions{Cmd: []string{"flood"}, AttachOptions: core.AttachOptions{Stdout: w}})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			id := create(t, rt, core.Config{Image: memory.BaseImage, Cmd: []string{"sh", "-c", "echo ready; sleep 1000"}})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			slow := &slowWriter{ctx: ctx, busy: make(chan struct{})}
			ended := make(chan error, 1)
			go func() { ended <- do(ctx, id, slow) }()
			<-slow.busy
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) || !slow.done.Load() {
				t.Errorf("got %v; the write has returned: %t", err, slow.done.Load())
			}
		})
	}
}
