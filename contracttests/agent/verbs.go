package agent

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// verbs are what a step can begin with. The rest of the step is the verb's text.
var verbs map[string]func(a *agent, text string) error

func init() { // a variable of these would refer to itself: some verbs take a step
	verbs = map[string]func(*agent, string) error{
		// Output
		"say":    (*agent).say,    // say TEXT: write a line
		"print":  (*agent).print,  // print TEXT: write it without a newline; \n and \xFF are what they are in Go
		"repeat": (*agent).repeat, // repeat NUMBER TEXT: print a text many times
		"count":  (*agent).count,  // count NUMBER: write the numbers up to this one, a line each
		"words":  (*agent).words,  // words: write the arguments that follow, each in <>, instead of taking them
		"close":  (*agent).close,  // close: close stdout and stderr

		// Input and files
		"line":   (*agent).line,   // line: read a line of stdin, and nothing after it
		"answer": (*agent).answer, // answer: write an answer to each line of stdin, until its end
		"cat":    (*agent).cat,    // cat [FILE]: copy a file, or stdin
		"grep":   (*agent).grep,   // grep WORD FILE: write the lines of a file that contain a word
		"append": (*agent).append, // append FILE TEXT: print to the end of a file
		"log":    (*agent).log,    // log FILE TEXT: write a line, and the same line to the end of a file

		"await": (*agent).await, // await FILE: wait until it is there

		// The network, by IPv4 only
		"serve": (*agent).serve, // serve PORT...: say hello to who connects, for ever
		"ask":   (*agent).ask,   // ask HOST PORT: connect, and write what is said there; fail if it is nothing
		"find":  (*agent).find,  // find NAME: write the addresses of a name

		// Attacks on a network
		"hear":   (*agent).hear,   // hear PORT...: say "ready", then write what arrives by TCP and UDP at any address, for ever
		"send":   (*agent).send,   // send WAY ADDRESS:PORT TEXT: as Attacker has it; write the outcome, which is no failure of the step
		"tunnel": (*agent).tunnel, // tunnel PROXY:PORT USER:PASSWORD HOST:PORT TEXT: send a text through a proxy by CONNECT; "-" is no credential
		"change": (*agent).change, // change address|route PREFIX NAME: likewise; the name tells outcomes apart

		// The process
		"env":      (*agent).env,      // env [NAME]: write the value of a variable, or the whole environment
		"dir":      (*agent).dir,      // dir: write the working directory
		"user":     (*agent).user,     // user: write the numbers of the user and the group
		"groups":   (*agent).groups,   // groups: write the numbers of the further groups
		"hostname": (*agent).hostname, // hostname: write it
		"size":     (*agent).size,     // size [HEIGHT WIDTH]: write the terminal's size, or wait until it has this one
		"terminal": (*agent).terminal, // terminal: fail unless stdin, stdout and stderr are one

		// Time and the end
		"sleep": (*agent).sleep, // sleep [DURATION]: wait, for ever where no time is given, and handle signals
		"busy":  (*agent).busy,  // busy: use the processor, for ever
		"wait":  (*agent).wait,  // wait: wait until the processes that were started have ended
		"exit":  (*agent).exit,  // exit STATUS: end
		"die":   (*agent).die,   // die SIGNAL: end by a signal

		// Verbs that take a step
		"after":  (*agent).after,  // after DURATION STEP: sleep, then take it
		"every":  (*agent).every,  // every DURATION STEP: take it again and again, and sleep in between
		"on":     (*agent).on,     // on SIGNAL STEP: take it whenever TERM, USR1, … arrives
		"ignore": (*agent).on,     // ignore SIGNAL: take nothing
		"retry":  (*agent).retry,  // retry NUMBER STEP: take it until it does not fail, so many times at most
		"start":  (*agent).start,  // start STEP: take it in a process of its own, with this one's handlers
		"stderr": (*agent).stderr, // stderr STEP: take it, and write to stderr
		"try":    (*agent).try,    // try STEP: take it, and say "failed" if it does
	}
}

func (a *agent) say(text string) error {
	_, err := io.WriteString(a.out, text+"\n")
	return err
}

func (a *agent) print(text string) error { return a.repeat("1 " + text) }

func (a *agent) repeat(text string) error {
	number, text, _ := strings.Cut(text, " ")
	left, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	text, err = strconv.Unquote(`"` + text + `"`)
	const size = 32 << 10 // of a write: small ones would take most of the time
	for each := 1 + size/(1+len(text)); left > 0 && err == nil; left -= each {
		_, err = io.WriteString(a.out, strings.Repeat(text, min(left, each)))
	}
	return err
}

func (a *agent) count(text string) error {
	last, err := strconv.Atoi(text)
	if err != nil {
		return err
	}
	lines := bufio.NewWriter(a.out)
	for number := range last {
		_, _ = lines.WriteString(strconv.Itoa(number+1) + "\n") // Flush returns its error
	}
	return lines.Flush()
}

func (a *agent) words(string) error {
	for ; len(a.todo) > 0; a.todo = a.todo[1:] {
		if err := a.say("<" + a.todo[0] + ">"); err != nil {
			return err
		}
	}
	return nil
}

func (a *agent) close(string) error {
	for _, stream := range []io.Writer{a.Stdout(), a.Stderr()} {
		if closer, ok := stream.(io.Closer); ok {
			if err := closer.Close(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *agent) line(string) error {
	for char := []byte{0}; char[0] != '\n'; {
		if _, err := io.ReadFull(a.Stdin(), char); err != nil {
			return err
		}
	}
	return nil
}

func (a *agent) answer(string) error {
	return eachLine(a.Stdin(), func(line string) error { return a.say("answer to " + line) })
}

func eachLine(r io.Reader, do func(line string) error) error {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if err := do(lines.Text()); err != nil {
			return err
		}
	}
	return lines.Err()
}

func (a *agent) cat(name string) error {
	if name == "" {
		_, err := io.Copy(a.out, a.Stdin())
		return err
	}
	file, err := a.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(a.out, file)
	return err
}

func (a *agent) grep(text string) error {
	word, name, _ := strings.Cut(text, " ")
	file, err := a.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	return eachLine(file, func(line string) error {
		if !strings.Contains(line, word) {
			return nil
		}
		return a.say(line)
	})
}

func (a *agent) append(text string) error {
	name, text, _ := strings.Cut(text, " ")
	file, err := a.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	return a.writing(file, func() error { return a.print(text) })
}

func (a *agent) log(text string) error {
	_, line, _ := strings.Cut(text, " ")
	if err := a.say(line); err != nil {
		return err
	}
	return a.append(text + `\n`)
}

func (a *agent) await(name string) error {
	for {
		file, err := a.OpenFile(name, os.O_RDONLY, 0)
		if err == nil {
			return file.Close()
		}
		if err := a.sleep("100ms"); err != nil {
			return err
		}
	}
}

// network returns that of the process, which may have none.
func (a *agent) network() (Network, error) {
	if network, ok := a.Process.(Network); ok {
		return network, nil
	}
	return nil, errors.New("the process has no network")
}

func (a *agent) serve(ports string) error {
	network, err := a.network()
	if err != nil {
		return err
	}
	for port := range strings.FieldsSeq(ports) {
		listener, err := network.Listen("tcp", ":"+port)
		if err != nil {
			return err
		}
		defer func() { _ = listener.Close() }()
		go greet(listener)
	}
	return a.pause(nil)
}

// greet says hello to each connection, until the listener is closed.
func greet(listener net.Listener) {
	for {
		connection, err := listener.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(connection, "hello\n")
		_ = connection.Close()
	}
}

// askTimeout bounds all that a question takes.
const askTimeout = 5 * time.Second

func (a *agent) ask(text string) error {
	network, err := a.network()
	if err != nil {
		return err
	}
	host, port, _ := strings.Cut(text, " ")
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	connection, err := network.DialContext(ctx, "tcp4", net.JoinHostPort(host, port))
	if err != nil {
		return err
	}
	defer connection.Close()
	end, _ := ctx.Deadline()
	_ = connection.SetDeadline(end)
	answer, err := io.ReadAll(connection)
	if len(answer) == 0 {
		return errors.Join(errors.New("there is no answer"), err)
	}
	_, err = a.out.Write(answer)
	return err
}

func (a *agent) find(name string) error {
	network, err := a.network()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	addresses, err := network.LookupIP(ctx, "ip4", name)
	for _, address := range addresses {
		err = errors.Join(err, a.say(address.String()))
	}
	return err
}

func (a *agent) env(name string) error {
	if name == "" {
		return a.say(strings.Join(a.Environ(), "\n"))
	}
	for _, variable := range a.Environ() {
		if value, ok := strings.CutPrefix(variable, name+"="); ok {
			return a.say(value)
		}
	}
	return errors.New("there is no such variable")
}

func (a *agent) dir(string) error {
	dir, err := a.Dir()
	if err != nil {
		return err
	}
	return a.say(dir)
}

func (a *agent) user(string) error {
	uid, gid, _, err := a.User()
	if err != nil {
		return err
	}
	return a.say(strconv.Itoa(uid) + " " + strconv.Itoa(gid))
}

func (a *agent) groups(string) error {
	_, _, groups, err := a.User()
	if err != nil {
		return err
	}
	var numbers []string
	for _, group := range groups {
		numbers = append(numbers, strconv.Itoa(group))
	}
	return a.say(strings.Join(numbers, " "))
}

func (a *agent) hostname(string) error {
	name, err := a.Hostname()
	if err != nil {
		return err
	}
	return a.say(name)
}

func (a *agent) size(wanted string) error {
	for {
		height, width, err := a.TerminalSize(0)
		if err != nil {
			return err
		}
		size := strconv.Itoa(height) + " " + strconv.Itoa(width)
		switch wanted {
		case "":
			return a.say(size)
		case size:
			return nil
		}
		if err := a.sleep("50ms"); err != nil {
			return err
		}
	}
}

func (a *agent) terminal(string) error {
	for stream := range 3 {
		if _, _, err := a.TerminalSize(stream); err != nil {
			return err
		}
	}
	return nil
}

func (a *agent) sleep(text string) error {
	if text == "" {
		return a.pause(nil)
	}
	duration, err := time.ParseDuration(text)
	if err != nil {
		return err
	}
	timer := time.NewTimer(duration)
	defer timer.Stop()
	return a.pause(timer.C)
}

func (a *agent) busy(string) error {
	for !a.hasEnded() {
	}
	return errEnded
}

func (a *agent) wait(string) error {
	for ; len(a.started) > 0; a.started = a.started[1:] {
		<-a.started[0]
	}
	return nil
}

func (a *agent) exit(text string) error {
	status, err := strconv.Atoi(text)
	if err != nil {
		return err
	}
	return exitError(status)
}

func (a *agent) die(name string) error {
	if err := a.Kill(signals[name]); err != nil {
		return err
	}
	return a.pause(nil) // the signal may take a moment
}

func (a *agent) after(text string) error {
	duration, step, _ := strings.Cut(text, " ")
	if err := a.sleep(duration); err != nil {
		return err
	}
	return a.take(step)
}

func (a *agent) every(text string) error {
	duration, step, _ := strings.Cut(text, " ")
	for {
		if err := a.take(step); err != nil {
			return err
		}
		if err := a.sleep(duration); err != nil {
			return err
		}
	}
}

func (a *agent) on(text string) error {
	name, step, _ := strings.Cut(text, " ")
	number, known := signals[name]
	if !known {
		return errors.New("there is no such signal")
	}
	a.handlers[number] = step
	a.Notify(a.arrived, number)
	return nil
}

func (a *agent) start(step string) error {
	args := []string{a.Args()[0]}
	for name, number := range signals {
		if handler, set := a.handlers[number]; set {
			args = append(args, "on "+name+" "+handler)
		}
	}
	ended, err := a.Start(append(args, step)...)
	if err != nil {
		return err
	}
	a.started = append(a.started, ended)
	return nil
}

func (a *agent) retry(text string) error {
	number, step, _ := strings.Cut(text, " ")
	tries, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	for range tries - 1 {
		if err := a.take(step); !a.isFailure(err) {
			return err
		}
		if err := a.sleep("100ms"); err != nil {
			return err
		}
	}
	return a.take(step)
}

func (a *agent) stderr(step string) error {
	return a.writing(a.Stderr(), func() error { return a.take(step) })
}

// writing lets what do writes go elsewhere.
func (a *agent) writing(out io.Writer, do func() error) error {
	defer func(before io.Writer) { a.out = before }(a.out)
	a.out = out
	return do()
}

func (a *agent) try(step string) error {
	if err := a.take(step); !a.isFailure(err) {
		return err
	}
	return a.say("failed")
}

// signals are those that a step can name, with Linux's numbers.
var signals = map[string]int{"INT": 2, "KILL": 9, "USR1": 10, "TERM": 15}
