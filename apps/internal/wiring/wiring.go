// Package wiring puts the commands' ports together with fx. Only this package
// knows that there are several adapters; a command asks for the port it uses.
package wiring

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/detect"
	"github.com/rs/zerolog"
	"go.uber.org/fx"
	"go.uber.org/fx/fxevent"
)

// stopTimeout bounds the closing of a runtime, which only drops connections.
const stopTimeout = 5 * time.Second

// Settings is what a command line decides about the runtime.
type Settings struct {
	Host       detect.Host
	Options    detect.Options
	Registered func(*slog.Logger) []detect.Registration
	Creates    bool // containers: the sandbox must have been verified
	LogOutput  io.Writer
	LogLevel   zerolog.Level
}

// Engine is the runtime that detection chose. It can be handed out before it is
// open: calls are for after the application's start.
type Engine struct {
	core.Runtime
	Endpoint string // where it listens
}

// Unwrap lets [core.As] find the runtime's optional interfaces.
func (e *Engine) Unwrap() core.Runtime { return e.Runtime }

// Module provides the chosen runtime as every port that it is.
func Module(settings Settings) fx.Option {
	return fx.Options(
		fx.Supply(settings),
		fx.Provide(
			NewLogger,
			newPlan,
			newEngine,
			port[core.Runtime],
			port[core.Identity],
			port[core.Lifecycle],
			port[core.Logs],
			port[core.Attacher],
			port[core.Images],
			port[core.Ports],
			port[core.Firewall],
			port[core.Managers],
		),
		fx.WithLogger(func(logger *slog.Logger) fxevent.Logger {
			events := &fxevent.SlogLogger{Logger: logger}
			events.UseLogLevel(slog.LevelDebug)
			events.UseErrorLevel(slog.LevelDebug) // the error itself reaches the user once, from the command
			return events
		}),
	)
}

func port[P any](engine *Engine) P { return any(engine).(P) }

// NewLogger returns the logger that everything behind a command line writes to.
func NewLogger(settings Settings) *slog.Logger {
	writer := zerolog.ConsoleWriter{Out: settings.LogOutput, NoColor: true, PartsExclude: []string{zerolog.TimestampFieldName}}
	return slog.New(zerolog.NewSlogHandler(zerolog.New(writer).Level(settings.LogLevel)))
}

func newPlan(settings Settings, logger *slog.Logger) ([]detect.Candidate, error) {
	return detect.Plan(settings.Host, settings.Options, settings.Registered(logger))
}

func newEngine(lifecycle fx.Lifecycle, settings Settings, plan []detect.Candidate) *Engine {
	engine := &Engine{}
	lifecycle.Append(fx.Hook{
		OnStart: func(ctx context.Context) (err error) {
			choose := detect.Unverified
			if settings.Creates {
				choose = detect.Detect
			}
			var attempts []detect.Attempt
			engine.Runtime, attempts, err = choose(ctx, plan)
			if err == nil {
				chosen := slices.IndexFunc(attempts, func(attempt detect.Attempt) bool { return attempt.Err == nil })
				engine.Endpoint = attempts[chosen].Endpoint
			}
			return err
		},
		OnStop: func(context.Context) error { return engine.Close() },
	})
	return engine
}

// With opens the runtime, hands f the port P, and closes the runtime again.
func With[P any](ctx context.Context, settings Settings, f func(context.Context, P) error) (err error) {
	var wanted P
	app := fx.New(Module(settings), fx.Populate(&wanted), fx.StartTimeout(time.Hour)) // ctx bounds the start
	if err := app.Err(); err != nil {
		return rootCause(err)
	}
	if err := app.Start(ctx); err != nil {
		return rootCause(err)
	}
	defer func() {
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		err = errors.Join(err, app.Stop(stopCtx))
	}()
	return f(ctx, wanted)
}

// rootCause drops fx's account of the dependency graph, which means nothing to a user.
func rootCause(err error) error {
	if failure, ok := errors.AsType[*detect.NoRuntimeError](err); ok {
		return failure
	}
	if failure, ok := errors.AsType[*core.Error](err); ok {
		return failure
	}
	return err
}
