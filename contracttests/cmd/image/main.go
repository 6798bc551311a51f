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
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/moatproject/moat/contracttests/internal/image"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	i := image.Image{Labels: map[string]string{}}
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	flags.StringVar(&i.Arch, "arch", runtime.GOARCH, "the architecture")
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
		i.Labels[key] = value
	}
	if !*bare {
		agent, err := buildAgent(i.Arch)
		if err != nil {
			return fmt.Errorf("build the agent: %w", err)
		}
		base, err := image.BaseLayer(agent, *busybox)
		if err != nil {
			return err
		}
		i.Layers = append(i.Layers, base)
	}
	for _, directory := range layers {
		layer, err := image.LayerOf(directory)
		if err != nil {
			return err
		}
		i.Layers = append(i.Layers, layer)
	}
	i.Configures = *config
	return i.Write(out, flags.Arg(0))
}

// list is a flag that may be repeated.
type list []string

func (l *list) String() string { return strings.Join(*l, " ") }

func (l *list) Set(value string) error {
	*l = append(*l, value)
	return nil
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
