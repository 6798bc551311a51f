// Command release checks that the modules of this repository can be published: it does so into
// a module proxy in a temporary directory, without their replacements, and installs and tests
// from there as other people would.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := check(ctx, "..")
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// A user is somebody who has the published modules, and none of this repository's files.
type user struct {
	directory string
	version   string
	env       []string
}

// check publishes the modules of the repository at root, and uses them.
func check(ctx context.Context, root string) (err error) {
	directory, err := os.MkdirTemp("", "moat-release-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(directory)) }()
	// The modules get to the cache that all modules are in, where a version never changes: so each
	// check has a version of its own, which it removes.
	u := user{directory: directory, version: fmt.Sprintf("v0.0.0-check.%d", time.Now().UnixNano())}
	proxy := filepath.Join(directory, "proxy")
	modules, err := publish(ctx, root, proxy, u.version)
	if err != nil {
		return err
	}
	usual, err := exec.CommandContext(ctx, "go", "env", "GOPROXY", "GOMODCACHE").Output()
	if err != nil {
		return err
	}
	proxies, cache, _ := strings.Cut(strings.TrimSpace(string(usual)), "\n")
	defer func() { err = errors.Join(err, forget(cache, modules, u.version)) }()
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "MOAT_TEST_") && !strings.HasPrefix(variable, "CONTRACT_") {
			u.env = append(u.env, variable)
		}
	}
	u.env = append(u.env,
		"GOWORK=off", "GOFLAGS=-mod=mod", "GOPROXY=file://"+proxy+","+proxies,
		"GONOSUMDB="+prefix+"*,"+os.Getenv("GONOSUMDB"), "GOVCS="+prefix+"*:off,public:git|hg,private:all",
		"GOBIN="+filepath.Join(directory, "bin"),
	)
	for _, step := range []struct {
		what string
		do   func(context.Context, string) error
	}{
		{"install the programs", u.install},
		{"build an embedder", u.embed},
		{"run the modules' tests", u.test},
	} {
		begun := time.Now()
		if err := step.do(ctx, root); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
		fmt.Printf("release: %s: %s\n", step.what, time.Since(begun).Round(time.Second))
	}
	return nil
}

// install installs the programs, which then answer without an engine.
func (u user) install(ctx context.Context, _ string) error {
	u.env = append(u.env, "CGO_ENABLED=0") // as `make build`, which has compiled the libraries
	bin := filepath.Join(u.directory, "bin")
	return errors.Join(
		u.run(ctx, u.directory, "go", "install", prefix+"apps/cmd/...@"+u.version),
		u.run(ctx, u.directory, filepath.Join(bin, "moat"), "version"),
		u.run(ctx, u.directory, filepath.Join(bin, "moat-conform"), "--runtime", "memory", "--run", "RT-10_"),
	)
}

// embed builds the example for embedders in a module of its own.
func (u user) embed(ctx context.Context, root string) error {
	program, err := os.ReadFile(filepath.Join(root, "adapters/container/examples/hello/main.go"))
	if err != nil {
		return err
	}
	directory, err := u.module(ctx, "embedder", prefix+"adapters/container")
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(directory, "main.go"), program, 0o644),
		u.run(ctx, directory, "go", "build", "-o", os.DevNull, "."),
	)
}

// tested are the packages whose tests need no engine, and some of them files beside the code. The
// example adapter's is its run of the suite, which says that the engine is absent.
var tested = []string{"adapters/dockercli/contract", "adapters/memory/contract", "adapters/docker/programs", "core"}

// test runs tests of the modules as they were published.
func (u user) test(ctx context.Context, _ string) error {
	packages := make([]string, len(tested))
	for i, name := range tested {
		packages[i] = prefix + name
	}
	directory, err := u.module(ctx, "tester", packages...)
	if err != nil {
		return err
	}
	return u.run(ctx, directory, "go", append([]string{"test"}, packages...)...)
}

// module makes a module that requires published packages, with what their tests need.
func (u user) module(ctx context.Context, name string, packages ...string) (directory string, err error) {
	directory = filepath.Join(u.directory, name)
	if err := os.Mkdir(directory, 0o755); err != nil {
		return "", err
	}
	if err := u.run(ctx, directory, "go", "mod", "init", "example.org/"+name); err != nil {
		return "", err
	}
	get := []string{"get", "-t"}
	for _, name := range packages {
		get = append(get, name+"@"+u.version)
	}
	return directory, u.run(ctx, directory, "go", get...)
}

// run runs a program, whose output an error has.
func (u user) run(ctx context.Context, directory, name string, args ...string) error {
	command := exec.CommandContext(ctx, name, args...)
	command.Dir, command.Env = directory, u.env
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return nil
}
