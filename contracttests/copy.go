package contracttests

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

func copyCases() []Case {
	c := func(number, title string, check func(*fixture)) Case {
		return Case{Number: number, Title: title, check: check, ability: implements[optional.Copier](), unsupported: noPort}
	}
	return []Case{
		c("RT-140", "files arrive in a container", copyTo),
		c("RT-141", "copying to nowhere", copyToNowhere),
		c("RT-142", "entries that are refused", copyEscapes),
		c("RT-143", "files come out of a container", copyFrom),
		c("RT-144", "copying what is missing", copyFromNowhere),
		c("RT-145", "what a path is", statPath),
		c("RT-146", "a copy that is not whole fails", copyShrinking),
		c("RT-147", "files of a container that has ended", copyFromEnded),
		c("RT-148", "a copy ends with its context", copyToEndsWithContext),
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

// large has what an archive of tar's first format cannot tell.
func large(f *fixture) entry {
	e := file(strings.Repeat("n", 120), 0o644, "")
	e.Format, e.ModTime = tar.FormatPAX, time.Unix(1_000_000_000, 999_999_999)
	if !optional.CapabilitiesOf(f.rt).UserNamespaces { // which map few owners
		e.Uid, e.Gid = 3_000_000, 4_000_000
	}
	return e
}

// showLarge shows it in /tmp.
const showLarge = `cd /tmp && stat -c '%u %g %Y' nnn*`

func (e entry) shown() string { return fmt.Sprintf("%d %d %d\n", e.Uid, e.Gid, e.ModTime.Unix()) }

const showFiles = `cd /tmp/sub && cat text && cat link && test -x empty && test ! -s empty && stat -c '%a %u %g' text`

const shownFiles = "the content\nthe content\n640 1000 1000\n"

func copyTo(f *fixture) {
	copier := portOf[optional.Copier](f)
	entries := append(files(), large(f))
	show, shown := showFiles+" && "+showLarge, shownFiles+large(f).shown()
	created := f.create(f.shell(show))
	f.must(copier.CopyTo(f.ctx, created, "/tmp", archive(f, entries...)))
	f.start(created)
	want(f, "the exit code", f.wait(created), 0)
	want(f, "what was copied into a created container", f.logs(created), shown)

	running := f.ready(f.shell(`echo ready; while ! test -e /tmp/nnn*; do sleep 0.1; done; sleep 1; ` + show))
	f.must(copier.CopyTo(f.ctx, running, "/tmp", archive(f, entries...)))
	want(f, "the exit code", f.wait(running), 0)
	want(f, "what was copied into a running container", f.logs(running), "ready\n"+shown)
}

func copyToNowhere(f *fixture) {
	copier := portOf[optional.Copier](f)
	f.wantClass("copying to no container", copier.CopyTo(f.ctx, f.missing(), "/tmp", archive(f)), core.ErrNotFound)
	for _, id := range []string{f.create(f.idle()), f.started(f.idle())} {
		f.wantClass("copying to no folder", copier.CopyTo(f.ctx, id, "/no/folder", archive(f, files()...)), core.ErrNotFound)
		f.wantClass("copying to below a file", copier.CopyTo(f.ctx, id, "/etc/passwd/folder", archive(f, files()...)), core.ErrNotFound)
		f.wantField("copying to a file", copier.CopyTo(f.ctx, id, "/etc/passwd", archive(f, files()...)), "dir")
		f.wantField("copying to a relative path", copier.CopyTo(f.ctx, id, "tmp", archive(f, files()...)), "dir")
	}
}

// compressed is an archive that whoever extracts it would have to decompress.
func compressed(f *fixture) io.Reader {
	f.Helper()
	var buffer bytes.Buffer
	out := gzip.NewWriter(&buffer)
	_, err := io.Copy(out, archive(f, file("escaped", 0o644, "x")))
	f.must(err)
	f.must(out.Close())
	return &buffer
}

func copyEscapes(f *fixture) {
	copier, id := portOf[optional.Copier](f), f.create(f.idle())
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
	f.wantField("a compressed archive", copier.CopyTo(f.ctx, id, "/tmp", compressed(f)), "archive")
	f.wantField("what is no archive", copier.CopyTo(f.ctx, id, "/tmp", strings.NewReader(strings.Repeat("no archive", 100))), "archive")
	_, err := copier.StatPath(f.ctx, id, "/escaped")
	f.wantClass("what escaped", err, core.ErrNotFound)
}

// unpacked returns the entries of a path in a container by name.
func (f *fixture) unpacked(id, path string) map[string]entry {
	f.Helper()
	stream, err := portOf[optional.Copier](f).CopyFrom(f.ctx, id, path)
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
		root, err := portOf[optional.Copier](f).CopyFrom(f.ctx, id, "/")
		f.must(err)
		first, err := tar.NewReader(root).Next()
		f.must(err)
		want(f, "the name of the root folder", strings.TrimSuffix(first.Name, "/"), ".")
		f.must(root.Close())
	}
	f.must(portOf[optional.Copier](f).CopyTo(f.ctx, created, "/tmp", archive(f, files()...)))
	if text := f.unpacked(created, "/tmp/sub")["sub/text"]; text.content != "the content\n" {
		f.Errorf("created: sub/text came as %q", text.content)
	}
}

func copyFromNowhere(f *fixture) {
	copier := portOf[optional.Copier](f)
	_, err := copier.CopyFrom(f.ctx, f.missing(), "/etc/passwd")
	f.wantClass("copying from no container", err, core.ErrNotFound)
	for _, id := range []string{f.create(f.idle()), f.started(f.idle())} {
		for _, path := range []string{"/no/such/file", "/etc/passwd/file"} {
			_, err = copier.CopyFrom(f.ctx, id, path)
			f.wantClass("copying what is missing, "+path, err, core.ErrNotFound)
		}
		_, err = copier.CopyFrom(f.ctx, id, "relative")
		f.wantField("copying from a relative path", err, "path")
	}
}

func statPath(f *fixture) {
	copier := portOf[optional.Copier](f)
	for _, id := range []string{f.create(f.idle()), f.started(f.idle())} {
		f.must(copier.CopyTo(f.ctx, id, "/tmp", archive(f, append(files(), special(tar.TypeSymlink, "again", "sub/link"))...)))
		for path, expected := range map[string]optional.PathStat{
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
		for _, path := range []string{"/tmp/missing", "/etc/passwd/file"} {
			_, err := copier.StatPath(f.ctx, id, path)
			f.wantClass("the stat of what is missing, "+path, err, core.ErrNotFound)
		}
	}
	_, err := copier.StatPath(f.ctx, f.missing(), "/")
	f.wantClass("a stat in no container", err, core.ErrNotFound)
}

// copyShrinking copies a file that is larger than all buffers on the way, and makes it
// shrink when the copy has begun.
func copyShrinking(f *fixture) {
	copier := portOf[optional.Copier](f)
	dir := f.TempDir()
	cfg := f.shell(`dd if=/dev/zero of=/tmp/large bs=1048576 count=0 seek=256 2>/dev/null
		echo ready; while ! test -e /host/go; do sleep 0.1; done; : >/tmp/large; : >/host/done; sleep 1000`)
	cfg.Mounts = []core.MountConfig{{Source: dir, Target: "/host"}} // an engine may let nothing else to a container that it copies from
	id := f.ready(cfg)
	stream, err := copier.CopyFrom(f.ctx, id, "/tmp/large")
	f.must(err)
	entries := tar.NewReader(stream)
	_, err = entries.Next()
	f.must(err)
	f.must(os.WriteFile(filepath.Join(dir, "go"), nil, 0o644))
	if !eventually(func() bool { _, err := os.Stat(filepath.Join(dir, "done")); return err == nil }) {
		f.Fatal("the container has not made its file shrink")
	}
	if _, err := io.Copy(io.Discard, entries); err == nil {
		if _, err = entries.Next(); err == nil || errors.Is(err, io.EOF) {
			f.Errorf("the archive of a file that has shrunk ends with %v, want an error", err)
		}
	}
	if _, err := io.Copy(io.Discard, stream); err == nil {
		f.Error("the stream of a file that has shrunk ends with io.EOF, want an error")
	}
	f.must(stream.Close())
}

// copyFromEnded looks for a file that the container made, and for one that it changed.
func copyFromEnded(f *fixture) {
	copier := portOf[optional.Copier](f)
	id := f.started(f.shell(`echo made >/tmp/made; echo changed >/etc/passwd`))
	f.wait(id)
	for path, content := range map[string]string{"/tmp/made": "made\n", "/etc/passwd": "changed\n"} {
		stat, err := copier.StatPath(f.ctx, id, path)
		if !errors.Is(err, core.ErrNotRunning) && (err != nil || stat.Size != int64(len(content))) {
			f.Errorf("%s of a container that has ended is %+v, %v; want %d bytes, or %v", path, stat, err, len(content), core.ErrNotRunning)
		}
		stream, err := copier.CopyFrom(f.ctx, id, path)
		if errors.Is(err, core.ErrNotRunning) {
			continue
		}
		f.must(err)
		entries := tar.NewReader(stream)
		_, err = entries.Next()
		f.must(err)
		copied, err := io.ReadAll(entries)
		f.must(err)
		want(f, path+" of a container that has ended", string(copied), content)
		f.must(stream.Close())
	}
}

// stuckReader gives a part, then blocks until it is released, and notes what is read after that.
type stuckReader struct {
	part    io.Reader
	stuck   chan struct{} // closed when a Read blocks
	release chan struct{} // lets it return
	again   chan struct{} // closed by the Read after that

	once sync.Once
}

func (r *stuckReader) Read(p []byte) (int, error) {
	if n, err := r.part.Read(p); err == nil {
		return n, nil
	}
	select {
	case <-r.release:
		r.once.Do(func() { close(r.again) })
		return 0, io.EOF
	default:
	}
	close(r.stuck)
	<-r.release
	return copy(p, "late"), nil
}

func copyToEndsWithContext(f *fixture) {
	copier, id := portOf[optional.Copier](f), f.started(f.idle())
	whole, err := io.ReadAll(archive(f, file("large", 0o644, strings.Repeat("x", 1<<20))))
	f.must(err)
	reader := &stuckReader{
		part: bytes.NewReader(whole[:100<<10]), stuck: make(chan struct{}), release: make(chan struct{}), again: make(chan struct{}),
	}
	ctx, cancel := context.WithCancel(f.ctx)
	defer cancel()
	copying := begin("CopyTo", func() (struct{}, error) { return struct{}{}, copier.CopyTo(ctx, id, "/tmp", reader) })
	select {
	case <-reader.stuck:
	case <-time.After(patience):
		f.Fatal("CopyTo has not read the archive")
	}
	cancel()
	_, err = copying.result(f)
	f.wantClass("a copy whose context has ended", err, context.Canceled)
	close(reader.release)
	select {
	case <-reader.again:
		f.Error("CopyTo has returned, and reads the archive again")
	case <-time.After(moment):
	}
}
