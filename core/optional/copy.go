package optional

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path"
	"strings"
	"time"

	"github.com/moatproject/moat/core"
)

// Copier is the optional interface for files of a container, running or not, as tar archives.
//
// A copy that fails may have copied a part: what has arrived by then stays where it is.
type Copier interface {
	// CopyTo extracts an uncompressed archive into the directory dir, with its owners and
	// modes, and reads the archive to its end. A time may lose its fraction of a second,
	// and an extended attribute may be left out.
	//
	//   - RT-140: files, directories and links arrive with content, mode, owner and time,
	//     whatever the archive's format: also long names, and owners above 2,097,151 where
	//     the container has them. A time before 1970 may arrive as 1970.
	//   - RT-141: no such container or directory: [core.ErrNotFound]; dir is not a directory:
	//     [core.ErrInvalidConfig], field dir.
	//   - RT-142: an entry outside dir, by its name or through a link, one that is neither
	//     file, directory nor link, and a compressed archive: [core.ErrInvalidConfig], field
	//     archive.
	//   - RT-148: when ctx ends, it returns within a second, also while a Read of archive
	//     blocks. That Read is left to itself, what it returns is lost, and no other begins.
	CopyTo(ctx context.Context, id, dir string, archive io.Reader) error

	// CopyFrom returns the file or directory at an absolute path as an archive. The names of
	// its entries begin with the last element of the path, or with "." for "/". A symbolic
	// link is archived as a link; a socket may be left out. Only io.EOF shows that the copy is
	// complete, so the caller reads on to io.EOF after a [tar.Reader] has reached its end. The
	// caller closes the reader.
	//
	//   - RT-143: as RT-140, back again, whether the container runs or has not started yet.
	//   - RT-144: no such container or path: [core.ErrNotFound], and for no other reason.
	//   - RT-146: a copy that is not whole, such as of a file that shrinks meanwhile, ends
	//     with an error and never with io.EOF; a [tar.Reader] gets that error too. A file
	//     that grows is copied with the size that it had.
	//   - RT-147: files of a container that has ended are copied and described as it left
	//     them. Where they are gone with it: [core.ErrNotRunning], whatever the path.
	CopyFrom(ctx context.Context, id, path string) (io.ReadCloser, error)

	// StatPath describes the file at an absolute path, without following a last link.
	//
	//   - RT-145: kind, size and mode; of a link, where it leads; missing: [core.ErrNotFound].
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
// the first entry that [Copier.CopyTo] must refuse. Earlier entries have been copied by
// then. Each header that passes goes through rewrite, such as [GNUHeader], before it is
// written.
func VetArchive(dst io.Writer, src io.Reader, rewrite ...func(*tar.Header)) error {
	buffered := bufio.NewReader(src)
	in, out := tar.NewReader(buffered), tar.NewWriter(dst)
	peeked, _ := buffered.Peek(len("\xfd7zXZ"))
	program := decompressor(string(peeked))
	links := map[string]bool{}
	for {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			if _, err := io.Copy(io.Discard, buffered); err != nil { // an archive may be padded
				return err
			}
			return out.Close()
		}
		if err = brokenArchive(err); errors.Is(err, core.ErrInvalidConfig) && program != "" {
			return core.Invalid("archive", "it is compressed; decompress it first (%s -d)", program)
		}
		if err != nil {
			return err
		}
		program = "" // an archive may begin with the name of a file that looks like it
		switch header.Typeflag {
		case tar.TypeXGlobalHeader:
			continue // not an entry: "git archive" begins with one
		case tar.TypeGNUSparse:
			header.Typeflag = tar.TypeReg // which the reader makes of it
		}
		if err := vetEntry(header, links); err != nil {
			return err
		}
		for _, change := range rewrite {
			change(header)
		}
		if err := out.WriteHeader(header); err != nil {
			return fmt.Errorf("entry %q: %w", header.Name, err)
		}
		if _, err := io.Copy(out, in); err != nil {
			return brokenArchive(err)
		}
	}
}

// decompressor returns the program that decompresses what begins so, or "".
func decompressor(begin string) string {
	for magic, program := range map[string]string{"\x1f\x8b": "gzip", "BZh": "bzip2", "\xfd7zXZ": "xz", "\x28\xb5\x2f\xfd": "zstd"} {
		if strings.HasPrefix(begin, magic) {
			return program
		}
	}
	return ""
}

// GNUHeader converts a header to GNU's format. Programs without support for PAX records,
// such as BusyBox's tar, can read large owners and sizes, times before 1970 and long names
// from it. Times lose their fraction of a second. Extended attributes are dropped. So are
// the names of owners, because a container may give them to other numbers.
func GNUHeader(header *tar.Header) {
	*header = tar.Header{
		Format: tar.FormatGNU, Typeflag: header.Typeflag, Name: header.Name, Linkname: header.Linkname,
		Size: header.Size, Mode: header.Mode, Uid: header.Uid, Gid: header.Gid,
		ModTime: header.ModTime.Truncate(time.Second), // to the second before, before 1970 as well
	}
}

// trailerMax is how much may come after the end of an archive: programs fill up a record.
const trailerMax = 1 << 20

var (
	errCutOff    = errors.New("the archive is cut off: a file has shrunk while it was copied, or could not be read")
	errNoArchive = errors.New("this is not an archive")
)

// WholeArchive returns a reader of the archive that src sends. It delivers the archive's
// end only after src has ended without an error, because an archiver reports unreadable
// files after its last byte. If src fails or ends too early, a Read fails before the
// archive's end, so a [tar.Reader] sees the error too. Data after the archive's end is
// dropped. visit is called with each header before its bytes are passed on; an error of
// visit ends the archive. visit may be nil.
func WholeArchive(src io.Reader, visit func(*tar.Header) error) io.Reader {
	w := &wholeArchive{src: endKeeper{Reader: src}, visit: visit, content: make([]byte, 32<<10)}
	w.entries = tar.NewReader(io.TeeReader(&w.src, &w.ready))
	return w
}

type wholeArchive struct {
	src     endKeeper
	visit   func(*tar.Header) error
	entries *tar.Reader // of what src sends, all of which becomes ready
	inEntry bool
	content []byte
	ready   bytes.Buffer // what may be passed on
	err     error        // after that
}

func (w *wholeArchive) Read(p []byte) (int, error) {
	for w.ready.Len() == 0 && w.err == nil {
		if w.err = w.advance(); w.err != nil && !errors.Is(w.err, io.EOF) {
			w.ready.Reset()
		}
	}
	if w.ready.Len() > 0 {
		return w.ready.Read(p)
	}
	return 0, w.err
}

// advance makes the next header ready, or a part of an entry's content, or the end.
func (w *wholeArchive) advance() error {
	if w.inEntry {
		_, err := w.entries.Read(w.content)
		w.inEntry = err == nil
		if errors.Is(err, io.EOF) {
			return nil
		}
		return w.failure(err)
	}
	header, err := w.entries.Next()
	switch {
	case errors.Is(err, io.EOF):
		return w.end()
	case err != nil:
		return w.failure(err)
	}
	w.inEntry = true
	if w.visit == nil {
		return nil
	}
	return w.visit(header)
}

// failure tells src's own failures from those of an archive that is none.
func (w *wholeArchive) failure(err error) error {
	switch {
	case err == nil:
		return nil
	case w.src.err == nil:
		return errNoArchive
	case errors.Is(w.src.err, io.EOF):
		return errCutOff
	}
	return w.src.err
}

// end returns io.EOF where src ends after the archive's own end.
func (w *wholeArchive) end() error {
	if !bytes.HasSuffix(w.ready.Bytes(), make([]byte, tarBlock)) {
		return errCutOff // the last entry is whole, others may be missing
	}
	n, err := io.CopyN(io.Discard, &w.src, trailerMax)
	if n == trailerMax {
		return errNoArchive
	}
	return err
}

// tarBlock is the size of an archive's blocks; those at its end are zero.
const tarBlock = 512

// endKeeper keeps the error that ended a reader.
type endKeeper struct {
	io.Reader
	err error
}

func (e *endKeeper) Read(p []byte) (int, error) {
	n, err := e.Reader.Read(p)
	if err != nil {
		e.err = err
	}
	return n, err
}

// brokenArchive tells an archive's failures from those of who reads or writes it.
func brokenArchive(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) {
		return core.Invalid("archive", "%v", err)
	}
	return err
}

// vetEntry checks an entry against the links that came before it.
func vetEntry(header *tar.Header, links map[string]bool) error {
	name := path.Clean(header.Name)
	if !isOwner(header.Uid) || !isOwner(header.Gid) {
		return core.Invalid("archive", "entry %q has the owner %d:%d, which no system has", header.Name, header.Uid, header.Gid)
	}
	if escapes(name) {
		return core.Invalid("archive", "entry %q is outside the directory", header.Name)
	}
	if name == "." && header.Typeflag != tar.TypeDir {
		return core.Invalid("archive", "entry %q would replace the directory", header.Name)
	}
	if link := linkOn(path.Dir(name), links); link != "" {
		return core.Invalid("archive", "entry %q goes through the link %q", header.Name, link)
	}
	switch header.Typeflag {
	case tar.TypeReg, tar.TypeDir:
	case tar.TypeSymlink:
		links[name] = true
	case tar.TypeLink:
		if target := path.Clean(header.Linkname); escapes(target) || linkOn(target, links) != "" {
			return core.Invalid("archive", "entry %q links to %q, which is outside the directory", header.Name, header.Linkname)
		}
	default:
		return core.Invalid("archive", "entry %q is neither a file, a directory nor a link", header.Name)
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

// escapes tells a clean path that leads out of the directory that it is relative to.
func escapes(name string) bool {
	return path.IsAbs(name) || name == ".." || strings.HasPrefix(name, "../")
}

// isOwner tells a number that Linux may give to a user or group: the last one stands for none.
func isOwner(number int) bool { return number >= 0 && int64(number) < math.MaxUint32 }
