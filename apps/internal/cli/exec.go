package cli

import (
	"context"
	"errors"

	"github.com/moatproject/moat/apps/internal/wiring"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
	"github.com/spf13/cobra"
)

func (a *app) execCommand() *cobra.Command {
	var interactive bool
	var opts optional.ExecOptions
	var tty bool
	var env, envFile []string
	var keys detachKeys
	cmd := &cobra.Command{
		Use:   "exec [OPTIONS] CONTAINER COMMAND [ARG...]",
		Short: "Run a further command in a running container, and exit with its status",
		Long: "Run a further command in a running container, and exit with its status.\n" +
			"1: Moat or the engine failed; 126: the command cannot be executed; 127: it, or its interpreter, does not exist;\n" +
			"128+n: signal n ended it; 141: nobody reads the output any more.",
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if opts.Env, err = environment(a.env, envFile, "-e", env); err != nil {
				return err
			}
			opts.Cmd, opts.TTY = args[1:], tty
			if opts.Detach && interactive {
				return errors.New("-d and -i cannot be combined")
			}
			if interactive && tty && a.env.Console == nil {
				return errNoneForTTY
			}
			return with(cmd, a, func(ctx context.Context, engine *wiring.Engine) error {
				return a.exec(ctx, engine, args[0], opts, interactive, keys)
			})
		},
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false) // arguments after CONTAINER belong to the command
	flags.BoolVarP(&interactive, "interactive", "i", false, "forward standard input")
	flags.BoolVarP(&tty, "tty", "t", false, "give the command a terminal")
	flags.BoolVarP(&opts.Detach, "detach", "d", false, "start the command and do not wait for it")
	flags.StringArrayVarP(&env, "env", "e", nil, "environment `KEY=value`, or KEY for this process's value")
	flags.StringArrayVar(&envFile, "env-file", nil, "read environment from a `file` of KEY=value lines")
	flags.StringVarP(&opts.WorkingDir, "workdir", "w", "", "working directory in the container")
	flags.StringVarP(&opts.User, "user", "u", "", "user to run as, `USER[:GROUP]`")
	keys.register(flags)
	return cmd
}

func (a *app) exec(ctx context.Context, engine *wiring.Engine, name string, opts optional.ExecOptions, interactive bool, keys detachKeys) (err error) {
	execer, ok := core.As[optional.Execer](engine)
	if !ok {
		return &core.Error{Op: "exec in container", Runtime: engine.Type(), Class: core.ErrUnsupported}
	}
	info, err := resolveOne(ctx, engine, name)
	if err != nil {
		return err
	}
	if !opts.Detach {
		var cancel context.CancelCauseFunc
		ctx, cancel = context.WithCancelCause(ctx)
		defer cancel(context.Canceled)
		session := a.openSession(interactive, opts.TTY, keys, cancel)
		defer func() { err = errors.Join(err, session.restore()) }()
		if err := session.begin(nil); err != nil {
			return err
		}
		opts.AttachOptions, opts.Resize = session.attachOptions(a.env, opts.TTY), session.sizes(ctx)
	}
	code, err := execer.Exec(ctx, info.ID, opts)
	switch {
	case errors.Is(context.Cause(ctx), errDetached):
		return nil
	case err != nil:
		return programFailure(err)
	case code == 0:
		return nil
	}
	return &exitError{status: int(code)}
}
