package cli

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func packed(t *testing.T, root, name string) (entries []*tar.Header, warned string) {
	t.Helper()
	var archive, warnings bytes.Buffer
	a := &app{env: Env{Stderr: &warnings}}
	must(t, a.pack(&archive, root, name))
	for reader := tar.NewReader(&archive); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return entries, warnings.String()
		}
		must(t, err)
		entries = append(entries, header)
	}
}

func TestPackSocket(t *testing.T) {
	t.Chdir(t.TempDir())
	must(t, os.Mkdir("folder", 0o755))
	listener, err := net.Listen("unix", "folder/socket")
	must(t, err)
	defer listener.Close()
	must(t, os.WriteFile("folder/later", nil, 0o600))
	entries, warned := packed(t, "folder", "as")
	names := slices.Collect(func(yield func(string) bool) {
		for _, entry := range entries {
			yield(entry.Name)
		}
	})
	if !slices.Equal(names, []string{"as/", "as/later"}) || !strings.Contains(warned, "folder/socket") {
		t.Errorf("packed %q, warned %q", names, warned)
	}
}

// TestPackTimes cuts fractions off: rounding would make files newer than they are.
func TestPackTimes(t *testing.T) {
	t.Chdir(t.TempDir())
	must(t, os.WriteFile("file", nil, 0o600))
	for _, moment := range []time.Time{time.Unix(1_577_836_800, 900_000_000), time.Unix(-2, 600_000_000), time.Unix(-300_000_000, 0)} {
		must(t, os.Chtimes("file", moment, moment))
		entries, _ := packed(t, "file", "as")
		if got := entries[0].ModTime; !got.Equal(time.Unix(moment.Unix(), 0)) || !entries[0].AccessTime.IsZero() {
			t.Errorf("%v became %v", moment, got)
		}
	}
}

func TestPackCapabilities(t *testing.T) {
	t.Chdir(t.TempDir())
	must(t, os.WriteFile("program", nil, 0o755))
	value := append([]byte{0, 0, 0, 2, 0, 32}, make([]byte, 14)...) // version 2: may use raw sockets
	if err := unix.Setxattr("program", "security.capability", value, 0); err != nil {
		skip := t.Skipf
		if os.Getenv("CONTRACT_REQUIRED") != "" {
			skip = t.Fatalf
		}
		skip("files here have no capabilities: %v", err)
	}
	entries, _ := packed(t, "program", "as")
	if got := entries[0].PAXRecords["SCHILY.xattr.security.capability"]; got != string(value) {
		t.Errorf("got %q", got)
	}
}
