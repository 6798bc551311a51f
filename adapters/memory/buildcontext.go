package memory

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

const ignoreFile = ".dockerignore"

// context returns the files that a Dockerfile can copy.
func (b *build) context() (*filesystem, error) {
	if b.sources != nil {
		return b.sources, nil
	}
	files := newFilesystem()
	if b.opts.Context != nil {
		if err := b.readContext(files); err != nil {
			return nil, err
		}
	}
	for name, content := range b.opts.ContextFiles {
		if err := files.write("/"+name, content, 0o644); err != nil {
			return nil, err
		}
	}
	b.sources = files
	return files, nil
}

// readContext copies what is neither ignored nor hidden by one of ContextFiles.
func (b *build) readContext(files *filesystem) error {
	ignored, err := b.ignored()
	if err != nil {
		return invalid(buildOp, b.tag, "Context", fmt.Errorf("%s: %w", ignoreFile, err))
	}
	return fs.WalkDir(b.opts.Context, ".", func(name string, entry fs.DirEntry, err error) error {
		if name != "." {
			skip, matchErr := ignored.MatchesOrParentMatches(name)
			if matchErr != nil || skip || b.isHidden(name, entry) {
				return matchErr
			}
		}
		switch {
		case err != nil:
		case name == ".", entry.Type() == fs.ModeSocket:
		case entry.Type() == fs.ModeSymlink:
			return unsupported(buildOp, b.tag, "Context: "+name+" is a symbolic link")
		case entry.IsDir():
			err = files.mkdirAll("/" + name)
		default:
			err = files.unpack(b.opts.Context, name, "/"+name)
		}
		if err != nil {
			return invalid(buildOp, b.tag, "Context", fmt.Errorf("%s: %w", name, err))
		}
		return nil
	})
}

func (b *build) ignored() (*patternmatcher.PatternMatcher, error) {
	content, ok := b.opts.ContextFiles[ignoreFile]
	if !ok {
		// Whoever opens a named pipe waits for one that writes into it.
		info, err := fs.Stat(b.opts.Context, ignoreFile)
		if err == nil && !info.Mode().IsRegular() {
			return nil, errors.New("it is no file")
		}
		if content, err = fs.ReadFile(b.opts.Context, ignoreFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	patterns, err := ignorefile.ReadAll(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	return patternmatcher.New(patterns)
}

func (b *build) isHidden(name string, entry fs.DirEntry) bool {
	for own := range b.opts.ContextFiles {
		if own == name || strings.HasPrefix(name, own+"/") || !entry.IsDir() && strings.HasPrefix(own, name+"/") {
			return true
		}
	}
	return false
}

// copied is what a COPY or ADD copies.
type copied struct {
	files    fs.FS
	names    []string
	contents string // a digest
	target   string
	inside   bool // the target is a folder
}

// copiedBy returns nothing for other instructions.
func (b *build) copiedBy(cmd instructions.Command) (c copied, err error) {
	var paths instructions.SourcesAndDest
	stage, adds := "", false
	switch cmd := cmd.(type) {
	case *instructions.CopyCommand:
		paths, stage = cmd.SourcesAndDest, cmd.From
	case *instructions.AddCommand:
		paths, adds = cmd.SourcesAndDest, true
	default:
		return c, nil
	}
	if len(paths.SourceContents) > 0 {
		return c, errHeredoc(b.tag)
	}
	if c.files, err = b.filesOf(stage); err != nil {
		return c, err
	}
	c.target = absolute(path.Join("/", b.image.WorkingDir), paths.DestPath)
	c.inside = len(paths.SourcePaths) > 1 || strings.HasSuffix(paths.DestPath, "/")
	for _, source := range paths.SourcePaths {
		if err := b.find(&c, source, adds); err != nil {
			return c, err
		}
	}
	return c, nil
}

// filesOf returns the files of a stage or an image; "": the build context.
func (b *build) filesOf(stage string) (fs.FS, error) {
	if stage == "" {
		files, err := b.context()
		if err != nil {
			return nil, err
		}
		return files.snapshot(), nil
	}
	image, err := b.stageOrImage(stage)
	if err != nil {
		return nil, err
	}
	tree := newFilesystem()
	return tree.snapshot(), image.unpack(tree)
}

// find adds what a source names to what is copied.
func (b *build) find(c *copied, source string, adds bool) error {
	if adds && (strings.Contains(source, "://") || strings.HasPrefix(source, "git@")) {
		return unsupported(buildOp, b.tag, "ADD: there is no network to fetch "+source+" from")
	}
	names, err := fs.Glob(c.files, cmp.Or(strings.TrimPrefix(path.Clean("/"+source), "/"), "."))
	if err == nil && len(names) == 0 {
		err = fs.ErrNotExist
	}
	if err != nil {
		return invalid(buildOp, b.tag, "ContextFiles", fmt.Errorf("%s: %w", source, err))
	}
	c.names = append(c.names, names...)
	for _, name := range names {
		err := fs.WalkDir(c.files, name, func(file string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				c.contents = digest(c.contents, file)
				return err
			}
			info, err := entry.Info()
			if err != nil {
				return err
			}
			content, err := fs.ReadFile(c.files, file)
			if adds && file == name && isArchive(content) {
				return unsupported(buildOp, b.tag, "ADD: it cannot unpack "+file)
			}
			c.contents = digest(c.contents, file, info.Mode().String(), string(content))
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// isArchive recognises what ADD unpacks: tar, and what compresses it.
func isArchive(content []byte) bool {
	for _, magic := range []string{"\x1f\x8b", "BZh", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd"} {
		if strings.HasPrefix(string(content), magic) {
			return true
		}
	}
	return len(content) > 262 && string(content[257:262]) == "ustar"
}

// putInto copies files, and of folders what is inside.
func (c copied) putInto(tree *filesystem) error {
	info, err := tree.stat(c.target)
	inside := c.inside || err == nil && info.IsDir()
	for _, name := range c.names {
		info, err := fs.Stat(c.files, name)
		if err != nil {
			return err
		}
		target := c.target
		if inside && !info.IsDir() {
			target = path.Join(target, path.Base(name))
		}
		if err := tree.unpack(c.files, name, target); err != nil {
			return err
		}
	}
	return nil
}
