package optional

import (
	"context"

	"github.com/moatproject/moat/core"
)

// Execer is the optional interface for running further programs in a container.
type Execer interface {
	// Exec runs another program in a running container. It returns the program's exit code
	// once the program has exited and its output has been written, even if it closed its
	// output earlier. When ctx ends, the program goes on: runtimes cannot signal it.
	//
	//   - RT-130: its own code, 128+n after signal n; stdout and stderr apart, no byte lost.
	//   - RT-131: Env, WorkingDir and User hold; where they are empty, the container's do.
	//   - RT-132: stdin arrives, and its end does.
	//   - RT-133: TTY: the initial size, and what Resize brings.
	//   - RT-134: a program that does not exist, or is not executable, is
	//     [core.ErrInvalidConfig], field Cmd, and matches [fs.ErrNotExist] or [fs.ErrPermission],
	//     as RT-106 says.
	//   - RT-135: missing: [core.ErrNotFound]; not running: [core.ErrNotRunning]; invalid
	//     options: [core.ErrInvalidConfig] with the field's name.
	//   - RT-136: Detach: it returns 0 once the program has been started.
	//   - RT-137: when ctx ends it returns within a second, and the container runs on.
	//   - RT-139: the program's own code and output are its own, as RT-46 says.
	//   - RT-138: a writer's failure ends it with the writer's error, Stdin's is returned
	//     when the program has ended, beside its exit code; the container runs on.
	Exec(ctx context.Context, id string, opts ExecOptions) (int64, error)
}

// ExecOptions says what [Execer.Exec] runs.
type ExecOptions struct {
	Cmd        []string // program and arguments
	Env        []string // KEY=value, beside the container's own
	WorkingDir string   // absolute; empty: the container's
	User       string   // "USER" or "USER:GROUP"; empty: the container's

	core.AttachOptions                     // its streams, as [core.Attacher] treats them
	Resize             <-chan TerminalSize // later sizes of its terminal; nil: none. The caller may close it
	Detach             bool                // only start it; the streams must be nil
}

// TerminalSize is a terminal's size in characters.
type TerminalSize struct{ Height, Width uint }

// Validate reports the first option that no runtime could honour, as
// [core.ErrInvalidConfig] with the field's name.
func (o ExecOptions) Validate() error {
	if len(o.Cmd) == 0 || o.Cmd[0] == "" {
		return core.Invalid("Cmd", "is empty; name the program to run")
	}
	process := core.Config{Image: "none", Cmd: o.Cmd, Env: o.Env, WorkingDir: o.WorkingDir, User: o.User}
	if err := process.Validate(); err != nil {
		return err
	}
	switch {
	case o.Detach && (o.Stdin != nil || o.Stdout != nil || o.Stderr != nil):
		return core.Invalid("Detach", "a program that is only started has no streams")
	case o.Resize != nil && !o.TTY:
		return core.Invalid("Resize", "there is no terminal to resize without TTY")
	}
	return nil
}
