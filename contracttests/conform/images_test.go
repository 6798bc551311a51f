package conform

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// header is the beginning of a Linux program for amd64 without a part.
const header = "\x7fELF\x02\x01\x01" + "\x00\x00\x00\x00\x00\x00\x00\x00\x00" + "\x02\x00\x3e\x00\x01\x00\x00\x00" +
	"\x00\x00\x00\x00\x00\x00\x00\x00" + "\x40\x00\x00\x00\x00\x00\x00\x00" + "\x00\x00\x00\x00\x00\x00\x00\x00" +
	"\x00\x00\x00\x00" + "\x40\x00\x38\x00"

const (
	static  = header + "\x00\x00\x40\x00\x00\x00\x00\x00"
	dynamic = header + "\x01\x00\x40\x00\x00\x00\x00\x00" + "\x03\x00\x00\x00" + zeros + zeros + zeros + zeros + zeros + zeros + "\x00\x00\x00\x00"
	zeros   = "\x00\x00\x00\x00\x00\x00\x00\x00"
)

func TestStaticProgram(t *testing.T) {
	for _, test := range []struct{ name, content, arch, failure string }{
		{"static", static, "amd64", ""},
		{"dynamic", dynamic, "", "dynamically"},
		{"a script", "#!/bin/sh\n", "", "not a Linux program"},
		{"another architecture", strings.Replace(static, "\x3e", "\x02", 1), "", "EM_SPARC"},
	} {
		arch, err := staticProgram(strings.NewReader(test.content))
		if arch != test.arch || (err == nil) != (test.failure == "") || (err != nil && !strings.Contains(err.Error(), test.failure)) {
			t.Errorf("%s: got %q, %v", test.name, arch, err)
		}
	}
}

func TestFindBusyBox(t *testing.T) {
	directory := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(directory, name)
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Setenv("PATH", directory)
	find := func(named string) (string, error) { return (&session{options: options{busybox: named}}).findBusyBox() }

	if _, err := find(""); err == nil || !strings.Contains(err.Error(), "busybox-static") {
		t.Errorf("without one: %v", err)
	}
	wrong, right := write("busybox", dynamic), write("busybox.static", static)
	if path, err := find(""); path != right || err != nil {
		t.Errorf("found %q, %v", path, err)
	}
	if path, err := find(wrong); path != "" || err == nil || !strings.Contains(err.Error(), "dynamically") {
		t.Errorf("the named one: %q, %v", path, err)
	}
	if _, err := find(filepath.Join(directory, "missing")); err == nil {
		t.Error("a missing file is found")
	}
}

func TestReadProxy(t *testing.T) {
	read := func(named string) (func(string) ([]byte, error), error) {
		return (&session{options: options{proxy: named}}).readProxy()
	}
	if program, err := read(""); program != nil || err != nil {
		t.Errorf("without one beside this program: %v", err)
	}
	path := filepath.Join(t.TempDir(), "proxy")
	if _, err := read(path); err == nil {
		t.Error("a missing file is read")
	}
	if err := os.WriteFile(path, []byte(static), 0o755); err != nil {
		t.Fatal(err)
	}
	program, err := read(path)
	if err != nil {
		t.Fatal(err)
	}
	if content, err := program("amd64"); string(content) != static || err != nil {
		t.Errorf("it is %q, %v", content, err)
	}
}
