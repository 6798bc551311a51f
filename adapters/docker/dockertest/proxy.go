package dockertest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// EgressProxy returns the program of the proxy of restricted networks, as
// optional.RestrictedNetworkConfig has it. It builds it once.
func EgressProxy(architecture string) ([]byte, error) {
	return proxies.of(architecture)
}

var proxies proxyBuilds

type proxyBuilds struct {
	mu       sync.Mutex
	programs map[string][]byte
}

func (b *proxyBuilds) of(architecture string) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if program := b.programs[architecture]; program != nil {
		return program, nil
	}
	apps, err := findApps()
	if err != nil {
		return nil, err
	}
	directory, err := os.MkdirTemp("", "moat-proxy-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(directory) }()
	path := filepath.Join(directory, "moat-proxy")
	build := exec.Command("go", "build", "-C", apps, "-o", path, "./cmd/moat-proxy")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+architecture)
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build moat-proxy: %w: %s", err, out)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if b.programs == nil {
		b.programs = map[string][]byte{}
	}
	b.programs[architecture] = program
	return program, nil
}

// findApps returns the directory of the module apps, which is above a test's own.
func findApps() (string, error) {
	for _, above := range []string{"../..", "../../.."} {
		if _, err := os.Stat(filepath.Join(above, "apps", "go.mod")); err == nil {
			return filepath.Abs(filepath.Join(above, "apps"))
		}
	}
	return "", errors.New("the module apps is not above the test's directory")
}
