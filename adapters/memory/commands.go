package memory

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"regexp"
	"runtime"
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
		"cat": cat, "env": env, "grep": grep, "head": head, "hostname": hostname, "id": id,
		"ls": ls, "mkdir": mkdir, "nproc": nproc, "rm": rm, "seq": seq, "sh": runShell,
		"sleep": sleep, "stty": stty, "tail": tail, "touch": touch, "tr": tr, "uname": uname, "wc": wc, "yes": yes,
	}
	for _, name := range []string{"[", "echo", "false", "kill", "printf", "pwd", "test", "true"} {
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

func head(c *command) int {
	values, names, ok := c.options("n:c:")
	lines, bytes, ok := amounts(values, ok)
	if !ok {
		return c.usage("[-n LINES | -c BYTES] [FILE]...")
	}
	return c.eachInput(names, func(_ string, input io.Reader) error {
		if has(values, 'c') {
			return c.copyTo(c.stdout, io.LimitReader(input, int64(bytes)))
		}
		reader := bufio.NewReader(input)
		for range lines {
			line, err := reader.ReadBytes('\n')
			if _, failed := c.stdout.Write(line); failed != nil {
				return failed
			}
			if err != nil {
				break
			}
		}
		return nil
	})
}

// amounts reads the options -n, 10 by default, and -c.
func amounts(values map[byte]string, ok bool) (lines, bytes int, _ bool) {
	lines = 10
	var errLines, errBytes error
	if has(values, 'n') {
		lines, errLines = strconv.Atoi(values['n'])
	}
	if has(values, 'c') {
		bytes, errBytes = strconv.Atoi(values['c'])
	}
	return lines, bytes, ok && errLines == nil && errBytes == nil && lines >= 0 && bytes >= 0
}

func tail(c *command) int {
	values, names, ok := c.options("n:c:")
	lines, count, ok := amounts(values, ok)
	if !ok {
		return c.usage("[-n LINES | -c BYTES] [FILE]...")
	}
	return c.eachInput(names, func(_ string, input io.Reader) error {
		var all bytes.Buffer
		if err := c.copyTo(&all, input); err != nil {
			return err
		}
		rest := all.Bytes()
		if has(values, 'c') {
			rest = rest[max(0, len(rest)-count):]
		} else {
			split := bytes.SplitAfter(bytes.TrimSuffix(rest, []byte("\n")), []byte("\n"))
			skipped := bytes.Join(split[:max(0, len(split)-lines)], nil)
			rest = rest[len(skipped):]
		}
		_, err := c.stdout.Write(rest)
		return err
	})
}

func wc(c *command) int {
	values, names, ok := c.options("lwc")
	if !ok {
		return c.usage("[-lwc] [FILE]...")
	}
	return c.eachInput(names, func(name string, input io.Reader) error {
		var all bytes.Buffer
		if err := c.copyTo(&all, input); err != nil {
			return err
		}
		var columns []string
		for _, column := range []struct {
			letter byte
			count  int
		}{
			{'l', bytes.Count(all.Bytes(), []byte("\n"))},
			{'w', len(bytes.Fields(all.Bytes()))},
			{'c', all.Len()},
		} {
			if len(values) == 0 || has(values, column.letter) {
				columns = append(columns, strconv.Itoa(column.count))
			}
		}
		if name != "-" {
			columns = append(columns, name)
		}
		_, err := fmt.Fprintln(c.stdout, strings.Join(columns, " "))
		return err
	})
}

// seq counts whole numbers only.
func seq(c *command) int {
	numbers := []int{1, 1, 0} // from, step, to
	args := c.args[1:]
	positions := map[int][]int{1: {2}, 2: {0, 2}, 3: {0, 1, 2}}[len(args)]
	for i, position := range positions {
		var err error
		if numbers[position], err = strconv.Atoi(args[i]); err != nil {
			return c.fail(1, "invalid number %q", args[i])
		}
	}
	from, step, to := numbers[0], numbers[1], numbers[2]
	if positions == nil || step == 0 {
		return c.usage("[FIRST [STEP]] LAST")
	}
	out := bufio.NewWriter(c.stdout)
	for n := from; (step > 0 && n <= to) || (step < 0 && n >= to); n += step {
		if _, err := fmt.Fprintln(out, n); err != nil || c.ctx.Err() != nil {
			return 1
		}
	}
	return statusOfWrite(out.Flush())
}

func statusOfWrite(err error) int {
	if err != nil {
		return 1
	}
	return 0
}

func yes(c *command) int {
	text := "y"
	if len(c.args) > 1 {
		text = strings.Join(c.args[1:], " ")
	}
	lines := []byte(strings.Repeat(text+"\n", 1+4096/(len(text)+1)))
	for c.ctx.Err() == nil {
		if _, err := c.stdout.Write(lines); err != nil {
			break
		}
	}
	return 1
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

func rm(c *command) int {
	values, names, ok := c.options("rRf")
	if !ok || (len(names) == 0 && !has(values, 'f')) {
		return c.usage("[-rf] FILE...")
	}
	return c.eachPath(names, func(full string) error {
		info, err := c.files().stat(full)
		switch {
		case errors.Is(err, fs.ErrNotExist) && has(values, 'f'):
			return nil
		case err != nil:
			return err
		case info.IsDir() && !has(values, 'r') && !has(values, 'R'):
			return syscall.EISDIR
		}
		return c.removeAll(full, info.IsDir())
	})
}

func (c *command) removeAll(full string, folder bool) error {
	if folder {
		entries, err := c.files().readDir(full)
		if err != nil {
			return err
		}
		for _, entry := range entries {
			if err := c.removeAll(path.Join(full, entry.Name()), entry.IsDir()); err != nil {
				return err
			}
		}
	}
	if err := c.ctx.Err(); err != nil {
		return err
	}
	return c.files().remove(full)
}

func hostname(c *command) int {
	_, err := fmt.Fprintln(c.stdout, c.run.container.hostname())
	return statusOfWrite(err)
}

func nproc(c *command) int {
	_, err := fmt.Fprintln(c.stdout, runtime.NumCPU())
	return statusOfWrite(err)
}

func uname(c *command) int {
	values, _, ok := c.options("asnm")
	if !ok {
		return c.usage("[-asnm]")
	}
	var words []string
	for _, word := range []struct {
		letter byte
		text   string
	}{{'s', "Linux"}, {'n', c.run.container.hostname()}, {'m', machine()}} {
		if has(values, word.letter) || has(values, 'a') || (len(values) == 0 && word.letter == 's') {
			words = append(words, word.text)
		}
	}
	_, err := fmt.Fprintln(c.stdout, strings.Join(words, " "))
	return statusOfWrite(err)
}

// machine is what Linux calls this architecture, where the names differ.
func machine() string {
	if name, ok := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]; ok {
		return name
	}
	return runtime.GOARCH
}

func grep(c *command) int {
	values, args, ok := c.options("EFHcqiv")
	if !ok || len(args) == 0 {
		return c.usage("[-EFcqiv] PATTERN [FILE]...")
	}
	pattern := args[0]
	switch {
	case has(values, 'F'):
		pattern = regexp.QuoteMeta(pattern)
	case !has(values, 'E'):
		pattern = fromBasic(pattern)
	}
	if has(values, 'i') {
		pattern = "(?i)" + pattern
	}
	expression, err := regexp.Compile(pattern)
	if err != nil {
		return c.fail(2, "%v", err)
	}
	found := 0
	failed := c.eachInput(args[1:], func(name string, input io.Reader) error {
		count, err := c.grepOne(expression, values, input)
		found += count
		if has(values, 'c') {
			prefix := ""
			if len(args) > 2 {
				prefix = name + ":"
			}
			fmt.Fprintf(c.stdout, "%s%d\n", prefix, count)
		}
		return err
	})
	switch {
	case found > 0 && (failed == 0 || has(values, 'q')):
		return 0
	case failed != 0:
		return 2
	}
	return 1
}

func (c *command) grepOne(expression *regexp.Regexp, values map[byte]string, input io.Reader) (count int, err error) {
	reader := bufio.NewReader(input)
	for err == nil && c.ctx.Err() == nil {
		var line string
		line, err = reader.ReadString('\n')
		text := strings.TrimSuffix(line, "\n")
		if line == "" || expression.MatchString(text) == has(values, 'v') {
			continue
		}
		count++
		if has(values, 'q') {
			return count, nil
		}
		if !has(values, 'c') {
			if _, err := fmt.Fprintln(c.stdout, text); err != nil {
				return count, err
			}
		}
	}
	if err == io.EOF {
		err = nil
	}
	return count, err
}

// fromBasic makes a basic regular expression an extended one: what a backslash makes
// special there is special without one here.
func fromBasic(pattern string) string {
	var b strings.Builder
	for i := 0; i < len(pattern); i++ {
		letter := pattern[i]
		switch {
		case letter == '\\' && i+1 < len(pattern):
			i++
			if !strings.ContainsRune("(){}|+?", rune(pattern[i])) {
				b.WriteByte('\\')
			}
			b.WriteByte(pattern[i])
		case strings.ContainsRune("(){}|+?", rune(letter)):
			b.WriteByte('\\')
			b.WriteByte(letter)
		default:
			b.WriteByte(letter)
		}
	}
	return b.String()
}

func tr(c *command) int {
	values, sets, ok := c.options("d")
	if !ok || len(sets) != map[bool]int{true: 1, false: 2}[has(values, 'd')] {
		return c.usage("-d SET | SET1 SET2")
	}
	from := trSet(sets[0])
	var to []byte
	if !has(values, 'd') {
		if to = trSet(sets[1]); len(to) == 0 {
			return c.usage("-d SET | SET1 SET2")
		}
	}
	translate := func(letter byte) (byte, bool) {
		at := bytes.IndexByte(from, letter)
		switch {
		case at < 0:
			return letter, true
		case to == nil:
			return 0, false
		}
		return to[min(at, len(to)-1)], true
	}
	err := c.copyTo(writerFunc(func(p []byte) (int, error) {
		out := make([]byte, 0, len(p))
		for _, letter := range p {
			if translated, keep := translate(letter); keep {
				out = append(out, translated)
			}
		}
		_, err := c.stdout.Write(out)
		return len(p), err
	}), c.input())
	return statusOfWrite(err)
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// trSet expands ranges, and \n, \t and \\.
func trSet(text string) (set []byte) {
	text = strings.NewReplacer(`\n`, "\n", `\t`, "\t", `\\`, `\`).Replace(text)
	for i := 0; i < len(text); i++ {
		if i+2 < len(text) && text[i+1] == '-' && text[i] <= text[i+2] {
			for letter := int(text[i]); letter <= int(text[i+2]); letter++ {
				set = append(set, byte(letter))
			}
			i += 2
			continue
		}
		set = append(set, text[i])
	}
	return set
}
