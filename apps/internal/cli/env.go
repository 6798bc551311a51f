package cli

import (
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"

	"github.com/moatproject/moat/adapters/container"
	"github.com/moatproject/moat/apps/internal/wiring"
	"github.com/moatproject/moat/core"
	"github.com/moby/term"
)

// Env is all that the commands see of their process.
type Env struct {
	Stdin    io.Reader
	Stdout   io.Writer
	Stderr   io.Writer
	Terminal bool                     // Stderr is a terminal, fit for progress that rewrites its line
	Size     func() core.TerminalSize // of that terminal; zero where it is unknown
	Console  Console                  // nil: Stdin is no terminal
	Host     core.Host
	LookEnv  func(string) (string, bool)
	Abs      func(path string) (string, error)

	// Notify delivers the process's signals until stop is called.
	Notify func() (signals <-chan os.Signal, stop func())

	// StateDir holds the locks of live runs, CacheDir what can be found out again.
	StateDir string
	CacheDir string

	// Owner is a name for StateDir that differs between machines, which may share an engine.
	Owner string

	// Candidates lists the runtimes of this build; progress is for pulls.
	Candidates func(env Env, progress core.PullSink, logger *slog.Logger) []core.Candidate
}

// ProcessEnv is the environment of this process.
func ProcessEnv() Env {
	env := Env{
		Stdin:      os.Stdin,
		Stdout:     os.Stdout,
		Stderr:     os.Stderr,
		Terminal:   term.IsTerminal(os.Stderr.Fd()),
		Size:       processConsole{out: os.Stderr.Fd()}.Size,
		Console:    findConsole(os.Stdin, os.Stdout),
		Host:       core.Host{GOOS: runtime.GOOS, GOARCH: runtime.GOARCH, Getenv: os.Getenv},
		LookEnv:    os.LookupEnv,
		Abs:        filepath.Abs,
		Notify:     notify,
		Candidates: bundledCandidates,
	}
	if dir, err := os.UserCacheDir(); err == nil {
		env.CacheDir = filepath.Join(dir, "moat", "verified")
	}
	env.StateDir = filepath.Join(os.TempDir(), "moat-runs-"+strconv.Itoa(os.Getuid()))
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		env.StateDir = filepath.Join(dir, "moat", "runs")
	}
	machine, _ := os.Hostname() // without one, machines that share an engine are taken for one
	env.Owner = machine + ":" + env.StateDir
	return env
}

func notify() (<-chan os.Signal, func()) {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwardedSignals...)
	return signals, func() { signal.Stop(signals) }
}

func bundledCandidates(env Env, progress core.PullSink, logger *slog.Logger) []core.Candidate {
	return container.Candidates(container.CandidateOptions{
		PullProgress: progress,
		Logger:       logger,
		GVisorCache:  wiring.FileCache{Dir: env.CacheDir},
	})
}
