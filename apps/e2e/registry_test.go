package e2e

import (
	"encoding/base64"
	"fmt"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/go-connections/nat"
	"github.com/moatproject/moat/adapters/docker/dockertest"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/wait"
)

// registry starts one of the user's own, at a port of the engine's loopback, where
// engines need no TLS, and returns its address there.
func (u *user) registry(port nat.Port, request testcontainers.ContainerRequest) (testcontainers.Container, string) {
	u.Helper()
	request.Image = "moat/test-registry"
	if u.imageID(request.Image) == "" {
		dockertest.Need(u.T, "docker", request.Image+" is not there: `make setup` makes it")
	}
	request.ExposedPorts = []string{port.Port()}
	request.HostConfigModifier = func(host *container.HostConfig) {
		host.PortBindings = nat.PortMap{port: []nat.PortBinding{{HostIP: "127.0.0.1"}}}
	}
	request.WaitingFor = wait.ForLog("listening on").WithStartupTimeout(patience)
	started := u.foreign(request)
	published, err := started.MappedPort(u.Context(), port)
	if err != nil {
		u.Fatal(err)
	}
	return started, "127.0.0.1:" + published.Port()
}

// loggedIn asks the engine past moat, by a client that is user:password at a registry.
func (u *user) loggedIn(host, login string, args ...string) {
	u.Helper()
	settings := u.folder(map[string]string{
		"config.json": fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, host, base64.StdEncoding.EncodeToString([]byte(login))),
	})
	u.docker(append([]string{"--config", settings}, args...)...)
}

// push has an image in a registry, and nowhere else: what a command writes over the
// tests' own. It returns the image's name.
func (u *user) push(host, login, command string) string {
	u.Helper()
	name := host + "/moat/pushed:latest"
	layer := u.docker("create", "--label", u.label, image, "sh", "-c", command)
	u.docker("start", "-a", layer)
	u.docker("commit", layer, name)
	u.docker("rm", layer)
	u.loggedIn(host, login, "push", "-q", name)
	u.docker("rmi", name)
	return name
}

// TestRegistryHasNoSuchTag asks for a tag that an image does not have.
func TestRegistryHasNoSuchTag(t *testing.T) {
	const absent = "127.0.0.1:5000/moat/test-pull-small:absent"
	u := newUser(t)
	folder := u.folder(map[string]string{"Dockerfile": from + "FROM " + absent + "\n"})
	for _, test := range []struct {
		code int
		args []string
	}{
		{1, []string{"pull", absent}},
		{125, u.labelled("--rm", "--no-sandbox", absent, "true")},
		{125, u.labelled("--rm", "--no-sandbox", "--pull", "always", absent, "true")},
		{1, []string{"build", "--no-sandbox", "-t", u.tag(), folder}},
	} {
		found := u.moat(test.args...)
		want(u, fmt.Sprintf("the exit status of %q", test.args), found.code, test.code)
		wantText(u, found.stderr, absent, "not found", "Check the image's name and tag")
		if test.args[0] == "build" {
			wantText(u, found.stderr, "line 2", "FROM "+absent)
		}
	}
	want(u, "what is left", u.left(), "")
}

// TestRegistryDies has one stop in the middle of a layer.
func TestRegistryDies(t *testing.T) {
	for name, test := range map[string]struct {
		then  func(*person, testcontainers.Container)
		code  int
		texts []string
	}{
		// An engine of before 29 tries for more than a minute.
		"it dies": {func(p *person, registry testcontainers.Container) {
			if err := registry.Terminate(p.Context(), testcontainers.StopTimeout(0)); err != nil {
				p.Fatal(err)
			}
		}, 125, []string{"unavailable", "Check the registry's address"}},
		"Ctrl-C": {func(p *person, _ testcontainers.Container) { p.types("\x03") }, 130, nil},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUser(t)
			// Of what it answers to one connection, only so much arrives.
			registry, host := u.registry("6000", testcontainers.ContainerRequest{
				Entrypoint: []string{"sh", "-c", "registry serve /etc/distribution/config.yml & " +
					`exec nc -ll -p 6000 -e sh -c "nc 127.0.0.1 5000 | { dd bs=64k count=400; sleep infinity; }" 2>/dev/null`},
			})
			large := u.push(host, "", "head -c 32000000 /dev/urandom >/random")
			p := u.sit(u.labelled("--rm", "--no-sandbox", large, "true")...)
			p.reads("B of 32")
			test.then(p, registry)
			want(u, "the exit status", p.leaves(), test.code)
			wantText(u, p.written.String(), append(test.texts, large)...)
			want(u, "the image is there", u.isThere(large), false)
			want(u, "what is left", u.left(), "")
		})
	}
}
