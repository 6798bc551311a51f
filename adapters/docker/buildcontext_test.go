package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
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
func walked(t *testing.T, files buildContext, target string) (entries []string, err error) {
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
	folder := t.TempDir()
	outside := t.TempDir()
	listener, err := net.Listen("unix", filepath.Join(folder, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for _, err := range []error{
		os.MkdirAll(filepath.Join(folder, "a/deep"), 0o755),
		os.WriteFile(filepath.Join(folder, "a/deep/file"), []byte("deep"), 0o600),
		os.WriteFile(filepath.Join(folder, "a/hidden"), []byte("hidden"), 0o644),
		os.WriteFile(filepath.Join(folder, "a.txt"), []byte("text"), 0o755),
		os.MkdirAll(filepath.Join(folder, "replaced"), 0o755),
		os.WriteFile(filepath.Join(folder, "replaced/inside"), nil, 0o644),
		os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o644),
		os.Symlink(outside, filepath.Join(folder, "link")),
		os.Symlink(outside, filepath.Join(folder, "covered")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	files := buildContext{unread: &unread{stop: func() {}}, folder: os.DirFS(folder), files: map[string][]byte{
		"a/hidden": []byte("hides"), "new/er/file": []byte("new"), "replaced": []byte("file"), "covered/x": []byte("x"),
	}}
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
	if _, err := walked(t, buildContext{}, ""); err != nil {
		t.Errorf("an empty context: %v", err)
	}

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := files.Walk(ended, "", func(string, fs.DirEntry, error) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
	if err := syscall.Mkfifo(filepath.Join(folder, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := walked(t, files, ""); err == nil || !strings.Contains(err.Error(), "pipe") {
		t.Errorf("a pipe: %v", err)
	}
}

func TestSharedKey(t *testing.T) {
	dockerfile := func(content string) map[string][]byte { return map[string][]byte{dockerfileName: []byte(content)} }
	timed := fstest.MapFS{".": {Mode: fs.ModeDir, ModTime: time.Unix(1, 0)}}
	of := func(content string, opts core.BuildOptions) string { return sharedKey(dockerfile(content), opts) }
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
