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
// A POSIX shell with the common commands (the folder /bin of each image lists them), in
// a file system in memory that each container has of its own. Signals and traps, exit
// codes, jobs, logs, users, and states are those of a Linux container. Bind mounts are
// the host's real files, everything else ends with the container. What a program needs
// that is not there can come as shell scripts, in the Files of an [Image].
//
// There is no isolation: scripts run in this process, with its rights on what is
// mounted and without a limit of memory or depth. It is for scripts that you trust.
//
// There is no network: the modes "bridge" and "none" differ in what /proc/net/dev
// shows. What takes a kernel (limits, capabilities, published ports, the host's
// network) is refused with [core.ErrUnsupported], as is attaching.
//
// Unlike those of an engine, containers end with their runtime: Close kills them.
package memory
