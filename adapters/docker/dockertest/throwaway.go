package dockertest

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/docker/docker/client"
)

// Throwaway is an engine that one test may do with what it likes. Its fields are set
// before it starts.
type Throwaway struct {
	testing.TB
	Adapter string // that the test is about, as [Need] takes it
	Like    string // the engine of tools/engine.sh that it resembles: main or current
	Flags   string // more of its daemon's
	Disk    string // the size of a disk of its own, as tmpfs takes it; "": the machine's

	name string
}

var throwaways atomic.Int32

// Host is where the engine's API is.
func (e *Throwaway) Host() string { return "unix://" + e.run() + "/docker.sock" }

// PIDFile is where the engine's daemon has written its process's number.
func (e *Throwaway) PIDFile() string { return e.run() + "/docker.pid" }

// Data is the folder of all that the engine stores, where its Disk is.
func (e *Throwaway) Data() string { return "/var/lib/moat-engine/" + e.name }

// Namespace is the file of the network namespace that is the engine's host.
func (e *Throwaway) Namespace() string { return "/run/netns/moat-" + e.name }

func (e *Throwaway) run() string { return "/run/moat-engine/" + e.name }

// Start starts the engine, with the test image in it. It goes with the test.
func (e *Throwaway) Start() {
	e.Helper()
	variable := strings.TrimSuffix("MOAT_TEST_ENGINE_"+strings.ToUpper(e.Like), "_MAIN")
	model := os.Getenv(variable)
	absence := Absence(model, variable)
	if os.Getuid() != 0 {
		absence = "an engine of one's own takes root"
	}
	Need(e, e.Adapter, absence)
	e.name = fmt.Sprintf("%s-t%dn%d", e.Like, os.Getpid(), throwaways.Add(1))
	e.Cleanup(func() {
		e.tool("down", "--purge", e.name)
		_ = os.Remove(e.run() + ".lock")
	})
	if e.Disk != "" {
		e.command("mkdir", "-p", e.Data())
		e.command("mount", "-t", "tmpfs", "-o", "mode=711,size="+e.Disk, "tmpfs", e.Data())
	}
	e.Up()
	image, err := e.Client(model).ImageSave(e.Context(), []string{"moat/test-base:latest"})
	if err != nil {
		e.Fatal(err)
	}
	defer func() { _ = image.Close() }()
	loaded, err := e.Client(e.Host()).ImageLoad(e.Context(), image)
	if err != nil {
		e.Fatal(err)
	}
	defer func() { _ = loaded.Body.Close() }()
	if said, err := io.ReadAll(loaded.Body); err != nil || bytes.Contains(said, []byte(`"error"`)) {
		e.Fatalf("the test image: %s, %v", said, err)
	}
}

// Up starts what of the engine has been killed. Killed while it starts a container, dockerd
// 20.10 may leave a database of its networks at which it dies whenever it starts. Then the
// engine loses its networks.
func (e *Throwaway) Up() {
	e.Helper()
	if e.try("bash", "../../tools/engine.sh", "up", e.name) == nil {
		return
	}
	e.Log("the engine does not start again with its networks")
	_ = os.Remove(e.Data() + "/docker/network/files/local-kv.db") // the next start shows whether that was it
	e.tool("up", e.name)
}

// Inside runs a command in the engine's network namespace.
func (e *Throwaway) Inside(args ...string) {
	e.Helper()
	e.command("ip", append([]string{"netns", "exec", "moat-" + e.name}, args...)...)
}

func (e *Throwaway) tool(args ...string) {
	e.Helper()
	// From a test's folder: all that need an engine lie this far below the root.
	e.command("bash", append([]string{"../../tools/engine.sh"}, args...)...)
}

func (e *Throwaway) command(name string, args ...string) {
	e.Helper()
	if err := e.try(name, args...); err != nil {
		e.Fatal(err)
	}
}

func (e *Throwaway) try(name string, args ...string) error {
	command := exec.Command(name, args...)
	command.Env = append(os.Environ(), "MOAT_DOCKERD_FLAGS="+e.Flags)
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("%q: %w: %s", command.Args, err, out)
	}
	return nil
}

// Client returns a client of the engine at host, which goes with the test.
func (e *Throwaway) Client(host string) *client.Client {
	e.Helper()
	c, err := client.NewClientWithOpts(client.WithHost(host), client.WithAPIVersionNegotiation())
	if err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() { _ = c.Close() })
	return c
}
