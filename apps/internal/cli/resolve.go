package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/moatproject/moat/core"
	"golang.org/x/sync/errgroup"
)

// errAmbiguous reports an ID prefix that matches more than one container.
var errAmbiguous = errors.New("more than one container begins with it; give more of the ID")

// resolve finds managed containers by name, ID or unique prefix of an ID, with one call. An
// argument without a container has an error in errs.
func resolve(ctx context.Context, containers core.Lifecycle, args []string) (found []core.Info, errs error) {
	all, err := containers.ListContainers(ctx)
	if err != nil {
		return nil, err
	}
	for _, arg := range args {
		info, err := match(all, arg)
		if err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		found = append(found, info)
	}
	return found, errs
}

func match(all []core.Info, arg string) (core.Info, error) {
	var prefixed []core.Info
	for _, info := range all {
		if info.ID == arg || info.Name == arg {
			return info, nil
		}
		if arg != "" && strings.HasPrefix(info.ID, arg) {
			prefixed = append(prefixed, info)
		}
	}
	failure := &core.Error{Op: "find container", Object: arg}
	switch len(prefixed) {
	case 1:
		return prefixed[0], nil
	case 0:
		failure.Class, failure.Remedy = core.ErrNotFound, "List the containers that Moat manages with `moat ps -a`"
	default:
		failure.Class, failure.Err = core.ErrInvalidConfig, errAmbiguous
	}
	return core.Info{}, failure
}

// resolveOne is resolve for commands on one container.
func resolveOne(ctx context.Context, containers core.Lifecycle, arg string) (core.Info, error) {
	found, err := resolve(ctx, containers, []string{arg})
	if err != nil {
		return core.Info{}, err
	}
	return found[0], nil
}

// maxAtOnce bounds the parallel requests of a command on several objects, as in Docker.
const maxAtOnce = 50

// inParallel calls f for each item, up to maxAtOnce at a time. It calls report for each
// result in the items' order, as soon as that result and all earlier ones are known.
func inParallel[T, R any](items []T, f func(T) (R, error), report func(T, R, error)) {
	type outcome struct {
		result R
		err    error
	}
	outcomes := make([]chan outcome, len(items))
	for i := range items {
		outcomes[i] = make(chan outcome, 1)
	}
	go func() {
		var calls errgroup.Group
		calls.SetLimit(maxAtOnce)
		for i, item := range items {
			calls.Go(func() error {
				result, err := f(item)
				outcomes[i] <- outcome{result, err}
				return nil
			})
		}
	}()
	for i, item := range items {
		o := <-outcomes[i]
		report(item, o.result, o.err)
	}
}

// forEach calls f in parallel for the containers of args, and done with each result in the
// order of args. A failure does not stop it. f is called once for a container that is named
// twice.
func forEach[R any](
	ctx context.Context, containers core.Lifecycle, args []string, f func(core.Info) (R, error), done func(core.Info, R) error,
) error {
	all, err := containers.ListContainers(ctx)
	if err != nil {
		return err
	}
	type target struct {
		core.Info
		err  error // no container has this name
		call func() (R, error)
	}
	targets, calls := make([]target, len(args)), map[string]func() (R, error){}
	for i, arg := range args {
		info, err := match(all, arg)
		if calls[info.ID] == nil {
			calls[info.ID] = sync.OnceValues(func() (R, error) { return f(info) })
		}
		targets[i] = target{info, err, calls[info.ID]}
	}
	var errs []error
	inParallel(targets, func(t target) (none R, _ error) {
		if t.err != nil {
			return none, t.err
		}
		return t.call()
	}, func(t target, result R, err error) {
		switch {
		case t.err != nil:
			errs = append(errs, t.err)
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", t.Name, err))
		default:
			errs = append(errs, done(t.Info, result))
		}
	})
	return errors.Join(errs...)
}

// onEach is forEach for a command that prints the names of the containers that it has
// changed.
func (a *app) onEach(ctx context.Context, containers core.Lifecycle, args []string, f func(core.Info) error) error {
	var infos []core.Info
	err := forEach(ctx, containers, args, func(info core.Info) (core.Info, error) { return info, f(info) }, func(info, _ core.Info) error {
		if a.json {
			infos = append(infos, info)
			return nil
		}
		_, err := fmt.Fprintln(a.env.Stdout, info.Name)
		return err
	})
	if a.json {
		err = errors.Join(printJSON(a.env.Stdout, infos), err)
	}
	return err
}
