package memory_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/moatproject/moat/adapters/memory"
	"github.com/moatproject/moat/core"
)

// withProgram makes a runtime whose images have this program.
func withProgram(t *testing.T, program func(*memory.Process) int) *memory.Runtime {
	t.Helper()
	return newRuntime(t, memory.Options{Programs: map[string]func(*memory.Process) int{"program": program}})
}

func program(args ...string) core.Config {
	return core.Config{Image: memory.BaseImage, Cmd: append([]string{"program"}, args...)}
}

func TestProgramSeesItsProcess(t *testing.T) {
	rt := withProgram(t, func(p *memory.Process) int {
		dir, _ := p.Dir()
		host, _ := p.Hostname()
		uid, gid, groups, _ := p.User()
		_, _, err := p.TerminalSize(0)
		input, _ := io.ReadAll(p.Stdin())
		fmt.Fprintf(p.Stdout(), "%q %s %s %d %d %d %t %q ", p.Args(), dir, host, uid, gid, groups, errors.Is(err, syscall.ENOTTY), input)
		fmt.Fprintln(p.Stderr(), strings.Contains(strings.Join(p.Environ(), "\n"), "KEY=value"))
		return 7
	})
	cfg := program("a b", "")
	cfg.WorkingDir, cfg.Hostname, cfg.User, cfg.Env, cfg.GroupAdd = "/work", "host", "1:2", []string{"KEY=value"}, []string{"3"}
	code, out := finish(t, rt, start(t, rt, cfg))
	if want := "[\"program\" \"a b\" \"\"] /work host 1 2 [2 3] true \"\" true\n"; code != 7 || out != want {
		t.Errorf("code %d and %q, want 7 and %q", code, out, want)
	}
}

func TestProgramUsesFiles(t *testing.T) {
	rt := withProgram(t, func(p *memory.Process) int {
		file, err := p.OpenFile("made", os.O_WRONLY|os.O_CREATE, 0o644)
		if err != nil {
			fmt.Fprintln(p.Stderr(), err)
			return 1
		}
		defer file.Close()
		_, err = p.OpenFile("none/made", os.O_RDONLY, 0)
		fmt.Fprint(file, "its directory: ", errors.Is(err, os.ErrNotExist))
		return 0
	})
	cfg := shell("program && cat /tmp/made")
	cfg.WorkingDir = "/tmp"
	if code, out := finish(t, rt, start(t, rt, cfg)); code != 0 || out != "its directory: true" {
		t.Errorf("code %d and %q", code, out)
	}
}

func TestProgramHandlesSignals(t *testing.T) {
	rt := withProgram(t, func(p *memory.Process) int {
		arrived := make(chan int, 1)
		p.Notify(arrived, 10, 15)
		for _, number := range []int{10, 15} {
			if err := p.Kill(number); err != nil || <-arrived != number {
				return 1
			}
		}
		if p.Kill(0) == nil || p.Kill(19) == nil || p.Kill(65) == nil {
			return 2
		}
		_ = p.Kill(9)
		<-p.Done()
		return 3
	})
	if code, out := finish(t, rt, start(t, rt, program())); code != 128+9 {
		t.Errorf("code %d and %q, want that of SIGKILL", code, out)
	}
}

func TestProgramStartsOthers(t *testing.T) {
	rt := withProgram(t, func(p *memory.Process) int {
		if len(p.Args()) > 1 {
			<-p.Done() // with the first one
			return 0
		}
		if _, err := p.Start("no-such-program"); !errors.Is(err, os.ErrNotExist) {
			fmt.Fprintln(p.Stdout(), err)
		}
		ended, err := p.Start("sh", "-c", "echo from the child; exit 4")
		if err != nil {
			return 1
		}
		if _, err := p.Start("program", "for ever"); err != nil {
			return 2
		}
		return <-ended
	})
	if code, out := finish(t, rt, start(t, rt, program())); code != 4 || out != "from the child\n" {
		t.Errorf("code %d and %q", code, out)
	}
}

func TestProgramOnATerminal(t *testing.T) {
	rt := withProgram(t, func(p *memory.Process) int {
		for stream := range 3 {
			height, width, err := p.TerminalSize(stream)
			fmt.Fprintln(p.Stdout(), height, width, err)
		}
		_, _, err := p.TerminalSize(3)
		fmt.Fprintln(p.Stdout(), err != nil)
		return 0
	})
	cfg := program()
	cfg.TTY = true
	if _, out := finish(t, rt, start(t, rt, cfg)); out != strings.Repeat("24 80 <nil>\r\n", 3)+"true\r\n" {
		t.Errorf("it writes %q", out)
	}
}

// A program takes the place of a built-in one, in images that are built, too.
func TestProgramInBuiltImage(t *testing.T) {
	rt := newRuntime(t, memory.Options{Programs: map[string]func(*memory.Process) int{"cat": func(p *memory.Process) int {
		fmt.Fprintln(p.Stdout(), "meow")
		return 0
	}}})
	const dockerfile = "FROM " + memory.BaseImage + " AS base\nRUN cat >/said\nFROM scratch\nCOPY --from=base / /\n"
	if err := rt.BuildManager().BuildImage(t.Context(), dockerfile, "example/cat", core.BuildOptions{}); err != nil {
		t.Fatal(err)
	}
	code, out := finish(t, rt, start(t, rt, core.Config{Image: "example/cat", Cmd: []string{"sh", "-c", "cat; read line </said; echo $line"}}))
	if code != 0 || out != "meow\nmeow\n" {
		t.Errorf("code %d and %q", code, out)
	}
}
