package optional_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
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
	if err := optional.VetArchive(&vetted, src); err != nil || !bytes.Equal(vetted.Bytes(), packed) {
		t.Errorf("%d bytes of %d, %v", vetted.Len(), len(packed), err)
	}
	if n, err := io.Copy(io.Discard, src); n > 0 || err != nil {
		t.Errorf("%d bytes are left, %v", n, err)
	}
	broken := errors.New("broken")
	if err := optional.VetArchive(io.Discard, io.MultiReader(bytes.NewReader(packed), iotest.ErrReader(broken))); !errors.Is(err, broken) {
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
			if err := optional.VetArchive(&vetted, bytes.NewReader(packed)); err != nil || !bytes.Equal(vetted.Bytes(), packed) {
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
		"an owner that is none":  {{Typeflag: tar.TypeReg, Name: "a", Uid: 1<<32 - 1}},
		"a group that is none":   {{Typeflag: tar.TypeReg, Name: "a", Gid: 1 << 40}},
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
			err := optional.VetArchive(&vetted, bytes.NewReader(archiveOf(t, headers...)))
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
	err := optional.VetArchive(&vetted, bytes.NewReader(archiveOf(t, global, file("a"))))
	if err != nil || !bytes.Equal(vetted.Bytes(), archiveOf(t, file("a"))) {
		t.Errorf("refused or kept: %v", err)
	}
}

func TestVetArchiveFailures(t *testing.T) {
	packed := archiveOf(t, file("a"), file("b"))
	broken := errors.New("broken")
	if err := optional.VetArchive(io.Discard, iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("a reader's failure became %v", err)
	}
	for _, archive := range [][]byte{packed[:512], packed[:100], []byte(strings.Repeat("no archive ", 100))} {
		if err := optional.VetArchive(io.Discard, bytes.NewReader(archive)); core.FieldOf(err) != "archive" {
			t.Errorf("what is no archive returned %v", err)
		}
	}
	if err := optional.VetArchive(io.Discard, io.MultiReader(bytes.NewReader(packed[:512]), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("a reader's failure in a file became %v", err)
	}
	for after := range 2 {
		if err := optional.VetArchive(&limitedWriter{writes: after}, bytes.NewReader(packed)); !errors.Is(err, io.ErrShortWrite) {
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

func TestVetArchiveNamesTheDecompressor(t *testing.T) {
	for begin, program := range map[string]string{
		"\x1f\x8b\x08": "gzip -d", "BZh91AY&SY": "bzip2 -d", "\xfd7zXZ\x00": "xz -d", "\x28\xb5\x2f\xfd": "zstd -d",
	} {
		for _, size := range []int{20, 2000} {
			err := optional.VetArchive(io.Discard, strings.NewReader(begin+strings.Repeat("x", size)))
			if core.FieldOf(err) != "archive" || !strings.Contains(err.Error(), program) {
				t.Errorf("%q: %v", begin, err)
			}
		}
	}
	if err := optional.VetArchive(io.Discard, bytes.NewReader(archiveOf(t, file("BZh91AY&SY")))); err != nil {
		t.Errorf("a file whose name looks like it: %v", err)
	}
}

// TestVetArchiveInGNUsFormat reads what is written again, without a single PAX record.
func TestVetArchiveInGNUsFormat(t *testing.T) {
	long := strings.Repeat("long/", 60)
	for name, header := range map[string]tar.Header{
		"owners":                {Typeflag: tar.TypeReg, Name: "a", Uid: 3_000_000, Gid: 1<<32 - 2},
		"before 1970":           {Typeflag: tar.TypeReg, Name: "a", ModTime: time.Unix(-300_000_000, 0)},
		"just before 1970":      {Typeflag: tar.TypeReg, Name: "a", ModTime: time.Unix(-2, 600_000_000)},
		"a fraction":            {Typeflag: tar.TypeReg, Name: "a", ModTime: time.Unix(7, 999_999_999)},
		"long names":            {Typeflag: tar.TypeSymlink, Name: long + "a", Linkname: long + "b"},
		"not ASCII":             {Typeflag: tar.TypeReg, Name: "\u00e4\u20ac"},
		"owners' names":         {Typeflag: tar.TypeReg, Name: "a", Uname: "alice", Gname: "staff"},
		"an extended attribute": {Typeflag: tar.TypeReg, Name: "a", PAXRecords: map[string]string{"SCHILY.xattr.user.x": "y"}},
	} {
		t.Run(name, func(t *testing.T) {
			header.Format = tar.FormatPAX
			var vetted bytes.Buffer
			if err := optional.VetArchive(&vetted, bytes.NewReader(archiveOf(t, header)), optional.GNUHeader); err != nil {
				t.Fatal(err)
			}
			got, err := tar.NewReader(&vetted).Next()
			if err != nil || got.Format == tar.FormatPAX || len(got.PAXRecords) > 0 || got.Uname != "" || got.Gname != "" {
				t.Fatalf("got %+v, %v", got, err)
			}
			wantTime := time.Unix(header.ModTime.Unix(), 0)
			if header.ModTime.IsZero() {
				wantTime = time.Unix(0, 0)
			}
			if got.Name != header.Name || got.Linkname != header.Linkname || got.Uid != header.Uid || got.Gid != header.Gid || !got.ModTime.Equal(wantTime) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// TestVetArchiveOfLargeFile has the header of a file that an octal number cannot tell.
func TestVetArchiveOfLargeFile(t *testing.T) {
	const size = 9 << 30
	var begin bytes.Buffer
	out := tar.NewWriter(&begin)
	if err := out.WriteHeader(&tar.Header{Format: tar.FormatPAX, Typeflag: tar.TypeReg, Name: "a", Size: size}); err != nil {
		t.Fatal(err)
	}
	var vetted bytes.Buffer
	err := optional.VetArchive(&vetted, &begin, optional.GNUHeader)
	if core.FieldOf(err) != "archive" {
		t.Errorf("without its content: %v", err)
	}
	if got, err := tar.NewReader(&vetted).Next(); err != nil || got.Size != size || got.Format != tar.FormatGNU {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestVetArchiveExpandsSparseFiles(t *testing.T) {
	packed := archiveOf(t, tar.Header{Typeflag: tar.TypeReg, Name: "a", Format: tar.FormatGNU})
	// A sparse file of GNU's old format: one piece at 0, and the size that it has in all.
	header := packed[:512]
	header[156] = tar.TypeGNUSparse
	copy(header[386:], "00000000000\x0000000000001\x00")
	copy(header[483:], "00000000010\x00")
	copy(header[148:], "        ")
	sum := 0
	for _, b := range header {
		sum += int(b)
	}
	copy(header[148:], fmt.Sprintf("%06o\x00 ", sum))
	var vetted bytes.Buffer
	if err := optional.VetArchive(&vetted, bytes.NewReader(packed)); err != nil {
		t.Fatal(err)
	}
	in := tar.NewReader(&vetted)
	got, err := in.Next()
	if err != nil || got.Typeflag != tar.TypeReg || got.Size != 8 {
		t.Fatalf("got %+v, %v", got, err)
	}
	if content, err := io.ReadAll(in); string(content) != "a\x00\x00\x00\x00\x00\x00\x00" || err != nil {
		t.Errorf("got %q, %v", content, err)
	}
}

// sending is what an archiver sends, and how it ends.
func sending(sent []byte, failure error) io.Reader {
	if failure == nil {
		failure = io.EOF
	}
	return iotest.OneByteReader(io.MultiReader(bytes.NewReader(sent), iotest.ErrReader(failure)))
}

func TestWholeArchive(t *testing.T) {
	packed := archiveOf(t, folder("a/"), file("a/b"), file("a/c"))
	for _, padding := range []int{0, 1, 8 << 10} {
		var names []string
		visit := func(header *tar.Header) error { names = append(names, header.Name); return nil }
		got, err := io.ReadAll(optional.WholeArchive(sending(append(bytes.Clone(packed), make([]byte, padding)...), nil), visit))
		if err != nil || !bytes.Equal(got, packed) || strings.Join(names, " ") != "a/ a/b a/c" {
			t.Errorf("with %d more bytes: %d of %d, visited %q, %v", padding, len(got), len(packed), names, err)
		}
	}
}

// TestWholeArchiveFails shows each failure to who reads to the archive's end, and to who
// reads to the stream's.
func TestWholeArchiveFails(t *testing.T) {
	packed := archiveOf(t, folder("a/"), file("a/b"), file("a/c"))
	end := len(packed) - 2*512
	broken := errors.New("broken")
	for name, test := range map[string]struct {
		sent    []byte
		failure error
		want    string
	}{
		"after the end":                {packed, broken, "broken"},
		"in the padding":               {append(bytes.Clone(packed), 0), broken, "broken"},
		"in the end":                   {packed[:end+512], broken, "broken"},
		"before the end":               {packed[:end], broken, "broken"},
		"in a file":                    {packed[:512+512+1], broken, "broken"},
		"at once":                      {nil, broken, "broken"},
		"cut off before the end":       {packed[:end], nil, "cut off"},
		"cut off in padding":           {packed[:end-100], nil, "cut off"},
		"cut off in a file":            {packed[:512+512+1], nil, "cut off"},
		"cut off in a header":          {packed[:512+100], nil, "cut off"},
		"cut off at once":              {nil, nil, "cut off"},
		"no archive":                   {[]byte(strings.Repeat("no archive ", 100)), nil, "not an archive"},
		"more and more, after the end": {append(bytes.Clone(packed), make([]byte, 2<<20)...), nil, "not an archive"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := io.ReadAll(optional.WholeArchive(sending(test.sent, test.failure), nil)); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("the stream ends with %v", err)
			}
			var err error
			for in := tar.NewReader(optional.WholeArchive(sending(test.sent, test.failure), nil)); err == nil; {
				if _, err = in.Next(); err == nil {
					_, err = io.Copy(io.Discard, in)
				}
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("the archive ends with %v", err)
			}
		})
	}
	in := optional.WholeArchive(bytes.NewReader(packed), func(header *tar.Header) error {
		if header.Name == "a/b" {
			return broken
		}
		return nil
	})
	if got, err := io.ReadAll(in); len(got) != 512 || !errors.Is(err, broken) {
		t.Errorf("a visit that fails: %d bytes, %v", len(got), err)
	}
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
		if optional.VetArchive(&vetted, bytes.NewReader(archive)) != nil {
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
