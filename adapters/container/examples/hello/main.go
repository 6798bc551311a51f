// Command hello runs one command in a container of its own, and prints what it wrote.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/moatproject/moat/adapters/container"
	"github.com/moatproject/moat/core/run"
)

func main() {
	if err := hello(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func hello(ctx context.Context) (err error) {
	rt, err := container.NewRuntime() // the engine that this machine has; on Linux with gVisor
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rt.Close()) }()

	r, err := run.Start(ctx, rt, run.Spec{Workload: container.Config{
		Image:       "busybox", // pulled where it is absent
		Cmd:         []string{"sh", "-c", "id -un; uname -r; exit 3"},
		NetworkMode: "none",
		MemoryMB:    256,
	}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close(context.WithoutCancel(ctx))) }()

	status, err := r.Wait(ctx)
	if err != nil {
		return err
	}
	output, err := rt.ContainerLogsAll(ctx, r.WorkloadID())
	fmt.Printf("%sexit status %d\n", output, status)
	return err
}
