package buildcontext

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/tonistiigi/fsutil/types"
)

// walked returns a context's entries, in the order of a walk.
func walked(t *testing.T, files Files, target string) (entries []string, err error) {
	t.Helper()
	err = files.Walk(t.Context(), target, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		stat := info.Sys().(*types.Stat)
		line := fmt.Sprintf("%s %v", name, info.Mode())
		if stat.Linkname != "" {
			line += " " + stat.Linkname
		}
		if info.Mode().IsRegular() {
			file, err := files.Open(name)
			if err != nil {
				return err
			}
			defer file.Close()
			content, err := io.ReadAll(file)
			if err != nil || int64(len(content)) != stat.Size {
				t.Errorf("%s: %d bytes of %d, %v", name, len(content), stat.Size, err)
			}
			line += " " + string(content)
		}
		entries = append(entries, line)
		return nil
	})
	return entries, err
}

func TestBuildContext(t *testing.T) {
	directory := t.TempDir()
	outside := t.TempDir()
	listener, err := net.Listen("unix", filepath.Join(directory, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for _, err := range []error{
		os.MkdirAll(filepath.Join(directory, "a/deep"), 0o755),
		os.WriteFile(filepath.Join(directory, "a/deep/file"), []byte("deep"), 0o600),
		os.WriteFile(filepath.Join(directory, "a/hidden"), []byte("hidden"), 0o644),
		os.WriteFile(filepath.Join(directory, "a.txt"), []byte("text"), 0o755),
		os.MkdirAll(filepath.Join(directory, "replaced"), 0o755),
		os.WriteFile(filepath.Join(directory, "replaced/inside"), nil, 0o644),
		os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o644),
		os.Symlink(outside, filepath.Join(directory, "link")),
		os.Symlink(outside, filepath.Join(directory, "covered")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	files, _, err := New(os.DirFS(directory), map[string][]byte{
		"a/hidden": []byte("hides"), "new/er/file": []byte("new"), "replaced": []byte("file"), "covered/x": []byte("x"),
	}, NewFailure(func() {}))
	if err != nil {
		t.Fatal(err)
	}
	all := []string{
		"a drwxr-xr-x", "a/deep drwxr-xr-x", "a/deep/file -rw------- deep", "a/hidden -rw-r--r-- hides",
		"a.txt -rwxr-xr-x text",
		"covered drwxr-xr-x", "covered/x -rw-r--r-- x",
		"link Lrwxrwxrwx " + outside,
		"new drwxr-xr-x", "new/er drwxr-xr-x", "new/er/file -rw-r--r-- new",
		"replaced -rw-r--r-- file",
	}
	for target, want := range map[string][]string{"": all, "/": all, "a/deep": all[1:3], "/new/er/file": all[10:11], "link": all[7:8]} {
		if got, err := walked(t, files, target); err != nil || !slices.Equal(got, want) {
			t.Errorf("a walk of %q: %v\n%q, want\n%q", target, err, got, want)
		}
	}
	for _, name := range []string{"replaced/inside", "covered/secret", "link/secret", "nothing"} {
		if _, err := walked(t, files, name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("walked %s: %v", name, err)
		}
	}
	if _, err := files.open("replaced/inside"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("opened what a file hides: %v", err)
	}
	if _, err := walked(t, Files{}, ""); err != nil {
		t.Errorf("an empty context: %v", err)
	}

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := files.Walk(ended, "", func(string, fs.DirEntry, error) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
	if err := syscall.Mkfifo(filepath.Join(directory, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := walked(t, files, ""); err == nil || !strings.Contains(err.Error(), "pipe") {
		t.Errorf("a pipe: %v", err)
	}
}

// Names that are not UTF-8 have no place in builders' protocols. Linux has them.
func TestBuildContextOfNamesThatAreNotUTF8(t *testing.T) {
	for name, test := range map[string]struct {
		files   []string // one that ends with a slash is a directory, "a->b" a symbolic link
		ignored string
		names   string   // what the error names; "": there is none
		want    []string // names in the walk
	}{
		"a file":                     {files: []string{"a", "b\xff"}, names: `"b\xff"`},
		"a directory":                {files: []string{"b\xff/", "b\xff/c"}, names: `"b\xff"`},
		"in a directory":             {files: []string{"a/", "a/b\xff"}, names: `"a/b\xff"`},
		"a symbolic link":            {files: []string{"b\xff->a"}, names: `"b\xff"`},
		"its target":                 {files: []string{"a->b\xff"}, names: `"a"`},
		"half a character":           {files: []string{"\xc3"}, names: `"\xc3"`},
		"a surrogate":                {files: []string{"\xed\xa0\x80"}, names: `"\xed\xa0\x80"`},
		"ignored":                    {files: []string{"a", "b\xff"}, ignored: "b?", want: []string{"a"}},
		"ignored as it is":           {files: []string{"a", "b\xff"}, ignored: "b\xff", want: []string{"a"}},
		"ignored with its directory": {files: []string{"a", "d/", "d/b\xff"}, ignored: "d", want: []string{"a", "d"}},
		"an ignored directory":       {files: []string{"a", "d\xff/", "d\xff/b"}, ignored: "d?", want: []string{"a"}},
		"by its parent":              {files: []string{"a", "d\xff/", "d\xff/b"}, ignored: "d?/b", names: `"d\xff"`},
		"with an exception":          {files: []string{"a", "b\xff", "c\xff"}, ignored: "?\xff\n!c\xff", names: `"c\xff"`},
		"odd ones":                   {files: []string{"new\nline", "\x01", "back\\slash", " ", "ünï", "\u202e", "\ufffd"}, want: []string{"\x01", " ", "back\\slash", "new\nline", "ünï", "\u202e", "\ufffd"}},
	} {
		t.Run(name, func(t *testing.T) {
			directory := t.TempDir()
			for _, file := range test.files {
				path, target, link := strings.Cut(file, "->")
				err := error(nil)
				switch path = filepath.Join(directory, path); {
				case link:
					err = os.Symlink(target, path)
				case strings.HasSuffix(file, "/"):
					err = os.Mkdir(path, 0o755)
				default:
					err = os.WriteFile(path, []byte("content"), 0o644)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if test.ignored != "" {
				if err := os.WriteFile(filepath.Join(directory, IgnoreFile), []byte(test.ignored), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			root, err := os.OpenRoot(directory)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			failure := NewFailure(func() {})
			files, _, err := New(root.FS(), nil, failure)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			err = files.Walk(t.Context(), "", func(name string, entry fs.DirEntry, err error) error {
				if err == nil {
					_, err = entry.Info()
				}
				if err == nil && name != IgnoreFile && path.Base(name) == name {
					names = append(names, name)
				}
				if strings.HasPrefix(name, "d/") { // as the builders' library does, which reads .dockerignore too
					return nil
				}
				return err
			})
			refused, _ := errors.AsType[*EncodingError](failure.Err())
			switch {
			case test.names == "" && (err != nil || !slices.Equal(names, test.want)):
				t.Errorf("walked %q, %v, want %q", names, err, test.want)
			case test.names != "" && (err == nil || refused == nil || !strings.Contains(refused.Error(), test.names)):
				t.Errorf("got %v, %v, which does not name %s", err, failure.Err(), test.names)
			}
		})
	}
}

func TestSharedKey(t *testing.T) {
	dockerfile := func(content string) map[string][]byte { return map[string][]byte{"Dockerfile": []byte(content)} }
	timed := fstest.MapFS{".": {Mode: fs.ModeDir, ModTime: time.Unix(1, 0)}}
	of := func(content string, opts core.BuildOptions) string { return SharedKey(dockerfile(content), opts) }
	one := core.BuildOptions{ContextFiles: map[string][]byte{"a": []byte("1")}, Context: timed}
	if again := of("x", one); again != of("x", one) {
		t.Error("the same files have two keys")
	}
	// What BuildKit compares, sizes and times, is the same in all of these.
	for name, other := range map[string]string{
		"another Dockerfile": of("y", one),
		"another content":    of("x", core.BuildOptions{ContextFiles: map[string][]byte{"a": []byte("2")}, Context: timed}),
		"another name":       of("x", core.BuildOptions{ContextFiles: map[string][]byte{"b": []byte("1")}, Context: timed}),
		"no times":           of("x", core.BuildOptions{ContextFiles: map[string][]byte{"a": []byte("1")}, Context: fstest.MapFS{}}),
	} {
		if other == of("x", one) {
			t.Errorf("%s has the same key", name)
		}
	}
}
