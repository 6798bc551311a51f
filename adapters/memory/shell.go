package memory

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// shell is a running sh.
type shell struct{ *command }

// runShell is the program sh: sh [-efux] [-c SCRIPT [NAME]] [FILE] [ARGUMENT]...
func runShell(c *command) int {
	script, name, params, err := c.shellScript()
	if err != nil {
		return c.fail(2, "%v", err)
	}
	file, err := parse(script, name)
	if err != nil {
		return c.fail(2, "%v", err)
	}
	s := &shell{command: c}
	runner, err := interp.New(
		interp.Dir("/"), // of the host's, where it must exist; replaced below
		interp.Env(s.variables()),
		interp.StdIO(c.stdin, c.stdout, c.stderr),
		interp.Params(params...),
		interp.CallHandler(beforeCall),
		interp.ExecHandlers(func(interp.ExecHandlerFunc) interp.ExecHandlerFunc { return s.exec }),
		interp.OpenHandler(s.open),
		interp.ReadDirHandler2(s.readDir),
		interp.StatHandler(s.stat),
		interp.AccessHandler(s.access),
	)
	if err != nil {
		return c.fail(2, "%v", err)
	}
	runner.Dir = c.dir
	err = runner.Run(c.ctx, file)
	if status, ok := errors.AsType[interp.ExitStatus](err); ok {
		return int(status)
	}
	if err != nil && c.ctx.Err() == nil {
		return c.fail(1, "%v", err)
	}
	return 0
}

// parse refuses what the interpreter would do with the host's processes and files.
func parse(script, name string) (*syntax.File, error) {
	file, err := syntax.NewParser().Parse(strings.NewReader(script), name)
	if err != nil {
		return nil, err
	}
	syntax.Walk(file, func(node syntax.Node) bool {
		switch node := node.(type) {
		case *syntax.ProcSubst:
			err = errors.New("process substitution is not supported")
		case *syntax.Stmt:
			if node.Background || node.Coprocess {
				err = errors.New("commands in the background are not supported")
			}
		}
		return true
	})
	return file, err
}

// shellScript reads the command line.
func (c *command) shellScript() (script, name string, params []string, err error) {
	args := c.args[1:]
	inline := false
	for len(args) > 0 && len(args[0]) > 1 && strings.ContainsAny(args[0][:1], "-+") && args[0] != "--" {
		for _, letter := range args[0][1:] {
			switch letter {
			case 'c':
				inline = true
			case 'e', 'f', 'u', 'x':
				params = append(params, args[0][:1]+string(letter))
			default:
				return "", "", nil, fmt.Errorf("unknown option -%c", letter)
			}
		}
		args = args[1:]
	}
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	params = append(params, "--")
	switch {
	case inline && len(args) == 0:
		return "", "", nil, errors.New("-c needs an argument")
	case inline:
		script, name, args = args[0], "sh", args[1:]
		if len(args) > 0 {
			name, args = args[0], args[1:]
		}
	case len(args) > 0:
		content, err := c.files().readFile(c.abs(args[0]))
		if err != nil {
			return "", "", nil, err
		}
		script, name, args = string(content), args[0], args[1:]
	default:
		content, _ := io.ReadAll(c.input()) // what ends the reading ends the shell too
		script, name = string(content), "sh"
	}
	return script, name, append(params, args...), nil
}

// environ is a shell's variables at its beginning.
type environ map[string]expand.Variable

func (e environ) Get(name string) expand.Variable { return e[name] }

func (e environ) Each(f func(name string, v expand.Variable) bool) {
	for name, variable := range e {
		if !f(name, variable) {
			return
		}
	}
}

func (s *shell) variables() environ {
	user := s.user
	env := environ{ // which the interpreter would take from this process
		"UID":  variableOf(strconv.Itoa(user.uid)),
		"EUID": variableOf(strconv.Itoa(user.uid)),
		"GID":  variableOf(strconv.Itoa(user.gid)),
		"HOME": variableOf(user.home),
	}
	for _, entry := range s.env {
		key, value, _ := strings.Cut(entry, "=")
		exported := variableOf(value)
		exported.Exported = true
		env[key] = exported
	}
	return env
}

func variableOf(value string) expand.Variable {
	return expand.Variable{Set: true, Kind: expand.String, Str: value}
}

func exportedOf(variables expand.Environ) []string {
	env := map[string]string{}
	for name, variable := range variables.Each {
		if variable.Exported && variable.IsSet() {
			env[name] = variable.String()
		} else {
			delete(env, name)
		}
	}
	return joinEnv(env)
}

// inPlace begins the command of an exec, whose program takes the shell's place.
const inPlace = "__moat_exec"

// unsupportedBuiltins are commands that the interpreter has, but not for these processes and files.
var unsupportedBuiltins = []string{".", "bg", "builtin", "command", "fg", "jobs", "kill", "source", "trap", "type", "wait"}

// beforeCall sees every command.
func beforeCall(ctx context.Context, args []string) ([]string, error) {
	switch {
	case args[0] == "exec" && len(args) > 1:
		return slices.Concat([]string{"exec", inPlace}, args[1:]), nil
	case args[0] == "pwd":
		return args[:1], nil // the file system has no links
	case slices.Contains(unsupportedBuiltins, args[0]):
		fmt.Fprintf(interp.HandlerCtx(ctx).Stderr, "sh: %s is not supported\n", args[0])
		return []string{"exit", "2"}, nil
	}
	return args, nil
}

// exec runs a program, as a process of its own unless it takes the shell's place.
func (s *shell) exec(ctx context.Context, args []string) error {
	hc := interp.HandlerCtx(ctx)
	p := s.process
	if args[0] == inPlace {
		args = args[1:]
	} else {
		p = s.run.newProcess(s.ctx, s.terminal)
		p.user = s.user
		defer p.end()
	}
	program := &command{
		process: p, ctx: p.ctx, args: args, env: exportedOf(hc.Env), dir: hc.Dir,
		stdin: hc.Stdin, stdout: hc.Stdout, stderr: hc.Stderr,
	}
	if status := program.become(); status != 0 {
		return interp.ExitStatus(status)
	}
	return nil
}

// open opens files for redirections. What the shell reads must come from a pipe.
func (s *shell) open(ctx context.Context, name string, flag int, mode fs.FileMode) (io.ReadWriteCloser, error) {
	hc := interp.HandlerCtx(ctx)
	full := absolute(hc.Dir, name)
	if flag != os.O_RDONLY {
		switch full {
		case "/dev/null":
			return sink{io.Discard}, nil
		case "/dev/stdout":
			return sink{hc.Stdout}, nil
		case "/dev/stderr":
			return sink{hc.Stderr}, nil
		}
	}
	file, err := s.files().open(full, flag, mode)
	if err != nil || flag != os.O_RDONLY {
		return file, err
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		file.Close()
		return nil, pathError("open", name, err)
	}
	go func() {
		defer context.AfterFunc(s.ctx, func() { _ = writer.SetWriteDeadline(time.Now()) })()
		_, _ = io.Copy(writer, file) // until the shell closes the reader, or ends
		writer.Close()
		file.Close()
	}()
	return reader, nil
}

// sink is a device to write to.
type sink struct{ io.Writer }

func (sink) Read([]byte) (int, error) { return 0, io.EOF }
func (sink) Close() error             { return nil }

func (s *shell) readDir(ctx context.Context, name string) ([]fs.DirEntry, error) {
	infos, err := s.files().readDir(absolute(interp.HandlerCtx(ctx).Dir, name))
	if err != nil {
		return nil, err
	}
	entries := make([]fs.DirEntry, len(infos))
	for i, info := range infos {
		entries[i] = fs.FileInfoToDirEntry(info)
	}
	return entries, nil
}

func (s *shell) stat(ctx context.Context, name string, _ bool) (fs.FileInfo, error) {
	return s.files().stat(absolute(interp.HandlerCtx(ctx).Dir, name))
}

// access asks for the mode's word on execution only: everyone reads and writes.
func (s *shell) access(_ context.Context, name string, mode interp.AccessMode) error {
	info, err := s.files().stat(name)
	if err == nil && mode == interp.AccessExec && !info.IsDir() && info.Mode()&0o111 == 0 {
		return fs.ErrPermission
	}
	return err
}

// endReads ends the blocked reads of a file when ctx does, until the returned function
// is called.
func endReads(ctx context.Context, file *os.File) (restore func()) {
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = file.SetReadDeadline(time.Now())
		close(ended)
	})
	return func() {
		if !stop() {
			<-ended
			_ = file.SetReadDeadline(time.Time{})
		}
	}
}
