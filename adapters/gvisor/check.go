package gvisor

import (
	"context"
	"errors"
	"slices"

	"github.com/docker/docker/client"
	"github.com/moatproject/moat/core"
)

// Check refuses a setting that gVisor cannot honour, with [core.ErrUnsupported]. It asks
// the engine only where AllowNewPrivileges is set.
func (s *Sandbox) Check(ctx context.Context, engine client.APIClient, ociRuntime string, cfg core.Config) error {
	if !cfg.AllowNewPrivileges {
		return nil
	}
	probe, err := newProber(ctx, engine)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(candidatesOf(probe.info), func(c candidate) bool { return c.name == ociRuntime && c.allowsSUID() }) {
		return nil
	}
	return &core.Error{
		Op: "check configuration", Runtime: Type, Object: ociRuntime,
		Field: "AllowNewPrivileges", Class: core.ErrUnsupported,
		Err:    errors.New("the engine starts gVisor so that it ignores set-user-ID bits"),
		Remedy: "Add --allow-suid to the runtimeArgs of this runtime in the engine's daemon.json",
	}
}

// allowsSUID reports whether set-user-ID programs gain privileges. Without the flag gVisor
// ignores their bits.
func (c candidate) allowsSUID() bool {
	value, given := c.flag("allow-suid")
	return given && (value == "" || value == "true")
}
