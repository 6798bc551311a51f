package docker

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/docker/docker/client"
	"github.com/moatproject/moat/core"
)

// Environment is the part of a process's environment that discovery reads.
type Environment struct {
	Getenv func(string) string
	Home   string // the user's home directory; empty: unknown
}

// Endpoint is an engine's address: values for [Options.Host] and [Options.TLS].
type Endpoint struct {
	Host string
	TLS  *TLS
}

// Endpoints returns at least one address where an engine may listen, the best first: that
// of DOCKER_HOST, else of the current Docker context, else the existing ones of the usual
// sockets, else the platform's default. An unreadable context is an error with its name.
func Endpoints(env Environment) ([]Endpoint, error) {
	if host := env.Getenv("DOCKER_HOST"); host != "" {
		return []Endpoint{{Host: host, TLS: env.tls()}}, nil
	}
	if name := env.contextName(); name != "" && name != "default" {
		endpoint, err := env.context(name)
		if err != nil {
			return nil, &core.Error{
				Op: "read Docker context", Runtime: core.RuntimeDocker, Object: name, Class: core.ErrInvalidConfig, Err: err,
				Remedy: "Choose another with `docker context use`, or set DOCKER_HOST",
			}
		}
		return []Endpoint{endpoint}, nil
	}
	var endpoints []Endpoint
	for _, socket := range env.sockets() {
		if exists(socket) {
			endpoints = append(endpoints, Endpoint{Host: "unix://" + socket})
		}
	}
	if len(endpoints) == 0 {
		endpoints = []Endpoint{{Host: client.DefaultDockerHost}}
	}
	return endpoints, nil
}

// Builder returns values for [Options.BuildKit] and [Options.ClassicBuilder].
func (env Environment) Builder() (buildKit string, classic bool) {
	if env.Getenv("MOAT_DISABLE_BUILDKIT") == "1" {
		return "", true
	}
	return env.Getenv("BUILDKIT_HOST"), false
}

// checkBuildKit refuses an address that BuildKit cannot have.
func checkBuildKit(address string) error {
	scheme, _, _ := strings.Cut(address, "://")
	if address == "" || ((scheme == "unix" || scheme == "tcp") && checkHost(address) == nil) {
		return nil
	}
	return &core.Error{
		Op: "use BuildKit", Runtime: core.RuntimeDocker, Object: address, Field: "BuildKit", Class: core.ErrInvalidConfig,
		Err:    errors.New("it is no address of the form unix:///path or tcp://host:port"),
		Remedy: "Fix BUILDKIT_HOST, or unset it: the engine can build too",
	}
}

// sockets returns the usual ones: system, rootless, Docker Desktop, Colima, Rancher
// Desktop, OrbStack, Podman.
func (env Environment) sockets() []string {
	sockets := []string{"/var/run/docker.sock"}
	runtimeDir := env.Getenv("XDG_RUNTIME_DIR")
	below := func(folder string, paths ...string) {
		for _, path := range paths {
			if filepath.IsAbs(folder) {
				sockets = append(sockets, filepath.Join(folder, path))
			}
		}
	}
	below(runtimeDir, "docker.sock")
	below(env.Home,
		".docker/run/docker.sock", ".docker/desktop/docker.sock", ".colima/default/docker.sock", ".rd/docker.sock", ".orbstack/run/docker.sock")
	below(runtimeDir, "podman/podman.sock")
	return append(sockets, "/run/podman/podman.sock")
}

// tls returns the TLS settings of the variables beside DOCKER_HOST.
func (env Environment) tls() *TLS {
	folder, verify := env.Getenv("DOCKER_CERT_PATH"), env.Getenv("DOCKER_TLS_VERIFY") != ""
	if folder == "" && !verify {
		return nil
	}
	if folder == "" {
		folder = env.configDir()
	}
	return &TLS{
		CA: filepath.Join(folder, "ca.pem"), Cert: filepath.Join(folder, "cert.pem"), Key: filepath.Join(folder, "key.pem"),
		SkipVerify: !verify,
	}
}

func (env Environment) configDir() string {
	if folder := env.Getenv("DOCKER_CONFIG"); folder != "" {
		return folder
	}
	return filepath.Join(env.Home, ".docker")
}

// contextName returns the name of the current Docker context, or "".
func (env Environment) contextName() string {
	if name := env.Getenv("DOCKER_CONTEXT"); name != "" {
		return name
	}
	var config struct{ CurrentContext string }
	if readJSON(filepath.Join(env.configDir(), "config.json"), &config) != nil {
		return "" // Docker's own client ignores an unreadable file too
	}
	return config.CurrentContext
}

// context reads a Docker context from the Docker client's directory.
func (env Environment) context(name string) (Endpoint, error) {
	digest := sha256.Sum256([]byte(name))
	folder := hex.EncodeToString(digest[:])
	var metadata struct {
		Endpoints struct {
			Docker struct {
				Host          string
				SkipTLSVerify bool
			}
		}
	}
	if err := readJSON(filepath.Join(env.configDir(), "contexts", "meta", folder, "meta.json"), &metadata); err != nil {
		return Endpoint{}, err
	}
	docker := metadata.Endpoints.Docker
	if docker.Host == "" {
		return Endpoint{}, errors.New("it has no Docker endpoint")
	}
	tls := &TLS{SkipVerify: docker.SkipTLSVerify}
	found := false
	for file, path := range map[string]*string{"ca.pem": &tls.CA, "cert.pem": &tls.Cert, "key.pem": &tls.Key} {
		if pem := filepath.Join(env.configDir(), "contexts", "tls", folder, "docker", file); exists(pem) {
			*path, found = pem, true
		}
	}
	if !found && !docker.SkipTLSVerify {
		tls = nil
	}
	return Endpoint{Host: docker.Host, TLS: tls}, nil
}

func readJSON(path string, into any) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(content, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// checkHost refuses an address that an engine cannot have.
func checkHost(host string) error {
	scheme, address, _ := strings.Cut(host, "://")
	switch scheme {
	case "unix":
		if !filepath.IsAbs(address) {
			return invalidHost(host, errors.New("the socket's path is not absolute"), "")
		}
	case "tcp":
		if _, port, err := net.SplitHostPort(address); err != nil || port == "" {
			return invalidHost(host, errors.New("it has no port"), "Name one, such as tcp://127.0.0.1:2376")
		}
	case "ssh":
		return invalidHost(host, errors.New("ssh is not spoken here"),
			"Forward the engine's socket (ssh -nNT -L /tmp/docker.sock:/var/run/docker.sock HOST) and set DOCKER_HOST=unix:///tmp/docker.sock")
	case "npipe":
	default:
		return invalidHost(host, errors.New("it does not begin with unix:// or tcp://"), "")
	}
	return nil
}

func invalidHost(host string, err error, remedy string) error {
	return &core.Error{
		Op: "use endpoint", Runtime: core.RuntimeDocker, Object: host, Field: "Host",
		Class: core.ErrInvalidConfig, Err: err, Remedy: remedy,
	}
}
