package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// gnuTarImage has GNU's tar, where the others have BusyBox's.
const gnuTarImage = "moat/test-redis:7"

// TestCopyOwnersAndTimes copies what only PAX records or GNU's format tell.
func TestCopyOwnersAndTimes(t *testing.T) {
	for _, from := range []string{image, gnuTarImage} {
		t.Run(from, func(t *testing.T) {
			u, name := newUser(t), unique(t)
			u.must(u.labelled("-d", "--name", name, from, "sleep", "1000")...)
			file := filepath.Join(u.home, strings.Repeat("n", 150))
			for _, err := range []error{
				os.WriteFile(file, []byte("x"), 0o600), os.Chown(file, 3_000_000, 1<<32-2),
				os.Chtimes(file, time.Time{}, time.Unix(-2, 600_000_000)),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
			u.must("cp", file, name+":/tmp/")
			want(u, "what arrives", u.must("exec", name, "stat", "-c", "%u %g %Y %s", "/tmp/"+filepath.Base(file)), "3000000 4294967294 -2 1\n")
			u.must("rm", "-f", name)
		})
	}
}

// TestCopyFromEnded never copies the image's file in the place of what was written.
func TestCopyFromEnded(t *testing.T) {
	u, name := newUser(t), unique(t)
	script := "echo made >/made; echo changed >/etc/passwd; echo mounted >/host/made"
	u.must(u.labelled("--name", name, "-v", u.home+":/host", image, "sh", "-c", script)...)
	for _, path := range []string{"/made", "/etc/passwd", "/"} {
		found := u.moat("cp", name+":"+path, "copied")
		want(u, "the exit status for "+path, found.code, 1)
		wantText(u, found.stderr, "in memory", "Copy while it runs", "mount a directory", "--overlay2=none")
	}
	if _, err := os.Lstat(filepath.Join(u.home, "copied")); err == nil {
		t.Error("something has been copied")
	}
	u.must("cp", name+":/host/made", "copied")
	if content, err := os.ReadFile(filepath.Join(u.home, "copied")); string(content) != "mounted\n" {
		t.Errorf("below a mount: %q, %v", content, err)
	}
	u.must("cp", "copied", name+":/tmp/later")
	want(u, "what was copied in is there at the next start", u.docker("cp", name+":/tmp/later", "-") != "", true)
	u.must("rm", name)
}

// TestCopyKernelsFiles copies none of them as an empty file.
func TestCopyKernelsFiles(t *testing.T) {
	u, name := newUser(t), unique(t)
	u.must(u.labelled("-d", "--name", name, image, "sh", "-c", "ln -s /proc /tmp/link; sleep 1000")...)
	for _, path := range []string{"/proc/version", "/tmp/link/version", "/sys/devices/system/cpu/online"} {
		found := u.moat("cp", name+":"+path, "copied")
		want(u, "the exit status for "+path, found.code, 1)
		wantText(u, found.stderr, "kernel", "cat")
		if _, err := os.Lstat(filepath.Join(u.home, "copied")); err == nil {
			t.Errorf("%s has been copied", path)
		}
	}
	want(u, "the exit status for a directory of them", u.moat("cp", name+":/proc/1", "copied").code, 1)
	u.must("rm", "-f", name)
}

// TestCopyCompressed copies a compressed archive from stdin.
func TestCopyCompressed(t *testing.T) {
	u := newUser(t)
	for i, sandbox := range sandboxes {
		name := unique(t) + string(rune('a'+i))
		u.must(u.labelled("-d", "--name", name, sandbox, image, "sleep", "1000")...)
		var packed bytes.Buffer
		compressor := gzip.NewWriter(&packed)
		out := tar.NewWriter(compressor)
		_ = out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "inside", Mode: 0o644, Size: 4})
		_, _ = io.WriteString(out, "text")
		_ = out.Close()
		_ = compressor.Close()
		command := u.command("cp", "-", name+":/tmp")
		command.Stdin = &packed
		want(u, sandbox+": the exit status", u.finish(u.start(command)).code, 0)
		want(u, sandbox+": what is inside", u.must("exec", name, "cat", "/tmp/inside"), "text")
		u.must("rm", "-f", name)
	}
}
