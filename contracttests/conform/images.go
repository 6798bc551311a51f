package conform

import (
	"bytes"
	"context"
	"crypto/rand"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/moatproject/moat/contracttests/internal/image"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// cleanUpTimeout bounds each removal of an image.
const cleanUpTimeout = time.Minute

// load makes the suite's images and adds them to the engine, until the session's end. A registry
// of this program has the one to pull.
func (s *session) load(ctx context.Context, rt core.Runtime) (images Images, err error) {
	agent, arch, err := s.readAgent()
	if err != nil {
		return images, err
	}
	busybox, err := s.findBusyBox()
	if err != nil {
		return images, err
	}
	layer, err := image.BaseLayer(agent, busybox)
	if err != nil {
		return images, fmt.Errorf("make the images: %w", err)
	}
	base := image.Image{Arch: arch, Layers: [][]byte{layer}}
	configures := base
	configures.Configures = true
	prefix := core.ImagePrefix + "contract-" + strings.ToLower(rand.Text()[:12])
	images = Images{
		Image: prefix + "-base:latest", ConfigImage: prefix + "-config:latest",
		UnreachableImage: "127.0.0.1:1/moat/unreachable:latest",
	}
	for name, content := range map[string]image.Image{images.Image: base, images.ConfigImage: configures} {
		var archive bytes.Buffer
		if err := content.Write(&archive, name); err != nil {
			return images, err
		}
		s.removeAtEnd(ctx, rt, name)
		if err := s.Load(ctx, rt, &archive); err != nil {
			return images, err
		}
	}
	switch {
	case s.pullImage != "":
		images.PullImage, images.MissingImage = s.pullImage, s.missingImage
	case s.registry != "none":
		err = s.serve(ctx, rt, base, &images)
	}
	return images, err
}

func (s *session) removeAtEnd(ctx context.Context, rt core.Runtime, name string) {
	s.cleanups = append(s.cleanups, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
		defer cancel()
		if err := rt.RemoveImage(ctx, name); err != nil {
			s.say("cannot remove an image of the tests: %v", err)
		}
	})
}

// serve starts the registry.
func (s *session) serve(ctx context.Context, rt core.Runtime, base image.Image, images *Images) error {
	// Layers that no other image has, or the engine would have nothing to pull. One is large
	// and does not compress, so that progress can be seen.
	large := make([]byte, 8_000_000)
	_, _ = rand.Read(large) // it never fails
	for _, content := range [][]byte{large, large[:32]} {
		layer, err := image.Layer("for-pull", content)
		if err != nil {
			return err
		}
		base.Layers = append(base.Layers, layer)
	}
	registry, err := image.NewRegistry("moat/test-pull", "latest", base)
	if err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", s.registry)
	if err != nil {
		return fmt.Errorf("--registry: %w", err)
	}
	server := &http.Server{Handler: registry, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }() // until it is closed
	s.cleanups = append(s.cleanups, func() { _ = server.Close() })

	address := listener.Addr().String()
	images.PullImage, images.MissingImage = address+"/moat/test-pull:latest", address+"/moat/missing:latest"
	s.removeAtEnd(ctx, rt, images.PullImage)
	if puller, ok := core.As[optional.ImagePuller](rt); ok {
		if err := puller.PullImage(ctx, images.PullImage, nil); err != nil {
			return fmt.Errorf("the engine cannot pull from this program's registry at %s: %w\n"+
				"Let the engine pull from there without TLS, and choose an address that it reaches (--registry 127.0.0.1:5001), "+
				"name images of another registry (--pull-image, --missing-image), or leave pulls untested (--registry none)", address, err)
		}
	}
	return nil
}

// readAgent returns the program for the images, and its architecture.
func (s *session) readAgent() (content []byte, arch string, err error) {
	path := s.agent
	if path == "" {
		if path, err = os.Executable(); err != nil {
			return nil, "", err
		}
	}
	if content, err = os.ReadFile(path); err != nil {
		return nil, "", err
	}
	if arch, err = staticProgram(bytes.NewReader(content)); err != nil {
		return nil, "", fmt.Errorf("%s cannot be the agent of the images: %w\nBuild it with CGO_ENABLED=0 GOOS=linux, or name such a build with --agent", path, err)
	}
	return content, arch, nil
}

// readProxy returns the program for restricted networks, nil where none is named and none is
// beside this program.
func (s *session) readProxy() (func(string) ([]byte, error), error) {
	path := s.proxy
	if path == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		path = filepath.Join(filepath.Dir(self), "moat-proxy")
	}
	content, err := os.ReadFile(path)
	if s.proxy == "" && errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return func(string) ([]byte, error) { return content, nil }, err
}

// staticProgram returns the architecture of a Linux program that needs no other file, as Go calls it.
func staticProgram(content io.ReaderAt) (arch string, err error) {
	file, err := elf.NewFile(content)
	if err != nil {
		return "", errors.New("it is not a Linux program")
	}
	for _, part := range file.Progs {
		if part.Type == elf.PT_INTERP {
			return "", errors.New("it is linked dynamically")
		}
	}
	arch, known := map[elf.Machine]string{elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64", elf.EM_RISCV: "riscv64", elf.EM_S390: "s390x"}[file.Machine]
	if !known {
		return "", fmt.Errorf("its architecture is %s", file.Machine)
	}
	return arch, nil
}

// findBusyBox returns the path of a static BusyBox.
func (s *session) findBusyBox() (string, error) {
	names := []string{"busybox", "busybox-static", "busybox.static"}
	if s.busybox != "" {
		names = []string{s.busybox}
	}
	failure := errors.New("not found in PATH")
	for _, name := range names {
		path, err := exec.LookPath(name)
		if err == nil {
			var file *os.File
			if file, err = os.Open(path); err == nil {
				_, err = staticProgram(file)
				_ = file.Close()
			}
			if err == nil {
				return path, nil
			}
			failure = fmt.Errorf("%s: %w", path, err)
		} else if s.busybox != "" {
			failure = err
		}
	}
	return "", fmt.Errorf("the images need a static BusyBox: %w\nInstall one (Debian and Alpine: the package busybox-static), or name it with --busybox", failure)
}
