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
	"github.com/moatproject/moat/core/detect"
	"github.com/moatproject/moat/core/optional"
	"github.com/moatproject/moat/core/run"
	"github.com/moby/term"
)

// Env is the commands' view of their process.
type Env struct {
	Stdin    io.Reader
	Stdout   io.Writer
	Stderr   io.Writer
	Terminal bool                         // Stderr is a terminal, fit for progress that rewrites its line
	Size     func() optional.TerminalSize // of that terminal; zero where it is unknown
	Console  Console                      // nil: Stdin is no terminal
	Host     detect.Host
	LookEnv  func(string) (string, bool)
	Abs      func(path string) (string, error)

	// Notify delivers some of the process's signals until stop is called.
	Notify func(which ...os.Signal) (signals <-chan os.Signal, stop func())

	// Clock is the time.
	Clock run.Clock

	// HomeDir is the user's home directory, "" where there is none.
	HomeDir string

	// StateDir holds the locks of runs ([runstore.Store]), CacheDir what can be found out again.
	StateDir string
	CacheDir string

	// Builder is the name of the program beside this one that builds images in its place.
	// Empty: this one does.
	Builder string

	// ProxyProgram returns the egress proxy's program for an architecture.
	ProxyProgram func(architecture string) ([]byte, error)

	// Registered returns the runtimes of this build. nil: none.
	Registered func(env Env, logger *slog.Logger) []detect.Registration
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
		Host:       detect.Host{GOOS: runtime.GOOS, GOARCH: runtime.GOARCH, Getenv: os.Getenv},
		LookEnv:    os.LookupEnv,
		Abs:        filepath.Abs,
		Notify:     notify,
		Clock:      run.SystemClock{},
		StateDir:   stateDir(),
		Registered: bundled,

		ProxyProgram: besideThis,
	}
	env.HomeDir, _ = os.UserHomeDir()
	if dir, err := os.UserCacheDir(); err == nil {
		env.CacheDir = filepath.Join(dir, "moat", "verified")
	}
	return env
}

// stateDir returns a directory that outlives logins, as detached runs do.
func stateDir() string {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "moat")
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local", "state", "moat")
	}
	return filepath.Join(os.TempDir(), "moat-"+strconv.Itoa(os.Getuid()))
}

func notify(which ...os.Signal) (<-chan os.Signal, func()) {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, which...)
	return signals, func() { signal.Stop(signals) }
}

func bundled(env Env, logger *slog.Logger) []detect.Registration {
	return container.Registrations(container.RegistrationOptions{
		Logger:      logger,
		GVisorCache: wiring.FileCache{Dir: env.CacheDir},
	})
}
