// Package core is Moat's port to container runtimes: the interfaces an adapter
// implements, the types that cross them, and the rules both sides rely on. It
// depends on the standard library alone and does no I/O.
//
// # Glossary
//
//   - runtime: something that runs containers (Docker, Docker with gVisor, Apple's
//     container, the in-process memory runtime). One value of [Runtime] talks to one.
//   - engine: the process behind a runtime, where there is one (dockerd).
//   - sandbox: a kernel of the container's own between the workload and the host's.
//   - run: what one `moat run` owns; its containers carry the same [LabelRunID].
//   - managed: created by Moat, and therefore labelled [LabelManaged].
//
// # The life of a container
//
//	CreateContainer ──▶ created ──StartContainer──▶ running ──▶ exited ──▶ (RemoveContainer)
//	                                                  │  ▲
//	                                     StopContainer└──┘ StartContainer
//
// A walk-through, errors left out:
//
//	id, _ := rt.CreateContainer(ctx, core.Config{Image: "alpine", Cmd: []string{"true"}})
//	defer rt.RemoveContainer(context.WithoutCancel(ctx), id)
//	_ = rt.StartContainer(ctx, id)
//	code, _ := rt.WaitContainer(ctx, id)
//	out, _ := rt.ContainerLogsAll(ctx, id)
//
// # Obligations
//
// Method comments are contracts. What an adapter owes is numbered (RT-10: …), and
// the module contracttests has a case of that number for each. Common to all:
//
//   - RT-01: every method is safe for concurrent use.
//   - RT-02: every call returns within one second after its context ends, with an
//     error that matches the context's.
//   - RT-03: after Close every call that needs the engine matches [ErrUnavailable];
//     Close is idempotent, waits for nothing and ends open streams and waits.
//   - RT-04: no call leaves a goroutine behind once it has returned and its streams
//     are closed.
//   - RT-05: errors are an [*Error] with operation, runtime and object, and match the
//     sentinel that the contract names.
//   - RT-06: what an adapter lacks returns [ErrUnsupported] and changes nothing.
//   - RT-07: a setting that cannot be honoured is an error, never dropped.
//
// A method may be called with a container's ID or its name. IDs are the engine's
// full ones, everywhere.
package core
