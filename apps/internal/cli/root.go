// Package cli is the command line of Moat, in Docker's conventions.
package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/moatproject/moat/apps/internal/wiring"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/detect"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
)

// app is one invocation.
type app struct {
	env       Env
	args      []string // of the command line
	runtime   string   // --runtime
	noSandbox bool     // --no-sandbox
	debug     bool     // --debug
	json      bool     // --json
	creates   bool     // the command creates containers
}

// Main runs the command line and returns the process's exit status.
func Main(env Env, args []string) int {
	// Writing to a pipe that nobody reads must be an error like any other: the
	// default, to die at once, would leave a container behind.
	signal.Ignore(syscall.SIGPIPE)

	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	stdout, stderr := &output{to: env.Stdout, lost: cancel}, &output{to: env.Stderr, lost: cancel}
	env.Stdout, env.Stderr = stdout, stderr
	a := &app{env: env, args: args}
	root := a.rootCommand()
	root.SetArgs(args)
	command, err := root.ExecuteContextC(ctx)
	if errors.Is(context.Cause(ctx), errReaderGone) {
		return statusReaderGone
	}
	if err == nil {
		err = stdout.failed()
	}
	return a.exitStatus(command, err)
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "moat",
		Short:         "Run untrusted code (AI agents, other people's scripts) in sandboxed containers",
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
	runtimes := detect.Names(a.registered(slog.New(slog.DiscardHandler)))
	flags.Func("runtime", "`name` of the runtime to use: "+strings.Join(runtimes, ", ")+" (default $MOAT_RUNTIME, else auto)", func(name string) error {
		a.runtime = name
		if name != "" && !slices.ContainsFunc(runtimes, func(known string) bool { return strings.EqualFold(known, name) }) {
			return errors.New("allowed are " + strings.Join(runtimes, ", "))
		}
		return nil
	})
	flags.BoolVar(&a.noSandbox, "no-sandbox", false, "run without gVisor: the workload shares the host's kernel (also MOAT_NO_SANDBOX=1)")
	flags.BoolVar(&a.debug, "debug", false, "log details to standard error")
	root.AddCommand(
		a.runCommand(), a.psCommand(), a.inspectCommand(), a.logsCommand(), a.waitCommand(),
		a.stopCommand(), a.rmCommand(), a.imagesCommand(), a.pullCommand(), a.rmiCommand(), a.buildCommand(),
		a.attachCommand(), a.execCommand(), a.cpCommand(), a.eventsCommand(), a.statsCommand(),
		a.networkCommand(), a.egressCommand(), a.doctorCommand(), a.cleanCommand(), a.versionCommand(),
	)
	return root
}

func (a *app) registered(logger *slog.Logger) []detect.Registration {
	if a.env.Registered == nil {
		return nil
	}
	return a.env.Registered(a.env, logger)
}

func (a *app) jsonFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&a.json, "json", false, "print one JSON array of objects")
}

func (a *app) settings() wiring.Settings {
	host := a.env.Host
	if a.runtime != "" {
		getenv := host.Getenv
		host.Getenv = func(key string) string {
			if key == detect.EnvRuntime {
				return a.runtime
			}
			return getenv(key)
		}
	}
	options := detect.DefaultOptions(host)
	if a.noSandbox {
		options.Sandbox = false
	}
	level := zerolog.WarnLevel
	if a.debug {
		level = zerolog.DebugLevel
	}
	return wiring.Settings{
		Host:       host,
		Options:    options,
		Registered: a.registered,
		Creates:    a.creates,
		LogOutput:  a.env.Stderr,
		LogLevel:   level,
	}
}

// with opens the runtime for f as the port P; a signal cancels f's context.
func with[P any](cmd *cobra.Command, a *app, f func(context.Context, P) error) error {
	ctx, stop := a.cancelOnSignal(cmd.Context())
	defer stop()
	err := wiring.With(ctx, a.settings(), f)
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

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}
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
		status = exit.status
	}
	if interrupted, ok := errors.AsType[*interruptedError](err); ok {
		return interrupted.status()
	}
	a.printError(err)
	return status
}

// printError prints an error that has a text.
func (a *app) printError(err error) {
	if text := strings.TrimSpace(err.Error()); text != "" {
		fmt.Fprintf(a.env.Stderr, "moat: %s\n", cleanText(text)) // it may quote untrusted text
	}
}
