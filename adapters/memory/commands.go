package memory

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// programs are the files of /bin. They have BusyBox's meaning, and its common options.
var programs map[string]program

func init() { // a variable of these would refer to itself: env and sh run programs
	programs = map[string]program{
		"cat": cat, "env": env, "id": id, "ls": ls, "mkdir": mkdir, "sh": runShell, "sleep": sleep, "touch": touch,
	}
	for _, name := range []string{"[", "echo", "false", "printf", "pwd", "test", "true"} {
		programs[name] = shellBuiltin
	}
}

// programsWith returns the built-in programs with functions of the caller's over them.
func programsWith(functions map[string]func(*Process) int) map[string]program {
	all := maps.Clone(programs)
	for name, function := range functions {
		all[name] = inProcess(function)
	}
	return all
}

// builtinFiles is what the image begins with.
func (i *image) builtinFiles() map[string]string {
	files := map[string]string{
		"/etc/passwd":       "root:x:0:0:root:/root:/bin/sh\ntester:x:1000:1000:tester:/home/tester:/bin/sh\n",
		"/etc/group":        "root:x:0:\ntester:x:1000:\n",
		"/dev/null":         "",
		"/proc/self/status": "NoNewPrivs:\t1\n",
	}
	for name := range i.programs {
		files["/bin/"+name] = builtinMark + name + "\n"
	}
	return files
}

// shellBuiltin runs what the shell has built in.
func shellBuiltin(c *command) int {
	c.args = slices.Concat([]string{"sh", "-c", `"$0" "$@"`, path.Base(c.args[0])}, c.args[1:])
	return runShell(c)
}

// fail tells an error on stderr.
func (c *command) fail(status int, format string, args ...any) int {
	fmt.Fprintf(c.stderr, "%s: %s\n", path.Base(c.args[0]), fmt.Sprintf(format, args...))
	return status
}

func (c *command) usage(text string) int {
	return c.fail(2, "usage: %s %s", path.Base(c.args[0]), text)
}

// options reads options as getopt does: letters, one with a colon takes a value.
func (c *command) options(known string) (values map[byte]string, operands []string, ok bool) {
	values = map[byte]string{}
	args := c.args[1:]
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		letters := args[0][1:]
		args = args[1:]
		if letters == "-" {
			break
		}
		for letters != "" {
			letter := letters[0]
			letters = letters[1:]
			at := strings.IndexByte(known, letter)
			if at < 0 || letter == ':' {
				return nil, nil, false
			}
			values[letter] = ""
			if strings.HasPrefix(known[at+1:], ":") {
				if letters == "" && len(args) > 0 {
					letters, args = args[0], args[1:]
				}
				values[letter], letters = letters, ""
			}
		}
	}
	return values, args, true
}

func has(values map[byte]string, letter byte) bool {
	_, ok := values[letter]
	return ok
}

// input is the standard input, which is empty when it is closed.
func (c *command) input() io.Reader {
	if c.stdin == nil {
		return strings.NewReader("")
	}
	return c.stdin
}

// eachInput reads the named files in turn, or the standard input. It returns 1 when
// one cannot be read.
func (c *command) eachInput(names []string, read func(name string, input io.Reader) error) (status int) {
	if len(names) == 0 {
		names = []string{"-"}
	}
	for _, name := range names {
		err := c.oneInput(name, read)
		switch {
		case c.ctx.Err() != nil || errors.Is(err, syscall.EPIPE):
			return 128 + sigPIPE // nobody is to hear of it
		case err != nil:
			status = c.fail(1, "%s: %v", name, cause(err))
		}
	}
	return status
}

func (c *command) oneInput(name string, read func(name string, input io.Reader) error) error {
	if name == "-" {
		return read(name, c.input())
	}
	file, err := c.files().open(c.abs(name), os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	return read(name, file)
}

// cause leaves out the path, which the message has already.
func cause(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

// copyTo copies until the command is to end.
func (c *command) copyTo(w io.Writer, r io.Reader) error {
	_, err := io.Copy(w, readerFunc(func(p []byte) (int, error) {
		if err := c.ctx.Err(); err != nil {
			return 0, err
		}
		return r.Read(p)
	}))
	return err
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func cat(c *command) int {
	_, names, ok := c.options("u")
	if !ok {
		return c.usage("[FILE]...")
	}
	return c.eachInput(names, func(_ string, input io.Reader) error { return c.copyTo(c.stdout, input) })
}

func sleep(c *command) int {
	var total time.Duration
	for _, arg := range c.args[1:] {
		if _, err := strconv.ParseFloat(arg, 64); err == nil {
			arg += "s"
		}
		duration, err := parseSleep(arg)
		if err != nil {
			return c.fail(1, "invalid time %q", arg)
		}
		total += duration
	}
	if len(c.args) == 1 {
		return c.usage("SECONDS...")
	}
	timer := time.NewTimer(total)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.ctx.Done():
	}
	return 0
}

// parseSleep reads a number of s, m, h or d.
func parseSleep(text string) (time.Duration, error) {
	if text == "" {
		return 0, strconv.ErrSyntax
	}
	units := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour}
	unit := units[text[len(text)-1]]
	number, err := strconv.ParseFloat(text[:len(text)-1], 64)
	if err != nil || unit == 0 || number < 0 || number > 1e9 {
		return 0, strconv.ErrSyntax
	}
	return time.Duration(min(number*float64(unit), float64(1<<62))), nil
}

func id(c *command) int {
	values, _, ok := c.options("ugGn")
	if !ok {
		return c.usage("[-ugGn]")
	}
	user := c.user
	name := func(number int, file string, fields int) string {
		if entry := c.files().accountEntry(file, fields, strconv.Itoa(number)); entry != nil {
			return entry[0]
		}
		return strconv.Itoa(number)
	}
	show := func(number int, file string, fields int) string {
		if has(values, 'n') {
			return name(number, file, fields)
		}
		return strconv.Itoa(number)
	}
	var groups, named []string
	for _, group := range user.groups {
		groups = append(groups, show(group, "/etc/group", 4))
		named = append(named, fmt.Sprintf("%d(%s)", group, name(group, "/etc/group", 4)))
	}
	switch {
	case has(values, 'u'):
		fmt.Fprintln(c.stdout, show(user.uid, "/etc/passwd", 6))
	case has(values, 'g'):
		fmt.Fprintln(c.stdout, groups[0])
	case has(values, 'G'):
		fmt.Fprintln(c.stdout, strings.Join(groups, " "))
	default:
		fmt.Fprintf(c.stdout, "uid=%d(%s) gid=%s groups=%s\n",
			user.uid, name(user.uid, "/etc/passwd", 6), named[0], strings.Join(named, ","))
	}
	return 0
}

// env shows the environment, or runs a program in a changed one.
func env(c *command) int {
	values, args, ok := c.options("i")
	if !ok {
		return c.usage("[-i] [NAME=VALUE]... [PROGRAM [ARGUMENT]...]")
	}
	variables := c.env
	if has(values, 'i') {
		variables = nil
	}
	for len(args) > 0 && strings.Contains(args[0], "=") {
		key, _, _ := strings.Cut(args[0], "=")
		variables = slices.DeleteFunc(slices.Clone(variables), func(entry string) bool { return strings.HasPrefix(entry, key+"=") })
		variables = append(variables, args[0])
		args = args[1:]
	}
	if len(args) == 0 {
		for _, entry := range variables {
			fmt.Fprintln(c.stdout, entry)
		}
		return 0
	}
	c.args, c.env = args, variables
	return c.become()
}

// become runs the program that args name in the command's place.
func (c *command) become() int {
	program, err := c.load()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return c.fail(127, "not found")
	case err != nil:
		return c.fail(126, "%v", cause(err))
	}
	return c.execute(program)
}

func ls(c *command) int {
	values, names, ok := c.options("1aAd")
	if !ok {
		return c.usage("[-1aAd] [FILE]...")
	}
	if len(names) == 0 {
		names = []string{"."}
	}
	status := 0
	for _, name := range names {
		info, err := c.files().stat(c.abs(name))
		if err != nil {
			status = c.fail(1, "%s: %v", name, cause(err))
			continue
		}
		if !info.IsDir() || has(values, 'd') {
			fmt.Fprintln(c.stdout, name)
			continue
		}
		if len(names) > 1 {
			fmt.Fprintf(c.stdout, "%s:\n", name)
		}
		entries, err := c.files().readDir(c.abs(name))
		if err != nil {
			status = c.fail(1, "%s: %v", name, cause(err))
		}
		for _, entry := range entries {
			if !strings.HasPrefix(entry.Name(), ".") || has(values, 'a') || has(values, 'A') {
				fmt.Fprintln(c.stdout, entry.Name())
			}
		}
	}
	return status
}

// eachPath does something with each operand.
func (c *command) eachPath(names []string, do func(full string) error) (status int) {
	for _, name := range names {
		if err := do(c.abs(name)); err != nil {
			status = c.fail(1, "%s: %v", name, cause(err))
		}
	}
	return status
}

func mkdir(c *command) int {
	values, names, ok := c.options("p")
	if !ok || len(names) == 0 {
		return c.usage("[-p] FOLDER...")
	}
	if has(values, 'p') {
		return c.eachPath(names, c.files().mkdirAll)
	}
	return c.eachPath(names, c.files().mkdir)
}

func touch(c *command) int {
	_, names, ok := c.options("")
	if !ok || len(names) == 0 {
		return c.usage("FILE...")
	}
	return c.eachPath(names, func(full string) error {
		file, err := c.files().open(full, os.O_WRONLY|os.O_CREATE, 0o644)
		if err != nil {
			return err
		}
		return file.Close()
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
