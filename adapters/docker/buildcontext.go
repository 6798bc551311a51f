package docker

import (
	"bytes"
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
	"time"

	"github.com/moatproject/moat/core"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
)

// ignoreFile names what of a build context builders do not get.
const ignoreFile = ".dockerignore"

// buildContext is a folder with files over it, as the builders' library reads one.
type buildContext struct {
	folder fs.FS // nil: empty
	files  map[string][]byte
}

// contextOf returns the context of a build and what of it builders do not get, as its
// [ignoreFile] has it. The files of the options are there whatever that names.
func contextOf(opts core.BuildOptions) (buildContext, []byte, error) {
	all := buildContext{opts.Context, opts.ContextFiles}
	patterns, err := all.ignoreFile()
	if err != nil || len(patterns) == 0 {
		return all, nil, err
	}
	for name := range opts.ContextFiles {
		patterns = fmt.Appendf(patterns, "\n!%s", patternFor(name))
	}
	return all, patterns, nil
}

// patternFor returns the pattern that a name matches, and no other.
func patternFor(name string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(name)
}

// ignoreFile returns the content of the context's file of that name, nil where it has none.
func (b buildContext) ignoreFile() ([]byte, error) {
	file, err := b.Open(ignoreFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(file)
}

// Open implements [fsutil.FS].
func (b buildContext) Open(name string) (io.ReadCloser, error) {
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
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || name == "." {
			return err
		}
		stat, err := b.stat(name, entry)
		if err != nil || stat == nil {
			return err
		}
		return visit(name, &fsutil.DirEntryInfo{Stat: stat}, nil)
	})
}

// stat describes an entry as builders want it: root's. It returns nil for a socket,
// which no builder can copy, and which lies about in many a folder.
func (b buildContext) stat(name string, entry fs.DirEntry) (*types.Stat, error) {
	info, err := entry.Info()
	if err != nil {
		return nil, err
	}
	stat := &types.Stat{Path: name, Mode: uint32(info.Mode())}
	if !info.ModTime().IsZero() {
		stat.ModTime = info.ModTime().UnixNano()
	}
	switch info.Mode().Type() {
	case 0:
		stat.Size = info.Size()
	case fs.ModeDir:
	case fs.ModeSymlink:
		stat.Linkname, err = fs.ReadLink(b.folder, name)
	case fs.ModeSocket:
		return nil, nil
	default:
		err = &fs.PathError{Op: "copy", Path: name, Err: errors.New("it is neither a file nor a folder nor a symbolic link; name it in " + ignoreFile)}
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
	if t.of.isFolder(name) {
		below, err := fs.ReadDir(t.of.folder, name)
		if err != nil {
			return nil, err
		}
		for _, entry := range below {
			entries[entry.Name()] = entry
		}
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

// isFolder tells a folder of the context's own: a link to one may lead anywhere.
func (b buildContext) isFolder(name string) bool {
	if b.folder == nil || b.hidden(name) {
		return false
	}
	info, err := fs.Lstat(b.folder, name)
	return err == nil && info.IsDir()
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
