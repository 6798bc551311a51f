package docker

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"io"
	"io/fs"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types"
)

// maxInterpreters bounds how many interpreters and links are followed, as kernels do.
const maxInterpreters = 5

// programMax bounds what is read of a program.
const programMax = 256 << 20

// isExitOfInit tells the exit codes of runc's init where it cannot become a program that
// looked as if it could be executed: before runc 1.2, and since.
func isExitOfInit(code int64) bool { return code == 1 || code == 255 }

// isUnexecuted tells whether these are the words of runc's init, which could not become
// a program. Any program can write them: they count where no kernel executes the file.
func (r *Runtime) isUnexecuted(ctx context.Context, c *call, said string) bool {
	program, ok := programOfInit(said)
	if !ok {
		return false
	}
	engine, err := ask(ctx, r, c.op, c.object, func(ctx context.Context) (types.Version, error) { return r.engine.ServerVersion(ctx) })
	if err != nil {
		return false
	}
	executable, err := r.executable(ctx, c.object, program, machines[engine.Arch], maxInterpreters)
	return err == nil && !executable
}

// machines are what the programs of an engine's architecture are for.
var machines = map[string][]elf.Machine{
	"amd64": {elf.EM_X86_64, elf.EM_386}, "arm64": {elf.EM_AARCH64, elf.EM_ARM},
}

// executable tells whether a kernel can execute a file in a container. In doubt it can.
func (r *Runtime) executable(ctx context.Context, id, path string, machines []elf.Machine, further int) (bool, error) {
	content, stat, err := r.engine.CopyFromContainer(ctx, id, path)
	switch {
	case errdefs.IsNotFound(err):
		return false, nil
	case err != nil:
		return false, err
	}
	defer content.Close()
	switch {
	case further == 0:
		return false, nil
	case stat.Mode&fs.ModeSymlink != 0:
		return r.executable(ctx, id, stat.LinkTarget, machines, further-1)
	case !stat.Mode.IsRegular() || stat.Mode&0o111 == 0:
		return false, nil
	}
	archive := tar.NewReader(content)
	if _, err := archive.Next(); err != nil {
		return false, err
	}
	interpreter, ok, err := interpreterOf(io.LimitReader(archive, programMax), machines)
	if !ok || err != nil || interpreter == "" {
		return ok, err
	}
	return r.executable(ctx, id, interpreter, machines, further-1)
}

// interpreterOf returns the interpreter of a program, "" where it needs none, and
// whether its format is one that kernels know.
func interpreterOf(program io.Reader, machines []elf.Machine) (path string, ok bool, err error) {
	content := bufio.NewReader(program)
	magic, err := content.Peek(len(elf.ELFMAG))
	switch {
	case bytes.HasPrefix(magic, []byte("#!")):
		line, _ := content.ReadString('\n')
		fields := strings.Fields(strings.TrimPrefix(line, "#!"))
		if len(fields) == 0 {
			return "", false, nil
		}
		return fields[0], true, nil
	case string(magic) != elf.ELFMAG:
		if errors.Is(err, io.EOF) { // it is shorter than that
			err = nil
		}
		return "", false, err
	}
	whole, err := io.ReadAll(content)
	if err != nil {
		return "", false, err
	}
	return interpreterOfELF(whole, machines)
}

func interpreterOfELF(program []byte, machines []elf.Machine) (path string, ok bool, err error) {
	file, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return "", false, nil
	}
	known := len(machines) == 0
	for _, machine := range machines {
		known = known || machine == file.Machine
	}
	for _, part := range file.Progs {
		if part.Type == elf.PT_INTERP {
			name, err := io.ReadAll(part.Open())
			return strings.TrimRight(string(name), "\x00"), known, err
		}
	}
	return "", known, nil
}
