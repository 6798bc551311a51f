package docker

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/docker/docker/client"
	"github.com/moatproject/moat/core"
)

// machine is a user's folder and environment, made for a test.
type machine struct {
	t    *testing.T
	home string
	env  map[string]string
}

func newMachine(t *testing.T) machine { return machine{t, t.TempDir(), map[string]string{}} }

func (m machine) environment() Environment {
	return Environment{Getenv: func(name string) string { return m.env[name] }, Home: m.home}
}

func (m machine) write(path, content string) string {
	m.t.Helper()
	path = filepath.Join(m.home, path)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
		m.t.Fatal(err)
	}
	return path
}

// context makes a Docker context and returns the folder of its TLS files.
func (m machine) context(folder, name, metadata string) (tls string) {
	digest := sha256.Sum256([]byte(name))
	id := hex.EncodeToString(digest[:])
	m.write(filepath.Join(folder, "contexts", "meta", id, "meta.json"), metadata)
	return filepath.Join(folder, "contexts", "tls", id, "docker")
}

const remote = `{"Name":"remote","Metadata":{"Description":"x"},"Endpoints":{"docker":{"Host":"tcp://192.0.2.1:2376","SkipTLSVerify":false}}}`

func TestEndpoints(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(m machine)
		want    func(m machine) Endpoint
	}{
		"DOCKER_HOST goes first": {func(m machine) {
			m.env["DOCKER_HOST"], m.env["DOCKER_CONTEXT"] = "tcp://192.0.2.2:2375", "remote"
			m.context(".docker", "remote", remote)
		}, func(machine) Endpoint { return Endpoint{Host: "tcp://192.0.2.2:2375"} }},
		"DOCKER_HOST with TLS": {func(m machine) {
			m.env["DOCKER_HOST"], m.env["DOCKER_CERT_PATH"], m.env["DOCKER_TLS_VERIFY"] = "tcp://192.0.2.2:2376", "/certs", "1"
		}, func(machine) Endpoint {
			return Endpoint{"tcp://192.0.2.2:2376", &TLS{CA: "/certs/ca.pem", Cert: "/certs/cert.pem", Key: "/certs/key.pem"}}
		}},
		"DOCKER_HOST with TLS that is not verified": {func(m machine) {
			m.env["DOCKER_HOST"], m.env["DOCKER_CERT_PATH"] = "tcp://192.0.2.2:2376", "/certs"
		}, func(machine) Endpoint {
			return Endpoint{"tcp://192.0.2.2:2376", &TLS{CA: "/certs/ca.pem", Cert: "/certs/cert.pem", Key: "/certs/key.pem", SkipVerify: true}}
		}},
		"DOCKER_HOST with TLS from the usual folder": {func(m machine) {
			m.env["DOCKER_HOST"], m.env["DOCKER_TLS_VERIFY"] = "tcp://192.0.2.2:2376", "1"
		}, func(m machine) Endpoint {
			folder := filepath.Join(m.home, ".docker")
			return Endpoint{"tcp://192.0.2.2:2376", &TLS{CA: folder + "/ca.pem", Cert: folder + "/cert.pem", Key: folder + "/key.pem"}}
		}},
		"the current context": {func(m machine) {
			m.write(".docker/config.json", `{"auths":{},"currentContext":"remote"}`)
			m.context(".docker", "remote", remote)
		}, func(machine) Endpoint { return Endpoint{Host: "tcp://192.0.2.1:2376"} }},
		"DOCKER_CONTEXT before the current one": {func(m machine) {
			m.env["DOCKER_CONTEXT"] = "remote"
			m.write(".docker/config.json", `{"currentContext":"other"}`)
			m.context(".docker", "remote", remote)
		}, func(machine) Endpoint { return Endpoint{Host: "tcp://192.0.2.1:2376"} }},
		"DOCKER_CONFIG": {func(m machine) {
			m.env["DOCKER_CONFIG"] = filepath.Join(m.home, "elsewhere")
			m.write("elsewhere/config.json", `{"currentContext":"remote"}`)
			m.context("elsewhere", "remote", remote)
		}, func(machine) Endpoint { return Endpoint{Host: "tcp://192.0.2.1:2376"} }},
		"a context with TLS files": {func(m machine) {
			m.env["DOCKER_CONTEXT"] = "remote"
			tls := m.context(".docker", "remote", remote)
			m.write(tls+"/ca.pem", "")
			m.write(tls+"/key.pem", "")
		}, func(m machine) Endpoint {
			tls := filepath.Join(m.home, m.context(".docker", "remote", remote))
			return Endpoint{"tcp://192.0.2.1:2376", &TLS{CA: tls + "/ca.pem", Key: tls + "/key.pem"}}
		}},
		"a context that does not verify": {func(m machine) {
			m.env["DOCKER_CONTEXT"] = "remote"
			m.context(".docker", "remote", strings.Replace(remote, "false", "true", 1))
		}, func(machine) Endpoint { return Endpoint{"tcp://192.0.2.1:2376", &TLS{SkipVerify: true}} }},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			test.prepare(m)
			got, err := Endpoints(m.environment())
			if want := []Endpoint{test.want(m)}; err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, %v; want %+v", got, err, want)
			}
		})
	}
}

func TestEndpointsOfUsualSockets(t *testing.T) {
	for name, config := range map[string]string{"no configuration": "", "the default context": `{"currentContext":"default"}`, "a broken one": `{`} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			if config != "" {
				m.write(".docker/config.json", config)
			}
			m.env["XDG_RUNTIME_DIR"] = filepath.Join(m.home, "run")
			var want []string
			for _, socket := range []string{
				"run/docker.sock", ".docker/run/docker.sock", ".docker/desktop/docker.sock", ".colima/default/docker.sock",
				".rd/docker.sock", ".orbstack/run/docker.sock", "run/podman/podman.sock",
			} {
				want = append(want, "unix://"+m.write(socket, ""))
			}
			endpoints, err := Endpoints(m.environment())
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, endpoint := range endpoints {
				if strings.HasPrefix(endpoint.Host, "unix://"+m.home) { // this machine may have others
					got = append(got, endpoint.Host)
				}
				if endpoint.TLS != nil {
					t.Errorf("%s with TLS", endpoint.Host)
				}
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestEndpointsWithoutAnySocket(t *testing.T) {
	endpoints, err := Endpoints(Environment{Getenv: func(string) string { return "" }})
	if err != nil || len(endpoints) == 0 {
		t.Fatalf("got %+v, %v", endpoints, err)
	}
	if first := endpoints[0].Host; first != client.DefaultDockerHost && !exists(strings.TrimPrefix(first, "unix://")) {
		t.Errorf("the first is %s", first)
	}
}

func TestBrokenContextsAreNamed(t *testing.T) {
	for name, metadata := range map[string]string{"missing": "", "no JSON": "{", "without an endpoint": `{"Name":"remote","Endpoints":{}}`} {
		m := newMachine(t)
		m.env["DOCKER_CONTEXT"] = "my-context"
		if metadata != "" {
			m.context(".docker", "my-context", metadata)
		}
		endpoints, err := Endpoints(m.environment())
		failure, ok := errors.AsType[*core.Error](err)
		if !ok || !errors.Is(err, core.ErrInvalidConfig) || failure.Object != "my-context" || failure.Remedy == "" {
			t.Errorf("%s: got %+v, %v", name, endpoints, err)
		}
	}
}

func TestTLS(t *testing.T) {
	server := httptest.NewTLSServer(ping("1.41"))
	defer server.Close()
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	m := newMachine(t)
	ca := m.write("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	for name, test := range map[string]struct {
		tls   *TLS
		class error
	}{
		"its authority is known":   {&TLS{CA: ca}, nil},
		"its authority is unknown": {&TLS{}, core.ErrUnavailable},
		"nobody asks":              {&TLS{SkipVerify: true}, nil},
		"without TLS":              {nil, core.ErrUnavailable},
	} {
		r, err := New(Options{Host: "tcp://" + server.Listener.Addr().String(), TLS: test.tls})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Ping(t.Context()); !errors.Is(err, test.class) {
			t.Errorf("%s: %v, want %v", name, err, test.class)
		}
		r.Close()
	}
}
