package cli

import (
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

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

	// Now is the time.
	Now func() time.Time

	// StateDir holds the locks of runs ([state]), CacheDir what can be found out again.
	StateDir string
	CacheDir string

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
		Now:        time.Now,
		StateDir:   stateDir(),
		Candidates: bundledCandidates,
	}
	if dir, err := os.UserCacheDir(); err == nil {
		env.CacheDir = filepath.Join(dir, "moat", "verified")
	}
	return env
}

// stateDir is a folder that outlives logins, as detached runs do.
func stateDir() string {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "moat")
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local", "state", "moat")
	}
	return filepath.Join(os.TempDir(), "moat-"+strconv.Itoa(os.Getuid()))
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
