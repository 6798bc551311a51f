package cli

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// packing puts files of this machine into an archive.
type packing struct {
	*tar.Writer
	root, name string
	warn       func(format string, args ...any)
	linked     map[inode]string // the name of the first of several hard links
}

type inode struct {
	device any // a number, of a type that differs between systems
	number uint64
}

// pack archives a file or directory under a name, or a directory's contents if the name is
// ".".
func (a *app) pack(to io.Writer, root, name string) error {
	p := &packing{Writer: tar.NewWriter(to), root: root, name: name, linked: map[inode]string{}}
	p.warn = func(format string, args ...any) { fmt.Fprintf(a.env.Stderr, "moat: "+format+"\n", args...) }
	if err := filepath.WalkDir(root, p.add); err != nil {
		return err
	}
	return p.Close()
}

func (p *packing) add(file string, entry fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	below, err := filepath.Rel(p.root, file)
	if err != nil {
		return err
	}
	name := path.Join(p.name, filepath.ToSlash(below))
	if name == "." {
		return nil
	}
	info, err := entry.Info()
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket != 0 {
		p.warn("%s is a socket: it is left out", file)
		return nil
	}
	header, err := p.header(file, name, info)
	if err != nil {
		return err
	}
	if err := p.WriteHeader(header); err != nil || header.Typeflag != tar.TypeReg {
		return err
	}
	return p.content(file, header.Size)
}

func (p *packing) header(file, name string, info fs.FileInfo) (*tar.Header, error) {
	var target string
	if info.Mode()&fs.ModeSymlink != 0 {
		var err error
		if target, err = os.Readlink(file); err != nil {
			return nil, err
		}
	}
	header, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	header.Name, header.Uname, header.Gname = name, "", "" // names may mean others in the container
	// As docker does: else the writer rounds to the nearest second.
	header.Format, header.ModTime = tar.FormatPAX, info.ModTime().Truncate(time.Second)
	header.AccessTime, header.ChangeTime = time.Time{}, time.Time{}
	if info.IsDir() {
		header.Name += "/"
	}
	if !info.Mode().IsRegular() {
		return header, nil
	}
	if stat := info.Sys().(*syscall.Stat_t); stat.Nlink > 1 {
		number := inode{stat.Dev, stat.Ino}
		if first, ok := p.linked[number]; ok {
			header.Typeflag, header.Linkname, header.Size = tar.TypeLink, first, 0
			return header, nil
		}
		p.linked[number] = name
	}
	header.PAXRecords = capabilities(file)
	return header, nil
}

// capabilities returns a file's Linux capabilities in tar's form.
func capabilities(file string) map[string]string {
	const attribute = "security.capability"
	value := make([]byte, 64) // larger than any version of them
	n, err := unix.Lgetxattr(file, attribute, value)
	if err != nil {
		return nil // it has none, or the file system none at all
	}
	return map[string]string{"SCHILY.xattr." + attribute: string(value[:n])}
}

var errShrunk = errors.New("it has shrunk while it was copied")

// content copies a file up to the size in its header: the file may have grown.
func (p *packing) content(name string, size int64) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err = io.CopyN(p, file, size); errors.Is(err, io.EOF) {
		err = &fs.PathError{Op: "copy", Path: name, Err: errShrunk}
	}
	return err
}
