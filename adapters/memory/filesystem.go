package memory

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/moatproject/moat/core"
	"github.com/spf13/afero"
)

// filesystem is a container's: a tree in memory, with the bind mounts over it. Its paths
// are absolute and clean. As in a container of root's, modes restrict nobody but say
// what is executable.
type filesystem struct {
	tree   afero.Fs
	mounts []mount
}

type mount struct {
	target string
	files  afero.Fs
}

func newFilesystem() *filesystem { return &filesystem{tree: afero.NewMemMapFs()} }

// bind puts a file or folder of the host's at a target.
func (f *filesystem) bind(config core.MountConfig) error {
	info, err := os.Stat(config.Source)
	if err != nil {
		return err
	}
	target := path.Clean(config.Target)
	if info.IsDir() {
		err = f.mkdirAll(target)
	} else {
		err = f.write(target, nil, 0o644)
	}
	if err != nil {
		return err
	}
	files := afero.NewBasePathFs(afero.NewOsFs(), config.Source)
	if config.ReadOnly {
		files = afero.NewReadOnlyFs(files)
	}
	f.mounts = append(f.mounts, mount{target: target, files: files})
	return nil
}

// at returns the innermost mount of a path, and what the path is called there.
func (f *filesystem) at(name string) (files afero.Fs, inner string) {
	files, inner = f.tree, name
	longest := 0
	for _, m := range f.mounts {
		rest, below := strings.CutPrefix(name, m.target)
		if below && len(m.target) > longest && (rest == "" || rest[0] == '/') {
			files, inner, longest = m.files, "/"+rest, len(m.target)
		}
	}
	return files, inner
}

// pathError names the path as the container knows it.
func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = e.Err
	}
	if errors.Is(err, fs.ErrNotExist) { // which has no single text
		err = syscall.ENOENT
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

func (f *filesystem) stat(name string) (fs.FileInfo, error) {
	files, inner := f.at(name)
	info, err := files.Stat(inner)
	if err != nil {
		return nil, pathError("stat", name, err)
	}
	return info, nil
}

// open opens a file, or a folder to read. Files that are not regular could block for ever.
func (f *filesystem) open(name string, flag int, mode fs.FileMode) (afero.File, error) {
	fail := func(err error) (afero.File, error) { return nil, pathError("open", name, err) }
	info, err := f.stat(name)
	switch writes := flag&(os.O_WRONLY|os.O_RDWR) != 0; {
	case err == nil && info.IsDir() && writes:
		return fail(syscall.EISDIR)
	case err == nil && !info.IsDir() && !info.Mode().IsRegular():
		return fail(errors.ErrUnsupported)
	case err != nil && flag&os.O_CREATE == 0:
		return nil, err
	case err != nil:
		if err := f.checkParent(name); err != nil {
			return fail(err)
		}
	}
	files, inner := f.at(name)
	file, err := files.OpenFile(inner, flag, mode)
	if err != nil {
		return fail(err)
	}
	return file, nil
}

// checkParent: the tree would make missing folders by itself.
func (f *filesystem) checkParent(name string) error {
	info, err := f.stat(path.Dir(name))
	if err != nil {
		return syscall.ENOENT
	}
	if !info.IsDir() {
		return syscall.ENOTDIR
	}
	return nil
}

func (f *filesystem) readDir(name string) ([]fs.FileInfo, error) {
	files, inner := f.at(name)
	list, err := afero.ReadDir(files, inner)
	return list, pathError("open", name, err)
}

func (f *filesystem) readFile(name string) ([]byte, error) {
	file, err := f.open(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(file)
	return data, pathError("read", name, err)
}

func (f *filesystem) mkdir(name string) error {
	if _, err := f.stat(name); err == nil {
		return pathError("mkdir", name, syscall.EEXIST)
	}
	if err := f.checkParent(name); err != nil {
		return pathError("mkdir", name, err)
	}
	files, inner := f.at(name)
	return pathError("mkdir", name, files.Mkdir(inner, 0o755))
}

func (f *filesystem) mkdirAll(name string) error {
	if info, err := f.stat(name); err == nil {
		if info.IsDir() {
			return nil
		}
		return pathError("mkdir", name, syscall.ENOTDIR)
	}
	if err := f.mkdirAll(path.Dir(name)); err != nil {
		return err
	}
	return f.mkdir(name)
}

// write makes a file with its folders.
func (f *filesystem) write(name string, content []byte, mode fs.FileMode) error {
	if err := f.mkdirAll(path.Dir(name)); err != nil {
		return err
	}
	files, inner := f.at(name)
	err := afero.WriteFile(files, inner, content, mode)
	if err == nil {
		err = files.Chmod(inner, mode) // the mode of a file that was there before
	}
	return pathError("write", name, err)
}

// unpack copies a file, or a folder with what is inside, to a target.
func (f *filesystem) unpack(files fs.FS, root, target string) error {
	return fs.WalkDir(files, root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		inside := name
		if root != "." {
			inside = strings.TrimPrefix(name, root)
		}
		target := path.Join(target, inside)
		if entry.IsDir() {
			return f.mkdirAll(target)
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return fmt.Errorf("%s is not a regular file", name)
		}
		content, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		return f.write(target, content, info.Mode().Perm())
	})
}

// snapshot is a view of the tree, which nobody is to change any more.
func (f *filesystem) snapshot() fs.FS { return afero.NewIOFS(afero.NewBasePathFs(f.tree, "/")) }
