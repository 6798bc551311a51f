package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/moatproject/moat/core"
)

// meeting returns a function that returns when it has been called n times at once.
func meeting(t *testing.T, n int) func() {
	var callers sync.WaitGroup
	callers.Add(n)
	return func() {
		callers.Done()
		met := make(chan struct{})
		go func() { callers.Wait(); close(met) }()
		select {
		case <-met:
		case <-time.After(20 * time.Second):
			t.Error("the calls do not overlap")
		}
	}
}

// started starts containers with these names.
func (c *commands) started(names ...string) {
	c.Helper()
	for _, name := range names {
		id, err := c.engine.CreateContainer(c.Context(), core.Config{Name: name, Image: "redis:7", RunID: name})
		if err == nil {
			err = c.engine.StartContainer(c.Context(), id)
		}
		if err != nil {
			c.Fatal(err)
		}
	}
}

func TestCommandsOnSeveralContainersDoNotAddUp(t *testing.T) {
	names := []string{"aa", "bb", "cc"}
	for _, test := range []struct {
		args   []string
		blocks func(engine *stubbornEngine, meet func())
		stdout string
	}{
		{[]string{"stop"}, func(e *stubbornEngine, meet func()) {
			e.stop = func(context.Context, string) error { meet(); return nil }
		}, "aa\nbb\ncc\n"},
		{[]string{"rm", "-f"}, func(e *stubbornEngine, meet func()) {
			e.remove = func(string) error { meet(); return nil }
		}, "aa\nbb\ncc\n"},
		{[]string{"wait"}, func(e *stubbornEngine, meet func()) {
			e.wait = func(id string) { meet(); _ = e.Runtime.StopContainer(context.Background(), id) }
		}, "143\n143\n143\n"},
	} {
		t.Run(test.args[0], func(t *testing.T) {
			c := newCommands(t)
			c.started(names...)
			test.blocks(c.engine, meeting(t, len(names)))
			code, stdout, stderr := c.moat(append(test.args, names...)...)
			if code != 0 || stdout != test.stdout || stderr != "" {
				t.Errorf("status %d, %q, %q", code, stdout, stderr)
			}
		})
	}
	t.Run("network rm", func(t *testing.T) {
		c := newCommands(t)
		for _, name := range names {
			if _, err := c.engine.NetworkManager().CreateNetwork(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
		meet := meeting(t, len(names))
		c.engine.gone = func(string) { meet() }
		code, stdout, stderr := c.moat(append([]string{"network", "rm"}, names...)...)
		if code != 0 || stdout != "aa\nbb\ncc\n" || stderr != "" {
			t.Errorf("status %d, %q, %q", code, stdout, stderr)
		}
	})
}

func TestOutcomesComeInTheOrderOfTheArguments(t *testing.T) {
	c := newCommands(t)
	c.started("aa", "bb", "cc", "dd")
	ended := map[string]chan struct{}{}
	for _, name := range []string{"aa", "bb", "cc", "dd"} {
		ended[name] = make(chan struct{})
	}
	var calls atomic.Int32
	c.engine.stop = func(_ context.Context, id string) error {
		calls.Add(1)
		infos, _ := c.engine.ListContainers(t.Context())
		name := infos[slices.IndexFunc(infos, func(info core.Info) bool { return info.ID == id })].Name
		defer close(ended[name])
		if after := map[string]string{"aa": "bb", "bb": "cc", "cc": "dd"}[name]; after != "" {
			<-ended[after] // the last one is the first to end
		}
		if name == "bb" || name == "cc" {
			return errors.New(name + " fails")
		}
		return nil
	}
	code, stdout, stderr := c.moat("stop", "aa", "none-1", "bb", "cc", "none-2", "dd", "aa")
	if code != 1 || stdout != "aa\ndd\naa\n" {
		t.Errorf("status %d, %q", code, stdout)
	}
	at := -1
	for _, text := range []string{`"none-1": not found`, "bb: bb fails", "cc: cc fails", `"none-2": not found`} {
		i := strings.Index(stderr, text)
		if i <= at {
			t.Errorf("%q is not in its place in %q", text, stderr)
		}
		at = i
	}
	if calls.Load() != 4 {
		t.Errorf("%d calls for four containers", calls.Load())
	}
}

func TestInterruptEndsAllCalls(t *testing.T) {
	c := newCommands(t)
	c.started("aa", "bb")
	signals := make(chan os.Signal, 1)
	c.env.Notify = func(...os.Signal) (<-chan os.Signal, func()) { return signals, func() {} }
	meet, interrupt := meeting(t, 2), sync.OnceFunc(func() { signals <- syscall.SIGINT })
	c.engine.stop = func(ctx context.Context, _ string) error {
		meet()
		interrupt()
		<-ctx.Done()
		return ctx.Err()
	}
	if code, stdout, _ := c.moat("stop", "aa", "bb"); code != 130 || stdout != "" {
		t.Errorf("status %d, %q", code, stdout)
	}
}

func TestInParallelIsBounded(t *testing.T) {
	items := make([]int, 3*maxAtOnce)
	for i := range items {
		items[i] = i
	}
	var now, most atomic.Int32
	full := meeting(t, maxAtOnce)
	var reported []string
	inParallel(items, func(i int) (int, error) {
		defer now.Add(-1)
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		if i < maxAtOnce {
			full()
		}
		return 2 * i, nil
	}, func(i, double int, err error) { reported = append(reported, fmt.Sprint(i, double, err)) })
	if most.Load() > maxAtOnce || len(reported) != len(items) || reported[7] != "7 14 <nil>" {
		t.Errorf("%d at once, %d reported: %v", most.Load(), len(reported), reported)
	}
}
