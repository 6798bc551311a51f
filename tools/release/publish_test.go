package main

import (
	"archive/zip"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestPublish publishes a small repository.
func TestPublish(t *testing.T) {
	root, proxy := t.TempDir(), filepath.Join(t.TempDir(), "proxy")
	for name, content := range map[string]string{
		"go.work":               "go 1.26.0\n\nuse (\n\t./a\n\t./a/inner\n\t./b\n)\n",
		"LICENSE":               "the licence\n",
		"a/go.mod":              "module " + prefix + "a\n\ngo 1.26.0\n",
		"a/a.go":                "package a\n",
		"a/testdata/golden":     "golden\n",
		"a/inner/go.mod":        "module " + prefix + "a/inner\n\ngo 1.26.0\n",
		"b/go.mod":              "module " + prefix + "b\n\ngo 1.26.0\n\nrequire " + prefix + "a v0.0.0 // indirect\n\nreplace " + prefix + "a => ../a\n",
		"a/forgotten-by-git.go": "package a\n",
	} {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"init", "-q"}, {"add", "."}, {"rm", "-q", "--cached", "a/forgotten-by-git.go"}} {
		command := exec.Command("git", args...)
		command.Dir = root
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("git %q: %v: %s", args, err, out)
		}
	}
	modules, err := publish(t.Context(), root, proxy, "v0.0.0-check.1")
	if want := []string{prefix + "a", prefix + "a/inner", prefix + "b"}; err != nil || !slices.Equal(modules, want) {
		t.Fatalf("published are %q, %v", modules, err)
	}
	files := unpacked(t, filepath.Join(proxy, prefix, "a/@v/v0.0.0-check.1.zip"))
	if want := []string{"LICENSE", "a.go", "go.mod", "testdata/golden"}; !slices.Equal(names(files), want) {
		t.Errorf("the module has %q, want %q", names(files), want)
	}
	files = unpacked(t, filepath.Join(proxy, prefix, "b/@v/v0.0.0-check.1.zip"))
	const want = "module " + prefix + "b\n\ngo 1.26.0\n\nrequire " + prefix + "a v0.0.0-check.1 // indirect\n"
	mod, err := os.ReadFile(filepath.Join(proxy, prefix, "b/@v/v0.0.0-check.1.mod"))
	if string(mod) != want || files["go.mod"] != want || err != nil {
		t.Errorf("go.mod is %q, and %q in the archive, %v", mod, files["go.mod"], err)
	}
}

// unpacked returns the files of a module's archive, by their names in the module.
func unpacked(t *testing.T, name string) map[string]string {
	t.Helper()
	archive, err := zip.OpenReader(name)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	files := map[string]string{}
	for _, file := range archive.File {
		reader, err := file.Open()
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		_, inside, _ := strings.Cut(file.Name, "@v0.0.0-check.1/")
		files[inside] = string(content)
	}
	return files
}

func names(files map[string]string) (names []string) {
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func TestForget(t *testing.T) {
	cache := t.TempDir()
	unpacked, downloads := filepath.Join(cache, prefix, "a@v0.0.0-check.1"), filepath.Join(cache, "cache/download", prefix, "a/@v")
	for _, directory := range []string{filepath.Join(unpacked, "inner"), downloads} {
		if err := os.MkdirAll(directory, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"v0.0.0-check.1.zip", "v0.0.0-check.1.ziphash", "v0.0.0-check.11.zip", "list"} {
		if err := os.WriteFile(filepath.Join(downloads, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, directory := range []string{filepath.Join(unpacked, "inner"), unpacked} {
		if err := os.Chmod(directory, 0o555); err != nil {
			t.Fatal(err)
		}
	}
	if err := forget(cache, []string{prefix + "a", prefix + "b"}, "v0.0.0-check.1"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(unpacked); !os.IsNotExist(err) {
		t.Errorf("the module is still there: %v", err)
	}
	left, _ := filepath.Glob(filepath.Join(downloads, "*"))
	if len(left) != 2 || filepath.Base(left[0]) != "list" || filepath.Base(left[1]) != "v0.0.0-check.11.zip" {
		t.Errorf("left are %q", left)
	}
}
