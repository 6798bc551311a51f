// Package buildcontext gives builders the files of a build: a directory with files over
// it, without what its .dockerignore excludes.
package buildcontext

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/moatproject/moat/core"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
)

// IgnoreFile is the name of the file of patterns that exclude files from the context.
const IgnoreFile = ".dockerignore"

// Files is a directory with files over it. It implements [fsutil.FS], as which builders'
// library reads it.
type Files struct {
	directory fs.FS // nil: empty
	over      map[string][]byte
	ignored   *patternmatcher.PatternMatcher // excluded names; nil: none
	failure   *Failure
}

// EncodingError reports text that neither the builders' protocol nor an [fs.FS] can carry.
type EncodingError struct{ subject string }

func (e *EncodingError) Error() string { return e.subject + " is not UTF-8" }

func nameError(name string) error { return &EncodingError{fmt.Sprintf("the name %q", name)} }

// Failure keeps the first error of reading a context and stops the build for it: builders
// report such an error as one of their own, ignore it, or wait for more.
type Failure struct {
	stop context.CancelFunc
	mu   sync.Mutex
	err  error
}

// NewFailure returns a Failure that calls stop for its first error.
func NewFailure(stop context.CancelFunc) *Failure { return &Failure{stop: stop} }

func (f *Failure) note(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = cmp.Or(f.err, err)
	f.stop()
}

// Err returns the first error, or nil. It may be called at any time.
func (f *Failure) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// unreadError wraps such an error for the builders' library. That ignores a refusal of an
// excluded file, but takes a missing file for the end of its directory.
type unreadError struct{ why error }

func (e unreadError) Error() string        { return e.why.Error() }
func (e unreadError) Is(target error) bool { return target == fs.ErrPermission }

// New returns a build's context and the patterns of its [IgnoreFile], which do not exclude
// the files over the directory. The patterns are nil where there is no such file. Its
// errors are those of an ignore file that cannot be used.
func New(directory fs.FS, over map[string][]byte, failure *Failure) (files Files, patterns []byte, err error) {
	files = Files{directory: directory, over: over, failure: failure}
	if patterns, err = files.readIgnoreFile(); err != nil || len(patterns) == 0 {
		return files, nil, err
	}
	for name := range over {
		patterns = fmt.Appendf(patterns, "\n!%s", patternFor(name))
	}
	return files, patterns, nil
}

// Of returns a context of these files alone.
func Of(files map[string][]byte, failure *Failure) Files {
	return Files{over: files, failure: failure}
}

// With returns the same context with other files over its directory.
func (b Files) With(over map[string][]byte) Files {
	b.over = over
	return b
}

// patternFor returns a pattern that a name matches, and no other of the same letters: a
// line of patterns has no white space at its ends.
func patternFor(name string) string {
	escaped := strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(name)
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return '?'
		}
		return r
	}, escaped)
}

// readIgnoreFile returns the content of the context's file of that name, nil where it has none,
// or why it names nothing.
func (b *Files) readIgnoreFile() ([]byte, error) {
	if b.directory != nil && !b.hidden(IgnoreFile) {
		// Opening a named pipe would wait for its writer.
		if info, err := fs.Stat(b.directory, IgnoreFile); err == nil && !info.Mode().IsRegular() {
			return nil, errors.New("it is not a regular file")
		}
	}
	file, err := b.open(IgnoreFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := io.ReadAll(file)
	if err != nil {
		return nil, err
	}
	patterns, err := ignorefile.ReadAll(bytes.NewReader(content))
	if err == nil {
		b.ignored, err = patternmatcher.New(patterns)
	}
	return content, err
}

// Open implements [fsutil.FS], whose users make an empty file of what they cannot open:
// so that fails when it is read.
func (b Files) Open(name string) (io.ReadCloser, error) {
	file, err := b.open(name)
	if err != nil {
		failing, writer := io.Pipe()
		_ = writer.CloseWithError(err)
		file = failing
	}
	return contextFile{file, b.failure}, nil
}

// contextFile notes why it cannot be read.
type contextFile struct {
	io.ReadCloser
	failure *Failure
}

func (f contextFile) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		f.failure.note(err)
	}
	return n, err
}

func (b Files) open(name string) (io.ReadCloser, error) {
	if content, ok := b.over[name]; ok {
		return io.NopCloser(bytes.NewReader(content)), nil
	}
	if b.directory == nil || b.hidden(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return b.directory.Open(name)
}

// hidden tells what the files cover.
func (b Files) hidden(name string) bool {
	for ; name != "."; name = path.Dir(name) {
		if _, ok := b.over[name]; ok {
			return true
		}
	}
	return false
}

// Walk implements [fsutil.FS].
func (b Files) Walk(ctx context.Context, target string, visit fs.WalkDirFunc) error {
	target = path.Clean("/" + target)[1:]
	if target == "" {
		target = "."
	}
	return fs.WalkDir(contextTree{b}, target, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case entry == nil: // there is no such target
			return err
		case !utf8.ValidString(name) && b.leavesOut(name, entry.IsDir()):
			// BuildKit knows such a pattern no more than such a name.
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		case err != nil:
			if !utf8.ValidString(name) {
				err = nameError(name)
			}
			if err := visit(name, entry, unreadError{err}); err == nil {
				return nil
			}
			b.failure.note(err)
			return err
		case name == ".", entry.Type() == fs.ModeSocket: // which no builder can copy, and many directories have one
			return nil
		}
		return visit(name, contextEntry{entry, b, name}, nil)
	})
}

// leavesOut tells that builders do not get an entry, nor anything in it.
func (b Files) leavesOut(name string, isDir bool) bool {
	if b.ignored == nil || isDir && b.ignored.Exclusions() {
		return false
	}
	left, err := b.ignored.MatchesOrParentMatches(name)
	return left && err == nil
}

// contextEntry is looked at only when it is not left out.
type contextEntry struct {
	fs.DirEntry
	of   Files
	name string
}

// Info describes an entry as builders want it: root's.
func (e contextEntry) Info() (fs.FileInfo, error) {
	stat, err := e.stat()
	if err != nil {
		e.of.failure.note(err)
		return nil, unreadError{err}
	}
	return &fsutil.StatInfo{Stat: stat}, nil
}

func (e contextEntry) stat() (*types.Stat, error) {
	if !utf8.ValidString(e.name) {
		return nil, nameError(e.name)
	}
	info, err := e.DirEntry.Info()
	if err != nil {
		return nil, err
	}
	stat := &types.Stat{Path: e.name, Mode: uint32(info.Mode())}
	if !info.ModTime().IsZero() {
		stat.ModTime = info.ModTime().UnixNano()
	}
	switch info.Mode().Type() {
	case 0:
		stat.Size = info.Size()
	case fs.ModeDir:
	case fs.ModeSymlink:
		stat.Linkname, err = fs.ReadLink(e.of.directory, e.name)
		if err == nil && !utf8.ValidString(stat.Linkname) {
			err = &EncodingError{fmt.Sprintf("the target %q of the symbolic link %q", stat.Linkname, e.name)}
		}
	default:
		err = &fs.PathError{Op: "copy", Path: e.name, Err: errors.New("it is not a file, a directory or a symbolic link")}
	}
	return stat, err
}

// contextTree is a build context for [fs.WalkDir], which reads only its directories.
type contextTree struct{ of Files }

func (t contextTree) Open(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: errors.ErrUnsupported}
}

// Stat describes where a walk begins.
func (t contextTree) Stat(name string) (fs.FileInfo, error) {
	if name == "." {
		return madeInfo{name: ".", mode: fs.ModeDir | 0o755}, nil
	}
	entries, err := t.ReadDir(path.Dir(name))
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if entry.Name() == path.Base(name) {
			return entry.Info()
		}
	}
	return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
}

// ReadDir merges the directory's entries with those that the files over it make, in order of their names.
func (t contextTree) ReadDir(name string) ([]fs.DirEntry, error) {
	entries := map[string]fs.DirEntry{}
	below, err := t.of.entries(name)
	if err != nil {
		return nil, err
	}
	for _, entry := range below {
		entries[entry.Name()] = entry
	}
	for file, content := range t.of.over {
		rest, below := file, true
		if name != "." {
			rest, below = strings.CutPrefix(file, name+"/")
		}
		if !below {
			continue
		}
		first, _, nested := strings.Cut(rest, "/")
		made := madeInfo{name: first, size: int64(len(content)), mode: 0o644}
		if nested {
			if old, ok := entries[first]; ok && old.IsDir() {
				continue
			}
			made = madeInfo{name: first, mode: fs.ModeDir | 0o755}
		}
		entries[first] = fs.FileInfoToDirEntry(made)
	}
	return slices.SortedFunc(maps.Values(entries), func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) }), nil
}

// entries lists a directory of the context's own. It follows no link to one, which may
// lead anywhere.
func (b Files) entries(name string) ([]fs.DirEntry, error) {
	if b.directory == nil || b.hidden(name) {
		return nil, nil
	}
	info, err := fs.Lstat(b.directory, name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || err == nil && !info.IsDir() {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return fs.ReadDir(b.directory, name)
}

// madeInfo describes what only the files of a build context make.
type madeInfo struct {
	name string
	size int64
	mode fs.FileMode
}

func (i madeInfo) Name() string       { return i.name }
func (i madeInfo) Size() int64        { return i.size }
func (i madeInfo) Mode() fs.FileMode  { return i.mode }
func (i madeInfo) ModTime() time.Time { return time.Time{} }
func (i madeInfo) IsDir() bool        { return i.mode.IsDir() }
func (i madeInfo) Sys() any           { return nil }

// SharedKey returns a key under which BuildKit keeps the files of a build, and to which only
// changes are sent. BuildKit compares sizes and times, so files that have no times go into
// the key by their content, and a directory that has none makes the key a new one.
func SharedKey(dockerfile map[string][]byte, opts core.BuildOptions) string {
	digest := sha256.New()
	for _, files := range []map[string][]byte{dockerfile, opts.ContextFiles} {
		for _, name := range slices.Sorted(maps.Keys(files)) {
			fmt.Fprintf(digest, "%q %d ", name, len(files[name]))
			digest.Write(files[name])
		}
	}
	if opts.Context != nil {
		if root, err := fs.Stat(opts.Context, "."); err != nil || root.ModTime().IsZero() {
			digest.Write([]byte(rand.Text()))
		}
	}
	return hex.EncodeToString(digest.Sum(nil))
}
