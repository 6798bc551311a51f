package contracttests

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

func execCases() []Case {
	c := func(number, title string, check func(*fixture)) Case {
		return Case{Number: number, Title: title, check: check, ability: implements[optional.Execer](), unsupported: noPort}
	}
	return []Case{
		c("RT-130", "exec returns code and output", exec),
		c("RT-131", "exec's environment, folder and user", execSettings),
		c("RT-132", "exec's stdin", execStdin),
		{
			Number: "RT-133", Title: "exec's terminal", check: execTerminal,
			ability: execTTY, unsupported: refusedExecTTY,
		},
		c("RT-134", "exec of what cannot run", execFails),
		c("RT-135", "exec where nothing runs", execWrongState),
		c("RT-136", "exec detached", execDetached),
		c("RT-137", "the context ends exec's attachment only", execCancelled),
		c("RT-138", "a failing stream of exec's", execStreamFails),
		c("RT-139", "codes and words of engines may be an exec's own", execsOwn),
	}
}

// execTTY takes a terminal and a way to give it to a further program.
var execTTY = &ability{"Capabilities.TTY, with whether it is a optional.Execer", func(rt core.Runtime) bool {
	_, execs := core.As[optional.Execer](rt)
	return execs && optional.CapabilitiesOf(rt).TTY
}}

func refusedExecTTY(f *fixture, created string) error {
	execer, ok := core.As[optional.Execer](f.rt)
	if !ok {
		return core.ErrUnsupported
	}
	_, err := execer.Exec(f.ctx, created, optional.ExecOptions{Cmd: agentCommand(), AttachOptions: core.AttachOptions{TTY: true}})
	return err
}

// executing begins an exec.
func (f *fixture) executing(ctx context.Context, id string, opts optional.ExecOptions) *call[int64] {
	f.Helper()
	execer := portOf[optional.Execer](f)
	return begin("Exec", func() (int64, error) { return execer.Exec(ctx, id, opts) }).on(id).until("its program exits")
}

// exec runs the agent in a container, and returns its code and what it wrote.
func (f *fixture) exec(id string, opts optional.ExecOptions, steps ...string) (code int64, stdout, stderr string) {
	f.Helper()
	var out, err bytes.Buffer
	opts.Cmd = agentCommand(steps...)
	opts.Stdout, opts.Stderr = &out, &err
	code, failure := f.executing(f.ctx, id, opts).result(f)
	f.must(failure)
	return code, out.String(), err.String()
}

func exec(f *fixture) {
	id := f.started(f.idle())
	code, stdout, stderr := f.exec(id, optional.ExecOptions{}, "say out", "stderr say err", "exit 42")
	want(f, "the code", code, 42)
	want(f, "stdout", stdout, "out\n")
	want(f, "stderr", stderr, "err\n")
	if code, _, _ := f.exec(id, optional.ExecOptions{}, "die KILL"); code != 128+sigKILL {
		f.Errorf("the code after SIGKILL is %d", code)
	}
	if code, _, _ := f.exec(id, optional.ExecOptions{}, "exit 127"); code != 127 {
		f.Errorf("the code of a program that chose 127 is %d", code)
	}
	for n := range shortLives {
		_, stdout, _ := f.exec(id, optional.ExecOptions{}, fmt.Sprint("say line ", n))
		want(f, "a short program's output", stdout, fmt.Sprintf("line %d\n", n))
	}
	if code, _, _ := f.exec(id, optional.ExecOptions{}, "close", "sleep 500ms", "exit 4"); code != 4 {
		f.Errorf("the code of a program that had closed its output is %d", code)
	}
	f.wantState(id, core.StateRunning)
}

func execsOwn(f *fixture) {
	id := f.started(f.idle())
	for _, own := range ownCodes {
		for _, tty := range []bool{false, true} {
			if tty && !optional.CapabilitiesOf(f.rt).TTY {
				continue
			}
			var output screen
			opts := optional.ExecOptions{Cmd: saying(own.words, own.code)}
			opts.Stdout, opts.Stderr, opts.TTY = &output, &output, tty
			code, err := f.executing(f.ctx, id, opts).result(f)
			how := fmt.Sprintf("%s, with TTY %t,", opts.Cmd[1], tty)
			if err != nil {
				f.Errorf("%s was to be no failure of the runtime's and returned %v", how, err)
			}
			want(f, "the code of "+how, code, own.code)
			want(f, "the output of "+how, output.String(), strings.Repeat(own.words+"\n", 2))
		}
	}
}

func execSettings(f *fixture) {
	cfg := f.idle()
	cfg.Env, cfg.WorkingDir = []string{"KEPT=kept", "REPLACED=old"}, "/work"
	id := f.started(cfg)
	_, stdout, _ := f.exec(id, optional.ExecOptions{}, "env KEPT", "env REPLACED", "dir", "user")
	want(f, "what an exec inherits", stdout, "kept\nold\n/work\n0 0\n")
	opts := optional.ExecOptions{Env: []string{"REPLACED=new a"}, WorkingDir: "/tmp", User: "1000:1000"}
	_, stdout, _ = f.exec(id, opts, "env KEPT", "env REPLACED", "dir", "user")
	want(f, "an exec's own settings", stdout, "kept\nnew a\n/tmp\n1000 1000\n")
}

func execStdin(f *fixture) {
	id := f.started(f.idle())
	sent := everyByte()
	_, stdout, _ := f.exec(id, optional.ExecOptions{AttachOptions: core.AttachOptions{Stdin: strings.NewReader(sent)}}, "cat", "say the end")
	if expected := sent + "the end\n"; stdout != expected {
		f.Errorf("what cat has read of a megabyte on stdin, and a last line, came back as %s", firstDifference(stdout, expected))
	}
}

func execTerminal(f *fixture) {
	id := f.started(f.idle())
	sizes := make(chan optional.TerminalSize, 1)
	sizes <- optional.TerminalSize{Height: 33, Width: 111}
	opts := optional.ExecOptions{Resize: sizes}
	opts.TTY, opts.InitialHeight, opts.InitialWidth = true, 40, 100
	_, stdout, _ := f.exec(id, opts, "size 33 111", "say resized")
	want(f, "the terminal's output", strings.TrimSpace(stdout), "resized")
	opts.Resize = nil
	for range 8 {
		_, stdout, _ = f.exec(id, opts, "size")
		want(f, "the size that a program sees at once", strings.TrimSpace(stdout), "40 100")
	}
}

func execFails(f *fixture) {
	id := f.started(f.idle())
	for program, class := range map[string]error{"/no-such-program": fs.ErrNotExist, "no-such-program": fs.ErrNotExist, "/etc/passwd": fs.ErrPermission} {
		opts := optional.ExecOptions{Cmd: []string{program}, AttachOptions: core.AttachOptions{Stdout: io.Discard, Stderr: io.Discard}}
		_, err := f.executing(f.ctx, id, opts).until("its program cannot run").result(f)
		f.wantField("exec of "+program, err, "Cmd")
		f.wantClass("exec of "+program, err, class)
	}
	if !optional.CapabilitiesOf(f.rt).Mounts {
		return
	}
	cfg, directory := f.idle(), f.TempDir()
	cfg.Mounts = []core.MountConfig{{Source: directory, Target: "/mnt"}}
	id = f.started(cfg)
	for _, program := range unloadable {
		f.must(os.WriteFile(filepath.Join(directory, program.name), []byte(program.content), 0o755))
		_, err := f.executing(f.ctx, id, optional.ExecOptions{Cmd: []string{"/mnt/" + program.name}}).result(f)
		f.wantField("exec of "+program.name, err, "Cmd")
		f.wantClass("exec of "+program.name, err, program.class)
	}
}

func execWrongState(f *fixture) {
	execer, opts := portOf[optional.Execer](f), optional.ExecOptions{Cmd: agentCommand()}
	_, err := execer.Exec(f.ctx, f.missing(), opts)
	f.wantClass("exec in what is missing", err, core.ErrNotFound)
	_, err = execer.Exec(f.ctx, f.create(f.idle()), opts)
	f.wantClass("exec in what was never started", err, core.ErrNotRunning)
	id := f.started(f.idle())
	for field, opts := range map[string]optional.ExecOptions{
		"Cmd":        {},
		"Env":        {Cmd: opts.Cmd, Env: []string{"="}},
		"WorkingDir": {Cmd: opts.Cmd, WorkingDir: "relative"},
		"User":       {Cmd: opts.Cmd, User: "a b"},
		"Detach":     {Cmd: opts.Cmd, Detach: true, AttachOptions: core.AttachOptions{Stdout: &bytes.Buffer{}}},
		"Resize":     {Cmd: opts.Cmd, Resize: make(chan optional.TerminalSize)},
	} {
		_, err := execer.Exec(f.ctx, id, opts)
		f.wantField("exec with an invalid "+field, err, field)
	}
}

func execDetached(f *fixture) {
	id := f.started(f.idle())
	code, err := f.executing(f.ctx, id, optional.ExecOptions{Cmd: agentCommand("append /tmp/done done", "sleep"), Detach: true}).until("its program has started").result(f)
	f.must(err)
	want(f, "the code of what goes on", code, 0)
	if !eventually(func() bool {
		_, stdout, _ := f.exec(id, optional.ExecOptions{}, "cat /tmp/done")
		return stdout == "done"
	}) {
		f.Error("a detached program has not run")
	}
}

func execCancelled(f *fixture) {
	id := f.started(f.idle())
	ctx, cancel := context.WithCancel(f.ctx)
	defer cancel()
	output := newLateWriter()
	opts := optional.ExecOptions{Cmd: agentCommand("every 100ms log /tmp/ticks tick")}
	opts.Stdout = output
	execer := portOf[optional.Execer](f)
	running := begin("Exec", func() (int64, error) {
		defer output.closed.Store(true)
		return execer.Exec(ctx, id, opts)
	})
	output.await(f)
	running.goesOn(f)
	cancel()
	_, err := running.on(id).until("its context has ended").result(f)
	f.wantClass("an exec whose context ended", err, context.Canceled)
	f.wantState(id, core.StateRunning)
	ticks := func() string {
		_, stdout, _ := f.exec(id, optional.ExecOptions{}, "cat /tmp/ticks")
		return stdout
	}
	before := ticks()
	if !eventually(func() bool { return ticks() != before }) {
		f.Error("the program does not go on")
	}
	want(f, "how often was written after the return", output.late.Load(), 0)
}

func execStreamFails(f *fixture) {
	id := f.started(f.idle())
	opts := optional.ExecOptions{Cmd: agentCommand("say ready", "sleep"), AttachOptions: core.AttachOptions{Stdout: brokenWriter{}}}
	_, err := f.executing(f.ctx, id, opts).until("its writer fails").result(f)
	f.wantClass("an exec with a writer that fails", err, io.ErrClosedPipe)

	var stdout bytes.Buffer
	opts = optional.ExecOptions{Cmd: agentCommand("cat", "say the end", "exit 3")}
	opts.Stdin, opts.Stdout = brokenReader("text\n"), &stdout
	code, err := f.executing(f.ctx, id, opts).result(f)
	f.wantClass("an exec whose stdin fails", err, io.ErrClosedPipe)
	want(f, "the code after stdin's failure", code, 3)
	want(f, "the output after stdin's failure", stdout.String(), "text\nthe end\n")
	f.wantState(id, core.StateRunning)
}
