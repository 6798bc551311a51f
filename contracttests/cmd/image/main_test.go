package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// unpacked is an archive's headers and contents, by name.
func unpacked(t *testing.T, archive []byte) (headers map[string]*tar.Header, contents map[string][]byte) {
	t.Helper()
	headers, contents = map[string]*tar.Header{}, map[string][]byte{}
	for reader := tar.NewReader(bytes.NewReader(archive)); ; {
		header, err := reader.Next()
		if err == io.EOF {
			return headers, contents
		}
		if err != nil {
			t.Fatal(err)
		}
		if headers[header.Name], contents[header.Name] = header, nil; header.Typeflag == tar.TypeReg {
			if contents[header.Name], err = io.ReadAll(reader); err != nil {
				t.Fatal(err)
			}
		}
	}
}

type settings struct {
	Config struct {
		User, WorkingDir     string
		Env, Entrypoint, Cmd []string
		Labels               map[string]string
		Volumes              map[string]struct{}
	}
	RootFS struct {
		DiffIDs []string `json:"diff_ids"`
	}
	History []struct{}
}

// made runs the command, and checks that the archive agrees with itself.
func made(t *testing.T, args ...string) (of settings, layers [][]byte) {
	t.Helper()
	var archive bytes.Buffer
	if err := run(args, &archive); err != nil {
		t.Fatal(err)
	}
	_, contents := unpacked(t, archive.Bytes())
	var manifest []struct {
		Config           string
		RepoTags, Layers []string
	}
	if err := json.Unmarshal(contents["manifest.json"], &manifest); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(contents[manifest[0].Config], &of); err != nil {
		t.Fatal(err)
	}
	if want := args[len(args)-1:]; !slices.Equal(manifest[0].RepoTags, want) {
		t.Errorf("the tags are %q, want %q", manifest[0].RepoTags, want)
	}
	for number, name := range manifest[0].Layers {
		layers = append(layers, contents[name])
		if want := fmt.Sprintf("sha256:%x", sha256.Sum256(contents[name])); of.RootFS.DiffIDs[number] != want {
			t.Errorf("the digest of %s is %s, want %s", name, of.RootFS.DiffIDs[number], want)
		}
	}
	if len(of.History) != len(layers) || len(of.RootFS.DiffIDs) != len(layers) {
		t.Errorf("%d layers have %d digests and %d entries of history", len(layers), len(of.RootFS.DiffIDs), len(of.History))
	}
	return of, layers
}

func TestImage(t *testing.T) {
	busybox := filepath.Join(t.TempDir(), "busybox")
	if err := os.WriteFile(busybox, []byte("#!/bin/sh\necho bin/busybox; echo bin/sh; echo linuxrc\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	of, layers := made(t, "-busybox", busybox, "-label", "a=b=c", "moat/test-base:latest")
	if of.Config.Labels["a"] != "b=c" || of.Config.User != "" || of.Config.Entrypoint != nil || !slices.Equal(of.Config.Cmd, []string{"sh"}) {
		t.Errorf("its settings are %+v", of.Config)
	}
	headers, contents := unpacked(t, layers[0])
	if headers["bin/agent"].Mode != 0o755 || !bytes.HasPrefix(contents["bin/agent"], []byte("\x7fELF")) {
		t.Errorf("the agent is %+v", headers["bin/agent"])
	}
	if headers["bin/sh"].Linkname != "/bin/busybox" || headers["bin/busybox"].Mode != 0o755 || headers["linuxrc"] != nil {
		t.Errorf("the shell is %+v", headers["bin/sh"])
	}
	if headers["home/tester/"].Uid != 1000 || headers["tmp/"].Mode != 0o1777 {
		t.Errorf("directories are %+v and %+v", headers["home/tester/"], headers["tmp/"])
	}
	_, again := made(t, "-config", "-busybox", busybox, "moat/test-config:latest")
	if !bytes.Equal(again[0], layers[0]) {
		t.Error("the same files are two different layers")
	}
}

func TestConfigAndLayers(t *testing.T) {
	directory := t.TempDir()
	if err := os.MkdirAll(filepath.Join(directory, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(directory, "sub/file"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	of, layers := made(t, "-config", "-bare", "-layer", directory, "-layer", directory, "moat/test-config:latest")
	if of.Config.User != "tester" || of.Config.WorkingDir != "/home/tester" || len(of.Config.Entrypoint) != 1 || len(of.Config.Volumes) != 1 || !slices.Contains(of.Config.Env, "FROM_IMAGE=yes") {
		t.Errorf("its settings are %+v", of.Config)
	}
	if len(layers) != 2 {
		t.Fatalf("there are %d layers", len(layers))
	}
	headers, contents := unpacked(t, layers[1])
	if string(contents["sub/file"]) != "content" || headers["sub/"].Typeflag != tar.TypeDir || len(headers) != 2 {
		t.Errorf("a layer has %v", headers)
	}
}

func TestWrongArguments(t *testing.T) {
	for _, args := range [][]string{{}, {"-busybox", "/no/such/file", "moat/test-base"}, {"-layer", "/no/such/directory", "-bare", "moat/test-base"}, {"a", "b"}} {
		if err := run(args, io.Discard); err == nil {
			t.Errorf("%q succeed", args)
		}
	}
}
