// Command image writes an image for the suite to stdout, as an archive that `docker load`,
// `podman load` and `ctr images import` take:
//
//	go run github.com/moatproject/moat/contracttests/cmd/image moat/test-base:latest | docker load
//	go run github.com/moatproject/moat/contracttests/cmd/image -config moat/test-config:latest | docker load
//
// The first is for [contracttests.Harness.Image], the second for ConfigImage. Their program
// is the agent, which the command builds. Cases that are about a shell need -busybox too, a
// static one.
package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	i := image{labels: map[string]string{}}
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	flags.StringVar(&i.arch, "arch", runtime.GOARCH, "the architecture")
	busybox := flags.String("busybox", "", "a static BusyBox, for a shell and its commands")
	config := flags.Bool("config", false, "set what a configuration may replace: user, directory, entrypoint, …")
	bare := flags.Bool("bare", false, "leave out everything but the layers")
	var layers list
	flags.Var(&layers, "layer", "a `directory` whose files are one more layer")
	var labels list
	flags.Var(&labels, "label", "a label, as `KEY=VALUE`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return errors.New("the image's name is missing")
	}
	for _, label := range labels {
		key, value, _ := strings.Cut(label, "=")
		i.labels[key] = value
	}
	if !*bare {
		base, err := baseLayer(i.arch, *busybox)
		if err != nil {
			return err
		}
		i.layers = append(i.layers, base)
	}
	for _, directory := range layers {
		layer, err := layerOf(directory)
		if err != nil {
			return err
		}
		i.layers = append(i.layers, layer)
	}
	i.configures = *config
	return i.write(out, flags.Arg(0))
}

// list is a flag that may be repeated.
type list []string

func (l *list) String() string { return strings.Join(*l, " ") }

func (l *list) Set(value string) error {
	*l = append(*l, value)
	return nil
}

type image struct {
	arch       string
	labels     map[string]string
	layers     [][]byte // archives
	configures bool
}

// defaultPath is where programs are looked for.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// write writes what `docker save` would.
func (i image) write(out io.Writer, name string) error {
	settings := map[string]any{"Labels": i.labels, "Env": []string{defaultPath}, "Cmd": []string{"sh"}}
	if i.configures {
		settings["Env"] = []string{defaultPath, "FROM_IMAGE=yes"}
		settings["Entrypoint"] = []string{"/entry.sh"}
		settings["User"] = "tester"
		settings["WorkingDir"] = "/home/tester"
		settings["ExposedPorts"] = map[string]any{"8080/tcp": struct{}{}}
		settings["Volumes"] = map[string]any{"/data": struct{}{}}
	}
	archive, now := tar.NewWriter(out), time.Now().UTC().Format(time.RFC3339)
	var names, sums []string
	var history []any
	for number, layer := range i.layers {
		names = append(names, fmt.Sprintf("layer-%d.tar", number+1))
		sums = append(sums, fmt.Sprintf("sha256:%x", sha256.Sum256(layer)))
		history = append(history, map[string]any{"created": now, "created_by": "image"}) // Podman's builder wants one each
		if err := add(archive, file{name: names[number], content: layer}); err != nil {
			return err
		}
	}
	config, errConfig := json.Marshal(map[string]any{
		"architecture": i.arch, "os": "linux", "created": now, "config": settings, "history": history,
		"rootfs": map[string]any{"type": "layers", "diff_ids": sums},
	})
	manifest, errManifest := json.Marshal([]any{map[string]any{"Config": "config.json", "RepoTags": []string{name}, "Layers": names}})
	return errors.Join(errConfig, errManifest,
		add(archive, file{name: "config.json", content: config}), add(archive, file{name: "manifest.json", content: manifest}),
		archive.Close())
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

// layerOf is a layer of a directory's files and directories, which belong to root there.
func layerOf(directory string) ([]byte, error) {
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

// baseLayer has the agent, a shell if there is a BusyBox, and users.
func baseLayer(arch, busybox string) ([]byte, error) {
	agent, err := buildAgent(arch)
	if err != nil {
		return nil, fmt.Errorf("build the agent: %w", err)
	}
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

// buildAgent compiles the agent, from the module that this command comes from.
func buildAgent(arch string) ([]byte, error) {
	directory, err := os.MkdirTemp("", "agent-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(directory) }()
	binary := filepath.Join(directory, "agent")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", binary,
		"github.com/moatproject/moat/contracttests/cmd/agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return nil, err
	}
	return os.ReadFile(binary)
}
