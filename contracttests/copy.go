package contracttests

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"strings"

	"github.com/moatproject/moat/core"
)

func copyCases() []Case {
	c := func(number, title string, check func(*fixture)) Case {
		return Case{Number: number, Title: title, check: check, ability: optional[core.Copier](), unsupported: noPort}
	}
	return []Case{
		c("RT-140", "files arrive in a container", copyTo),
		c("RT-141", "copying to nowhere", copyToNowhere),
		c("RT-142", "entries that are refused", copyEscapes),
		c("RT-143", "files come out of a container", copyFrom),
		c("RT-144", "copying what is missing", copyFromNowhere),
		c("RT-145", "what a path is", statPath),
	}
}

// archive makes an archive, with the sizes that its entries have.
func archive(f *fixture, entries ...entry) io.Reader {
	f.Helper()
	var buffer bytes.Buffer
	out := tar.NewWriter(&buffer)
	for _, e := range entries {
		e.Size = int64(len(e.content))
		f.must(out.WriteHeader(&e.Header))
		_, err := io.WriteString(out, e.content)
		f.must(err)
	}
	f.must(out.Close())
	return &buffer
}

// An entry is a file with its content.
type entry struct {
	tar.Header
	content string
}

func file(name string, mode int64, content string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Uid: 1000, Gid: 1000}, content}
}

func special(kind byte, name, target string) entry {
	return entry{tar.Header{Typeflag: kind, Name: name, Linkname: target, Mode: 0o755}, ""}
}

// files are an archive of each kind of entry.
func files() []entry {
	return []entry{
		special(tar.TypeDir, "sub/", ""), file("sub/text", 0o640, "the content\n"), file("sub/empty", 0o755, ""),
		special(tar.TypeSymlink, "sub/link", "text"),
	}
}

const showFiles = `cd /tmp/sub && cat text && cat link && test -x empty && test ! -s empty && stat -c '%a %u %g' text`

const shownFiles = "the content\nthe content\n640 1000 1000\n"

func copyTo(f *fixture) {
	copier := portOf[core.Copier](f)
	created := f.create(f.shell(showFiles))
	f.must(copier.CopyTo(f.ctx, created, "/tmp", archive(f, files()...)))
	f.start(created)
	want(f, "the exit code", f.wait(created), 0)
	want(f, "what was copied into a created container", f.logs(created), shownFiles)

	running := f.ready(f.shell(`echo ready; while ! test -e /tmp/sub/link; do sleep 0.1; done; sleep 1; ` + showFiles))
	f.must(copier.CopyTo(f.ctx, running, "/tmp", archive(f, files()...)))
	want(f, "the exit code", f.wait(running), 0)
	want(f, "what was copied into a running container", f.logs(running), "ready\n"+shownFiles)
}

func copyToNowhere(f *fixture) {
	copier := portOf[core.Copier](f)
	f.wantClass("copying to no container", copier.CopyTo(f.ctx, f.missing(), "/tmp", archive(f)), core.ErrNotFound)
	for _, id := range []string{f.create(f.idle()), f.started(f.idle())} {
		f.wantClass("copying to no folder", copier.CopyTo(f.ctx, id, "/no/folder", archive(f, files()...)), core.ErrNotFound)
		f.wantField("copying to a file", copier.CopyTo(f.ctx, id, "/etc/passwd", archive(f, files()...)), "dir")
		f.wantField("copying to a relative path", copier.CopyTo(f.ctx, id, "tmp", archive(f, files()...)), "dir")
	}
}

func copyEscapes(f *fixture) {
	copier, id := portOf[core.Copier](f), f.create(f.idle())
	for what, entries := range map[string][]entry{
		"a name that leads up":      {file("../escaped", 0o644, "x")},
		"a name that goes up later": {file("a/../../escaped", 0o644, "x")},
		"an absolute name":          {file("/escaped", 0o644, "x")},
		"a name through a link":     {special(tar.TypeSymlink, "link", "/"), file("link/escaped", 0o644, "x")},
		"a hard link to what is up": {special(tar.TypeLink, "hard", "../etc/passwd")},
		"a device":                  {special(tar.TypeChar, "device", "")},
		"a pipe":                    {special(tar.TypeFifo, "pipe", "")},
	} {
		f.wantField(what, copier.CopyTo(f.ctx, id, "/tmp", archive(f, entries...)), "archive")
	}
	f.wantField("what is no archive", copier.CopyTo(f.ctx, id, "/tmp", strings.NewReader(strings.Repeat("no archive", 100))), "archive")
	_, err := copier.StatPath(f.ctx, id, "/escaped")
	f.wantClass("what escaped", err, core.ErrNotFound)
}

// unpacked returns the entries of a path in a container by name.
func (f *fixture) unpacked(id, path string) map[string]entry {
	f.Helper()
	stream, err := portOf[core.Copier](f).CopyFrom(f.ctx, id, path)
	f.must(err)
	entries := map[string]entry{}
	for in := tar.NewReader(stream); ; {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		f.must(err)
		content, err := io.ReadAll(in)
		f.must(err)
		entries[strings.TrimSuffix(header.Name, "/")] = entry{*header, string(content)}
	}
	f.must(stream.Close())
	return entries
}

func copyFrom(f *fixture) {
	script := `mkdir /tmp/sub && cd /tmp/sub && echo the content >text && chmod 640 text && chown 1000:1000 text && ln -s text link`
	check := func(state, id string) {
		entries := f.unpacked(id, "/tmp/sub")
		text, link := entries["sub/text"], entries["sub/link"]
		if text.content != "the content\n" || text.Mode&0o777 != 0o640 || text.Uid != 1000 || text.Gid != 1000 {
			f.Errorf("%s: sub/text came as %q, mode %o, owner %d:%d", state, text.content, text.Mode, text.Uid, text.Gid)
		}
		if link.Typeflag != tar.TypeSymlink || link.Linkname != "text" {
			f.Errorf("%s: sub/link came as %c to %q", state, link.Typeflag, link.Linkname)
		}
		if single := f.unpacked(id, "/tmp/sub/text"); len(single) != 1 || single["text"].content != "the content\n" {
			f.Errorf("%s: a single file came as %v", state, single)
		}
	}
	check("running", f.ready(f.shell(script+` && echo ready && sleep 1000`)))

	created := f.create(f.idle())
	for _, id := range []string{created, f.started(f.idle())} {
		root, err := portOf[core.Copier](f).CopyFrom(f.ctx, id, "/")
		f.must(err)
		first, err := tar.NewReader(root).Next()
		f.must(err)
		want(f, "the name of the root folder", strings.TrimSuffix(first.Name, "/"), ".")
		f.must(root.Close())
	}
	f.must(portOf[core.Copier](f).CopyTo(f.ctx, created, "/tmp", archive(f, files()...)))
	if text := f.unpacked(created, "/tmp/sub")["sub/text"]; text.content != "the content\n" {
		f.Errorf("created: sub/text came as %q", text.content)
	}
}

func copyFromNowhere(f *fixture) {
	copier := portOf[core.Copier](f)
	_, err := copier.CopyFrom(f.ctx, f.missing(), "/etc/passwd")
	f.wantClass("copying from no container", err, core.ErrNotFound)
	for _, id := range []string{f.create(f.idle()), f.started(f.idle())} {
		_, err = copier.CopyFrom(f.ctx, id, "/no/such/file")
		f.wantClass("copying what is missing", err, core.ErrNotFound)
		_, err = copier.CopyFrom(f.ctx, id, "relative")
		f.wantField("copying from a relative path", err, "path")
	}
}

func statPath(f *fixture) {
	copier := portOf[core.Copier](f)
	for _, id := range []string{f.create(f.idle()), f.started(f.idle())} {
		f.must(copier.CopyTo(f.ctx, id, "/tmp", archive(f, append(files(), special(tar.TypeSymlink, "again", "sub/link"))...)))
		for path, expected := range map[string]core.PathStat{
			"/tmp/sub":      {Name: "sub", Mode: fs.ModeDir | 0o755},
			"/tmp/sub/text": {Name: "text", Mode: 0o640, Size: 12},
			"/tmp/sub/link": {Name: "link", Mode: fs.ModeSymlink, LinkTarget: "/tmp/sub/text"},
			"/tmp/again":    {Name: "again", Mode: fs.ModeSymlink, LinkTarget: "/tmp/sub/text"},
		} {
			stat, err := copier.StatPath(f.ctx, id, path)
			f.must(err)
			if stat.Mode.IsDir() || stat.Mode&fs.ModeSymlink != 0 {
				stat.Size = 0 // the file system's own
			}
			if stat.Mode&fs.ModeSymlink != 0 {
				stat.Mode = fs.ModeSymlink
			}
			if stat.Name != expected.Name || stat.Mode != expected.Mode || stat.Size != expected.Size || stat.LinkTarget != expected.LinkTarget {
				f.Errorf("%s is %+v, want %+v", path, stat, expected)
			}
		}
		_, err := copier.StatPath(f.ctx, id, "/tmp/missing")
		f.wantClass("the stat of what is missing", err, core.ErrNotFound)
	}
	_, err := copier.StatPath(f.ctx, f.missing(), "/")
	f.wantClass("a stat in no container", err, core.ErrNotFound)
}
