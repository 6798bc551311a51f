// Package memory is a container runtime inside this process: the reference for the
// other adapters, and the test double of programs that embed Moat. It needs no engine,
// starts a container in well under a millisecond, and takes part in the same contract.
//
//	rt := memory.New(memory.Options{})
//	defer rt.Close()
//	id, err := rt.CreateContainer(ctx, core.Config{
//		Image: memory.BaseImage,
//		Cmd:   []string{"sh", "-c", "echo hello; exit 3"},
//	})
//
// # What a container is here
//
// Functions of this process ([Options.Programs]), and a shell, in a file system in memory
// that each container has of its own. Signals, exit codes, logs, users, and states are
// those of a Linux container. Bind mounts are the host's real files, everything else ends
// with the container.
//
// There is no isolation: programs run in this process, with its rights on what is mounted
// (where links lead to the host's files) and without a limit of memory or depth. It is for
// programs and scripts that you trust.
//
// # Images
//
// [BaseImage] and [ConfigImage] are built in. The programs that your code runs can be
// functions ([Options.Programs]; the example shows one), or shell scripts in the Files of
// an [Image]. [Options.Images] are present from the beginning; those in
// [Options.Registry] can be pulled, with progress, and [Options.Unreachable] stands for
// registries that are down. All else is not found.
//
// Its build manager makes images of Dockerfiles: FROM (stages and scratch, too), RUN,
// COPY and ADD of files and folders, ARG, ENV, WORKDIR, USER, LABEL, VOLUME, EXPOSE,
// ENTRYPOINT and CMD. Other instructions, all options but --from, archives that ADD
// would unpack, and files inside a Dockerfile are refused with [core.ErrUnsupported],
// and so are links in a build context. What steps have made is reused as long as the
// runtime is open.
//
// # What is missing
//
// Nothing passes between containers: networks are only kept account of, with subnets,
// and with the containers that hold them. The modes "bridge" and "none" differ in what
// /proc/net/dev shows. What takes a kernel (limits, capabilities,
// privileges, published ports, the host's network or its address) is refused with
// [core.ErrUnsupported]. [Runtime.Capabilities] says the same as data.
//
// A terminal has a size, and SIGWINCH reports a change. Output \n becomes \r\n, input \r
// becomes \n, and input is echoed. Ctrl-C sends SIGINT to all processes of the terminal.
// Ctrl-D at the beginning of a line ends the input for good. There are no terminal modes,
// no line editing (input arrives at once), no job control and no /dev/tty. A shell without
// a script has no prompt: it reads all input, and then runs it.
//
// The shell is for the short scripts of images, builds and readiness commands. It has the
// language of POSIX and the commands in /bin, but refuses traps, commands in the
// background, process substitution and what looks for the host's programs: give your code
// a function instead. Modes of files restrict nobody but say what can be executed.
// Signals that would suspend are refused.
//
// Of each container's output the newest 64 MiB are kept ([Options.LogLimit]), with a
// line in place of what is gone.
//
// Unlike those of an engine, containers end with their runtime: Close kills them.
package memory
