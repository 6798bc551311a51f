package cli

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// sender is a container that answers every request for its files with the same archive.
type sender struct {
	mode    fs.FileMode
	entries []tar.Header
}

func (s sender) StatPath(_ context.Context, _, path string) (optional.PathStat, error) {
	return optional.PathStat{Name: filepath.Base(path), Mode: s.mode}, nil
}

func (s sender) CopyTo(context.Context, string, string, io.Reader) error {
	return core.ErrUnsupported
}

const sent = "sent"

func (s sender) CopyFrom(context.Context, string, string) (io.ReadCloser, error) {
	var archive bytes.Buffer
	writer := tar.NewWriter(&archive)
	for _, header := range s.entries {
		if header.Typeflag == tar.TypeReg {
			header.Size = int64(len(sent))
		}
		if header.Mode == 0 {
			header.Mode = 0o755
		}
		if err := writer.WriteHeader(&header); err != nil {
			return nil, err
		}
		if header.Typeflag == tar.TypeReg {
			_, _ = io.WriteString(writer, sent)
		}
	}
	return io.NopCloser(&archive), writer.Close()
}

func folder(name string) tar.Header { return tar.Header{Typeflag: tar.TypeDir, Name: name} }
func file(name string) tar.Header   { return tar.Header{Typeflag: tar.TypeReg, Name: name} }
func link(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}
}
func hardLink(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}
}

// TestCopyOutOfHostile checks that nothing but what the second path names is written to.
func TestCopyOutOfHostile(t *testing.T) {
	const outside = "secret/file"
	for name, test := range map[string]struct {
		source, dest string
		file         bool              // StatPath calls it one
		links        map[string]string // in the destination before
		entries      []tar.Header
	}{
		"a link that takes the copy's new name":  {"/tmp/x", "y", false, nil, []tar.Header{link("x", "SECRET"), file("y/file")}},
		"a relative one":                         {"/tmp/x", "y", false, nil, []tar.Header{link("x", "secret"), file("y/file")}},
		"a link, and a file through it":          {"/tmp/x", "y", false, nil, []tar.Header{folder("x"), link("x/l", "SECRET"), file("x/l/file")}},
		"a relative link, and a file through it": {"/tmp/x", "y", false, nil, []tar.Header{folder("x"), link("x/l", "../secret"), file("x/l/file")}},
		"a link to a link":                       {"/tmp/x", "y", false, nil, []tar.Header{folder("x"), link("x/a", "../secret"), link("x/b", "a"), file("x/b/file")}},
		"a link that was there":                  {"/tmp/x", ".", false, map[string]string{"x": "SECRET"}, []tar.Header{file("x/file")}},
		"a relative link that was there":         {"/tmp/x", ".", false, map[string]string{"x": "secret"}, []tar.Header{file("x/file")}},
		"a link that was there, deeper":          {"/tmp/x", ".", false, map[string]string{"x/l": "../secret"}, []tar.Header{folder("x"), file("x/l/file")}},
		"a link that was there as a folder":      {"/tmp/x", ".", false, map[string]string{"x/l": "SECRET"}, []tar.Header{folder("x"), folder("x/l"), file("x/l/file")}},
		"a link to the file itself":              {"/tmp/x", ".", false, map[string]string{"x/file": "SECRET/file"}, []tar.Header{folder("x"), file("x/file")}},
		"a name outside":                         {"/tmp/x", "y", false, nil, []tar.Header{folder("x"), file("x/../../secret/file")}},
		"another name":                           {"/tmp/x", "y", false, nil, []tar.Header{folder("x"), file("secret/file")}},
		"another name, in a folder":              {"/tmp/x", ".", false, nil, []tar.Header{folder("x"), file("secret/file")}},
		"an absolute name":                       {"/tmp/x", ".", false, nil, []tar.Header{file("SECRET/file")}},
		"a hard link to what is outside":         {"/tmp/x", "y", false, nil, []tar.Header{folder("x"), hardLink("x/l", "../secret/file"), file("x/l")}},
		"a hard link to a name outside":          {"/tmp/x", "y", false, nil, []tar.Header{folder("x"), hardLink("x/l", "x/../../secret/file"), file("x/l")}},
		"a hard link through a link":             {"/tmp/x", "y", false, nil, []tar.Header{folder("x"), link("x/s", "../secret"), hardLink("x/l", "x/s/file")}},
		"more than the file":                     {"/tmp/x", "y", true, nil, []tar.Header{file("x"), file("secret/file")}},
		"a folder for a file":                    {"/tmp/secret", ".", true, nil, []tar.Header{folder("secret"), file("secret/file")}},
		"a link for a file, and a file in it":    {"/tmp/x", "y", true, nil, []tar.Header{link("x", "secret"), file("x/file")}},
		"contents":                               {"/tmp/x/.", "y", false, nil, []tar.Header{folder("."), link("l", "../secret"), file("l/file")}},
		"a name outside, of contents":            {"/tmp/x/.", "y", false, nil, []tar.Header{folder("."), file("../secret/file")}},
	} {
		for _, whole := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, whole path: %v", name, whole), func(t *testing.T) {
				home, err := filepath.EvalSymlinks(t.TempDir())
				must(t, err)
				t.Chdir(home)
				must(t, os.Mkdir("secret", 0o700))
				must(t, os.WriteFile(outside, []byte("kept"), 0o600))
				for name, target := range test.links {
					must(t, os.MkdirAll(filepath.Dir(name), 0o755))
					must(t, os.Symlink(absolute(home, target), name))
				}
				from := sender{mode: fs.ModeDir | 0o755}
				if test.file {
					from.mode = 0o644
				}
				for _, entry := range test.entries {
					entry.Name, entry.Linkname = absolute(home, entry.Name), absolute(home, entry.Linkname)
					from.entries = append(from.entries, entry)
				}
				dest := test.dest
				if whole {
					dest = filepath.Join(home, dest)
				}
				err = new(app).copyOut(t.Context(), from, "id", test.source, dest, false)
				if replaced := name == "a link to the file itself"; replaced != (err == nil) {
					t.Errorf("it ends with %v", err)
				}
				found, err := os.Stat(outside)
				must(t, err)
				if found.Mode() != 0o600 || found.Size() != int64(len("kept")) {
					t.Errorf("%s is %v, %d bytes", outside, found.Mode(), found.Size())
				}
				if links, err := os.ReadDir("secret"); len(links) != 1 || err != nil {
					t.Errorf("beside it: %v, %v", links, err)
				}
				if secret, err := os.Stat("secret"); err != nil || secret.Mode().Perm() != 0o700 {
					t.Errorf("the folder is %v, %v", secret, err)
				}
				if test.links != nil {
					return
				}
				_ = filepath.WalkDir(home, func(path string, entry fs.DirEntry, err error) error {
					if info, err := entry.Info(); err == nil && path != filepath.Join(home, outside) && os.SameFile(info, found) {
						t.Errorf("%s is the same file", path)
					}
					return err
				})
			})
		}
	}
}

// absolute fills in where the test is.
func absolute(home, path string) string {
	return string(bytes.Replace([]byte(path), []byte("SECRET"), []byte(filepath.Join(home, "secret")), 1))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestCopyOutReadsToTheEnd has a failure that comes after the archive.
func TestCopyOutReadsToTheEnd(t *testing.T) {
	t.Chdir(t.TempDir())
	broken := errors.New("broken")
	from := failingSender{sender{mode: 0o644, entries: []tar.Header{file("x")}}, broken}
	var out bytes.Buffer
	for _, dest := range []string{"y", "-"} {
		if err := (&app{env: Env{Stdout: &out}}).copyOut(t.Context(), from, "id", "/tmp/x", dest, false); !errors.Is(err, broken) {
			t.Errorf("to %s it ends with %v", dest, err)
		}
	}
}

// failingSender is a sender whose archives end with an error, after their own end.
type failingSender struct {
	sender
	failure error
}

func (s failingSender) CopyFrom(ctx context.Context, id, path string) (io.ReadCloser, error) {
	archive, err := s.sender.CopyFrom(ctx, id, path)
	return io.NopCloser(io.MultiReader(archive, iotest.ErrReader(s.failure))), err
}

// TestCopyIntoEnded copies into a container whose files cannot be described any more.
func TestCopyIntoEnded(t *testing.T) {
	t.Chdir(t.TempDir())
	must(t, os.WriteFile("x", nil, 0o600))
	for dest, want := range map[string]string{
		"/tmp": "/tmp x", "/tmp/": "/tmp x", "/tmp/new": "/tmp new", "/tmp/file": "/tmp file", "/none/x": "",
	} {
		into := &ended{}
		err := (&app{env: Env{Abs: filepath.Abs}}).copyIn(t.Context(), into, "id", "x", dest, false)
		if into.copied != want || (err == nil) != (want != "") {
			t.Errorf("to %s it copied %q, %v", dest, into.copied, err)
		}
	}
}

// ended is a container that has ended, with a directory /tmp and a file in it.
type ended struct {
	sender
	copied string // where to, and the name there
}

func (e *ended) StatPath(context.Context, string, string) (optional.PathStat, error) {
	return optional.PathStat{}, core.ErrNotRunning
}

func (e *ended) CopyTo(_ context.Context, _, dir string, archive io.Reader) error {
	switch header, err := tar.NewReader(archive).Next(); {
	case dir == "/tmp/file":
		return &core.Error{Class: core.ErrInvalidConfig, Field: "dir"}
	case dir != "/tmp":
		return core.ErrNotFound
	case err == nil:
		e.copied = dir + " " + header.Name
	}
	_, err := io.Copy(io.Discard, archive)
	return err
}

func TestCopyOutOfDevices(t *testing.T) {
	for _, kind := range []byte{tar.TypeChar, tar.TypeBlock, tar.TypeFifo, tar.TypeCont} {
		for name, test := range map[string]sender{
			"x":   {mode: 0o644, entries: []tar.Header{{Typeflag: kind, Name: "x"}}},
			"y/x": {mode: fs.ModeDir | 0o755, entries: []tar.Header{folder("y"), {Typeflag: kind, Name: "y/x"}}},
		} {
			t.Chdir(t.TempDir())
			if err := new(app).copyOut(t.Context(), test, "id", "/"+strings.Split(name, "/")[0], ".", false); err == nil {
				t.Errorf("%c as %s is no error", kind, name)
			}
			if found, err := os.Lstat(name); err == nil {
				t.Errorf("%c as %s made %v", kind, name, found.Mode())
			}
		}
	}
}
