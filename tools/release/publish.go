package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

const prefix = "github.com/moatproject/moat/"

// publish writes each module of the workspace at root to a directory that the go command can use
// as a proxy, and returns the modules' paths.
func publish(ctx context.Context, root, proxy, version string) (modules []string, err error) {
	content, err := os.ReadFile(filepath.Join(root, "go.work"))
	if err != nil {
		return nil, err
	}
	work, err := modfile.ParseWork("go.work", content, nil)
	if err != nil {
		return nil, err
	}
	for _, use := range work.Use {
		path := prefix + strings.TrimPrefix(use.Path, "./")
		if err := publishModule(ctx, filepath.Join(root, use.Path), filepath.Join(root, "LICENSE"), proxy, module.Version{Path: path, Version: version}); err != nil {
			return nil, fmt.Errorf("publish %s: %w", path, err)
		}
		modules = append(modules, path)
	}
	return modules, nil
}

// publishModule publishes the files of a module that git knows, and its licence, which a release
// takes from the repository.
func publishModule(ctx context.Context, directory, license, proxy string, m module.Version) (err error) {
	tracked := exec.CommandContext(ctx, "git", "ls-files", "-z")
	tracked.Dir = directory
	names, err := tracked.Output()
	if err != nil {
		return err
	}
	files, err := os.MkdirTemp(filepath.Dir(proxy), "files-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(files)) }()
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		if err := copyFile(filepath.Join(directory, name), filepath.Join(files, name)); err != nil && !errors.Is(err, fs.ErrNotExist) { // deleted
			return err
		}
	}
	if err := copyFile(license, filepath.Join(files, "LICENSE")); err != nil {
		return err
	}
	mod, err := os.ReadFile(filepath.Join(files, "go.mod"))
	if err != nil {
		return err
	}
	if mod, err = released(mod, m.Version); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(files, "go.mod"), mod, 0o644); err != nil {
		return err
	}
	var archive bytes.Buffer
	if err := zip.CreateFromDir(&archive, m, files); err != nil { // without the modules below this one
		return err
	}
	escaped, err := module.EscapePath(m.Path)
	if err != nil {
		return err
	}
	versions := filepath.Join(proxy, filepath.FromSlash(escaped), "@v")
	if err := os.MkdirAll(versions, 0o755); err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"list":              []byte(m.Version + "\n"),
		m.Version + ".info": fmt.Appendf(nil, "{%q: %q}\n", "Version", m.Version),
		m.Version + ".mod":  mod,
		m.Version + ".zip":  archive.Bytes(),
	} {
		if err := os.WriteFile(filepath.Join(versions, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// released returns a go.mod as a release has it: without replacements, and with its siblings in the
// same version.
func released(content []byte, version string) ([]byte, error) {
	mod, err := modfile.Parse("go.mod", content, nil)
	if err != nil {
		return nil, err
	}
	for _, replace := range mod.Replace {
		if err := mod.DropReplace(replace.Old.Path, replace.Old.Version); err != nil {
			return nil, err
		}
	}
	for _, require := range mod.Require {
		if strings.HasPrefix(require.Mod.Path, prefix) {
			if err := mod.AddRequire(require.Mod.Path, version); err != nil {
				return nil, err
			}
		}
	}
	mod.Cleanup()
	return mod.Format()
}

func copyFile(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o644)
}

// forget removes a version of the modules from the cache of the go command.
func forget(cache string, modules []string, version string) (err error) {
	for _, path := range modules {
		unpacked := filepath.Join(cache, filepath.FromSlash(path)+"@"+version)
		_ = filepath.WalkDir(unpacked, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				err = os.Chmod(path, 0o755) // the cache's are read-only
			}
			return err
		})
		err = errors.Join(err, os.RemoveAll(unpacked))
		downloads, _ := filepath.Glob(filepath.Join(cache, "cache", "download", filepath.FromSlash(path), "@v", version+".*"))
		for _, file := range downloads {
			err = errors.Join(err, os.Remove(file))
		}
	}
	return err
}
