package memory

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// The interpreter tells its handlers neither which shell or job a command belongs to
// nor when a job has ended, and its wait cannot be interrupted by a signal. So scripts
// are changed before they run: each subshell marks itself, and each job is wrapped.
const (
	ownPrefix = "__moat_" // of commands and variables that scripts do not know of

	pidVariable   = ownPrefix + "pid"   // $$, which would be this process's
	shellVariable = ownPrefix + "shell" // mainShell, or a subshell's random number
	countVariable = ownPrefix + "count" // of the shell's jobs; the interpreter's $! is g and this number
	jobVariable   = ownPrefix + "job"   // the key of the job that a command belongs to, empty in the foreground

	// generationVariable is what a subshell inherits when it begins: one of a pipeline must
	// not outlive a signal because its shell has already run the handler.
	generationVariable = ownPrefix + "generation"

	endJob = ownPrefix + "end" // tells the status of a job that has ended

	mainShell = "main"

	// enterSubshell leaves $? as it is, and set -e content.
	enterSubshell = shellVariable + "=$SRANDOM " + countVariable + "=0$(exit $?) && true"

	// wrappedJob has the job in place of its innermost subshell.
	wrappedJob = "{ " + countVariable + "=$((" + countVariable + "+1)); { " +
		jobVariable + "=$" + shellVariable + "/$" + countVariable + " " + shellVariable + "=$SRANDOM; (:); " + endJob + " $?; } & }"
)

// markJobs changes a script as explained above.
func markJobs(file *syntax.File) (err error) {
	var changes []func()
	syntax.Walk(file, func(node syntax.Node) bool {
		switch node := node.(type) {
		case *syntax.ParamExp:
			if node.Param != nil && node.Param.Value == "$" {
				node.Param.Value, node.Short = pidVariable, false
			}
		case *syntax.ProcSubst:
			err = errors.New("process substitution is not supported")
		case *syntax.Subshell:
			changes = append(changes, func() { node.Stmts = append(parsed(enterSubshell), node.Stmts...) })
		case *syntax.CmdSubst:
			if len(node.Stmts) > 0 && node.Stmts[0].Cmd != nil { // not $(<file)
				changes = append(changes, func() { node.Stmts = append(parsed(enterSubshell), node.Stmts...) })
			}
		case *syntax.BinaryCmd:
			if node.Op == syntax.Pipe || node.Op == syntax.PipeAll {
				changes = append(changes, func() {
					node.X = &syntax.Stmt{Cmd: &syntax.Block{Stmts: append(parsed(enterSubshell), node.X)}}
				})
			}
		case *syntax.Stmt:
			if node.Background {
				changes = append(changes, func() { wrapJob(node) })
			}
		}
		return true
	})
	for _, change := range changes {
		change()
	}
	return err
}

func parsed(script string) []*syntax.Stmt {
	file, err := syntax.NewParser().Parse(strings.NewReader(script), "")
	if err != nil {
		panic(err) // one of the constants above
	}
	return file.Stmts
}

func wrapJob(stmt *syntax.Stmt) {
	work := *stmt
	work.Background = false
	wrapper := parsed(wrappedJob)[0]
	syntax.Walk(wrapper, func(node syntax.Node) bool {
		if subshell, ok := node.(*syntax.Subshell); ok {
			subshell.Stmts = append(parsed(enterSubshell), &work)
			return false
		}
		return true
	})
	*stmt = *wrapper
}

// jobKey returns the key of what the shell calls $!.
func jobKey(hc interp.HandlerContext, target string) (key string, ok bool) {
	text, ok := strings.CutPrefix(target, "g")
	number, err := strconv.Atoi(text)
	if !ok || err != nil || number < 1 || number > jobCount(hc) {
		return "", false
	}
	return fmt.Sprintf("%s/%d", hc.Env.Get(shellVariable), number), true
}

func jobCount(hc interp.HandlerContext) int {
	count, _ := strconv.Atoi(hc.Env.Get(countVariable).String())
	return count
}

func (j *job) isDone() bool {
	select {
	case <-j.done:
		return true
	default:
		return false
	}
}

// endJob keeps the status of the job that calls it.
func (s *shell) endJob(hc interp.HandlerContext, args []string) int {
	job := s.job(hc.Env.Get(jobVariable).String())
	if job.isDone() || len(args) != 1 {
		return 127 // a script has called it
	}
	job.status, _ = strconv.Atoi(args[0])
	close(job.done)
	job.cancel(nil)
	return job.status
}

// wait waits for jobs, until a signal comes.
func (s *shell) wait(hc interp.HandlerContext, targets []string) (status int) {
	all := len(targets) == 0
	for number := range jobCount(hc) {
		if all {
			targets = append(targets, fmt.Sprintf("g%d", number+1))
		}
	}
	for _, target := range targets {
		key, ok := jobKey(hc, target)
		if !ok {
			fmt.Fprintf(hc.Stderr, "wait: %s is no job of this shell\n", target)
			return 127
		}
		job, ctx := s.job(key), s.contextOf(hc)
		select {
		case <-job.done:
			status = job.status
		case <-ctx.Done():
			return statusOf(ctx)
		}
	}
	if all {
		return 0
	}
	return status
}
