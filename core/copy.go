package core

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"
)

// Copier is the optional port for files of a container, running or not, as tar archives.
type Copier interface {
	// CopyTo extracts an archive into the folder dir, with its owners and modes, and
	// reads the archive to its end.
	//
	//   - RT-140: files, folders and links arrive with content, mode and owner.
	//   - RT-141: no such container or folder: [ErrNotFound]; dir is no folder:
	//     [ErrInvalidConfig], field dir.
	//   - RT-142: an entry outside dir, by its name or through a link, and what
	//     is neither file, folder nor link: [ErrInvalidConfig], field archive.
	CopyTo(ctx context.Context, id, dir string, archive io.Reader) error

	// CopyFrom returns the file or folder at an absolute path as an archive, whose entries'
	// names begin with the path's last element; of "/", with ".". A symbolic link is
	// archived as one. The caller closes it.
	//
	//   - RT-143: as RT-140, back again, whatever the container's state.
	//   - RT-144: no such container or path: [ErrNotFound], and for no other reason.
	CopyFrom(ctx context.Context, id, path string) (io.ReadCloser, error)

	// StatPath describes the file at an absolute path, without following a last link.
	//
	//   - RT-145: kind, size and mode; of a link, where it leads; missing: [ErrNotFound].
	StatPath(ctx context.Context, id, path string) (PathStat, error)
}

// PathStat describes a file of a container.
type PathStat struct {
	Name       string // last element of the path
	Size       int64  // bytes
	Mode       fs.FileMode
	ModTime    time.Time
	LinkTarget string // of a symbolic link: the absolute path that it leads to, through further links
}

// VetArchive copies an archive from src, which it reads to its end, to dst, and fails at
// the first entry that [Copier.CopyTo] must refuse. What comes before it has been copied
// by then.
func VetArchive(dst io.Writer, src io.Reader) error {
	in, out := tar.NewReader(src), tar.NewWriter(dst)
	links := map[string]bool{}
	for {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			_, err = io.Copy(io.Discard, src) // an archive may be padded
			return errors.Join(out.Close(), err)
		}
		if err != nil {
			return brokenArchive(err)
		}
		if header.Typeflag == tar.TypeXGlobalHeader {
			continue // no entry, but what "git archive" begins with
		}
		if err := vetEntry(header, links); err != nil {
			return err
		}
		if err := out.WriteHeader(header); err != nil {
			return err
		}
		if _, err := io.Copy(out, in); err != nil {
			return brokenArchive(err)
		}
	}
}

// brokenArchive tells an archive's failures from those of who reads or writes it.
func brokenArchive(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) {
		return invalid("archive", "%v", err)
	}
	return err
}

// vetEntry checks an entry against the links that came before it.
func vetEntry(header *tar.Header, links map[string]bool) error {
	name := path.Clean(header.Name)
	if escapes(name) {
		return invalid("archive", "entry %q is outside the folder", header.Name)
	}
	if name == "." && header.Typeflag != tar.TypeDir {
		return invalid("archive", "entry %q would replace the folder", header.Name)
	}
	if link := linkOn(path.Dir(name), links); link != "" {
		return invalid("archive", "entry %q goes through the link %q", header.Name, link)
	}
	switch header.Typeflag {
	case tar.TypeReg, tar.TypeDir:
	case tar.TypeSymlink:
		links[name] = true
	case tar.TypeLink:
		if target := path.Clean(header.Linkname); escapes(target) || linkOn(target, links) != "" {
			return invalid("archive", "entry %q links to %q, which is outside the folder", header.Name, header.Linkname)
		}
	default:
		return invalid("archive", "entry %q is neither file, folder nor link", header.Name)
	}
	if header.Typeflag != tar.TypeSymlink {
		delete(links, name)
	}
	return nil
}

// linkOn returns the link that a clean path is, or leads through, or "".
func linkOn(name string, links map[string]bool) string {
	for ; name != "."; name = path.Dir(name) {
		if links[name] {
			return name
		}
	}
	return ""
}

// escapes tells a clean path that leads out of the folder it is relative to.
func escapes(name string) bool {
	return path.IsAbs(name) || name == ".." || strings.HasPrefix(name, "../")
}
