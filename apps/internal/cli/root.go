// Package cli is the command line of Moat, in Docker's conventions.
package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/signal"
	"syscall"

	"github.com/moatproject/moat/apps/internal/wiring"
	"github.com/moatproject/moat/core"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
)

// app is one invocation.
type app struct {
	env       Env
	runtime   string // --runtime
	noSandbox bool   // --no-sandbox
	debug     bool   // --debug
	json      bool   // --json

	pullProgress core.PullSink
}

// Main runs the command line and returns the process's exit status.
func Main(env Env, args []string) int {
	// Writing to a pipe that nobody reads must be an error like any other: the
	// default, to die at once, would leave a container behind.
	signal.Ignore(syscall.SIGPIPE)

	a := &app{env: env}
	root := a.rootCommand()
	root.SetArgs(args)
	command, err := root.ExecuteContextC(context.Background())
	return a.exitStatus(command, err)
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "moat",
		Short:         "Run work that nobody has to trust in sandboxed containers",
		Version:       core.Version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(a.env.Stdin)
	root.SetOut(a.env.Stdout)
	root.SetErr(a.env.Stderr)
	flags := root.PersistentFlags()
	flags.StringVar(&a.runtime, "runtime", "", "runtime to use: auto, docker, gvisor, apple, remote, memory (default $MOAT_RUNTIME, else auto)")
	flags.BoolVar(&a.noSandbox, "no-sandbox", false, "share the host's kernel with the workload instead of requiring gVisor")
	flags.BoolVar(&a.debug, "debug", false, "log what happens inside to standard error")
	root.AddCommand(
		a.runCommand(), a.psCommand(), a.inspectCommand(), a.logsCommand(), a.waitCommand(),
		a.stopCommand(), a.rmCommand(), a.imagesCommand(), a.pullCommand(), a.rmiCommand(), a.buildCommand(),
		a.attachCommand(), a.execCommand(), a.cpCommand(), a.eventsCommand(), a.statsCommand(),
		a.networkCommand(), a.doctorCommand(), a.cleanCommand(), a.versionCommand(),
	)
	return root
}

func (a *app) jsonFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&a.json, "json", false, "print one JSON array of objects")
}

func (a *app) settings(progress core.PullSink) wiring.Settings {
	host := a.env.Host
	if a.runtime != "" {
		getenv := host.Getenv
		host.Getenv = func(key string) string {
			if key == core.EnvRuntime {
				return a.runtime
			}
			return getenv(key)
		}
	}
	options := core.DefaultRuntimeOptions(host)
	if a.noSandbox {
		options.Sandbox = false
	}
	level := zerolog.WarnLevel
	if a.debug {
		level = zerolog.DebugLevel
	}
	return wiring.Settings{
		Host:    host,
		Options: options,
		Candidates: func(logger *slog.Logger) []core.Candidate {
			return a.env.Candidates(a.env, progress, logger)
		},
		LogOutput: a.env.Stderr,
		LogLevel:  level,
	}
}

// with opens the runtime for f as the port P; a signal cancels f's context.
func with[P any](cmd *cobra.Command, a *app, progress core.PullSink, f func(context.Context, P) error) error {
	ctx, stop := a.cancelOnSignal(cmd.Context())
	defer stop()
	err := wiring.With(ctx, a.settings(progress), f)
	if interrupted, ok := errors.AsType[*interruptedError](context.Cause(ctx)); ok && err != nil {
		return interrupted
	}
	return err
}

// exitError carries the exit status that a command chose.
type exitError struct {
	status int
	err    error // nil: nothing to say
}

func (e *exitError) Error() string { return fmt.Sprint(e.err) }
func (e *exitError) Unwrap() error { return e.err }

func (a *app) exitStatus(cmd *cobra.Command, err error) int {
	if err == nil {
		return 0
	}
	status := 1
	if cmd.Name() == "run" {
		status = statusMoatFailed
	}
	if exit, ok := errors.AsType[*exitError](err); ok {
		if status, err = exit.status, exit.err; err == nil {
			return status
		}
	}
	if interrupted, ok := errors.AsType[*interruptedError](err); ok {
		return interrupted.status()
	}
	fmt.Fprintf(a.env.Stderr, "moat: %s\n", cleanText(err.Error())) // it may quote what others wrote
	return status
}
