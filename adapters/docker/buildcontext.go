package docker

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

	"github.com/moatproject/moat/core"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
)

// ignoreFile names what of a build context builders do not get.
const ignoreFile = ".dockerignore"

// buildContext is a folder with files over it, as the builders' library reads one.
type buildContext struct {
	folder fs.FS // nil: empty
	files  map[string][]byte
	unread *unread
}

// unread keeps the first reason why something of a context could not be had, and stops
// the build for it. Builders tell it as a failure of their own, go on, or wait for more.
type unread struct {
	stop context.CancelFunc
	mu   sync.Mutex
	err  error
}

func (u *unread) note(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.err = cmp.Or(u.err, err)
	u.stop()
}

func (u *unread) reason() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err
}

// unreadError is such a reason for the builders' library, which passes over a refusal of
// what it leaves out, but takes what does not exist for the end of its folder.
type unreadError struct{ why error }

func (e unreadError) Error() string        { return e.why.Error() }
func (e unreadError) Is(target error) bool { return target == fs.ErrPermission }

// context returns the context of the build and what of it builders do not get, as its
// [ignoreFile] has it. The files of the options are there whatever that names.
func (b *build) context() (buildContext, []byte, error) {
	all := buildContext{b.opts.Context, b.opts.ContextFiles, &b.unread}
	patterns, err := all.ignoreFile()
	if err != nil {
		return all, nil, b.wrong(core.ErrInvalidConfig, "Context", ignoreFile+": "+err.Error(), "Make it a file of patterns, or leave it out")
	}
	if len(patterns) == 0 {
		return all, nil, nil
	}
	for name := range b.opts.ContextFiles {
		patterns = fmt.Appendf(patterns, "\n!%s", patternFor(name))
	}
	return all, patterns, nil
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

// ignoreFile returns the content of the context's file of that name, nil where it has none,
// or why it names nothing.
func (b buildContext) ignoreFile() ([]byte, error) {
	if b.folder != nil && !b.hidden(ignoreFile) {
		// Whoever opens a named pipe waits for one that writes into it.
		if info, err := fs.Stat(b.folder, ignoreFile); err == nil && !info.Mode().IsRegular() {
			return nil, errors.New("it is no file")
		}
	}
	file, err := b.open(ignoreFile)
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
		_, err = patternmatcher.New(patterns)
	}
	return content, err
}

// Open implements [fsutil.FS], whose users make an empty file of what they cannot open:
// so that fails when it is read.
func (b buildContext) Open(name string) (io.ReadCloser, error) {
	file, err := b.open(name)
	if err != nil {
		failing, writer := io.Pipe()
		_ = writer.CloseWithError(err)
		file = failing
	}
	return contextFile{file, b.unread}, nil
}

// contextFile notes why it cannot be read.
type contextFile struct {
	io.ReadCloser
	unread *unread
}

func (f contextFile) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		f.unread.note(err)
	}
	return n, err
}

func (b buildContext) open(name string) (io.ReadCloser, error) {
	if content, ok := b.files[name]; ok {
		return io.NopCloser(bytes.NewReader(content)), nil
	}
	if b.folder == nil || b.hidden(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return b.folder.Open(name)
}

// hidden tells what the files are over.
func (b buildContext) hidden(name string) bool {
	for ; name != "."; name = path.Dir(name) {
		if _, ok := b.files[name]; ok {
			return true
		}
	}
	return false
}

// Walk implements [fsutil.FS].
func (b buildContext) Walk(ctx context.Context, target string, visit fs.WalkDirFunc) error {
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
		case err != nil:
			if err := visit(name, entry, unreadError{err}); err == nil {
				return nil
			}
			b.unread.note(err)
			return err
		case name == ".", entry.Type() == fs.ModeSocket: // which no builder can copy, and which lies about in many a folder
			return nil
		}
		return visit(name, contextEntry{entry, b, name}, nil)
	})
}

// contextEntry is looked at only when it is not left out.
type contextEntry struct {
	fs.DirEntry
	of   buildContext
	name string
}

// Info describes an entry as builders want it: root's.
func (e contextEntry) Info() (fs.FileInfo, error) {
	stat, err := e.stat()
	if err != nil {
		e.of.unread.note(err)
		return nil, unreadError{err}
	}
	return &fsutil.StatInfo{Stat: stat}, nil
}

func (e contextEntry) stat() (*types.Stat, error) {
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
		stat.Linkname, err = fs.ReadLink(e.of.folder, e.name)
	default:
		err = &fs.PathError{Op: "copy", Path: e.name, Err: errors.New("it is neither a file nor a folder nor a symbolic link")}
	}
	return stat, err
}

// contextTree is a build context for [fs.WalkDir], which reads nothing but its folders.
type contextTree struct{ of buildContext }

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

// ReadDir merges the folder's entries and those that the files make, in order of their names.
func (t contextTree) ReadDir(name string) ([]fs.DirEntry, error) {
	entries := map[string]fs.DirEntry{}
	below, err := t.of.entries(name)
	if err != nil {
		return nil, err
	}
	for _, entry := range below {
		entries[entry.Name()] = entry
	}
	for file, content := range t.of.files {
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

// entries lists what is in a folder of the context's own, if it is one: a link to one may
// lead anywhere.
func (b buildContext) entries(name string) ([]fs.DirEntry, error) {
	if b.folder == nil || b.hidden(name) {
		return nil, nil
	}
	info, err := fs.Lstat(b.folder, name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || err == nil && !info.IsDir() {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return fs.ReadDir(b.folder, name)
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

// sharedKey returns what tells BuildKit that it has seen these files before, so that
// only what has changed since is sent. It compares sizes and times, so that what has no
// times has to go by its content, or as something new.
func sharedKey(dockerfile map[string][]byte, opts core.BuildOptions) string {
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
