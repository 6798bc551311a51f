package docker

import (
	"io/fs"

	"github.com/containerd/errdefs"
	"github.com/moatproject/moat/core"
)

// podmanRules classify Podman's messages. Docker Engine has none of these.
var podmanRules = []rule{
	// The builder. A command's own output is not the builder's message.
	{is: isCommandFailed},
	{texts: []string{"no contents in "}, class: core.ErrInvalidConfig, field: "Dockerfile", remedy: mendDockerfile},
	{texts: []string{"build error: unknown instruction"}, class: core.ErrInvalidConfig, field: "Dockerfile", remedy: mendDockerfile},
	{texts: []string{"building at step ", "requires "}, class: core.ErrInvalidConfig, field: "Dockerfile", remedy: mendDockerfile},
	{texts: []string{"building at step ", "checking on sources under "}, class: core.ErrInvalidConfig, field: "ContextFiles", remedy: checkContext},

	// The OCI runtime, of whose message Podman reports the last line.
	{texts: []string{"chdir to cwd", "oci permission denied"}, class: core.ErrInvalidConfig, field: "WorkingDir", remedy: otherFolder},
	{texts: []string{"oci runtime attempted to invoke a command that was not found"}, class: core.ErrInvalidConfig, field: "Cmd", cause: fs.ErrNotExist, remedy: checkProgram},
	{texts: []string{"oci permission denied"}, class: core.ErrInvalidConfig, field: "Cmd", cause: fs.ErrPermission, remedy: runnable},

	{texts: []string{"workdir ", "is not a directory"}, class: core.ErrInvalidConfig, field: "WorkingDir", remedy: otherFolder},
	{texts: []string{"unknown capability"}, class: core.ErrInvalidConfig, field: "CapAdd", remedy: "Choose from `man 7 capabilities`"},
	{texts: []string{"the container name ", "is already in use by "}, class: core.ErrAlreadyExists, field: "Name", remedy: "Choose another name, or remove that container"},
	{is: errdefs.IsNotFound, texts: []string{podmanNoContainer}, class: core.ErrNotFound, remedy: "List the containers that there are: this one was removed, or never existed"},
	{texts: []string{"container state improper"}, class: core.ErrNotRunning, remedy: "Start it first"},
	{texts: []string{"image is in use by a container"}, class: core.ErrInUse, remedy: "Remove that container first"},
	{texts: []string{"is already used on the host or by another config"}, class: core.ErrInUse, field: "Subnet", remedy: "Choose another subnet, or none"},
	{texts: []string{"network name ", "already used"}, class: core.ErrAlreadyExists, field: "Name", remedy: "Choose another name, or remove that network"},
	{texts: []string{"network is being used"}, class: core.ErrInUse, remedy: "Stop the containers on it, or force the removal"},
}
