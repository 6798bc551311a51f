package gvisor

import (
	"context"
	"errors"
	"slices"

	"github.com/docker/docker/client"
	"github.com/moatproject/moat/core"
)

// Check reports what gVisor cannot honour of a configuration, as
// [core.ErrUnsupported]. It asks the engine only where AllowNewPrivileges is set.
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
		Op: "check configuration", Runtime: core.RuntimeGVisor, Object: ociRuntime,
		Field: "AllowNewPrivileges", Class: core.ErrUnsupported,
		Err:    errors.New("gVisor ignores set-user-ID bits, as the engine starts it"),
		Remedy: "Add --allow-suid to the runtimeArgs of this runtime in the engine's daemon.json",
	}
}

// allowsSUID tells whether set-user-ID programs gain privileges. Without the flag
// their bits are ignored.
func (c candidate) allowsSUID() bool {
	value, given := c.flag("allow-suid")
	return given && (value == "" || value == "true")
}
