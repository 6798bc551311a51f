package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/moatproject/moat/core"
)

// errAmbiguous says that an ID prefix fits more than one container.
var errAmbiguous = errors.New("more than one container begins with it; give more of the ID")

// resolve finds the managed containers that args name by name, ID or unique prefix
// of an ID, with one call. Each argument that names none is an error in errs.
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
		failure.Class, failure.Remedy = core.ErrNotFound, "`moat ps -a` lists the containers that Moat manages"
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

// forEach applies f to what args name, goes on past failures, and returns the done.
func forEach(ctx context.Context, containers core.Lifecycle, args []string, f func(core.Info) error) ([]core.Info, error) {
	found, errs := resolve(ctx, containers, args)
	var done []core.Info
	for _, info := range found {
		if err := f(info); err != nil {
			errs = errors.Join(errs, fmt.Errorf("%s: %w", info.Name, err))
			continue
		}
		done = append(done, info)
	}
	return done, errs
}
