package core_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"path"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/moatproject/moat/core"
)

// archiveOf packs entries, whose content is their name.
func archiveOf(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var packed bytes.Buffer
	out := tar.NewWriter(&packed)
	for _, header := range headers {
		content := ""
		if header.Typeflag == tar.TypeReg {
			content = header.Name
		}
		header.Size = int64(len(content))
		if err := out.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(out, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.Bytes()
}

func file(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o640} }
func folder(name string) tar.Header {
	return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o750}
}

func symlink(name, to string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
}

func hardLink(name, to string) tar.Header {
	return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to}
}

// TestVetArchiveReadsToTheEnd has more after the archive than the archive itself.
func TestVetArchiveReadsToTheEnd(t *testing.T) {
	packed := archiveOf(t, file("a"))
	src := io.MultiReader(bytes.NewReader(packed), strings.NewReader(strings.Repeat("\x00", 100<<10)))
	var vetted bytes.Buffer
	if err := core.VetArchive(&vetted, src); err != nil || !bytes.Equal(vetted.Bytes(), packed) {
		t.Errorf("%d bytes of %d, %v", vetted.Len(), len(packed), err)
	}
	if n, err := io.Copy(io.Discard, src); n > 0 || err != nil {
		t.Errorf("%d bytes are left, %v", n, err)
	}
	broken := errors.New("broken")
	if err := core.VetArchive(io.Discard, io.MultiReader(bytes.NewReader(packed), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("a failure after the end became %v", err)
	}
}

func TestVetArchive(t *testing.T) {
	for name, headers := range map[string][]tar.Header{
		"nothing":                      {},
		"files and folders":            {folder("./"), folder("a"), file("a/b"), file("./c"), file("a/../d")},
		"links":                        {file("a"), hardLink("b", "a"), symlink("c", "../../anywhere"), symlink("d", "/etc")},
		"a folder in a link's place":   {symlink("a", "/etc"), folder("a"), file("a/b")},
		"a name with dots":             {file("..a"), file("...")},
		"a link to a link's neighbour": {folder("a"), symlink("a/b", "/"), file("a/c"), hardLink("d", "a/c")},
	} {
		t.Run(name, func(t *testing.T) {
			packed := archiveOf(t, headers...)
			var vetted bytes.Buffer
			if err := core.VetArchive(&vetted, bytes.NewReader(packed)); err != nil || !bytes.Equal(vetted.Bytes(), packed) {
				t.Errorf("refused or changed: %v", err)
			}
		})
	}
	for name, headers := range map[string][]tar.Header{
		"above":                  {file("../a")},
		"above in the end":       {file("a/../../b")},
		"the folder above":       {folder("..")},
		"absolute":               {file("/etc/passwd")},
		"through a link":         {symlink("a", "/etc"), file("a/passwd")},
		"through a link's link":  {folder("a"), symlink("a/b", ".."), file("a/b/c/d")},
		"a link beyond a link":   {symlink("a", "/etc"), symlink("a/b", "x")},
		"a hard link above":      {hardLink("a", "../b")},
		"a hard link outside":    {hardLink("a", "/etc/passwd")},
		"a hard link to a link":  {symlink("a", "/etc/passwd"), hardLink("b", "a")},
		"a device":               {{Typeflag: tar.TypeBlock, Name: "a"}},
		"a character device":     {{Typeflag: tar.TypeChar, Name: "a"}},
		"a pipe":                 {{Typeflag: tar.TypeFifo, Name: "a"}},
		"a hard link by a link":  {symlink("a", "/etc"), hardLink("b", "a/passwd")},
		"a link as the folder":   {symlink(".", "/etc"), file("passwd")},
		"a file as the folder":   {file("a/..")},
		"a file under two names": {symlink("a", "b"), file("./a/x")},
	} {
		t.Run(name, func(t *testing.T) {
			headers = append([]tar.Header{file("before")}, headers...)
			var vetted bytes.Buffer
			err := core.VetArchive(&vetted, bytes.NewReader(archiveOf(t, headers...)))
			if !errors.Is(err, core.ErrInvalidConfig) || core.FieldOf(err) != "archive" {
				t.Errorf("it returned %v", err)
			}
		})
	}
}

// "git archive" begins with one. It is no entry, and must not rename those that follow.
func TestVetArchiveDropsGlobalHeaders(t *testing.T) {
	global := tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"path": "/etc/passwd"}}
	var vetted bytes.Buffer
	err := core.VetArchive(&vetted, bytes.NewReader(archiveOf(t, global, file("a"))))
	if err != nil || !bytes.Equal(vetted.Bytes(), archiveOf(t, file("a"))) {
		t.Errorf("refused or kept: %v", err)
	}
}

func TestVetArchiveFailures(t *testing.T) {
	packed := archiveOf(t, file("a"), file("b"))
	broken := errors.New("broken")
	if err := core.VetArchive(io.Discard, iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("a reader's failure became %v", err)
	}
	for _, archive := range [][]byte{packed[:512], packed[:100], []byte(strings.Repeat("no archive ", 100))} {
		if err := core.VetArchive(io.Discard, bytes.NewReader(archive)); core.FieldOf(err) != "archive" {
			t.Errorf("what is no archive returned %v", err)
		}
	}
	if err := core.VetArchive(io.Discard, io.MultiReader(bytes.NewReader(packed[:512]), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("a reader's failure in a file became %v", err)
	}
	for after := range 2 {
		if err := core.VetArchive(&limitedWriter{writes: after}, bytes.NewReader(packed)); !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("a writer that fails after %d writes returned %v", after, err)
		}
	}
}

// limitedWriter fails after some writes.
type limitedWriter struct{ writes int }

func (w *limitedWriter) Write(p []byte) (int, error) {
	if w.writes--; w.writes < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}

// FuzzVetArchive extracts what passes as a careless program would, which follows links,
// and sees whether it leaves the folder.
func FuzzVetArchive(f *testing.F) {
	f.Add(archiveOf(f, file("a"), symlink("b", ".."), hardLink("c", "a")))
	f.Add(archiveOf(f, symlink("a", "/etc"), file("a/passwd")))
	f.Add(archiveOf(f, folder("a"), file("a/../../b")))
	f.Add(archiveOf(f, symlink("a", "/etc"), hardLink("b", "a/passwd")))
	f.Add(archiveOf(f, symlink("./", "/etc"), file("passwd")))
	f.Fuzz(func(t *testing.T, archive []byte) {
		var vetted bytes.Buffer
		if core.VetArchive(&vetted, bytes.NewReader(archive)) != nil {
			return
		}
		links := map[string]string{}
		follow := func(name string) string {
			for range 10 {
				for folder := name; folder != "." && folder != "/" && folder != ".."; folder = path.Dir(folder) {
					if to, ok := links[folder]; ok {
						if !path.IsAbs(to) {
							to = path.Join(path.Dir(folder), to)
						}
						name = path.Join(to, strings.TrimPrefix(name, folder))
						break
					}
				}
			}
			return name
		}
		outside := func(name string) bool { return path.IsAbs(name) || name == ".." || strings.HasPrefix(name, "../") }
		in := tar.NewReader(&vetted)
		for {
			header, err := in.Next()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				t.Fatalf("what has passed is no archive: %v", err)
			}
			name := path.Clean(header.Name)
			if at := follow(path.Dir(name)); outside(at) {
				t.Errorf("%q is written to %q", header.Name, at)
			}
			if name == "." && header.Typeflag != tar.TypeDir {
				t.Errorf("%q replaces the folder", header.Name)
			}
			switch header.Typeflag {
			case tar.TypeSymlink:
				links[name] = header.Linkname
			case tar.TypeLink:
				if at := follow(path.Clean(header.Linkname)); outside(at) {
					t.Errorf("%q is a link to %q", header.Name, at)
				}
				delete(links, name)
			case tar.TypeReg, tar.TypeDir:
				delete(links, name)
			default:
				t.Errorf("%q is of type %c", header.Name, header.Typeflag)
			}
		}
	})
}
