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
type shell struct {
	*command
	runner *interp.Runner
}

// runShell is the program sh: sh [-efux] [-c SCRIPT [NAME]] [FILE] [ARGUMENT]...
func runShell(c *command) int {
	script, name, params, err := c.shellScript()
	if err != nil {
		return c.fail(2, "%v", err)
	}
	s := &shell{command: c}
	variables := s.variables()
	s.runner, err = interp.New(
		interp.Dir("/"), // of the host's, where it must exist; replaced below
		interp.Env(variables),
		interp.StdIO(c.stdin, c.stdout, c.stderr),
		interp.Params(params...),
		interp.CallHandler(s.beforeCall),
		interp.ExecHandlers(func(interp.ExecHandlerFunc) interp.ExecHandlerFunc { return s.exec }),
		interp.OpenHandler(s.open),
		interp.ReadDirHandler2(s.readDir),
		interp.StatHandler(s.stat),
		interp.AccessHandler(s.access),
	)
	if err != nil {
		return c.fail(2, "%v", err)
	}
	s.runner.Dir = c.dir
	s.reset(variables)
	status := s.interpret(script, name)
	for !s.runner.Exited() && s.isInterrupted() {
		status = s.interpret(afterStatus(status, s.takePending()), name)
	}
	if handler := s.takeExitTrap(); handler != "" {
		status = s.interpret(afterStatus(status, []string{handler}), name)
	}
	return status
}

// reset makes the interpreter read its initial variables. It takes certain files of the
// host's in TMPDIR for its own pipes, where no path that it is given can be below "/".
func (s *shell) reset(variables environ) {
	folder, isSet := variables["TMPDIR"]
	variables["TMPDIR"] = variableOf("/")
	s.runner.Reset()
	delete(variables, "TMPDIR")
	if isSet {
		variables["TMPDIR"] = folder
	}
}

// afterStatus is a script of handlers that find a status in $?. It ends with it, too.
func afterStatus(status int, handlers []string) string {
	set := fmt.Sprintf("(exit %d)\n", status)
	return set + strings.Join(handlers, "\n"+set) + "\n" + set
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

// interpret runs a script in the shell and returns its status.
func (s *shell) interpret(script, name string) int {
	file, err := prepare(script, name)
	if err != nil {
		return s.fail(2, "%v", err)
	}
	err = s.runner.Run(s.ctx, file)
	if status, ok := errors.AsType[interp.ExitStatus](err); ok {
		return int(status)
	}
	if err != nil && s.ctx.Err() == nil {
		return s.fail(1, "%v", err)
	}
	return 0
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
	env := environ{
		"UID":         variableOf(strconv.Itoa(user.uid)),
		"EUID":        variableOf(strconv.Itoa(user.uid)),
		"GID":         variableOf(strconv.Itoa(user.gid)),
		"HOME":        variableOf(user.home),
		pidVariable:   variableOf(strconv.Itoa(s.pid)),
		shellVariable: variableOf(mainShell),
		countVariable: variableOf("0"),
		jobVariable:   variableOf(""),

		generationVariable: variableOf(strconv.Itoa(s.generation)), // nobody else changes it
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

func isMain(hc interp.HandlerContext) bool { return hc.Env.Get(shellVariable).String() == mainShell }

// contextOf returns the context of commands: a job's, or the foreground's.
func (s *shell) contextOf(hc interp.HandlerContext) context.Context {
	if key := hc.Env.Get(jobVariable).String(); key != "" {
		return s.job(key).ctx
	}
	return s.foregroundOf(hc.Env.Get(generationVariable).String())
}

// beforeCall sees every command. The interpreter knows neither signals nor this file
// system: what depends on them becomes something else.
func (s *shell) beforeCall(ctx context.Context, args []string) ([]string, error) {
	hc := interp.HandlerCtx(ctx)
	if cause, ok := errors.AsType[killed](context.Cause(s.contextOf(hc))); ok && args[0] != endJob {
		if !isMain(hc) {
			return []string{"exit", strconv.Itoa(cause.status())}, nil
		}
		handlers := s.takePending()
		if len(handlers) == 0 {
			return args, nil // the process itself has been killed, which the interpreter sees
		}
		return evaluate(hc, strings.Join(append(handlers, quoted(args)), "\n")), nil
	}
	switch args[0] {
	case "builtin", "command":
		if len(args) > 1 && args[1] == "-v" {
			return append([]string{ownPrefix + "type"}, args[2:]...), nil
		}
		if len(args) > 1 && s.replaces(args[1]) {
			return s.beforeCall(ctx, args[1:])
		}
	case "eval":
		return evaluate(hc, strings.Join(args[1:], " ")), nil
	case ".", "source":
		return s.source(hc, args), nil
	case "exec":
		if len(args) > 1 && isMain(hc) {
			return slices.Concat([]string{"exec", ownPrefix + "exec"}, args[1:]), nil
		}
	case "[", "test":
		return s.testTerminals(hc, args), nil
	case "pwd":
		return args[:1], nil // the file system has no links
	case "kill", "read", "trap", "type", "wait":
		return append([]string{ownPrefix + args[0]}, args[1:]...), nil
	}
	return args, nil
}

// replaces tells whether beforeCall changes a command.
func (s *shell) replaces(name string) bool {
	return slices.Contains([]string{"builtin", "command", "eval", ".", "source", "exec", "[", "test", "pwd", "kill", "read", "trap", "type", "wait"}, name)
}

// testTerminals answers each -t: the interpreter knows the kernel's terminals only.
func (s *shell) testTerminals(hc interp.HandlerContext, args []string) []string {
	streams := map[string]any{"0": hc.Stdin, "1": hc.Stdout, "2": hc.Stderr}
	answered := slices.Clone(args)
	for i, arg := range args[:len(args)-1] {
		if stream, ok := streams[args[i+1]]; ok && arg == "-t" {
			answered[i], answered[i+1] = "-n", ""
			if s.isTerminal(stream) {
				answered[i+1] = "terminal"
			}
		}
	}
	return answered
}

func (s *shell) source(hc interp.HandlerContext, args []string) []string {
	if len(args) < 2 {
		fmt.Fprintf(hc.Stderr, "%s: needs a file\n", args[0])
		return []string{"false"}
	}
	content, err := s.files().readFile(absolute(hc.Dir, args[1]))
	if err != nil {
		fmt.Fprintf(hc.Stderr, "%s: %v\n", args[0], err)
		return []string{"false"}
	}
	return evaluate(hc, string(content))
}

// exec runs programs, and the commands that beforeCall has put in place of others.
func (s *shell) exec(ctx context.Context, args []string) error {
	hc := interp.HandlerCtx(ctx)
	status := 0
	switch args[0] {
	case ownPrefix + "kill":
		status = s.kill(hc, args[1:])
	case ownPrefix + "read":
		ctx, cancel := context.WithCancelCause(ctx)
		defer context.AfterFunc(s.contextOf(hc), func() { cancel(nil) })()
		defer cancel(nil)
		return hc.Builtin(ctx, append([]string{"read"}, args[1:]...))
	case ownPrefix + "trap":
		return s.setTraps(ctx, hc, args[1:])
	case ownPrefix + "type":
		status = s.which(hc, args[1:])
	case ownPrefix + "wait":
		status = s.wait(hc, args[1:])
	case endJob:
		status = s.endJob(hc, args[1:])
	case ownPrefix + "exec":
		s.forgetTraps()
		status = s.replace(hc, args[1:], s.process)
	default:
		status = s.launch(hc, args)
	}
	if status == 0 {
		return nil
	}
	return interp.ExitStatus(status)
}

// launch runs a program as a process of its own, in the foreground or in a job.
func (s *shell) launch(hc interp.HandlerContext, args []string) int {
	child := s.run.newProcess(s.contextOf(hc), s.terminal)
	child.user = s.user
	defer child.end()
	return s.replace(hc, args, child)
}

// replace runs a program as a process.
func (s *shell) replace(hc interp.HandlerContext, args []string, p *process) int {
	c := &command{
		process: p, ctx: p.ctx, args: args, env: exportedOf(hc.Env), dir: hc.Dir,
		stdin: hc.Stdin, stdout: hc.Stdout, stderr: hc.Stderr,
	}
	return c.become()
}

func (s *shell) setTraps(ctx context.Context, hc interp.HandlerContext, args []string) error {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 || !isMain(hc) {
		return nil // a subshell gets no signals
	}
	handler, signals := args[0], args[1:]
	if len(signals) == 0 {
		handler, signals = "-", args
	}
	for _, name := range signals {
		if name == "ERR" { // the interpreter's own, which it runs unchanged
			if handler != "-" {
				handler = "eval " + quoted([]string{handler})
			}
			return hc.Builtin(ctx, []string{"trap", handler, name})
		}
		number := signalNumber(name)
		if number < 0 {
			fmt.Fprintf(hc.Stderr, "trap: %s: invalid signal specification\n", name)
			return interp.ExitStatus(1)
		}
		s.trap(number, handler, handler == "-")
	}
	return nil
}

func (s *shell) kill(hc interp.HandlerContext, args []string) int {
	number := sigTERM
	if len(args) > 1 && args[0] == "-s" {
		number, args = signalNumber(args[1]), args[2:]
	} else if len(args) > 0 && strings.HasPrefix(args[0], "-") {
		number, args = signalNumber(args[0][1:]), args[1:]
	}
	if number < 0 || stops(number) || len(args) == 0 {
		fmt.Fprintln(hc.Stderr, "usage: kill [-s SIGNAL | -SIGNAL] PID...")
		return 1
	}
	status := 0
	for _, target := range args {
		if !s.killOne(hc, target, number) {
			fmt.Fprintf(hc.Stderr, "kill: %s: no such process\n", target)
			status = 1
		}
	}
	return status
}

func (s *shell) killOne(hc interp.HandlerContext, target string, number int) bool {
	if key, ok := jobKey(hc, target); ok {
		job := s.job(key)
		if job.isDone() {
			return false
		}
		if terminates(number) {
			job.cancel(killed(number))
		}
		return true
	}
	pid, err := strconv.Atoi(target)
	if err != nil {
		return false
	}
	s.run.mu.Lock()
	process := s.run.processes[pid]
	s.run.mu.Unlock()
	if process == nil {
		return false
	}
	if number > 0 {
		process.signal(number)
	}
	return true
}

// which tells where commands are, for type and command -v.
func (s *shell) which(hc interp.HandlerContext, names []string) int {
	c := &command{process: s.process, env: exportedOf(hc.Env), dir: hc.Dir}
	status := 0
	for _, name := range names {
		isFunction := isMain(hc) && s.runner.Funcs[name] != nil // a subshell's functions cannot be known
		if isFunction || interp.IsBuiltin(name) {
			fmt.Fprintln(hc.Stdout, name)
		} else if full, err := c.lookPath(name); err == nil {
			fmt.Fprintln(hc.Stdout, full)
		} else {
			status = 127
		}
	}
	return status
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

// prepare parses a script for the interpreter.
func prepare(script, name string) (*syntax.File, error) {
	file, err := syntax.NewParser().Parse(strings.NewReader(script), name)
	if err != nil {
		return nil, err
	}
	return file, markJobs(file)
}

// evaluate is the eval of a script, which the interpreter parses itself.
func evaluate(hc interp.HandlerContext, script string) []string {
	var changed strings.Builder
	file, err := prepare(script, "eval")
	if err == nil {
		err = syntax.NewPrinter().Print(&changed, file)
	}
	if err != nil {
		fmt.Fprintf(hc.Stderr, "sh: %v\n", err)
		return []string{"exit", "2"}
	}
	return []string{"eval", changed.String()}
}

func quoted(args []string) string {
	words := make([]string, len(args))
	for i, arg := range args {
		words[i] = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
	}
	return strings.Join(words, " ")
}
