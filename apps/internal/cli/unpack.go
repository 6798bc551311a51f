package cli

import (
	"archive/tar"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// unpacking extracts an untrusted archive from a container. It touches only the one file,
// or the contents of the one directory, that the copy is for. Owners and set-ID bits are
// not extracted.
type unpacking struct {
	root    *os.Root // the folder itself, or the one that the file goes into
	base    string   // what all names begin with, "." for none
	name    string   // of the file; "." for a folder
	merged  bool     // the folder was there, and keeps its mode
	folders map[string]*tar.Header
}

// unpack extracts an archive of one file or directory, base, under a name in a directory,
// or a directory's contents if the name is ".".
func unpack(archive io.Reader, base string, isDir bool, into *os.Root, name string) error {
	u := &unpacking{root: into, base: base, name: name, merged: name == ".", folders: map[string]*tar.Header{}}
	if isDir {
		root, err := makeFolder(into, name)
		if err != nil {
			return err
		}
		defer func() { _ = root.Close() }()
		u.root, u.name = root, "."
	}
	for entries := tar.NewReader(archive); ; {
		header, err := entries.Next()
		if errors.Is(err, io.EOF) { // of the archive: only the stream's own tells that it is whole
			_, err = io.Copy(io.Discard, archive)
			return errors.Join(u.finish(), err)
		}
		if err != nil {
			return err
		}
		if err := u.extract(header, entries); err != nil {
			return fmt.Errorf("entry %q of the archive: %w", header.Name, err)
		}
	}
}

// makeFolder creates and opens a directory. It refuses a link to one.
func makeFolder(in *os.Root, name string) (*os.Root, error) {
	if err := in.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	found, err := in.Lstat(name)
	if err != nil {
		return nil, err
	}
	folder, err := in.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	if opened, err := folder.Stat("."); err != nil || !os.SameFile(found, opened) {
		defer func() { _ = folder.Close() }()
		return nil, errors.Join(err, &fs.PathError{Op: "copy", Path: name, Err: errFileThere})
	}
	return folder, nil
}

var (
	errOutside   = errors.New("it is outside of what is copied")
	errKind      = errors.New("it is not a file, a directory or a link")
	errOtherKind = errors.New("it was a file when the copy began, and is a directory now")
)

// local returns the path of an entry in the root.
func (u *unpacking) local(name string) (string, error) {
	clean := path.Clean(strings.TrimLeft(name, "/")) // engines archive "/" with whole paths
	if u.base != "." {
		below, ok := strings.CutPrefix(clean+"/", u.base+"/")
		if !ok {
			return "", errOutside
		}
		clean = path.Clean(below)
	}
	if !filepath.IsLocal(clean) || (clean != "." && u.name != ".") {
		return "", errOutside
	}
	return path.Join(u.name, clean), nil
}

func (u *unpacking) extract(header *tar.Header, content io.Reader) error {
	if header.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if !slices.Contains([]byte{tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink}, header.Typeflag) {
		return errKind
	}
	name, err := u.local(header.Name)
	if err != nil {
		return err
	}
	isDir := header.Typeflag == tar.TypeDir
	if isDir && u.name != "." {
		return errOtherKind
	}
	if err := u.clear(name, isDir); err != nil {
		return err
	}
	switch header.Typeflag {
	case tar.TypeDir:
		return u.folder(name, header)
	case tar.TypeSymlink:
		return u.root.Symlink(header.Linkname, name)
	case tar.TypeLink:
		target, err := u.local(header.Linkname)
		if err != nil {
			return err
		}
		return u.root.Link(target, name)
	}
	return u.file(name, header, content)
}

// clear removes an entry's old file, so that nothing is written through a link. A directory
// neither replaces a file nor is replaced by one.
func (u *unpacking) clear(name string, isDir bool) error {
	found, err := u.root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return u.root.MkdirAll(path.Dir(name), 0o755)
	case err != nil:
		return err
	case found.IsDir() && !isDir:
		return errFolderThere
	case !found.IsDir() && isDir:
		return errFileThere
	case isDir:
		return nil
	}
	return u.root.Remove(name)
}

func (u *unpacking) folder(name string, header *tar.Header) error {
	if name == "." && u.merged {
		return nil
	}
	u.folders[name] = header
	if err := u.root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func (u *unpacking) file(name string, header *tar.Header, content io.Reader) error {
	file, err := u.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	if err = errors.Join(err, file.Chmod(fs.FileMode(header.Mode).Perm()), file.Close()); err != nil {
		return err
	}
	return u.root.Chtimes(name, header.AccessTime, header.ModTime)
}

// finish sets the modes and times of directories, which could have prevented writing into
// them before.
func (u *unpacking) finish() error {
	innerFirst := func(a, b string) int { return cmp.Compare(depth(b), depth(a)) }
	for _, name := range slices.SortedFunc(maps.Keys(u.folders), innerFirst) {
		header := u.folders[name]
		// The mode comes last: it may deny access to the owner.
		if err := u.root.Chtimes(name, header.AccessTime, header.ModTime); err != nil {
			return err
		}
		if err := u.root.Chmod(name, fs.FileMode(header.Mode).Perm()); err != nil {
			return err
		}
	}
	return nil
}

func depth(name string) int {
	if name == "." {
		return 0
	}
	return 1 + strings.Count(name, "/")
}
