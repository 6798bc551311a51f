// Package run runs one untrusted command in a sandboxed container, with the services and the
// network that it needs, and removes them.
// The command line, the daemon and programs that embed Moat use the same code. Like
// core it does no I/O of its own and prints nothing: it works on a [core.Runtime], and
// what else it needs comes in by the interfaces [Store] and [Clock].
//
// # Glossary
//
//   - workload: the run's main container, which runs the command.
//   - service: a database or cache beside it.
//   - step: a part of a run that is made, and removed again: network, services, workload.
//   - owner: the [Store] that knows whether a run is alive.
//
// # The life of a run
//
//	preparing ──▶ held ──▶ running ──▶ exited ──▶ removing ──▶ gone
//
// From each of the first four states a run can also go to removing or to left.
//
// A walk-through, errors left out:
//
//	r, _ := run.Start(ctx, rt, run.Spec{Workload: core.Config{Image: "alpine", Cmd: []string{"true"}, NetworkMode: "none"}})
//	defer r.Close(context.WithoutCancel(ctx))
//	code, _ := r.Wait(ctx)
//	output, _ := rt.ContainerLogsAll(ctx, r.WorkloadID())
package run
