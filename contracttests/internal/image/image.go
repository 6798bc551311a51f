// Package image writes the suite's images.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Image is an image, without its name.
type Image struct {
	Arch       string
	Labels     map[string]string
	Layers     [][]byte // archives of files
	Configures bool     // sets what a configuration may replace: user, directory, entrypoint, …
}

// defaultPath is where programs are looked for.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Write writes what `docker save` would of an image of this name.
func (i Image) Write(out io.Writer, name string) error {
	config, err := i.config()
	if err != nil {
		return err
	}
	archive, names := tar.NewWriter(out), []string{}
	for number, layer := range i.Layers {
		names = append(names, fmt.Sprintf("layer-%d.tar", number+1))
		if err := add(archive, file{name: names[number], content: layer}); err != nil {
			return err
		}
	}
	manifest, err := json.Marshal([]any{map[string]any{"Config": "config.json", "RepoTags": []string{name}, "Layers": names}})
	return errors.Join(err,
		add(archive, file{name: "config.json", content: config}), add(archive, file{name: "manifest.json", content: manifest}),
		archive.Close())
}

// config is the image's description.
func (i Image) config() ([]byte, error) {
	settings := map[string]any{"Labels": i.Labels, "Env": []string{defaultPath}, "Cmd": []string{"sh"}}
	if i.Configures {
		settings["Env"] = []string{defaultPath, "FROM_IMAGE=yes"}
		settings["Entrypoint"] = []string{"/entry.sh"}
		settings["User"] = "tester"
		settings["WorkingDir"] = "/home/tester"
		settings["ExposedPorts"] = map[string]any{"8080/tcp": struct{}{}}
		settings["Volumes"] = map[string]any{"/data": struct{}{}}
	}
	now := time.Now().UTC().Format(time.RFC3339)
	var sums []string
	var history []any
	for _, layer := range i.Layers {
		sums = append(sums, fmt.Sprintf("sha256:%x", sha256.Sum256(layer)))
		history = append(history, map[string]any{"created": now, "created_by": "image"}) // Podman's builder wants one each
	}
	return json.Marshal(map[string]any{
		"architecture": i.Arch, "os": "linux", "created": now, "config": settings, "history": history,
		"rootfs": map[string]any{"type": "layers", "diff_ids": sums},
	})
}

// file is a file, or a directory or link, of an archive.
type file struct {
	name    string // of a directory with / at its end
	content []byte
	mode    int64
	link    string // where a link leads to
	owner   int
}

func add(archive *tar.Writer, f file) error {
	header := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.content)), Uid: f.owner, Gid: f.owner, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
	switch {
	case f.link != "":
		header.Typeflag, header.Linkname = tar.TypeSymlink, f.link
	case strings.HasSuffix(f.name, "/"):
		header.Typeflag = tar.TypeDir
	}
	if header.Mode == 0 {
		header.Mode = map[bool]int64{true: 0o755, false: 0o644}[header.Typeflag == tar.TypeDir]
	}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err := archive.Write(f.content)
	return err
}

// layer is an archive of files, in the order of their names.
func layer(files []file) ([]byte, error) {
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.name, b.name) })
	var content bytes.Buffer
	archive := tar.NewWriter(&content)
	for _, f := range files {
		if err := add(archive, f); err != nil {
			return nil, err
		}
	}
	err := archive.Close()
	return content.Bytes(), err
}

// Layer is a layer of one file.
func Layer(name string, content []byte) ([]byte, error) {
	return layer([]file{{name: name, content: content}})
}

// LayerOf is a layer of a directory's files and directories, which belong to root there.
func LayerOf(directory string) ([]byte, error) {
	var files []file
	err := filepath.WalkDir(directory, func(path string, entry fs.DirEntry, err error) error {
		name, relative := filepath.Rel(directory, path)
		if err = errors.Join(err, relative); err != nil || name == "." {
			return err
		}
		if entry.IsDir() {
			files = append(files, file{name: name + "/"})
			return nil
		}
		content, err := os.ReadFile(path)
		files = append(files, file{name: name, content: content})
		return err
	})
	if err != nil {
		return nil, err
	}
	return layer(files)
}

// tester is the number of the user that images know beside root.
const tester = 1000

// BaseLayer has the agent, users, and a shell if busybox is not "". That is the path of a static
// BusyBox, which this machine can run.
func BaseLayer(agent []byte, busybox string) ([]byte, error) {
	files := []file{
		{name: "bin/agent", content: agent, mode: 0o755},
		{name: "data/", owner: tester},
		{name: "home/tester/", owner: tester},
		{name: "tmp/", mode: 0o1777},
		{name: "var/tmp/", mode: 0o1777},
		{name: "etc/passwd", content: []byte("root:x:0:0:root:/root:/bin/sh\ntester:x:1000:1000:Tester:/home/tester:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")},
		{name: "etc/group", content: []byte("root:x:0:\ntester:x:1000:\nextra:x:2000:tester\nnogroup:x:65534:\n")},
		{name: "entry.sh", content: []byte("#!/bin/sh\n# Tells that it ran, then becomes the command.\nexport ENTRYPOINT_RAN=yes\nexec \"$@\"\n"), mode: 0o755},
	}
	for _, directory := range []string{"bin", "sbin", "usr", "usr/bin", "usr/sbin", "etc", "dev", "proc", "sys", "root", "home", "var"} {
		files = append(files, file{name: directory + "/"})
	}
	if busybox != "" {
		shell, err := shellFiles(busybox)
		if err != nil {
			return nil, fmt.Errorf("read BusyBox: %w", err)
		}
		files = append(files, shell...)
	}
	return layer(files)
}

// shellFiles are BusyBox and a link for each of its commands.
func shellFiles(busybox string) ([]file, error) {
	content, err := os.ReadFile(busybox)
	if err != nil {
		return nil, err
	}
	names, err := exec.Command(busybox, "--list-full").Output()
	if err != nil {
		return nil, err
	}
	files := []file{{name: "bin/busybox", content: content, mode: 0o755}}
	for name := range strings.FieldsSeq(string(names)) {
		if name != "bin/busybox" && strings.Contains(name, "bin/") { // not linuxrc
			files = append(files, file{name: name, link: "/bin/busybox"})
		}
	}
	return files, nil
}
